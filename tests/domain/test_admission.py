"""How many jobs may be at work at a site: nobody over the limit, nobody passed over, failovers beside copies."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.admission import LANES, LARGEST_LIMIT, Contender, Lane, Limits, LimitsInvalid, Verdict, judge
from homeport.domain.operations import Operation

SITES = ("a", "b", "c", "d")
contenders = st.lists(
    st.builds(
        lambda kind, sites: (str(kind), frozenset(sites)),
        st.sampled_from(list(Operation)),
        st.lists(st.sampled_from(SITES), min_size=2, max_size=2, unique=True),
    ),
    max_size=25,
)
limits = st.builds(Limits, data_moving=st.integers(1, 4), failovers=st.integers(1, 4))


@given(contenders, limits)
def test_the_queue_drains_in_order_and_within_the_limits(
    wanted: list[tuple[str, frozenset[str]]], most: Limits
) -> None:
    waiting = [Contender(str(number), kind, sites) for number, (kind, sites) in enumerate(wanted)]
    at_work: list[Contender] = []
    rounds = 0
    while waiting:
        rounds += 1
        verdicts = {verdict.job: verdict for verdict in judge(at_work, waiting, most)}
        begun = [job for job in waiting if verdicts[job.job].admitted]
        for place, job in enumerate(waiting):
            verdict, lane = verdicts[job.job], LANES.get(job.kind)
            if lane is None:
                assert verdict.admitted, "what has no limit waited"
            elif verdict.admitted:
                rivals = [
                    other for other in waiting[:place] if LANES.get(other.kind) is lane and other.sites & job.sites
                ]
                assert all(verdicts[other.job].admitted for other in rivals), "somebody was passed over"
            else:
                assert verdict.site or verdict.before, "nobody knows what it waits for"
        at_work += begun
        load = Counter((LANES[job.kind], site) for job in at_work if job.kind in LANES for site in job.sites)
        assert all(count <= most.of(lane) for (lane, _), count in load.items())
        waiting = [job for job in waiting if job not in begun]
        at_work.pop(0)  # the longest at work ends
    assert rounds <= len(wanted) + 1


def test_a_failover_waits_for_no_copy() -> None:
    copies = [Contender(f"c{number}", Operation.PROTECT, frozenset("ab")) for number in range(9)]
    failover = Contender("f", Operation.FAILOVER, frozenset("ab"))
    assert judge(copies[:4], [*copies[4:], failover], Limits())[-1] == Verdict("f", True)


def test_who_waits_is_told_for_what() -> None:
    jobs = [Contender(str(number), Operation.REPROTECT, frozenset("ab")) for number in range(3)]
    assert judge([jobs[0]], jobs[1:], Limits(data_moving=1)) == [
        Verdict("1", False, "a", 1, 0),
        Verdict("2", False, "a", 1, 1),
    ]
    assert LANES[Operation.FAILOVER] is Lane.FAILOVER


@pytest.mark.parametrize("value", [0, -1, LARGEST_LIMIT + 1])
def test_limits_have_a_range(value: int) -> None:
    with pytest.raises(LimitsInvalid, match="data_moving"):
        Limits(data_moving=value).check()
    with pytest.raises(LimitsInvalid, match="failovers"):
        Limits(failovers=value).check()
    Limits(1, LARGEST_LIMIT).check()
