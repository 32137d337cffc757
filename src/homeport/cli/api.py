"""The JSON of the vault's REST API, as types. The command line passes it on unchanged under ``--json``.

Sizes in bytes, times in seconds, instants ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, TypedDict


class VaultInfo(TypedDict, total=False):
    id: str
    version: str
    passphrase_confirmed: bool
    sites: Any
    items: Any


class Site(TypedDict, total=False):
    name: str
    provider: str
    path: str
    connected: bool
    last_seen: str | None
    facts: dict[str, Any]
    created: str


class Machine(TypedDict, total=False):
    uuid: str
    name: str
    disks: list[dict[str, Any]]
    memory: int
    cpus: int
    power: str
    guest_agent: bool
    obstacles: list[str]
    protectable: bool


class Policy(TypedDict, total=False):
    name: str
    rpo_threshold: int
    retention: int
    app_consistent: int
    interval: int


class Progress(TypedDict, total=False):
    done: float | None
    total: float | None
    unit: str | None
    text: str | None


class Replication(TypedDict, total=False):
    phase: str
    progress: Progress | None
    error: dict[str, Any] | None
    crossed: dict[str, int] | None


Item = TypedDict(
    "Item",
    {
        "id": str,
        "name": str,
        "machine": Any,
        "from": str,
        "to": str,
        "policy": str,
        "state": str,
        "direction": str,
        "active_site": str,
        "health": str,
        "health_reasons": list[str],
        "rpo_seconds": float | None,
        "last_point": Any,
        "timeline": str | None,
        "replication": Replication | None,
        "test": dict[str, Any] | None,
        "allowed_operations": list[str],
        "job": str | None,
        "recovery_machine": Any,
        "failover_point": Any,
        "created": str,
    },
    total=False,
)


class Point(TypedDict, total=False):
    id: str
    time: str
    consistency: str
    parent: str | None
    tags: list[str]
    logical_bytes: int
    stored_bytes: int
    hidden: bool
    disks: dict[str, int]
    offered_as: list[str]


class Task(TypedDict, total=False):
    name: str
    title: str
    state: str
    progress: Progress | None
    started: str | None
    ended: str | None
    result: Any
    error: dict[str, Any] | None


class Job(TypedDict, total=False):
    id: str
    kind: str
    item: str | None
    item_name: str | None
    state: str
    version: int
    created: str | None
    started: str | None
    ended: str | None
    tasks: list[Task]
    error: dict[str, Any] | None
    result: Any
    allowed: list[str]


ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states in which a job stays."""
