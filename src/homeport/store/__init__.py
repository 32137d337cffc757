"""Recovery points on object storage. What outsiders use is named here; the format is in ``docs/store-format.md``."""

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
from homeport.store.objects import Objects, open_objects
from homeport.store.probe import probe
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
    "probe",
    "region_digest",
    "region_digests",
    "seal_vault",
    "spooled_points",
]
