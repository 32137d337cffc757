"""The life of a server's process: one per state folder, a log, health, and an end in order."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import structlog

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.servers.logs import log_to
from homeport.servers.serve.health import Check, Health
from homeport.servers.serve.notify import notify
from homeport.servers.serve.settings import Config

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.5


class RunsAlready(HomeportError):
    code = "serve.already-running"
    remedy = "Use it, or stop it first; each server needs a state folder of its own, and a site has one of each folder."


class Server(Protocol):
    """What a role's process runs. What ``start`` opened, ``stop`` closes; ``failed``: why it can't go on."""

    name: str

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def checks(self) -> list[Check]: ...

    def failed(self) -> str | None: ...

    def reload(self, config: Config) -> None: ...


class Lock:
    """A folder's only owner, until its process ends. Raises RunsAlready."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise RunsAlready(f"Another process has {path.parent} ({path.name}).") from error

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def run(config: Config, server: Server, reread: Callable[[], Config] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. ``reread``: at SIGHUP; what is wrong then changes nothing. Raises what ``start``
    raises, and HomeportError where it can't go on."""
    since = datetime.now(UTC)
    ending = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ending.set())
    hung_up = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: hung_up.set())
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        log_file = config.text("log")
        log_to(stack.enter_context(open(log_file, "a", buffering=1)) if log_file else sys.stderr)
        stacks = stack.enter_context((config.state / "stacks.txt").open("a"))
        faulthandler.register(signal.SIGUSR1, file=stacks)  # what is every thread doing?
        stack.callback(faulthandler.unregister, signal.SIGUSR1)

        def told() -> dict[str, Any]:
            checks = server.checks()
            return {
                "role": str(config.role),
                "name": server.name,
                "version": __version__,
                "since": since.isoformat(timespec="seconds"),
                "healthy": all(check.ok for check in checks),
                "checks": [check.to_json() for check in checks],
            }

        if config.text("health"):
            health = Health(config.address("health"), told)
            health.start()
            stack.callback(health.close)
        server.start()
        stack.callback(server.stop)
        notify("READY=1")
        log.info("serves", role=str(config.role), name=server.name, version=__version__)
        while not ending.wait(LOOK_EVERY):
            if hung_up.is_set() and reread is not None:
                hung_up.clear()
                try:
                    server.reload(reread())
                    log.info("configuration read again")
                except HomeportError as error:
                    log.warning("configuration not taken on", cause=error.cause)
            if (why := server.failed()) is not None:
                raise HomeportError(why, code="serve.failed", remedy="See the log; it can be started again.")
        notify("STOPPING=1")
        log.info("ends", role=str(config.role), name=server.name)
