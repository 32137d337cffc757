"""How one server reaches another: its address, and what each shows the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from homeport.domain.errors import HomeportError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Unprotected(HomeportError):
    code = "link.unprotected"
    remedy = "Use https:// and join this server first; plain HTTP is for servers on one machine."


@dataclass(frozen=True)
class Link:
    """``url``: of the other end. ``token``: what is shown on loopback, where all is one machine's."""

    url: str
    token: str = field(repr=False, default="")

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise Unprotected(f"{self.url} is neither https:// nor on loopback.")

    def client(self, timeout: httpx.Timeout | float, **more: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=timeout,
            trust_env=False,
            **more,
        )
