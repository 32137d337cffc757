"""Recovery points on object storage. What outsiders use is named here; the format is in ``docs/store-format.md``.

Modules are loaded when something of them is asked for: a command that needs a key waits for no index.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeport.store.backends import open_objects
    from homeport.store.builder import PointBuilder
    from homeport.store.digests import PointDigests, block_digests, region_digest, region_digests
    from homeport.store.errors import (
        AlreadyExists,
        Corrupt,
        Fenced,
        NotFound,
        PointNotFound,
        StoreError,
        StoreUnavailable,
        TimelineNotFound,
        WrongKey,
    )
    from homeport.store.expire import Expired
    from homeport.store.keys import MachineKey, VaultKey, machine_key, machines, open_vault, seal_vault
    from homeport.store.leases import Lease
    from homeport.store.local import LocalObjects
    from homeport.store.memory import MemoryObjects
    from homeport.store.objects import Objects
    from homeport.store.reader import PointReader
    from homeport.store.spool import SpooledPoint, spooled_points
    from homeport.store.timeline import MachineStore, TimelineInfo
    from homeport.store.verify import Problem, Verified
    from homeport.store.writer import PartInfo, Writer

__all__ = [
    "AlreadyExists",
    "Corrupt",
    "Expired",
    "Fenced",
    "Lease",
    "LocalObjects",
    "MachineKey",
    "MachineStore",
    "MemoryObjects",
    "NotFound",
    "Objects",
    "PartInfo",
    "PointBuilder",
    "PointDigests",
    "PointNotFound",
    "PointReader",
    "Problem",
    "SpooledPoint",
    "StoreError",
    "StoreUnavailable",
    "TimelineInfo",
    "TimelineNotFound",
    "VaultKey",
    "Verified",
    "Writer",
    "WrongKey",
    "block_digests",
    "machine_key",
    "machines",
    "open_objects",
    "open_vault",
    "region_digest",
    "region_digests",
    "seal_vault",
    "spooled_points",
]

_PLACES = {
    "backends": ("open_objects",),
    "builder": ("PointBuilder",),
    "digests": ("PointDigests", "block_digests", "region_digest", "region_digests"),
    "errors": (
        "AlreadyExists",
        "Corrupt",
        "Fenced",
        "NotFound",
        "PointNotFound",
        "StoreError",
        "StoreUnavailable",
        "TimelineNotFound",
        "WrongKey",
    ),
    "expire": ("Expired",),
    "keys": ("MachineKey", "VaultKey", "machine_key", "machines", "open_vault", "seal_vault"),
    "leases": ("Lease",),
    "local": ("LocalObjects",),
    "memory": ("MemoryObjects",),
    "objects": ("Objects",),
    "reader": ("PointReader",),
    "spool": ("SpooledPoint", "spooled_points"),
    "timeline": ("MachineStore", "TimelineInfo"),
    "verify": ("Problem", "Verified"),
    "writer": ("PartInfo", "Writer"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found
