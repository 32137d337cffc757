"""What a process server must know to replicate one item: handed out by the vault, kept beside the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from homeport.domain.points import PointId
from homeport.store.keys import MachineKey


@dataclass(frozen=True)
class StoreAddress:
    """The recovery store at the site where the machine does not run."""

    site: str
    url: str
    token: str


@dataclass(frozen=True)
class ReplicationSpec:
    """``interval``, ``app_consistent``, ``retention`` in seconds (0: off).

    ``policy_at``: when the vault read these three; a later one counts, in whatever order they come (ISO 8601, UTC).
    ``tracker_base``: what the running machine's tracker calls the content it started from; ``same_as``: the point of
    *this* site's store that equals the timeline's base content, where that is known for certain. ``exclude``: ids of
    disks that stay out of the replication; ``untagged``: ids of points whose tags were taken back; ``group``: the
    replication group that the machine is a member of.
    """

    item: str
    vm: str
    timeline: str
    keys: MachineKey
    store: StoreAddress
    interval: float
    app_consistent: float
    retention: float
    tracker_base: PointId | None
    same_as: PointId | None
    raw: dict[str, Any]
    exclude: frozenset[str] = frozenset()
    policy_at: str = ""
    untagged: frozenset[str] = frozenset()
    group: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReplicationSpec:
        def point(name: str) -> PointId | None:
            return PointId.parse(data[name]) if data.get(name) else None

        return cls(
            item=data["item"],
            vm=data["vm"],
            timeline=data["timeline"],
            keys=machine_key_of(data),
            store=StoreAddress(data["store"]["site"], data["store"]["url"], data["store"]["token"]),
            interval=float(data["interval"]),
            app_consistent=float(data.get("app_consistent") or 0),
            retention=float(data.get("retention") or 0),
            tracker_base=point("tracker_base"),
            same_as=point("same_as"),
            raw=data,
            policy_at=str(data.get("policy_at") or ""),
            group=data.get("group"),
            exclude=frozenset(data.get("exclude") or ()),
            untagged=frozenset(data.get("untagged") or ()),
        )


def renewed(spec: ReplicationSpec, raw: dict[str, Any]) -> ReplicationSpec:
    """The same replication with what may change while it runs taken from ``raw``: the store's address, where it is
    told, and the policy's values, unless those that it has are newer."""
    fresh = ReplicationSpec.from_json({**spec.raw, **raw})
    if "store" in raw:
        spec = replace(spec, store=fresh.store)
    if fresh.policy_at < spec.policy_at:
        return spec
    return replace(
        spec,
        interval=fresh.interval,
        app_consistent=fresh.app_consistent,
        retention=fresh.retention,
        untagged=fresh.untagged,
        policy_at=fresh.policy_at,
    )


def machine_key_of(params: dict[str, Any]) -> MachineKey:
    """The machine's key out of a work's ``keys``."""
    keys = params["keys"]
    return MachineKey(keys["vault"], params["machine"], bytes.fromhex(keys["machine_key"]))
