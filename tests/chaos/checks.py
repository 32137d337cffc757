"""What must hold when the chaos is over. Pure: each check reads the evidence and tells what is wrong with it.

1. :func:`unexplained`: every item's state is what the rules make of its jobs and their ends.
2. :func:`lost`: every job that an operator saw accepted is there and has ended; no wish made two.
3. :func:`doubled`: no effect twice for one step of a job, none under an older fence, and never two machines of one item
   at work but where a job's record says that the other one could not be stopped.
4. :func:`stranded`: a way on from everywhere, and nothing kept for what is gone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from homeport.domain.operations import CANCELLABLE, Operation, transition
from homeport.domain.states import Direction, State
from tests.chaos.evidence import Evidence, Item, Job

ENDED = ("succeeded", "failed", "cancelled")
UNDO_THEMSELVES = {Operation.TEST_FAILOVER, Operation.CHANGE_POINT, Operation.FAILBACK, Operation.UNDO}
"""These end, when they fail, where they began if that could be restored; a planned failover too."""
NOWHERE_TO_GO = {State.UNPROTECTED, State.MIGRATED}
TIMED = {Operation.COMMIT, Operation.UNDO}
"""What the vault begins by itself, where a failover asked for it."""


def all_violations(evidence: Evidence) -> list[str]:
    checks = (unexplained, lost, doubled, stranded)
    return [f"{check.__name__}: {text}" for check in checks for text in check(evidence)]


# 1


def unexplained(evidence: Evidence) -> Iterator[str]:
    for item in evidence.items:
        yield from _replay(item, [job for job in evidence.jobs if job.item == item.id])


def _replay(item: Item, jobs: list[Job]) -> Iterator[str]:
    may_be, direction, paused = {State.UNPROTECTED}, Direction.FORWARD, False
    for job in jobs:
        told = f"{job.kind} (job {job.id}) of {item.vm} ({item.id})"
        before, kind = State(job.before), Operation(job.kind)
        if before not in _with_reports(may_be, direction):
            yield f"{told} found it {before}; by its jobs it could be {_names(may_be)}"
        if job.direction != direction:
            yield f"{told} found it {job.direction}; by its jobs it was {direction}"
        if job.cancel and job.state == "succeeded" and kind in CANCELLABLE:
            yield f"{told} succeeded though its cancel was accepted"
        paused = before is State.PAUSED or (paused and before is State.TEST_FAILOVER_CLEANUP_PENDING)
        leads = transition(kind, before, Direction(job.direction), paused=paused)
        if job.state == "succeeded":
            may_be = {leads.done}
            if kind is Operation.REPROTECT:
                direction = Direction.FORWARD if direction is Direction.REVERSE else Direction.REVERSE
        elif job.state == "failed":
            undone = kind in UNDO_THEMSELVES or bool(job.params.get("planned"))
            may_be = {leads.failed, leads.cancelled} if undone else {leads.failed}
        elif job.state == "cancelled":
            may_be = {leads.cancelled, leads.failed} if kind is Operation.TEST_FAILOVER else {leads.cancelled}
        else:
            return  # it has not ended: the second check tells
        if kind is Operation.FAILOVER and before is State.PAUSED and leads.cancelled in may_be:
            may_be = may_be | {before}  # nothing was done to it
    if item.removed and State.UNPROTECTED not in may_be:
        yield f"{item.vm} ({item.id}) is removed; by its jobs it could be {_names(may_be)}"
    if not item.removed and item.state not in _with_reports(may_be, direction):
        yield f"{item.vm} ({item.id}) is {item.state}; by its jobs it could be {_names(may_be)}"
    if item.direction != direction and not item.removed:
        yield f"{item.vm} ({item.id}) replicates {item.direction}; by its jobs it was turned {direction}"


def _with_reports(states: set[State], direction: Direction) -> set[State]:
    """Reports alone lead from the steady state to a resync and back."""
    steady = State.PROTECTED if direction is Direction.FORWARD else State.REVERSE_PROTECTED
    return states | {steady, State.RESYNCING} if states & {steady, State.RESYNCING} else states


def _names(states: set[State]) -> str:
    return " or ".join(sorted(states))


# 2


def lost(evidence: Evidence) -> Iterator[str]:
    jobs = {job.id: job for job in evidence.jobs}
    by_request: defaultdict[str, set[str]] = defaultdict(set)
    for answer in evidence.accepted:
        by_request[answer.request].add(answer.job)
        if answer.job not in jobs:
            yield f"job {answer.job} of {answer.vm} was accepted, and is not there"
    for request, found in by_request.items():
        if len(found) > 1:
            yield f"request {request} made {len(found)} jobs: {', '.join(sorted(found))}"
    known = {answer.job for answer in evidence.accepted}
    policies = {job.item for job in evidence.jobs if job.params.get("commit_policy", "none") != "none"}
    for job in evidence.jobs:
        if job.state not in ENDED:
            yield f"{job.kind} (job {job.id}) of {job.vm} has not ended: {job.state}"
        if job.id not in known and not (Operation(job.kind) in TIMED and job.item in policies):
            yield f"{job.kind} (job {job.id}) of {job.vm} was begun by nobody"


# 3


def doubled(evidence: Evidence) -> Iterator[str]:
    work = {each.id: each for each in evidence.work}
    counts: Counter[tuple[str, str, str, str]] = Counter()
    fences: dict[tuple[str, str], int] = {}
    for effect in sorted(evidence.effects, key=lambda effect: effect.number):
        if effect.work is None:
            continue
        asked = work.get(effect.work)
        if asked is None:
            yield f"{effect.change!r} at {effect.site} (event {effect.number}) was done for work that nobody asked for"
            continue
        if asked.job is not None and asked.step is not None:
            counts[asked.job, asked.step, effect.site, effect.change] += 1
        if effect.item is not None and effect.fence is not None:
            seen = fences.get((effect.site, effect.item), 0)
            if effect.fence < seen:
                yield (
                    f"{effect.change!r} at {effect.site} (event {effect.number}) under fence {effect.fence}, after "
                    f"one under {seen}"
                )
            fences[effect.site, effect.item] = max(seen, effect.fence)
    for (job, step, site, change), count in counts.items():
        if count > 1:
            yield f"{change!r} at {site} happened {count} times for step {step} of job {job}"
    yield from _both_at_work(evidence)


def _both_at_work(evidence: Evidence) -> Iterator[str]:
    jobs = {job.id: number for number, job in enumerate(evidence.jobs)}
    work = {each.id: each for each in evidence.work}
    at: dict[str, set[str]] = {vm: {site} for vm, site in evidence.running.items()}
    for effect in sorted(evidence.effects, key=lambda effect: effect.number):
        change, _, name = effect.change.partition(" ")
        sites = at.setdefault(effect.vm, set())
        if name != effect.vm:
            continue  # a test machine's, or no machine's power
        if change in ("stopped", "removed"):
            sites.discard(effect.site)
        if change != "started":
            continue
        sites.add(effect.site)
        asked = work.get(effect.work or "")
        if len(sites) < 2 or asked is None or asked.job is None:
            continue
        if asked.job not in jobs or not _forced(evidence, jobs[asked.job]):
            yield (
                f"{effect.vm} runs at {' and '.join(sorted(sites))} since step {asked.step} of job {asked.job} "
                f"(event {effect.number}), and no job says why it had to"
            )


def _forced(evidence: Evidence, number: int) -> bool:
    """Whether the last failover or failback, up to this job, says that it went on beside a machine it did not stop."""
    item = evidence.jobs[number].item
    for job in reversed(evidence.jobs[: number + 1]):
        if job.item != item:
            continue
        if job.kind == Operation.FAILOVER:
            return not job.params.get("shutdown", True) or job.tasks.get("planned-stop") == "skipped"
        if job.kind == Operation.FAILBACK:
            return "fence-recovery-machine" in job.tasks
    return False


# 4


def stranded(evidence: Evidence) -> Iterator[str]:
    last = {job.item: job for job in evidence.jobs}
    for item in evidence.items:
        if item.job is not None:
            yield f"{item.vm} ({item.id}) is held by job {item.job}"
        if item.removed:
            told = last[item.id].notes if item.id in last else ""
            left = [each for each in item.left if not (item.keeps_points and each.startswith("timeline"))]
            yield from (
                f"{each} is kept for {item.vm} ({item.id}), which is removed, and no job says why"
                for each in left
                if "stay" not in told and "not there" not in told and "fake." not in told
            )
        elif not item.allowed and item.state not in NOWHERE_TO_GO:
            yield f"nothing is allowed for {item.vm} ({item.id}), which is {item.state}"
    for work in evidence.work:
        if work.open:
            yield f"{work.kind} for {work.site} is {work.state} still (job {work.job}, work {work.id})"
