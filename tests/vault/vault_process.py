"""A vault served over loopback, in this process or in one of its own that may be killed."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import structlog
import uvicorn

from homeport.vault.app import Vault, create_vault
from homeport.vault.core import Timeouts
from tests.forked import CONTEXT, recover_quickly
from tests.ports import free_port

log = structlog.get_logger(__name__)

QUICK = Timeouts(
    silence=8,
    gone=3,
    shut_down=5,
    planned_stop=10,
    take_point=5,
    stop_replication=2,
    inventory=5,
    forget=3,
    resumed=6,
    timers=0.2,
    timer_retry=1,
)


def server_for(vault: Vault, port: int) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            vault.app, host="127.0.0.1", port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
    )


def wait_until_served(url: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx.get(f"{url}/v1/vault", timeout=5, verify=False)
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the vault is not served"
            threading.Event().wait(0.02)


class LocalVault:
    """In this process."""

    def __init__(self, state: Path, timeouts: Timeouts = QUICK, database: str | None = None) -> None:
        self.database = database
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = state
        self.timeouts = timeouts

    def start(self) -> None:
        self.vault = create_vault(self.state, database=self.database, timeouts=self.timeouts)
        self.vault.start()
        self.server = server_for(self.vault, self.port)
        self.thread = threading.Thread(target=self.server.run, name="vault-api")
        self.thread.start()
        wait_until_served(self.url)

    def stop(self) -> None:
        self.vault.core.signal.stop()
        self.server.should_exit = True
        self.thread.join(20)
        self.vault.stop()


def serve(state: str, port: int, faults: str, database: str | None, timeouts: Timeouts) -> None:
    """The main function of a vault's own process."""
    os.dup2(os.open(Path(state) / "vault.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.environ["HOMEPORT_FAULT"] = faults
    recover_quickly()
    vault = create_vault(Path(state), database=database, timeouts=timeouts)
    vault.start()
    server_for(vault, port).run()
    vault.stop()


class KillableVault:
    """In a process of its own, forked from one that has imported everything, so that a start costs little."""

    def __init__(
        self,
        state: Path,
        faults: str = "",
        database: str | None = None,
        timeouts: Timeouts = QUICK,
        again: bool = True,
    ) -> None:
        self.database = database
        self.timeouts = timeouts
        self.again = again
        """Whether it is started again when it is killed."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state = state
        self.faults = faults
        self.kills = 0
        self._process: ForkServerProcess | None = None
        self._stopped = threading.Event()
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Starts it, and again whenever a fault point killed it."""
        self._begin()
        if self.again:
            self._keeper = threading.Thread(target=self._keep, name="vault-keeper")
            self._keeper.start()
        wait_until_served(self.url)

    def _begin(self) -> None:
        self._process = CONTEXT.Process(
            target=serve, args=(str(self.state), self.port, self.faults, self.database, self.timeouts)
        )
        self._process.start()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            assert self._process is not None
            self._process.join(0.2)
            code = self._process.exitcode
            if code is None or self._stopped.is_set():
                continue
            # 255: another thread's start of a process read this one's end first (multiprocessing looks after all of its
            # children at each start), so that how it ended isn't known here.
            if code not in (-9, 255):  # it failed by itself: whoever waits for it will say so
                log.error("the vault ended by itself", code=code, said=(self.state / "vault.err").read_text()[-3000:])
                return
            self.kills += 1
            self._begin()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    def signal(self, number: int) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def exit_code(self, seconds: float) -> int | None:
        """How it ended; None: it did not in this time."""
        assert self._process is not None
        self._process.join(seconds)
        return self._process.exitcode

    def stop(self) -> None:
        self._stopped.set()
        if self._keeper is not None:
            self._keeper.join(20)
        if self._process is not None:
            self._process.kill()
            self._process.join(20)
