"""A thread of the vault that keeps what a lost vault is made from again: daily backups, and descriptions of items; and
that renews the certificate which this instance is served with."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from homeport.domain.errors import HomeportError
from homeport.vault.backup import back_up_due
from homeport.vault.core import Core
from homeport.vault.descriptions import Descriptions
from homeport.vault.servers import certify_own
from homeport.vault.signal import Stopping

log = structlog.get_logger(__name__)

EVERY = 10.0
"""Seconds between two looks."""


class Keeping:
    """Between :meth:`start` and :meth:`join`; ends with the vault's signal."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._descriptions = Descriptions(core)
        self._thread = threading.Thread(target=self._run, name="vault-keeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float = 10) -> None:
        """After the signal was stopped."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while True:
                self._core.signal.until(_nothing, EVERY, every=EVERY)
                for look in (self._descriptions.tell_changes, lambda: back_up_due(self._core), self._renew):
                    self._attempt(look)
        except Stopping:
            return

    def _renew(self) -> None:
        own = self._core.own
        if own is not None:
            own.renew_if_due(lambda request: certify_own(self._core, own.who, request), self._core.clock())

    def _attempt(self, look: Callable[[], None]) -> None:
        try:
            look()
        except HomeportError as error:
            log.warning("the vault could not be kept", code=error.code, cause=error.cause)
        except Exception:
            log.exception("keeping the vault failed")


def _nothing() -> None:
    return None
