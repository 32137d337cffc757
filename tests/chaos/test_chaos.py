"""A short run of chaos, and that what it looks for would be found: `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.checks import all_violations
from tests.chaos.evidence import Accepted, Effect, Evidence, Item, Job, Work
from tests.chaos.run import chaos
from tests.chaos.sabotage import SABOTAGES

PAIRS = [(check, sabotage) for check, sabotages in SABOTAGES.items() for sabotage in sabotages]


@pytest.fixture
def faultless() -> Evidence:
    """One machine that was protected, failed over and committed."""
    item = Item("i1", "vm00", "FailoverCommitted", "forward", allowed=("reprotect", "disable"))
    kinds = [("protect", "Unprotected"), ("failover", "Protected"), ("commit", "FailoverCommitPending")]
    jobs = tuple(
        Job(f"j{number}", kind, item.id, item.vm, before, "forward", "succeeded")
        for number, (kind, before) in enumerate(kinds)
    )
    work = (
        Work("w0", "west", "prepare-timeline", "done", "j0", "prepare-timeline", item.id),
        Work("w1", "east", "planned-stop", "done", "j1", "planned-stop", item.id),
        Work("w2", "west", "start-from-point", "done", "j1", "start-machine", item.id),
    )
    changes = [
        ("west", "timeline t made", work[0]),
        ("east", "stopped vm00", work[1]),
        ("west", "made vm00 from t/1", work[2]),
        ("west", "started vm00", work[2]),
    ]
    effects = tuple(
        Effect(number, site, item.vm, change, item.id, done.id, int(done.id[1:]) + 1)
        for number, (site, change, done) in enumerate(changes)
    )
    accepted = tuple(Accepted(f"r{job.id}", job.id, item.vm) for job in jobs)
    return Evidence(jobs, (item,), work, effects, accepted, {item.vm: "east"})


def test_faultless_evidence_is_not_complained_of(faultless: Evidence) -> None:
    assert all_violations(faultless) == []


@pytest.mark.parametrize(("check", "sabotage"), PAIRS, ids=[sabotage.__name__ for _, sabotage in PAIRS])
def test_each_check_finds_what_it_is_for(faultless: Evidence, check: str, sabotage: object) -> None:
    assert callable(sabotage)
    found = all_violations(sabotage(faultless))
    assert any(violation.startswith(f"{check}: ") for violation in found), found


@pytest.mark.parametrize(
    ("params", "tasks"), [({"shutdown": False}, {}), ({"shutdown": True}, {"planned-stop": "skipped"})]
)
def test_two_machines_are_excused_where_the_job_says_why(
    faultless: Evidence, params: dict[str, bool], tasks: dict[str, str]
) -> None:
    ran_on = tuple(effect for effect in faultless.effects if effect.change != "stopped vm00")
    beside = Evidence(**{**vars(faultless), "effects": ran_on})
    assert any("runs at east and west" in violation for violation in all_violations(beside))
    told = Job(**{**vars(faultless.jobs[1]), "params": params, "tasks": tasks})
    excused = Evidence(**{**vars(beside), "jobs": (faultless.jobs[0], told, faultless.jobs[2])})
    assert all_violations(excused) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_short_run_leaves_nothing_unexplained_lost_doubled_or_stranded(tmp_path: Path) -> None:
    verdict = chaos(tmp_path, seed="homeport", operations=40, machines=6)
    assert verdict.violations == [], f"{verdict.figures}; history: {verdict.history}"
    assert verdict.figures["kills"] > 0
    assert verdict.figures["stops"] > 0
    assert verdict.figures["accepted"] > 20
