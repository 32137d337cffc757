"""The mobility service as a process of its own, at the host of the machines."""

from __future__ import annotations

import time
from pathlib import Path

from homeport.domain.servers import Role
from homeport.mobility.sender import Sender
from homeport.mobility.wire import POLL_SECONDS
from homeport.servers.local_machine import LocalMachine
from homeport.servers.serve.health import Check
from homeport.servers.serve.process import Lock
from homeport.servers.serve.site_server import FolderMissing, SiteServer, begin_work
from homeport.servers.work.mobility_work import MobilityWork
from homeport.sites.qemu import QemuSite


class MobilityServer(SiteServer):
    """Serves the machines of a host to process servers that run elsewhere at the site."""

    role = Role.MOBILITY_SERVICE
    uses = "configuration server"
    _work: MobilityWork | None = None

    def start(self) -> None:
        """Raises FolderMissing, RunsAlready."""
        path = self.config.path("folder")
        if not path.is_dir():
            raise FolderMissing(f"The site's folder {path} is not there.")
        self.stack.enter_context(Lock(self.config.state / "lock"))
        scratch = Path(self.config.text("scratch") or self.folder / "scratch").absolute()
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.stack.enter_context(Lock(scratch / "mobility-service.lock"))
        site = QemuSite(path, name=self.identity.site)
        sender = Sender(lambda vm, exclude: LocalMachine(site, vm, scratch / vm, exclude=exclude))
        self._work = MobilityWork(self.identity, sender, path, self.config.state)
        begin_work(self, self._work)

    def checks(self) -> list[Check]:
        found = super().checks()
        for uplink in self._work.uplinks() if self._work is not None else ():
            heard = uplink.heard
            there = heard is not None and time.monotonic() - heard < 2 * POLL_SECONDS
            told = f"it answers at {uplink.url}" if there else uplink.trouble or f"never heard of at {uplink.url}"
            found.append(Check(f"process server {uplink.server}", there, told))
        return found
