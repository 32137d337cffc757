"""Instances of the vault as processes that are killed, stopped and continued, and started again whenever they end."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx

from homeport.vault.app import create_vault
from homeport.vault.instances import EXIT_DECLARED_DEAD
from tests.chaos.history import History
from tests.forked import CONTEXT, recover_quickly
from tests.ports import free_port
from tests.vault import vault_process
from tests.vault.vault_process import wait_until_served

LEASE = 6.0
"""Seconds of silence after which another instance may take over."""

TIMEOUTS = replace(vault_process.QUICK, beat=1, lease=LEASE, silence=12, inventory=10, resumed=20)


def serve(state: str, port: int, database: str | None) -> None:
    """The main function of a vault's process; what it says goes into its state folder."""
    said = os.open(Path(state) / "vault.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    recover_quickly()
    vault = create_vault(Path(state), database=database, timeouts=TIMEOUTS)
    vault.start()
    vault_process.server_for(vault, port).run()
    vault.stop()


class Instance:
    """``name``: how the history calls it; ``state``: its own folder; ``database``: None for SQLite in that folder."""

    def __init__(self, name: str, state: Path, database: str | None, history: History) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kills = 0
        self.stops = 0
        self._state = state
        self._database = database
        self._history = history
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._struck = False
        self._keeper = threading.Thread(target=self._keep, name=f"keeper-{name}")

    def start(self) -> None:
        self._begin()
        self._keeper.start()
        wait_until_served(self.url, 300)

    def _begin(self) -> None:
        process = CONTEXT.Process(target=serve, args=(str(self._state), self.port, self._database))
        process.start()
        with self._lock:
            self._process: ForkServerProcess = process
            self._struck = False

    def _keep(self) -> None:
        while not self._ending.is_set():
            self._process.join(0.1)
            code = self._process.exitcode
            if code is None or self._ending.is_set():
                continue
            if not self._struck and code != EXIT_DECLARED_DEAD:
                said = (self._state / "vault.err").read_text()[-2000:]
                self._history.violation(f"{self.name} ended by itself", code=code, said=said)
            elif not self._struck:
                self._history.note("declared-dead", instance=self.name)
            self._begin()

    def kill(self) -> None:
        """By SIGKILL; it is started again at once."""
        with self._lock:
            if self._process.exitcode is None:
                self._struck = True
                self.kills += 1
                self._history.note("kill", instance=self.name)
                self._process.kill()

    def wait_until_served(self, ending: threading.Event) -> None:
        while not ending.wait(0.1):
            try:
                httpx.get(f"{self.url}/v1/vault", timeout=5, verify=False)
                return
            except httpx.TransportError:
                continue

    def stop_for(self, seconds: float, ending: threading.Event) -> None:
        """By SIGSTOP, then SIGCONT."""
        process = self._process
        if process.pid is None or process.exitcode is not None:
            return
        self.stops += 1
        self._history.note("stop", instance=self.name, seconds=round(seconds, 2))
        os.kill(process.pid, signal.SIGSTOP)
        ending.wait(seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGCONT)
        self._history.note("continue", instance=self.name)

    def end(self) -> None:
        self._ending.set()
        self._keeper.join(20)
        self._process.kill()
        self._process.join(20)
