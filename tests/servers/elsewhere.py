"""A machine whose process server is not at its host: a rig whose source is reached over TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage_daemon import StorageDaemon

from homeport.domain.servers import Role
from homeport.mobility import uplink as uplinks
from homeport.mobility.sender import Assignment, Sender
from homeport.mobility.uplink import Uplink
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.remote_source import RemoteSource
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.qemu import QemuSource
from homeport.store.memory import MemoryObjects
from homeport.trust.identity import Identity
from tests.ports import free_port
from tests.servers.identities import Authority
from tests.servers.rig import Rig

uplinks.AGAIN_AFTER = 0.05  # tests begin process servers anew all the time


class Here:
    """The rig's machine, as the mobility service at its host has it."""

    def __init__(self, rig: RemoteRig) -> None:
        self._rig = rig

    def source(self) -> QemuSource:
        return self._rig.local_source()

    def describe(self) -> dict[str, Any]:
        return {"name": "vm"}

    def quiesce(self, timeout: float) -> bool:
        return True

    def power_off(self) -> None:
        return

    def is_off(self) -> bool:
        return False

    def stay_off(self, reason: str) -> None:
        return

    def forget_tracking(self) -> None:
        return


class RemoteRig(Rig):
    """``exchange``: of the process server that is served; ``named``: what the configuration server says."""

    def __init__(self, daemon: StorageDaemon, folder: Path, timeline: str | None = None) -> None:
        super().__init__(daemon, folder, timeline)
        self.authority = Authority(folder / "identities")
        self.process_server = self.authority.identity(Role.PROCESS_SERVER, "a", "ps-1")
        self.mobility_service = self.authority.identity(Role.MOBILITY_SERVICE, "a", "ms-1")
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.fence = 1
        self.patience = 5.0
        self.lease = 60.0
        self.clock: Callable[[], float] = time.monotonic
        self.exchange: SourceExchange | None = None
        self.sender: Sender | None = None
        self.uplink: Uplink | None = None

    def local_source(self) -> QemuSource:
        return super().source()

    def source(self) -> RemoteSource:  # type: ignore[override]
        assert self.exchange is not None
        return RemoteSource(self.exchange, "vm", {"exclude": []}, self.cache / "owed-commit")

    @contextmanager
    def served(self, identity: Identity | None = None) -> Iterator[SourceExchange]:
        """The process server runs."""
        exchange = self.exchange = SourceExchange(patience=self.patience)
        self.cache.mkdir(parents=True, exist_ok=True)
        gateway = ObjectGateway(
            MemoryObjects(), "token", "127.0.0.1", self.port, identity or self.process_server, exchange=exchange
        )
        gateway.start()
        try:
            yield exchange
        finally:
            exchange.close()
            gateway.close()

    @contextmanager
    def sending(self, identity: Identity | None = None) -> Iterator[Sender]:
        """The mobility service runs."""
        sender = self.sender = Sender(lambda vm, exclude: Here(self), lease=self.lease, clock=self.clock)
        sender.name({"vm": Assignment("ps-1", self.url, self.fence)})
        uplink = self.uplink = Uplink("ps-1", self.url, identity or self.mobility_service, sender)
        uplink.start()
        try:
            yield sender
        finally:
            uplink.stop()
            sender.close()


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
