"""Care of a site's recovery store, by the site that it lies at: space that no recovery point needs comes back.

Dropping points is the replication's affair, which knows their retention; what that leaves behind is copied together
here, a little at a time, where reading and writing cross no network between sites.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.units import MINUTE, MiB
from homeport.store.compact import Compacted
from homeport.store.errors import StoreError
from homeport.store.keys import VaultKey, machines, unwrap_machine
from homeport.store.objects import Objects
from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)

EVERY = 10 * MINUTE
BUDGET = 512 * MiB
"""Bytes that are copied in one round of one timeline: of what an hour's rounds leave, the next ones go on."""


class _Stopped(Exception):
    """Care was asked to end."""


class StoreCare:
    """A thread that goes through all machines of a store every ten minutes. ``vault``: asked for the vault's key, which
    is not there before the site has greeted its vault. ``spool``: a folder with room for a segment."""

    def __init__(self, objects: Objects, vault: Callable[[], VaultKey | None], spool: Path) -> None:
        self._objects = objects
        self._vault = vault
        self._spool = spool
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-care", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """What is under way ends between two records; what it leaves, the next round clears."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self.round()
            except _Stopped:
                return
            except (HomeportError, OSError) as error:
                log.warning("the store could not be cared for", error=str(error))
            except Exception:
                log.exception("care of the store failed")

    def round(self) -> dict[tuple[str, str], Compacted]:
        """Once through all machines; by machine and timeline what was done. A machine that fails is logged and left."""
        vault = self._vault()
        done: dict[tuple[str, str], Compacted] = {}
        for machine in machines(self._objects) if vault is not None else []:
            try:
                assert vault is not None
                store = MachineStore(self._objects, unwrap_machine(self._objects, vault, machine))
                for timeline in store.timeline_ids():
                    found = done[machine, timeline] = self._tidy(store, timeline)
                    if found.copied_bytes or found.left:
                        log.info("compacted", machine=machine, timeline=timeline, **found.to_json())
            except StoreError as error:
                log.warning("a machine's points could not be compacted", machine=machine, code=error.code)
        return done

    def _tidy(self, store: MachineStore, timeline: str) -> Compacted:
        self._look(0, 0)
        self._spool.mkdir(parents=True, exist_ok=True)
        return store.compact(timeline, budget=BUDGET, spool=self._spool, progress=self._look)

    def _look(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped
