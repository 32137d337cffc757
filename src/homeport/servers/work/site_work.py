"""All the work of a site, whose roles act together here: each kind goes to the roles that have a part in it.

Every kind looks before it acts: asked twice (the vault was killed and asks again), it does no harm. Every request
carries the item's fence number; one older than the newest seen is refused: its operation was superseded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from homeport.domain.errors import HomeportError
from homeport.servers.work.errors import UnknownKind
from homeport.servers.work.kinds import PARTS, THROTTLE, Duty, Part
from homeport.servers.work.master_target_work import MasterTargetWork
from homeport.servers.work.process_server_work import ProcessServerWork
from homeport.servers.work.provider_work import ProviderWork
from homeport.servers.work.site_context import Fences, Params, Progress, Report, Result, SiteContext
from homeport.servers.work.store_work import StoreWork
from homeport.sites.qemu import QemuSite
from homeport.store.objects import Objects


class SiteServers(Protocol):
    """The process server and the master target of a site, here or elsewhere."""

    def connect(self, report: Report) -> None: ...

    def gateway(self) -> dict[str, str] | None: ...

    def facts(self) -> dict[str, Any]: ...

    def known(self) -> frozenset[str]: ...

    def settle(self, known: frozenset[str], told: Mapping[str, Any]) -> None: ...

    def resume(self, replications: list[Params]) -> None: ...

    def carry_out(self, part: Part, params: Params, progress: Progress, id: str) -> Result: ...

    def throttle(self, told: Params) -> None: ...

    def tend(self) -> None: ...

    def stop(self) -> None: ...


class ServersHere:
    """In this process."""

    def __init__(self, context: SiteContext) -> None:
        self.process_server = ProcessServerWork(context)
        self.master_target = MasterTargetWork(context)

    def connect(self, report: Report) -> None:
        self.process_server.connect(report)

    def gateway(self) -> dict[str, str] | None:
        return self.process_server.gateway()

    def facts(self) -> dict[str, Any]:
        return {**self.process_server.facts(), **self.master_target.facts()}

    def known(self) -> frozenset[str]:
        return frozenset()

    def settle(self, known: frozenset[str], told: Mapping[str, Any]) -> None:
        """Nobody else is there to be forgotten."""

    def resume(self, replications: list[Params]) -> None:
        self.process_server.resume(replications)

    def throttle(self, told: Params) -> None:
        self.process_server.throttled(told.get(self.process_server.name))

    def carry_out(self, part: Part, params: Params, progress: Progress, id: str) -> Result:
        if part.kind == THROTTLE:
            name = self.process_server.name
            return {"told": {name: self.process_server.throttled(params["servers"].get(name))}}
        role = self.process_server if part.duty is Duty.PROCESS_SERVER else self.master_target
        return role.kinds[part.kind](params, progress)

    def tend(self) -> None:
        self.process_server.tend()

    def stop(self) -> None:
        self.process_server.stop()


class SiteWork:
    """``folder``: the servers' own at the site; ``objects``: its store; ``servers``: None: here, in this process."""

    def __init__(
        self,
        name: str,
        site: QemuSite,
        folder: Path,
        objects: Objects,
        objects_url: str,
        servers: SiteServers | None = None,
    ) -> None:
        self.name = name
        self._folder = folder
        context = SiteContext(name, site, folder, objects, objects_url)
        self.provider = ProviderWork(context)
        self.store = StoreWork(context)
        self.servers: SiteServers = servers or ServersHere(context)
        self._fences = Fences(folder / "fences")
        self.heard: Callable[[dict[str, Any]], None] = lambda answer: None
        """Called with what the vault answers to a greeting."""

    def connect(self, report: Report) -> None:
        """``report``: called with how an item's replication is, whenever that changes."""
        self.servers.connect(report)
        self.store.start()

    def present(self) -> bool:
        """Whether the site's folder is there: a disk may have gone, and what is not there must not be made anew."""
        return self._folder.is_dir()

    def facts(self) -> dict[str, Any]:
        """For checks: the site's, its store's, its drives', its servers'."""
        return {**self.provider.facts(), **self.servers.facts(), **self.store.facts()}

    def greet(self, hello: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Tell the vault of this site, and take its answer: its key, and its header, sealed by the passphrase, which
        goes beside the data, once; and what it says of bandwidth."""
        before = self.store.sealed_header()
        known = self.servers.known()
        answer = hello(self._greeting(before))
        self.store.welcome(answer)
        self.servers.settle(known, answer)
        if before is None:
            hello(self._greeting(self.store.sealed_header()))  # so that sites which join later get it too
        if "throttles" in answer:
            self.servers.throttle(answer["throttles"])
        self.heard(answer)

    def _greeting(self, sealed: str | None) -> dict[str, Any]:
        return {"gateway": self.servers.gateway(), "facts": self.facts(), "sealed": sealed}

    def discover(self) -> dict[str, Any]:
        """{"machines", "facts"}: what the site sees now."""
        return self.carry_out("inventory", {}, lambda *_: None)

    def resume(self, replications: list[Params]) -> None:
        self.servers.resume(replications)

    def carry_out(self, kind: str, params: Params, progress: Progress, id: str = "") -> Result:
        """``id``: of this piece of work: the same where it is handed out again. Raises UnknownKind, StaleWork, and
        whatever keeps the work from being done."""
        if not self.present():
            raise folder_missing(self.name)
        if kind not in PARTS:
            raise UnknownKind(f"unknown kind of work: {kind}")
        self._fences.check(params)
        result: Result = {}
        for number, part in enumerate(PARTS[kind]):
            if part.wanted(params):
                result = self._do(part, params, progress, f"{id}.{number}")
        return {**result, "facts": self.facts()} if kind == "inventory" else result

    def _do(self, part: Part, params: Params, progress: Progress, id: str) -> Result:
        if part.duty is Duty.PROVIDER:
            return self.provider.kinds[part.kind](params, progress)
        if part.duty is Duty.STORE:
            return self.store.kinds[part.kind](params, progress)
        return self.servers.carry_out(part, params, progress, id)

    def tend(self) -> None:
        """Look after what must go on without anyone asking."""
        self.servers.tend()
        if self.present():
            self.provider.tend()

    def stop(self) -> None:
        self.provider.stop()
        self.servers.stop()
        self.store.stop()


def folder_missing(site: str) -> HomeportError:
    return HomeportError(
        f"the folder of {site} is not there",
        code="site.folder-missing",
        remedy="Mount or restore it, then try again.",
    )
