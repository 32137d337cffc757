"""Checks at work: facts from the database and from sites, before each operation, every 12 hours, and when asked.

A site's facts and inventory come with its greeting and with each inventory; where they are older than a check may bear,
the site is asked again. A site that is not there is never waited for: what it would have told is then not known, and
the checks say so.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from homeport.domain.checks.catalogue import CATALOGUE, health_reasons, judge, results
from homeport.domain.checks.check import Finding, Severity
from homeport.domain.checks.facts import (
    FRESH,
    PLANNED_FAILOVER,
    Drive,
    Facts,
    ItemFacts,
    Privilege,
    Quota,
    SiteFacts,
    Store,
    age,
)
from homeport.domain.churn import traffic_of
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import Operation
from homeport.domain.states import IN_PROGRESS, Direction, State
from homeport.domain.target import Target
from homeport.vault import inventory, items, server_health
from homeport.vault.core import Core
from homeport.vault.database import CheckRow, ItemRow, JobRow, Json, MachineRow, PolicyRow, SiteRow, now
from homeport.vault.signal import Stopping
from homeport.vault.work import Ask, ask

log = structlog.get_logger(__name__)

EVERY = timedelta(hours=12)
"""Between two looks at an item in which nobody asks for one (reference 12, F138)."""

CLAIMED = timedelta(minutes=10)
"""How long an instance of the vault may take for one look, before another one does it."""

LOOK_AGAIN = 30.0
"""Seconds between two looks for items that are due."""

HOURLY = 3600.0
HURRY = 5.0
"""Seconds that a failover waits for facts: it goes on without them."""

_AT_ONCE = 10.0
"""Age, in seconds, of what a reprotect or a failback may be judged by: the machine must run now."""

_SITES: dict[Operation, tuple[str, ...]] = {
    Operation.TEST_FAILOVER: ("away",),
    Operation.FAILOVER: ("away",),
    Operation.REPROTECT: ("home", "away"),
    Operation.FAILBACK: ("home", "away"),
}
"""Which sites an operation's checks ask."""

_OCCASIONS = frozenset(occasion for check in CATALOGUE for occasion in check.before)


class CheckFailed(HomeportError):
    """A check refuses the operation; its code is the check's. ``details.findings``: all there are, the worst first."""

    def __init__(self, operation: Operation, findings: list[Finding]) -> None:
        first = findings[0]
        super().__init__(
            f"{operation} is refused: {first.found}; expected: {first.expected}.",
            code=first.code,
            remedy=first.remedy,
            operation=str(operation),
            findings=[finding.to_json() for finding in findings],
        )


# ── before operations ───────────────────────────────────────────────────────────────────────────────────────────────


def before(core: Core, name: str, operation: Operation, params: Json) -> list[Json]:
    """What each check says (:func:`homeport.domain.checks.catalogue.results`). Raises :class:`CheckFailed`. What the
    state does not allow is left to the rules, which say so better."""
    if str(operation) not in _OCCASIONS:
        return []
    with core.database.read() as session:
        item = items.find(session, name)
        if item.removed is not None or operation not in items.allowed(session, item):
            return []
    findings = look(core, item.id, operation, params)
    refuse(operation, findings)
    planned = operation is Operation.FAILOVER and params.get("planned")
    return results(PLANNED_FAILOVER if planned else str(operation), findings)


def before_protect(core: Core, machine: Machine, home: str, away: str, policy: str, target: Target) -> list[Json]:
    """The same for a machine that is no item yet. Raises :class:`CheckFailed`."""

    def gathered(session: Session) -> Facts:
        there = session.get(PolicyRow, policy)
        return Facts(
            now=now(),
            original=machine,
            recovered=target.applied_to(machine),
            home=site_facts(core, session, home),
            away=site_facts(core, session, away),
            item=ItemFacts(machine.name, State.UNPROTECTED, Direction.FORWARD, home, away, now()),
            policy=items.policy_of(session, policy) if there else None,
            passphrase_confirmed=core.secrets.passphrase_confirmed,
            vault_host=core.host,
            operation=Operation.PROTECT,
        )

    findings = _judged(core, gathered, [home, away], FRESH, core.timeouts.inventory)
    refuse(Operation.PROTECT, findings)
    return results(Operation.PROTECT, findings)


def refuse(operation: Operation, findings: list[Finding]) -> None:
    """Raises :class:`CheckFailed` where one of them is an error."""
    if findings and findings[0].severity is Severity.ERROR:
        raise CheckFailed(operation, findings)
    told = [finding.code for finding in findings if finding.severity is Severity.WARNING]
    if told:
        log.info("checks warn", operation=str(operation), codes=told)


def look(core: Core, name: str, operation: Operation, params: Json) -> list[Finding]:
    """What the checks before ``operation`` find now. Asks the sites that matter where their facts are too old."""
    with core.database.read() as session:
        item = items.find(session, name)
        settled = _settled(session, item)
    places = _SITES.get(operation, ())
    hurry = operation is Operation.FAILOVER and not params.get("planned")
    if operation is Operation.FAILOVER and not hurry:
        places = ("home", "away")
    limit = min(HURRY, core.timeouts.inventory) if hurry else core.timeouts.inventory
    since = age(now(), settled)
    oldest = min(_AT_ONCE if len(places) > 1 else FRESH, FRESH if since is None else since)

    def gathered(session: Session) -> Facts:
        return gather(core, session, items.find(session, item.id), operation, params)

    return _judged(core, gathered, [str(getattr(item, place)) for place in places], oldest, limit)


def _judged(
    core: Core, gathered: Callable[[Session], Facts], sites: list[str], oldest: float, limit: float
) -> list[Finding]:
    """Nobody is refused by what may have been mended since: before an error is told, the sites are asked again."""
    findings: list[Finding] = []
    for accepted in (oldest, 0.0):
        asked = refresh(core, sites, accepted, limit)
        with core.database.read() as session:
            findings = judge(gathered(session))
        if asked or not findings or findings[0].severity is not Severity.ERROR:
            break
    return findings


# ── in between ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(core: Core, name: str, *, oldest: float = 0.0) -> Json:
    """Check an item now, keep what was found, and tell it. ``oldest``: seconds that known facts may be old."""
    with core.database.read() as session:
        item = items.find(session, name)
        settled = _settled(session, item)
    since = age(now(), settled)
    refresh(core, [item.home, item.away], oldest if since is None else min(oldest, since), core.timeouts.inventory)
    with core.database.read() as session:
        told = [finding.to_json() for finding in judge(gather(core, session, items.find(session, item.id)))]
    with core.database.write() as session:
        row = session.get(CheckRow, item.id)
        if row is None:
            row = CheckRow(item=item.id, due=now(), findings=[])
            session.add(row)
        row.at, row.due = now(), now() + EVERY
        if health_reasons(row.findings) != health_reasons(told):
            session.get_one(ItemRow, item.id).changed = now()  # its health tells of it
        row.findings = told
        return to_json(session, item)


def last(session: Session, item: str) -> list[Json]:
    """What the last look at an item found."""
    row = session.get(CheckRow, item)
    return [] if row is None else list(row.findings)


def to_json(session: Session, item: ItemRow) -> Json:
    """{"item", "at": of the last look (None: there was none), "due": of the next, "findings"}."""
    row = session.get(CheckRow, item.id)
    return {
        "item": item.id,
        "item_name": item.name,
        "at": row.at.isoformat() if row is not None and row.at is not None else None,
        "due": row.due.isoformat() if row is not None else None,
        "findings": [] if row is None else row.findings,
    }


class Watch:
    """A thread of the vault that looks at each item every 12 hours. When each is due stands in the database."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Ends it; the vault's signal has stopped, so that nothing waits for a site any more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_AGAIN):
            try:
                run_due(self._core)
            except Stopping:
                return
            except Exception:
                log.exception("checks failed")


def run_due(core: Core) -> list[str]:
    """Check the items whose time has come; their names. Of several instances of the vault one takes each."""
    checked = []
    while (item := _claim(core)) is not None:
        try:
            run(core, item, oldest=HOURLY)
        except HomeportError as error:
            log.warning("an item can't be checked", item=item, cause=error.cause)
        checked.append(item)
    return checked


def _claim(core: Core) -> str | None:
    """The id of an item that is at rest, and due or changed by a job since its last look; nobody else takes it now."""
    since = select(JobRow.id).where(JobRow.item == ItemRow.id, JobRow.ended > CheckRow.at).exists()
    changed = since & (CheckRow.due > now() + CLAIMED)  # else somebody is at it
    wanted = (
        select(ItemRow.id)
        .outerjoin(CheckRow, CheckRow.item == ItemRow.id)
        .where(ItemRow.removed.is_(None), ItemRow.job.is_(None))
        .where(ItemRow.state.not_in([*IN_PROGRESS, State.UNPROTECTED]))
        .where(or_(CheckRow.due.is_(None), CheckRow.due <= now(), changed))
        .limit(1)
    )
    with core.database.read() as session:
        if session.scalar(wanted) is None:
            return None
    with core.database.write() as session:
        found = session.scalar(wanted)
        if found is not None:
            row = session.get(CheckRow, found)
            if row is None:
                session.add(CheckRow(item=found, due=now() + CLAIMED))
            else:
                row.due = now() + CLAIMED
        return found


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def refresh(core: Core, sites: list[str], oldest: float, limit: float) -> bool:
    """Ask those sites, at once, whose facts are older than ``oldest`` seconds; whether all of ``sites`` were asked. One
    that does not answer within ``limit`` seconds is left alone."""
    with core.database.read() as session:
        rows = [session.get_one(SiteRow, name) for name in sites]
    stale = [
        row.name
        for row in rows
        if not core.liveness.gone(row.name, core.timeouts.gone)
        and any(known is None or known > oldest for known in (age(now(), row.inventoried), age(now(), _received(row))))
    ]

    def aside(site: str) -> None:
        with contextlib.suppress(Stopping):
            _ask(core, site, limit)

    threads = [threading.Thread(target=aside, args=(name,), name=f"facts-{name}") for name in stale[1:]]
    for thread in threads:
        thread.start()
    if stale:
        _ask(core, stale[0], limit)
    for thread in threads:
        thread.join()
    return len(stale) == len(sites)


def _ask(core: Core, site: str, limit: float) -> None:
    request = Ask(site, "inventory", {}, key=f"inventory:{uuid.uuid4().hex}", silence=limit, limit=limit)
    try:
        inventory.refresh(core, site, ask(core, request))
    except HomeportError as error:
        log.info("a site's facts can't be had", site=site, cause=error.cause)


def gather(
    core: Core, session: Session, item: ItemRow, operation: Operation | None = None, params: Json | None = None
) -> Facts:
    """All that is known of an item now."""
    asked = params or {}
    original = Machine.from_json(item.description)
    error, settled = item.replication.get("error"), _settled(session, item)
    return Facts(
        now=now(),
        original=original,
        recovered=Target.from_json(item.target or {}).applied_to(original),
        home=site_facts(core, session, item.home, settled),
        away=site_facts(core, session, item.away, settled),
        item=ItemFacts(
            name=item.name,
            state=item.state,
            direction=item.direction,
            active=item.active_site,
            store=item.store_site,
            created=item.created,
            timelines=frozenset({item.timeline, *item.lineage, *(t for site in item.timelines.values() for t in site)}),
            replication_error=_error(error),
            traffic=traffic_of(item.replication.get("traffic")),
            tested=_last_job(session, item, Operation.CLEANUP),
            test_began=_last_job(session, item, Operation.TEST_FAILOVER),
        ),
        policy=items.effective_policy(session, item),
        points=tuple(items.points_of(session, item)),
        passphrase_confirmed=core.secrets.passphrase_confirmed,
        vault_host=core.host,
        operation=operation,
        planned=bool(asked.get("planned")),
        network=asked.get("network"),
        forward=tuple(asked.get("forward") or ()),
    )


def _settled(session: Session, item: ItemRow) -> datetime | None:
    """When the item's last job ended: an inventory from before it says nothing of the item's machines."""
    return session.scalar(select(func.max(JobRow.ended)).where(JobRow.item == item.id))


def _last_job(session: Session, item: ItemRow, kind: Operation) -> datetime | None:
    """When the last of this kind that did what it should ended."""
    wanted = select(func.max(JobRow.ended)).where(JobRow.item == item.id, JobRow.kind == str(kind))
    return session.scalar(wanted.where(JobRow.state == "succeeded"))


def _error(error: Any) -> tuple[str, str] | None:
    if not isinstance(error, dict):
        return None
    return str(error.get("code") or ""), str(error.get("cause") or "")


def _received(row: SiteRow) -> datetime | None:
    return _Told(row.facts).instant("received")


def site_facts(core: Core, session: Session, name: str, settled: datetime | None = None) -> SiteFacts:
    """A site's last facts. What it told in another form than is known here counts as not told; so does an inventory
    from before ``settled``."""
    row = session.get_one(SiteRow, name)
    told = _Told(row.facts)
    silence = core.liveness.silence(name)
    if silence is None:
        silence = age(now(), row.last_seen)  # of before this vault's start
    machines = None
    if row.inventoried is not None and (settled is None or row.inventoried >= settled):
        found: list[Any] = list(session.scalars(select(MachineRow.data).where(MachineRow.site == name)))
        machines = tuple(Machine.from_json(data) for data in found)
    quota, store = told.part("quota") or _Told({}), told.part("store") or _Told({})
    privileges = told.part("privileges")
    networks = told.said.get("networks")
    accelerator = told.part("accelerator")
    return SiteFacts(
        name=name,
        silence=silence,
        received=told.instant("received"),
        clock=told.instant("clock"),
        host=told.text("host"),
        free_memory=told.number("free_memory"),
        total_memory=told.number("total_memory"),
        cpus=told.number("cpus"),
        free_disk=told.number("free_disk"),
        accelerator=accelerator.text("kind") if accelerator else None,
        quota=Quota(quota.number("memory"), quota.number("cpus"), quota.number("machines"), quota.text("wrong") or ""),
        privileges=_privileges(privileges.said) if privileges else None,
        networks=tuple(map(_network, networks)) if isinstance(networks, list) else None,
        store=Store(store.flag("reachable"), store.text("why") or "", store.number("free"), store.text("path")),
        retention=told.drive("retention"),
        cache=told.drive("cache"),
        process_servers=server_health.process_servers(name, row.facts, silence),
        folder=told.drive("folder"),
        machines=machines,
        inventoried=row.inventoried,
    )


def _privileges(said: Mapping[str, Any]) -> dict[str, Privilege]:
    parts = {name: _Told(part) for name, part in said.items() if isinstance(part, dict)}
    return {name: Privilege(part.flag("held") is not False, part.text("why") or "") for name, part in parts.items()}


def _network(told: Any) -> str:
    return str(told["name"] if isinstance(told, dict) and "name" in told else told)


class _Told:
    """A site's JSON, of any version of Homeport: each value is what it should be, or None."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self.said = said

    def number(self, name: str) -> int | None:
        value = self.said.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def text(self, name: str) -> str | None:
        value = self.said.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool | None:
        value = self.said.get(name)
        return value if isinstance(value, bool) else None

    def part(self, name: str) -> _Told | None:
        value = self.said.get(name)
        return _Told(value) if isinstance(value, dict) else None

    def instant(self, name: str) -> datetime | None:
        with contextlib.suppress(ValueError):
            found = datetime.fromisoformat(self.text(name) or "")
            return found if found.tzinfo is not None else None
        return None

    def drive(self, name: str) -> Drive | None:
        part = self.part(name)
        if part is None:
            return None
        return Drive(
            path=part.text("path") or "",
            free=part.number("free"),
            total=part.number("total"),
            device=part.text("device"),
            filesystem=part.text("filesystem"),
            writable=part.flag("writable"),
        )
