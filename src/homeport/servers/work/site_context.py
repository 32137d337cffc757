"""What the roles of one site have in common: its machines, its recovery store, the folder of its servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.points import PointId
from homeport.servers.durable import write_durably
from homeport.servers.replication_spec import machine_key_of
from homeport.servers.work.errors import StaleWork
from homeport.sites.qemu import QemuSite
from homeport.store.keys import VaultKey
from homeport.store.objects import Objects
from homeport.store.timeline import MachineStore

Progress = Callable[..., None]
Params = dict[str, Any]
Result = dict[str, Any]
Report = Callable[[dict[str, Any]], None]
"""Called with how an item's replication is, as the agent API takes it."""
Handler = Callable[[Params, Progress], Result]


@dataclass
class SiteContext:
    """``here``: where the site's machines are, for a role that sees them (None: they run elsewhere). ``folder``: the
    servers' own at the site; each role keeps to its part of it (``cache``, ``retention``, …).
    ``objects``: the site's recovery store, at ``objects_url``. ``vault``: its key, where the role is told it.
    ``cache_at``, ``retention_at``: where these lie elsewhere."""

    name: str
    here: QemuSite | None
    folder: Path
    objects: Objects
    objects_url: str
    vault: VaultKey | None = None
    cache_at: Path | None = None
    retention_at: Path | None = None

    @property
    def site(self) -> QemuSite:
        assert self.here is not None, "the site's machines run elsewhere"
        return self.here

    @property
    def caches(self) -> Path:
        return self.cache_at or self.folder / "cache"

    @property
    def retention(self) -> Path:
        return self.retention_at or self.folder / "retention"

    def store(self, params: Params) -> MachineStore:
        """The recovery store as the machine of ``params`` sees it."""
        return MachineStore(self.objects, machine_key_of(params))

    def joined(self) -> VaultKey:
        """The vault's key, as the vault told it."""
        if self.vault is None:
            raise HomeportError("this site has not greeted its vault yet", code="site.not-joined")
        return self.vault

    def cache(self, item: str, timeline: str) -> Path:
        return self.caches / item / timeline


class Fences:
    """The newest fence number seen of each item; one that is older is refused, also after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def check(self, params: Params) -> None:
        """Raises StaleWork."""
        if "item" not in params or "fence" not in params:
            return
        path, fence = self._folder / params["item"], params["fence"]  # outlasts the item: work may come late
        with self._lock:
            seen = int(path.read_text()) if path.exists() else 0
            if fence < seen:
                raise StaleWork(f"work with fence {fence} arrived after {seen}")
            if fence > seen:
                write_durably(path, str(fence).encode())

    def known(self) -> dict[str, int]:
        """By item the newest number seen."""
        if not self._folder.is_dir():
            return {}
        return {path.name: int(path.read_text()) for path in self._folder.iterdir() if not path.name.startswith(".")}

    def raise_to(self, fences: Mapping[str, int]) -> None:
        """Those numbers were seen, elsewhere; one that is higher here stays."""
        with self._lock:
            for item, fence in fences.items():
                path = self._folder / item
                if fence > (int(path.read_text()) if path.exists() else 0):
                    write_durably(path, str(fence).encode())


def optional_point(params: Params, name: str) -> PointId | None:
    return PointId.parse(params[name]) if params.get(name) else None


def text_of(point: PointId | None) -> str | None:
    return str(point) if point else None
