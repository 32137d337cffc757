"""Which recovery store a site's server opens: what the vault says of its site, told from server to server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import structlog

from homeport.domain.errors import HomeportError
from homeport.servers.durable import write_durably
from homeport.servers.serve.settings import Config

log = structlog.get_logger(__name__)

FILE = "store.json"
"""In the server's own folder: {"store"}, as it was told last."""


class StoreContradicts(HomeportError):
    """``details``: ``configured``, ``told``: URLs."""

    code = "serve.store-contradicts"
    remedy = (
        "Leave `store` out of this server's settings: it takes what the vault says. Or have the vault say the other "
        "one: `homeport site set SITE --store URL`."
    )


def remember(state: Path, store: str | None) -> None:
    """What the server of the folder ``state`` was told."""
    write_durably(state / FILE, json.dumps({"store": store}).encode())


class StoreChoice:
    """``told``: URL of the site's store; None: nobody says, or says that it is in the site's own folder."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._file = config.state / FILE
        self._told: str | None = None
        self._heard = self._file.exists()
        self._opened: str | None = None
        if self._heard:
            self._told = json.loads(self._file.read_bytes())["store"]

    def ask(self, client: httpx.Client, place: str) -> None:
        """Ask who tells this server what to do. Where nobody answers, what was told last counts."""
        try:
            answer = client.get(f"/v1/agent/{place}/store")
            answer.raise_for_status()
            self.hear(answer.json())
        except (httpx.HTTPError, HomeportError, ValueError) as error:
            log.info("nobody says which store the site has", known=self._told, error=str(error))

    def hear(self, answer: dict[str, Any]) -> None:
        """Of an answer that may say ``store``."""
        if "store" not in answer or (self._heard and answer["store"] == self._told):
            return
        remember(self._file.parent, answer["store"])
        self._told, self._heard = answer["store"], True

    def open(self) -> str:
        """The URL of the store to open. Raises :class:`StoreContradicts`."""
        self._opened = self._chosen()
        return self._opened

    @property
    def known(self) -> bool:
        """Whether it was ever told, or is set here: else :meth:`named` is a guess that nobody should go by."""
        return self._heard or bool(self._config.text("store"))

    def named(self) -> str | None:
        """What the other servers of the site are told: None where it lies in the site's own folder."""
        return self._told or self._config.text("store") or None

    def otherwise(self) -> str | None:
        """Why the store that was opened is not the site's any more, in words."""
        if self._opened is None:
            return None
        try:
            wanted = self._chosen()
        except StoreContradicts as error:
            return error.cause
        if _same(wanted, self._opened):
            return None
        return f"the site's recovery store is {wanted} now, and this server has opened {self._opened}"

    def _chosen(self) -> str:
        configured = self._config.text("store")
        if self._told and configured and not _same(configured, self._told):
            raise StoreContradicts(
                f"`store` of this server is {configured}, and the vault says that its site has {self._told}.",
                configured=configured,
                told=self._told,
            )
        return self._told or self._config.store_url


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
