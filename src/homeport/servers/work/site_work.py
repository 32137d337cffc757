"""All the work of a site, whose roles act together here: each kind goes to the roles that have a part in it.

Every kind looks before it acts: asked twice (the vault was killed and asks again), it does no harm. Every request
carries the item's fence number; one older than the newest seen is refused: its operation was superseded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.servers.work.errors import UnknownKind
from homeport.servers.work.kinds import PARTS, Role
from homeport.servers.work.master_target_work import MasterTargetWork
from homeport.servers.work.process_server_work import ProcessServerWork
from homeport.servers.work.provider_work import ProviderWork
from homeport.servers.work.site_context import Fences, Handler, Params, Progress, Result, SiteContext
from homeport.servers.work.store_work import StoreWork
from homeport.sites.qemu import QemuSite
from homeport.store.objects import Objects


class SiteWork:
    """``folder``: this site's own state: ``store``, ``cache``, ``retention``, ``points``. ``objects``: its store."""

    def __init__(self, name: str, site: QemuSite, folder: Path, objects: Objects, objects_url: str) -> None:
        self.name = name
        self._folder = folder
        context = SiteContext(name, site, folder, objects, objects_url)
        self.provider = ProviderWork(context)
        self.store = StoreWork(context)
        self.process_server = ProcessServerWork(context)
        self.master_target = MasterTargetWork(context)
        self._fences = Fences(folder / "fences")
        self._kinds: dict[Role, dict[str, Handler]] = {
            role.role: role.kinds for role in (self.provider, self.store, self.process_server, self.master_target)
        }

    def connect(self, report: Callable[[dict[str, Any]], None]) -> None:
        """``report``: called with how an item's replication is, whenever that changes."""
        self.process_server.connect(report)
        self.store.start()

    def present(self) -> bool:
        """Whether the site's folder is there: a disk may have gone, and what is not there must not be made anew."""
        return self._folder.is_dir()

    def gateway(self) -> dict[str, str]:
        return self.process_server.gateway()

    def facts(self) -> dict[str, Any]:
        """For checks: the site's, its store's, its drives'."""
        return {
            **self.provider.facts(),
            **self.process_server.facts(),
            **self.master_target.facts(),
            **self.store.facts(),
        }

    def welcome(self, answer: dict[str, Any]) -> None:
        """The vault's answer to our greeting."""
        self.store.welcome(answer)

    def sealed_header(self) -> str | None:
        """The vault's sealed header as it lies in this site's store."""
        return self.store.sealed_header()

    def resume(self, replications: list[Params]) -> None:
        self.process_server.resume(replications)

    def carry_out(self, kind: str, params: Params, progress: Progress) -> Result:
        """Raises UnknownKind, StaleWork, and whatever keeps the work from being done."""
        if not self.present():
            raise HomeportError(
                f"the folder of {self.name} is not there",
                code="site.folder-missing",
                remedy="Mount or restore it, then try again.",
            )
        if kind not in PARTS:
            raise UnknownKind(f"unknown kind of work: {kind}")
        self._fences.check(params)
        result: Result = {}
        for part in PARTS[kind]:
            if part.wanted(params):
                result = self._kinds[part.role][part.kind](params, progress)
        return {**result, "facts": self.facts()} if kind == "inventory" else result

    def tend(self) -> None:
        """Look after what must go on without anyone asking."""
        if self.present():
            self.provider.tend()

    def stop(self) -> None:
        self.provider.stop()
        self.process_server.stop()
        self.store.stop()
