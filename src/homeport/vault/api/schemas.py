"""What the API answers with, as types of its description. An answer may hold more than these say; what they say stays.

Sizes are bytes, times seconds, instants ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Next = Annotated[str | None, Field(description="`after` of the next page; null at the end of the list")]


class Shown(BaseModel):
    model_config = ConfigDict(extra="allow")


class Task(Shown):
    name: str
    title: str
    state: str
    progress: Json | None
    started: Instant
    ended: Instant | None


class TaskNode(Task):
    """A task or a group of tasks; what it shows is rolled up from its ``children``."""

    children: list[TaskNode]


class Target(Shown):
    """What a job works on."""

    type: str
    id: str
    name: str


class Comment(Shown):
    """What an operator answered to a job that waited."""

    comment: str
    at: Instant
    prompt: str


class Job(Shown):
    """``activity``: the same for a job, its restarts, and the way back out of it. ``errors``: its tasks' too."""

    id: str
    kind: str
    type: str
    display_name: str
    state: str
    status: str
    activity: str
    target: Target
    item: str
    item_name: str
    version: int
    created: Instant
    started: Instant | None
    ended: Instant | None
    tasks: list[Task]
    task_tree: list[TaskNode]
    error: Json | None
    errors: list[Json]
    result: Json | None
    queued_because: Json | None
    waiting: Json | None
    comments: list[Comment]
    allowed: list[str]


class JobAccepted(Shown):
    job: Job


class JobsAccepted(Shown):
    """One for each member of a group."""

    jobs: list[Job]


class GroupMember(Shown):
    item: str
    name: str
    state: str
    active_site: str


class CommonPoint(Shown):
    """``points``: a point's id by the member's name."""

    round: str
    time: Instant
    consistency: str
    points: dict[str, str]


class Group(Shown):
    """A replication group. ``rpo_seconds``: the age of the newest point that all members have."""

    name: str
    home: str = Field(alias="from")
    away: str = Field(alias="to")
    policy: str
    members: list[GroupMember]
    rpo_seconds: float | None
    common_points: list[CommonPoint]


class GroupList(Shown):
    groups: list[Group]


class JobList(Shown):
    jobs: list[Job]
    next: Next = None


class Point(Shown):
    id: str
    time: Instant
    consistency: str
    tags: list[str]


class PointList(Shown):
    points: list[Point]
    next: Next = None


class Item(Shown):
    """A replicated item."""

    id: str
    name: str
    machine: str
    home: str = Field(alias="from")
    away: str = Field(alias="to")
    policy: str
    group: str | None
    state: str
    direction: str
    active_site: str
    health: str
    health_reasons: list[str]
    rpo_seconds: float | None
    last_point: Json | None
    timeline: str
    replication: Json
    test: Json | None
    allowed_operations: list[str]
    job: str | None
    recovery_machine: Json | None
    failover_point: str | None
    tagged_points: Json
    target: Json
    target_machine: Json
    created: Instant


class DeletedItem(Shown):
    """One whose protection ended and whose points are kept. ``waiting``: why a purge that is due was not done yet."""

    id: str
    name: str
    machine: str
    home: str = Field(alias="from")
    away: str = Field(alias="to")
    removed: Instant
    purge_at: Instant | None
    points: int
    waiting: list[str] | None


class DeletedItemList(Shown):
    items: list[DeletedItem]


class PurgeAccepted(Shown):
    item: DeletedItem


class ItemList(Shown):
    items: list[Item]
    next: Next = None


class Discovery(Shown):
    """``last``: as of when the site's machines are known; ``tried``: when looking was last tried; ``error``: why that
    saw nothing; ``interval``: seconds between two looks; ``stale``: whether ``last`` may be believed no more, ``why``:
    in words."""

    last: Instant | None
    tried: Instant | None
    error: Json | None
    interval: float
    stale: bool
    why: str | None


class Site(Shown):
    name: str
    provider: str
    path: str
    store: str | None
    connected: bool
    last_seen: Instant | None
    discovery: Discovery
    facts: Json
    created: Instant


class SeenMachine(Shown):
    name: str
    uuid: str


class MachineChange(Shown):
    """Values as a machine has them."""

    field: str
    before: Any
    after: Any


class ChangedMachine(SeenMachine):
    changes: list[MachineChange]


class Refreshed(Shown):
    """What a discovery found that is not as at the one before."""

    site: Site
    new: list[SeenMachine]
    gone: list[SeenMachine]
    changed: list[ChangedMachine]


class RemovedSite(Site):
    """``left``: what stays where it is, in words."""

    left: list[str]


class ProbedSite(Site):
    """``probed``: what trying its store out showed: {"free"}: bytes, null where it doesn't say."""

    probed: Json


class SiteList(Shown):
    sites: list[Site]
    next: Next = None


class Machine(Shown):
    uuid: str
    name: str
    disks: list[Json]
    memory: int
    cpus: int
    power: str
    guest_agent: bool
    obstacles: list[str]
    protectable: bool


class MachineList(Shown):
    machines: list[Machine]
    discovery: Discovery


class MachineStarted(Shown):
    machine: Machine


class Policy(Shown):
    """All in seconds."""

    name: str
    rpo_threshold: int
    retention: int
    app_consistent: int
    interval: int
    generated: bool


class PolicyList(Shown):
    policies: list[Policy]
    next: Next = None


class Limits(BaseModel):
    """Jobs at work at one site at once; more wait in order."""

    model_config = ConfigDict(extra="forbid")

    data_moving: int
    failovers: int


class Accepted(JSONResponse):
    """An answer that names the job it began also says where that is."""

    def __init__(self, content: Any, status_code: int = 200, *arguments: Any, **named: Any) -> None:
        super().__init__(content, status_code, *arguments, **named)
        job = content.get("job") if isinstance(content, dict) else None
        if status_code == 202 and isinstance(job, dict):
            self.headers["Location"] = f"/v1/jobs/{job['id']}"
