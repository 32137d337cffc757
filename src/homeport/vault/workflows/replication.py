"""What several operations do with an item's replication: begin a timeline, start, wait, stop, list its points."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from homeport.domain.choice import PointKind, choose_point
from homeport.domain.errors import HomeportError
from homeport.domain.groups import MULTI_VM
from homeport.domain.points import PointId
from homeport.vault import groups, inventory, items, policies
from homeport.vault.database import ItemRow, Json, SiteRow
from homeport.vault.steps import Cancelled, Effect, Facts, Step
from homeport.vault.work import SiteUnreachable, withdraw_posted


class ReplicationNotResumed(HomeportError):
    """The way back led to a replication that does not run."""

    code = "replication.not-resumed"
    remedy = "Remove what its error names, then cancel or restart the job again."


def prepare_timeline(facts: Facts, site: str, timeline: str, parent: str | None = None) -> Effect:
    """An empty timeline at ``site``, or a fork of ``parent``."""

    def effect(step: Step) -> Json:
        note_timeline(step, site, timeline)
        return step.ask(
            site,
            "prepare-timeline",
            {"timeline": timeline, "parent": parent, "origin": None, "description": facts.description()},
        )

    return effect


def import_base(facts: Facts, site: str, timeline: str, *, parent: str | None, origin: str | None) -> Effect:
    """The powered-off machine's disks at ``site`` become the base of ``timeline`` there."""

    def effect(step: Step) -> Json:
        note_timeline(step, site, timeline)
        return step.ask(
            site,
            "import-base",
            {
                "vm": facts.vm_at(site),
                "timeline": timeline,
                "parent": parent,
                "origin": origin,
                "description": facts.description(),
            },
        )

    return effect


def note_timeline(step: Step, site: str, timeline: str) -> None:
    with step.item() as (_, item):
        known: list[str] = item.timelines.get(site, [])
        if timeline not in known:
            item.timelines = {**item.timelines, site: [*known, timeline]}


def replicate(
    facts: Facts,
    *,
    at: str,
    store: str,
    timeline: str,
    lineage: list[str],
    policy: Json,
    tracker_base: str | None = None,
    same_as: str | None = None,
    process_server: str | None = None,
) -> Effect:
    """The running machine at ``at`` replicates into ``timeline`` at ``store``, until it is stopped. ``policy``: as the
    operation found it; the step takes what was changed since. ``process_server``: of the site ``at``, that it begins
    with; which one has it later the site knows."""
    params = {
        "vm": facts.vm_at(at),
        "timeline": timeline,
        "interval": policy["interval"],
        "app_consistent": policy["app_consistent"],
        "retention": policy["retention"],
        "rpo_threshold": policy["rpo_threshold"],
        "tracker_base": tracker_base,
        "same_as": same_as,
    }

    def effect(step: Step) -> Json:
        with step.item() as (session, item):
            if item.timeline != timeline or item.replicate is None:
                item.replication = {"phase": "starting"}
            params.update(policies.for_replication(session, item, at))
            item.replicate = {"at": at, "store": store, "params": dict(params)}
            item.timeline, item.lineage, item.store_site = timeline, lineage, store
        gateway = _gateway(step, store)
        asked = {**params, "store": {"site": store, **gateway}}
        return step.ask(at, "replicate", asked | ({"process_server": process_server} if process_server else {}))

    return effect


def _gateway(step: Step, site: str) -> Json:
    """Where the store of ``site`` takes changes. Servers that were started just now are given the time to tell. Raises
    SiteUnreachable."""

    def told() -> Json | None:
        with step.core.database.read() as session:
            return session.get_one(SiteRow, site).gateway

    gateway = step.core.signal.until(told, step.core.timeouts.silence, every=1)
    if gateway is None:
        raise SiteUnreachable(
            f"The configuration server of site {site!r} never told where its store takes changes.", site=site
        )
    return gateway


def replications(session: Session, rows: list[ItemRow]) -> list[tuple[ItemRow, Json]]:
    """The params of `replicate` for items that should replicate, with the stores' gateways as they are now."""
    found = []
    for item in rows:
        assert item.replicate is not None
        store = item.replicate["store"]
        gateway = session.get_one(SiteRow, store).gateway
        if gateway is not None:
            found.append((item, {**item.replicate["params"], "store": {"site": store, **gateway}}))
    return found


def stop_replication(at: str) -> Effect:
    """Best effort, quickly: ending the timeline fences whoever does not hear this."""

    def effect(step: Step) -> Json:
        forget_replicate(step)
        if step.core.liveness.gone(at, step.core.timeouts.gone):
            raise SiteUnreachable(f"The configuration server of site {at!r} is not there; not asked.", site=at)
        return step.ask(at, "stop-replication", {}, limit=step.core.timeouts.stop_replication)

    return effect


def forget_replicate(step: Step) -> None:
    with step.item() as (_, item):
        item.replicate = None
        item.replication = {**item.replication, "phase": "stopped"}


def wait_for_point(timeline: str, above: int) -> Effect:
    """Until replication reports a head of ``timeline`` numbered above ``above``. However long that takes: a first copy
    takes its time, and trouble shows in the item's health while replication tries again. Cancel ends it."""

    def effect(step: Step) -> Json:
        shown: list[Any] = [None]

        def look() -> Json | None:
            with step.core.database.read() as session:
                item = session.get_one(ItemRow, step_item)
                replication = item.replication
            head = replication.get("head")
            if head is not None:
                point = PointId.parse(head)
                if point.timeline == timeline and point.number > above:
                    return {"point": head, "found_by": replication.get("found_by")}
            if step.cancel_wanted():
                raise Cancelled
            progress = replication.get("progress")
            if replication.get("error"):
                trouble = f"replication is in trouble and tries again: {replication['error'].get('cause')}"
                progress = {"done": 0, "total": 0, "unit": "bytes", **(progress or {}), "text": trouble}
            if progress is not None and progress != shown[0]:
                shown[0] = progress
                step.progress(progress)
            return None

        with step.item() as (_, item):
            step_item = item.id
        found: Json = step.core.signal.until(look) or {}
        return found

    return effect


def wait_until_it_runs(facts: Facts, timeline: str) -> Effect:
    """Until a report tells that ``timeline`` grows; trouble may pass, so it is given time. Raises
    :class:`ReplicationNotResumed`."""

    def effect(step: Step) -> Json:
        seen: Json = {}

        def look() -> Json | None:
            nonlocal seen
            with step.core.database.read() as session:
                item = session.get_one(ItemRow, facts.item)
                seen = item.replication if item.timeline == timeline else {}
            return {"phase": seen["phase"]} if seen.get("phase") in ("seeding", "replicating", "resyncing") else None

        limit = step.core.timeouts.resumed
        found = step.core.signal.until(look, limit)
        if found is None:
            trouble = items.error_text(seen.get("error")) or "it tells no error"
            raise ReplicationNotResumed(
                f"Replication of {facts.name} does not run after {limit:.0f} s "
                f"(phase: {seen.get('phase', 'unknown')}): {trouble}.",
                timeline=timeline,
            )
        return found

    return effect


def is_gone(step: Step, site: str) -> bool:
    """Whether nobody is there at ``site`` to be asked, nor comes in the time after which a site counts as gone: a vault
    that began just now, be it after a while, has yet to hear of those who are there."""
    liveness, limit = step.core.liveness, step.core.timeouts.gone

    def there() -> bool | None:
        return True if liveness.silence(site) is not None and not liveness.gone(site, limit) else None

    return step.core.signal.until(there, limit, every=0.2) is None


def must_be_there(site: str) -> Effect:
    """Raises SiteUnreachable."""

    def effect(step: Step) -> None:
        if is_gone(step, site):
            raise SiteUnreachable(f"The configuration server of site {site!r} is not there; not asked.", site=site)

    return effect


def planned_stop(facts: Facts, at: str) -> Effect:
    """The guest is shut down and its last changes are shipped; replication is stopped by it."""

    def effect(step: Step) -> Json:
        timeouts = step.core.timeouts
        if step.core.liveness.gone(at, timeouts.gone):
            raise SiteUnreachable(f"The configuration server of site {at!r} is not there; not asked.", site=at)
        result = step.ask(
            at, "planned-stop", {"vm": facts.vm_at(at), "timeout": timeouts.shut_down}, limit=timeouts.planned_stop
        )
        stopped = {"point": result.get("point"), "complete": bool(result.get("complete"))}
        forget_replicate(step)
        step.tie(stopped=stopped)
        return {**stopped, "notes": result.get("notes", [])}

    return effect


def take_point(facts: Facts, consistency: str, tag: str | None, limit: float | None = None) -> Effect:
    def effect(step: Step) -> Json:
        if limit is not None and step.core.liveness.gone(facts.active, step.core.timeouts.gone):
            raise SiteUnreachable(
                f"The configuration server of site {facts.active!r} is not there; not asked.", site=facts.active
            )
        return step.ask(facts.active, "take-point", {"consistency": consistency, "tag": tag}, limit=limit)

    return effect


def end_timeline(site: str, timeline: str) -> Effect:
    """Nobody writes into it any more, whatever the other side does; and these are its points."""

    def effect(step: Step) -> Json:
        result = step.ask(site, "end-timeline", {"timeline": timeline})
        return _remember(step, timeline, result)

    return effect


def list_points(site: str, timeline: str) -> Effect:
    def effect(step: Step) -> Json:
        return _remember(step, timeline, step.ask(site, "points", {"timeline": timeline}))

    return effect


def _remember(step: Step, timeline: str, result: Json) -> Json:
    points = result.get("points", [])
    with step.item() as (session, _):
        items.remember_points(session, timeline, points)
    return {"head": result.get("head"), "points": len(points)}


def choose(kind: str, stopped: Json | None = None, together: Json | None = None) -> Effect:
    """``stopped``: what a planned stop came to; if that was complete, its point is what "latest" means. ``together``:
    the jobs of the item's group that were begun with this one."""
    if together and kind in MULTI_VM:
        return choose_together(kind, together)
    final = final_point(stopped)
    wanted = final if final is not None and kind == PointKind.LATEST else kind

    def effect(step: Step) -> Json:
        with step.item() as (session, item):
            point = choose_point(items.points_of(session, item), wanted)
        return {"point": str(point.id), "time": point.time.isoformat(), "consistency": str(point.consistency)}

    return effect


def choose_together(kind: str, together: Json) -> Effect:
    """Once all of the group's timelines have ended, or their jobs have: the first that comes to it decides for all."""

    def effect(step: Step) -> Json:
        def others_are_there() -> bool | None:
            with step.core.database.read() as session:
                waiting = groups.not_there_yet(session, together, step.job, "end-timeline")
            if waiting and step.cancel_wanted():
                raise Cancelled
            return True if not waiting else None

        step.core.signal.until(others_are_there, every=1)
        with step.item() as (session, item):
            chosen = groups.decide(session, step.job, together, kind)
            point = choose_point(items.points_of(session, item), chosen[item.id])
        return {"point": str(point.id), "time": point.time.isoformat(), "consistency": str(point.consistency)}

    return effect


def start_from_point(
    facts: Facts, site: str, vm: str, point: str, *, test: bool, network: str | None, forward: Any
) -> Effect:
    def effect(step: Step) -> Json:
        notes = [] if test else _network_notes(step, facts, site)
        if not test:
            step.tie(attempted=point)
        started = step.ask(
            site,
            "start-from-point",
            {
                "vm": vm,
                "like": facts.like(),
                "point": point,
                "test": test,
                "network": network,
                "forward": list(forward),
            },
        )
        left_out = facts.target.get("excluded_disks")
        if left_out:
            notes.append(f"{vm} was made without {', '.join(left_out)}: excluded from replication.")
        return {**started, "notes": notes} if notes else started

    return effect


def _network_notes(step: Step, facts: Facts, site: str) -> list[str]:
    """A network that went since it was chosen must not keep a machine down whose source is stopped: the site decides
    whether it can start without, and the job says so."""
    network = facts.target.get("network")
    if network is None:
        return []
    try:
        with step.core.database.read() as session:
            inventory.check_network(session.get_one(SiteRow, site), network)
    except inventory.NetworkMissing as error:
        return [f"{error.cause} ({error.code})"]
    return []


def remove_machine(facts: Facts, site: str, vm: str, point: str | None, *, test: bool) -> Effect:
    """Only a machine that lies on a recovery point of this item (``point``, as far as is known) is removed; another of
    its name is left, and the result says so ("left")."""

    def effect(step: Step) -> Json:
        lift_fence(step, facts, site, vm)
        result = step.ask(site, "remove-machine", {"vm": vm, "point": point, "test": test})
        if not test:
            step.tie(attempted=None)
        return result

    return effect


def fence(facts: Facts, site: str, reason: str, *, power_off: bool) -> Effect:
    """The machine at ``site`` must not start any more, and with ``power_off`` not go on. Not waited for: the site may
    be what was lost, and is told when it returns. Starting or removing that machine takes it back."""

    def effect(step: Step) -> None:
        step.post(site, "fence", {"vm": facts.vm_at(site), "reason": reason, "power_off": power_off})

    return effect


def lift_fence(step: Step, facts: Facts, site: str, vm: str) -> None:
    """A fence that the site was not told of yet must not hit the machine later."""
    withdraw_posted(step.core, facts.item, "fence", site, vm)


def start_original(facts: Facts, site: str, base: str | None, *, resumes: bool = False) -> Effect:
    """Lifts the fence and starts the machine, with tracking since ``base``. ``resumes``: it is the machine that a
    planned stop ended (it may be the recovery machine), so that stop counts no more."""

    def effect(step: Step) -> Json:
        vm = facts.vm_at(site)
        lift_fence(step, facts, site, vm)
        result = step.ask(site, "start-original", {"vm": vm, "base": base})
        if resumes:
            step.tie(stopped=None)
        return result

    return effect


def hide_points(site: str, timelines: list[str]) -> Effect:
    """Out of the offered list; their data stays as long as something needs it."""

    def effect(step: Step) -> Json:
        for timeline in timelines:
            with step.item() as (session, _):
                upto = items.newest_number(session, timeline)
            step.ask(site, "hide-points", {"timeline": timeline, "upto": upto})
            with step.item() as (session, _):
                items.remember_points(session, timeline, [])
        return {}

    return effect


def final_point(stopped: Json | None) -> str | None:
    """The point that holds everything that a planned stop left, if it did."""
    return stopped["point"] if stopped and stopped["complete"] else None
