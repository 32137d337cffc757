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
    store: str | None
    connected: bool
    last_seen: str | None
    discovery: Discovery
    facts: dict[str, Any]
    created: str
    left: list[str]


class Discovery(TypedDict, total=False):
    """As of when a site's machines are known; ``stale``: whether that may be believed no more, ``why``: in words."""

    last: str | None
    tried: str | None
    error: dict[str, Any] | None
    interval: float
    stale: bool
    why: str | None


class Refreshed(TypedDict):
    """What a discovery found that is not as before: machines by ``name``, changed ones with ``changes``."""

    site: Site
    new: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    changed: list[dict[str, Any]]


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


class MachineList(TypedDict):
    machines: list[Machine]
    discovery: Discovery


class Policy(TypedDict, total=False):
    name: str
    rpo_threshold: int
    rpo_critical: int | None
    retention: int
    app_consistent: int
    interval: int
    generated: bool


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
    process_server: str | None
    traffic: dict[str, Any] | None


DeletedItem = TypedDict(
    "DeletedItem",
    {
        "id": str,
        "name": str,
        "machine": str,
        "from": str,
        "to": str,
        "removed": str,
        "purge_at": str | None,
        "points": int,
        "waiting": list[str] | None,
    },
    total=False,
)

Item = TypedDict(
    "Item",
    {
        "id": str,
        "name": str,
        "machine": Any,
        "from": str,
        "to": str,
        "policy": str,
        "group": str | None,
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
        "target": dict[str, Any],
        "target_machine": dict[str, Any],
        "failover_point": Any,
        "tagged_points": dict[str, int],
        "commit_policy": dict[str, Any] | None,
        "created": str,
    },
    total=False,
)


class GroupMember(TypedDict):
    item: str
    name: str
    state: str
    active_site: str


class CommonPoint(TypedDict):
    """``points``: a point's id by the member's name."""

    round: str
    time: str
    consistency: str
    points: dict[str, str]


Group = TypedDict(
    "Group",
    {
        "name": str,
        "from": str,
        "to": str,
        "policy": str,
        "members": list[GroupMember],
        "rpo_seconds": float | None,
        "common_points": list[CommonPoint],
    },
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


class TaskNode(Task, total=False):
    """A task, or a group of them, which shows its children's state and progress. ``finding``: what a check found."""

    children: list[TaskNode]
    finding: dict[str, Any]


class Waiting(TypedDict):
    """What a job asks of the operator."""

    step: str
    prompt: str
    since: str


class Comment(TypedDict):
    """What an operator answered to a job that waited."""

    comment: str
    at: str
    prompt: str


class Job(TypedDict, total=False):
    id: str
    kind: str
    type: str
    display_name: str
    status: str
    activity: str
    target: dict[str, str]
    item: str | None
    item_name: str | None
    state: str
    version: int
    created: str | None
    started: str | None
    ended: str | None
    tasks: list[Task]
    task_tree: list[TaskNode]
    error: dict[str, Any] | None
    errors: list[dict[str, Any]]
    result: Any
    queued_because: dict[str, Any] | None
    waiting: Waiting | None
    comments: list[Comment]
    allowed: list[str]


class Limits(TypedDict):
    """Jobs at work at one site at once."""

    data_moving: int
    failovers: int


class Finding(TypedDict, total=False):
    """``severity``: error, warning or info. ``unknown``: a fact is missing, so that the check could not be made."""

    code: str
    name: str
    severity: str
    title: str
    found: str
    expected: str
    causes: list[str]
    remedy: str
    unknown: bool


class Findings(TypedDict, total=False):
    """Of one item, the worst first. ``at``, ``due``: the last look and the next; ``before``: the operation, where they
    were asked for before one."""

    item: str
    item_name: str
    at: str | None
    due: str | None
    before: str
    findings: list[Finding]


class Event(TypedDict):
    """``kind``: "ready", "job" or "item"; ``shown``: the whole Job or Item; ``id``: to go on after it."""

    id: str
    kind: str
    shown: dict[str, Any]


ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states in which a job stays."""
