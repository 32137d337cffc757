"""Violations put into evidence that has none: what a check is worth is what it finds of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from homeport.domain.states import State
from tests.chaos.evidence import Accepted, Effect, Evidence, Item, Job, Work


def _live(evidence: Evidence) -> Item:
    return next(item for item in evidence.items if not item.removed)


def _last(evidence: Evidence, item: Item) -> Job:
    return [job for job in evidence.jobs if job.item == item.id][-1]


def _done(evidence: Evidence) -> tuple[Effect, Work]:
    """An effect that a step had, not the first one of its item at its site."""
    work = {each.id: each for each in evidence.work}
    seen: set[tuple[str, str | None]] = set()
    for effect in evidence.effects:
        if effect.work is None or work[effect.work].job is None or not effect.fence:
            continue
        if (effect.site, effect.item) in seen:
            return effect, work[effect.work]
        seen.add((effect.site, effect.item))
    raise AssertionError("the evidence holds no effects")


def _with_item(evidence: Evidence, item: Item) -> Evidence:
    return replace(evidence, items=tuple(item if each.id == item.id else each for each in evidence.items))


def _with_effect(evidence: Evidence, effect: Effect) -> Evidence:
    return replace(evidence, effects=(*evidence.effects, effect))


def _number(evidence: Evidence) -> int:
    return max(effect.number for effect in evidence.effects) + 1


def another_state(evidence: Evidence) -> Evidence:
    return _with_item(evidence, replace(_live(evidence), state=State.FAILBACK_FAILED))


def another_beginning(evidence: Evidence) -> Evidence:
    job = _last(evidence, _live(evidence))
    jobs = tuple(replace(each, before=State.REPROTECT_FAILED) if each is job else each for each in evidence.jobs)
    return replace(evidence, jobs=jobs)


def turned(evidence: Evidence) -> Evidence:
    item = _live(evidence)
    return _with_item(evidence, replace(item, direction="forward" if item.direction == "reverse" else "reverse"))


def job_gone(evidence: Evidence) -> Evidence:
    job = _last(evidence, _live(evidence))
    answer = Accepted("wish", job.id, job.vm)
    return replace(evidence, jobs=tuple(each for each in evidence.jobs if each is not job), accepted=(answer,))


def job_unended(evidence: Evidence) -> Evidence:
    job = _last(evidence, _live(evidence))
    jobs = tuple(replace(each, state="running") if each is job else each for each in evidence.jobs)
    return replace(evidence, jobs=jobs)


def wish_fulfilled_twice(evidence: Evidence) -> Evidence:
    first, second = (Accepted("wish", job.id, job.vm) for job in evidence.jobs[:2])
    return replace(evidence, accepted=(*evidence.accepted, first, second))


def job_of_nobody(evidence: Evidence) -> Evidence:
    first = next(answer.job for answer in evidence.accepted)
    return replace(evidence, accepted=tuple(answer for answer in evidence.accepted if answer.job != first))


def effect_twice(evidence: Evidence) -> Evidence:
    effect, _ = _done(evidence)
    return _with_effect(evidence, replace(effect, number=_number(evidence), fence=10**6))


def effect_under_an_old_fence(evidence: Evidence) -> Evidence:
    effect, _ = _done(evidence)
    return _with_effect(evidence, replace(effect, number=_number(evidence), change="fenced nothing", fence=0))


def effect_of_no_work(evidence: Evidence) -> Evidence:
    effect, _ = _done(evidence)
    return _with_effect(evidence, replace(effect, number=_number(evidence), work="unknown"))


def two_machines(evidence: Evidence) -> Evidence:
    """At the very first: when nothing was forced yet."""
    first = evidence.jobs[0]
    work = Work("sabotage", "west", "start-from-point", "done", first.id, "sabotage", first.item)
    effect = Effect(-1, "west", first.vm, f"started {first.vm}", first.item, work.id, 1)
    return replace(evidence, work=(*evidence.work, work), effects=(effect, *evidence.effects))


def nothing_allowed(evidence: Evidence) -> Evidence:
    return _with_item(evidence, replace(_live(evidence), allowed=()))


def claimed_by_a_job(evidence: Evidence) -> Evidence:
    return _with_item(evidence, replace(_live(evidence), job="some job"))


def work_left_open(evidence: Evidence) -> Evidence:
    return replace(evidence, work=(*evidence.work, Work("w", "east", "fence", "queued", None, None)))


def kept_for_what_is_removed(evidence: Evidence) -> Evidence:
    ghost = Item("ghost", "ghost", State.UNPROTECTED, "forward", removed=True, left=("replication from east",))
    return replace(evidence, items=(*evidence.items, ghost))


SABOTAGES: dict[str, tuple[Callable[[Evidence], Evidence], ...]] = {
    "unexplained": (another_state, another_beginning, turned),
    "lost": (job_gone, job_unended, wish_fulfilled_twice, job_of_nobody),
    "doubled": (effect_twice, effect_under_an_old_fence, effect_of_no_work, two_machines),
    "stranded": (nothing_allowed, claimed_by_a_job, work_left_open, kept_for_what_is_removed),
}
"""By the check that must find it."""
