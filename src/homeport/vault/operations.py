"""Beginning an operation: refused at once where the rules say so, else accepted as a job and run as its workflow."""

from __future__ import annotations

import contextlib
import secrets as random
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from dbos import DBOS
from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.choice import PointKind, choose_point
from homeport.domain.errors import HomeportError
from homeport.domain.groups import Member, require_joinable, require_name, require_together
from homeport.domain.limits import LIMITS
from homeport.domain.machines import Machine
from homeport.domain.operations import CANCELLABLE, Operation, OperationRunning, require_allowed
from homeport.domain.points import new_timeline
from homeport.domain.states import State
from homeport.domain.target import Target, check_excluded
from homeport.vault import (
    admission,
    checks,
    groups,
    idempotency,
    inventory,
    items,
    jobs,
    policies,
    process_servers,
    seeds,
    tagged,
    targets,
    tasks,
)
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, JobRow, Json, PolicyRow, now
from homeport.vault.steps import settle
from homeport.vault.work import Ask, SiteUnreachable, ask
from homeport.vault.workflows.protect import MachineNotProtectable

log = structlog.get_logger(__name__)

_CHOOSES = {Operation.TEST_FAILOVER, Operation.FAILOVER, Operation.CHANGE_POINT, Operation.FAILBACK}


class ProtectionRefused(HomeportError):
    code = "item.protection-refused"


class PolicyMissing(HomeportError):
    code = "78253"
    remedy = "Create one with `homeport policy create`, or name one of `homeport policy list`."


class GroupPolicy(HomeportError):
    """One member can't have a policy of its own."""

    code = "group.one-policy"


class JobNotCancellable(HomeportError):
    code = "job.not-cancellable"
    remedy = "Wait for it to end; `homeport job show JOB` tells what it does."


class JobPastReturn(HomeportError):
    code = "job.past-no-return"
    remedy = "Let it end. Should it fail, mend the cause and restart it: it can only be finished."


class JobNotWaiting(HomeportError):
    code = "job.not-waiting"
    remedy = "`homeport job show JOB` tells what it does, and whether it waits for you."


class JobNotRestartable(HomeportError):
    code = "job.not-restartable"
    remedy = "Begin the operation anew, if the item's state allows it."


def protect(
    core: Core,
    machine_name: str,
    home: str,
    away: str,
    policy: str,
    target: Target | None = None,
    seed: Mapping[str, str] | None = None,
    group: str | None = None,
    process_server: str | None = None,
) -> str:
    """A new item and the job that protects it; the job's id. ``target``: what it shall be where it is recovered;
    ``seed``: images at ``away`` that the first copy begins from, by disk; ``group``: the replication group that it
    becomes a member of; ``process_server``: of ``home``, that it begins with (None: the site chooses). Refusals: see
    the errors above, targets.check, seeds.check, process_servers.require and groups.require_joinable."""
    target = target or Target()
    with core.database.read() as session:
        inventory.site(session, home)
        inventory.site(session, away)
    require_policy(core, policy)
    if home == away:
        raise ProtectionRefused(
            f"The machine would be protected at the site {home!r} where it runs.", remedy="Name two different sites."
        )
    machine = protectable(core, home, machine_name)
    with core.database.read() as session:
        refuse_protected(session, machine)
        _refuse_outsider(session, group, machine, home, away, policy)
    check_excluded(target.excluded_disks, machine)
    targets.check(core, away, target, machine)
    checked = checks.before_protect(core, machine, home, away, policy, target)
    if process_server is not None:
        process_servers.require(core, home, process_server, group)
    if seed:
        seeds.check(core, away, seed, target, machine)
    with core.database.write() as session:
        _refuse_outsider(session, group, machine, home, away, policy)
        item = _new_item(session, machine, home, away, policy)
        item.target, item.group_name = target.to_json(), group
        params: Json = {"seed": dict(seed)} if seed else {}
        if process_server is not None:
            params["process_server"] = process_server
        job = accept(session, item, Operation.PROTECT, params, checked)
    return start(core, job, Operation.PROTECT)


def protectable(core: Core, home: str, name: str) -> Machine:
    """The machine of this name or UUID at ``home``. Raises MachineNotFound, MachineNotProtectable."""
    machine = inventory.machine(core, home, name)
    if not machine.protectable:
        # The obstacle may be gone since the site was last asked.
        inventory.machines(core, home, fresh=True)
        machine = inventory.machine(core, home, name)
    if not machine.protectable:
        raise MachineNotProtectable(
            f"{machine.name} can't be protected: {'; '.join(machine.obstacles)}.", obstacles=list(machine.obstacles)
        )
    return machine


def _refuse_outsider(session: Session, group: str | None, machine: Machine, home: str, away: str, policy: str) -> None:
    """Raises what groups.require_joinable does."""
    if group is None:
        return
    limits = LIMITS[policies.profile(session)]
    require_name(group, limits)
    there = [groups.as_member(item) for item in groups.members(session, group)]
    require_joinable(group, Member(machine.name, home, away, policy), there, limits)


def require_policy(core: Core, policy: str) -> None:
    """Raises :class:`PolicyMissing`."""
    with core.database.read() as session:
        row = session.get(PolicyRow, policy)
        if row is None or row.removed is not None:
            raise PolicyMissing(f"There is no policy {policy!r}.")
        if row.generated:
            raise PolicyMissing(f"The policy {policy!r} is for the way back and made from another; none is given it.")


def change_policy(core: Core, name: str, policy: str, guard: Callable[[Session, ItemRow], None] | None = None) -> None:
    """The item replicates by another policy from now on. ``guard`` looks at the item in the transaction that does it.
    Raises ItemNotFound, :class:`PolicyMissing`, and what ``guard`` does."""
    require_policy(core, policy)
    with core.database.write() as session:
        item = items.live(session, name)
        if guard is not None:
            guard(session, item)
        if policy != item.policy and (others := groups.others(session, item)):
            raise GroupPolicy(
                f"{item.name} shares its policy with the group {item.group_name} ({', '.join(others)}).",
                remedy=f"Give the whole group another: `homeport group set {item.group_name} --policy {policy}`.",
            )
        item.policy = policy
        policies.renew(session, [item])


def untag(core: Core, name: str, point: str) -> str:
    """The point's tags count no more; the item's id. Raises ItemNotFound, OperationRunning, NotTagged."""
    with core.database.write() as session:
        item = items.live(session, name)
        refuse_while_running(session, item, Operation.POINT)
        tagged.take_back(session, item, point)
        policies.renew(session, [item])
        return item.id


def refuse_protected(session: Session, machine: Machine) -> None:
    """Raises :class:`ProtectionRefused` where an item has this machine, or its name."""
    taken = session.scalar(
        select(ItemRow).where(
            ItemRow.removed.is_(None), (ItemRow.machine == machine.uuid) | (ItemRow.name == machine.name)
        )
    )
    if taken is not None:
        raise ProtectionRefused(
            f"{machine.name} is protected already: item {taken.name} ({taken.state}).",
            remedy="End that protection first with `homeport disable`, or give the machine another name.",
            item=taken.id,
        )


def _new_item(session: Session, machine: Machine, home: str, away: str, policy: str) -> ItemRow:
    refuse_protected(session, machine)
    timeline = new_timeline()
    item = ItemRow(
        id=uuid.uuid4().hex[:16],
        name=machine.name,
        machine=machine.uuid,
        description=machine.to_json(),
        machine_key=_key_of(session, machine.uuid),
        home=home,
        away=away,
        policy=policy,
        state=State.UNPROTECTED,
        active_site=home,
        store_site=away,
        timeline=timeline,
        lineage=[timeline],
        timelines={},
        ties={},
        replication={},
        fence=0,
    )
    session.add(item)
    session.flush()
    return item


def _key_of(session: Session, machine: str) -> str:
    """The key of the machine's last protection, if there was one: a site that could not be told to forget keeps that
    key beside the data, and takes no other."""
    ended = select(ItemRow.machine_key).where(ItemRow.machine == machine).order_by(ItemRow.created.desc()).limit(1)
    return session.scalar(ended) or random.token_hex(32)


def begin(core: Core, name: str, operation: Operation, params: Json) -> str:
    """Accept ``operation`` on the item; the job's id. Refused with OperationRunning, OperationNotAllowed,
    PointNotAvailable, SiteUnreachable, CheckFailed or ItemNotFound, and then nothing has happened."""
    if operation in _CHOOSES:
        _know_point(core, name, params["point"])
    checked = checks.before(core, name, operation, params)
    with core.database.write() as session:
        item = items.find(session, name)
        if item.removed is not None:
            raise items.ItemNotFound(f"{item.name} is not protected any more.")
        refuse_while_running(session, item, operation)
        if item.group_name is not None:
            others = groups.others(session, item)
            require_together(operation, item.group_name, item.name, others, alone=bool(params.get("alone")))
        points = items.points_of(session, item)
        require_allowed(operation, item.state, item.direction, has_points=bool(points))
        if operation in _CHOOSES:
            choose_point(points, params["point"])
        _refuse_without_home(core, item, operation, params)
        job = accept(session, item, operation, params, checked)
    return start(core, job, operation)


def begin_by_policy(core: Core, name: str, operation: Operation, params: Json, retry_at: datetime) -> str | None:
    """The same, where the item's commit policy is due: its tie then tells the job, and when to try again should that
    fail. None: the policy is no longer there, or another instance of the vault was first."""
    checked = checks.before(core, name, operation, params)
    with core.database.write() as session:
        item = items.find(session, name)
        policy = item.ties.get("commit_policy")
        if policy is None or item.job is not None or datetime.fromisoformat(policy["at"]) > now():
            return None
        require_allowed(operation, item.state, item.direction)
        _refuse_without_home(core, item, operation, params)
        job = accept(session, item, operation, params, checked)
        tried = {"action": policy["action"], "at": retry_at.isoformat(), "job": job}
        item.ties = {**item.ties, "commit_policy": tried}
    return start(core, job, operation)


def _refuse_without_home(core: Core, item: ItemRow, operation: Operation, params: Json) -> None:
    """What needs the home site is not begun without it. Raises SiteUnreachable."""
    needs = operation is Operation.UNDO or (operation is Operation.FAILOVER and params.get("planned"))
    if needs and core.liveness.gone(item.home, core.timeouts.gone):
        what = "An undo" if operation is Operation.UNDO else "A planned failover"
        raise SiteUnreachable(
            f"{what} needs site {item.home!r}, whose configuration server is not there.",
            remedy="Start Homeport at that site (or mend the network to it), then try again.",
            site=item.home,
        )


def _know_point(core: Core, name: str, kind: str) -> None:
    """Ask the store for a point that is called by its name and that no report told of yet."""
    if kind in list(PointKind):
        return
    with core.database.read() as session:
        item = items.find(session, name)
        known = any(str(point.id) == kind for point in items.points_of(session, item))
    if not known and item.job is None and not core.liveness.gone(item.store_site, core.timeouts.gone):
        # What there is to choose from is told by the refusal, should the store not answer.
        with contextlib.suppress(SiteUnreachable):
            refresh_points(core, item, limit=5)


def refresh_points(core: Core, item: ItemRow, limit: float) -> None:
    """Ask the store's site for the item's points. Raises SiteUnreachable, or what the site answered."""
    key = f"points:{uuid.uuid4().hex}"
    request = Ask(item.store_site, "points", {"timeline": item.timeline}, key=key, item=item.id, limit=limit)
    answer = ask(core, request)
    with core.database.write() as session:
        items.remember_points(session, item.timeline, answer.get("points", []))


def refuse_while_running(session: Session, item: ItemRow, operation: Operation) -> None:
    """Raises :class:`OperationRunning` if a job works on the item."""
    if item.job is None:
        return
    running = session.get_one(JobRow, item.job)
    raise OperationRunning(
        f"{operation} is not possible now: {running.kind} (job {running.id}) works on {item.name}.",
        job=running.id,
        operation=running.kind,
        state=str(item.state),
        allowed_operations=[],
    )


def accept(
    session: Session,
    item: ItemRow,
    operation: Operation,
    params: Json,
    checked: Sequence[Json] = (),
    *,
    after: JobRow | None = None,
    job: str | None = None,
    at_once: bool = False,
) -> str:
    """The job's row and the item's claim by it: one transaction, so that of two operations at once one is refused.
    ``checked``: what the checks before it said; ``after``: the job that this one runs again, or leads back out of;
    ``job``: its id, where that is told already; ``at_once``: it waits for no room at its sites."""
    name = job or uuid.uuid4().hex[:16]
    row = JobRow(
        id=name,
        activity=name if after is None else after.activity or after.id,
        admitted=now() if at_once or admission.admitted_at_once(operation) else None,
        kind=str(operation),
        item=item.id,
        item_name=item.name,
        params=params,
        before=item.state,
        direction=item.direction,
    )
    session.add(row)
    session.flush()
    tasks.keep_checks(session, row.id, checked)
    item.job = row.id
    # Whatever an operator decides takes the place of what the item's commit policy would have.
    item.ties = {name: value for name, value in item.ties.items() if name != "commit_policy"}
    idempotency.accepted(session, row.id)
    return row.id


def start(core: Core, job: str, operation: Operation) -> str:
    log.info("job accepted", job=job, operation=str(operation))
    if admission.admitted_at_once(operation):
        admission.launch(job, operation)
    else:
        admission.dispatch(core)
    return job


def cancel(core: Core, name: str) -> str:
    """Cancel a job, or begin the way back out of one that failed; the id of the job that then runs."""
    with core.database.write() as session:
        job = jobs.find(session, name)
        item = session.get_one(ItemRow, job.item)
        if job.state == "cancelling":
            return job.id
        back = jobs.way_back(job, item)
        not_begun = job.state == "queued" and job.admitted is None
        if back is not None:
            started = accept(session, item, back, {}, after=job)
        elif tasks.is_final(session, job) and job.state in jobs.RUNNING:
            raise JobPastReturn(
                f"The job {job.id} ({job.kind}) has begun what can't be undone: it can't be cancelled any more.",
                state=job.state,
            )
        elif job.state in jobs.RUNNING and job.kind in CANCELLABLE:
            # One that has not begun ends through its workflow, too: what cancelling it means is told there.
            job.cancel, job.state, job.waiting = True, "cancelling", None
            job.admitted = job.admitted or now()
            job.version += 1
        elif not_begun:
            jobs.end(session, job, item, "cancelled", job.before)
        else:
            raise JobNotCancellable(f"The job {job.id} ({job.kind}, {job.state}) can't be cancelled.", state=job.state)
    if back is not None:
        return start(core, started, back)
    if not_begun and job.state == "cancelling":
        admission.launch(job.id, Operation(job.kind))
    return job.id


def answer(core: Core, name: str, comment: str) -> str:
    """The operator did what a waiting job asks for: it goes on. ``comment`` is kept with the job. The job's id."""
    with core.database.write() as session:
        job = jobs.find(session, name)
        if job.state != "waiting" or job.waiting is None:
            raise JobNotWaiting(f"The job {job.id} ({job.kind}, {job.state}) waits for nobody.", state=job.state)
        told = {"comment": comment, "at": now().isoformat(), "prompt": job.waiting["prompt"]}
        job.resumed = {**(job.resumed or {}), job.waiting["step"]: told}
        job.waiting, job.state = None, "running"
        job.version += 1
        return job.id


def restart(core: Core, name: str) -> str:
    """A fresh run of a failed or cancelled job's operation, after fresh checks; the new job's id."""
    with core.database.read() as session:
        failed = jobs.find(session, name)
    checked: list[Json] = []
    if failed.state not in jobs.RUNNING:
        checked = checks.before(core, failed.item, Operation(failed.kind), failed.params)
    with core.database.write() as session:
        job = jobs.find(session, name)
        item = session.get_one(ItemRow, job.item)
        operation = Operation(job.kind)
        if job.state in jobs.RUNNING:
            raise JobNotRestartable(f"The job {job.id} ({job.kind}) is {job.state}.", state=job.state)
        if job.state != "succeeded" and item.removed is None:
            refuse_while_running(session, item, operation)
        if not jobs.restartable(session, job, item):
            names = [str(allowed) for allowed in items.allowed(session, item)] if item.removed is None else []
            raise JobNotRestartable(
                f"The job {job.id} ({job.kind}, {job.state}) can't be restarted: the item is {item.state}.",
                state=str(item.state),
                allowed_operations=names,
            )
        started = accept(session, item, operation, job.params, checked, after=job)
    return start(core, started, operation)


def resume(core: Core) -> None:
    """At the vault's start, after the workflow library took up its own: a job that was accepted but whose workflow was
    never begun is begun; one whose workflow ended without telling is settled."""
    with core.database.read() as session:
        open_jobs: list[Any] = list(session.scalars(select(JobRow).where(JobRow.state.in_(jobs.RUNNING))))
    for job in open_jobs:
        status = DBOS.get_workflow_status(job.id)
        if status is None and job.state == "queued" and job.admitted is None:
            continue  # it waits for its turn: see admission.py
        if status is None:
            admission.launch(job.id, Operation(job.kind))
        elif status.status not in ("PENDING", "ENQUEUED", "DELAYED"):
            settle(
                core,
                job.id,
                HomeportError(f"The job's workflow ended as {status.status}: {status.error}", code="internal"),
            )
