"""How one server reaches another: its address, and what each shows the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.next_url import NextUrl
from homeport.trust.identity import Identity

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Unprotected(HomeportError):
    code = "link.unprotected"
    remedy = "Use https:// and join this server first; plain HTTP is for servers in one process."


@dataclass(frozen=True)
class Link:
    """``url``: of the other end. Over HTTPS each shows its certificate: the own is in ``identity``, the other's must be
    that of a ``role`` of ``site`` (None: any). ``token``: what is shown on loopback, where all is one process.
    ``others``: further addresses of the same, for when it is away there. Raises Unprotected."""

    url: str
    token: str = field(repr=False, default="")
    identity: Identity | None = None
    role: Role | None = None
    site: str | None = None
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for url in (self.url, *self.others):
            parts = urlsplit(url)
            if self.identity is None and (parts.scheme != "http" or parts.hostname not in LOOPBACK):
                raise Unprotected(f"{url} can't be talked to without a certificate: it is not plain loopback.")
            if self.identity is not None and parts.scheme != "https":
                raise Unprotected(f"{url} is no https:// address.")

    def client(self, timeout: httpx.Timeout | float) -> httpx.Client:
        urls, role = (self.url, *self.others), self.role or ()
        if self.identity is not None:
            context = self.identity.client_context(role, self.site)
            transport = NextUrl(urls, httpx.HTTPTransport(verify=context, trust_env=False))
            return self.identity.http_client(self.url, role, self.site, timeout=timeout, transport=transport)
        headers = {"Authorization": f"Bearer {self.token}"}
        transport = NextUrl(urls, httpx.HTTPTransport(trust_env=False))
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, transport=transport)
