"""A point is held while somebody works with it: a lease that is renewed, so that no retention drops it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator

from homeport.domain.logs import get_logger
from homeport.domain.points import PointId
from homeport.store.errors import StoreError, StoreUnavailable
from homeport.store.timeline import MachineStore

SECONDS = 900.0
"""How long a lease outlives who took it."""

log = get_logger(__name__)


@contextlib.contextmanager
def holding(store: MachineStore, point: PointId, what: str) -> Iterator[str | None]:
    """Holds a lease on ``point`` while its body runs; ``what`` does so, in a word. Yields None, or why there is no
    lease: a store that can only be read has none, and its points may be dropped meanwhile. Raises PointNotFound."""
    owner = f"{what} {socket.gethostname()[:60]} {os.getpid()} {secrets.token_hex(4)}"
    try:
        store.lease(point, owner, SECONDS)
    except StoreUnavailable as error:
        log.warning("the point isn't held: the store takes no lease", point=str(point), cause=error.cause)
        yield error.cause
        return
    over = threading.Event()

    def renew() -> None:
        while not over.wait(SECONDS / 3):
            try:
                store.lease(point, owner, SECONDS)
            except StoreError as error:
                log.warning("a lease could not be renewed", point=str(point), cause=error.cause)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield None
    finally:
        over.set()
        thread.join()
        try:
            store.release(point, owner)
        except StoreError as error:
            log.warning("a lease could not be released; it expires", point=str(point), cause=error.cause)
