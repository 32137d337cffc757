from __future__ import annotations

import pytest

from homeport.domain.churn import Rates, Traffic, excess, traffic_of

MB = 1_000_000


def told(
    hour: float, *, now: float = 0, day: float = 0, observed: int = 86400, pending: float | None = None
) -> Traffic:
    flow = {"5min": now * MB, "60min": hour * MB, "24h": day * MB, "total": 0}
    return traffic_of(
        {"disks": {"disk0": {"changed": flow, "shipped": flow}}, "observed": observed, "pending": pending}
    )


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        (told(20), []),
        (told(20.4), ["disk0 changes 20 MB/s over 60 min, more than 20 MB/s"]),
        (told(30, observed=900), ["disk0 changes 30 MB/s over 15 min, more than 20 MB/s"]),
        (told(30, observed=299), []),
        (told(1, now=90), []),
        (told(1, now=50, pending=300), []),
        (
            told(1, now=50, pending=420),
            ["disk0 changes 50 MB/s now, more than 20 MB/s, and the oldest point has waited 7 min to be shipped"],
        ),
        (told(1, day=24), ["the machine changes 2.1 TB a day over 24 hours, more than 2 TB"]),
        (told(1, day=23), []),
    ],
)
def test_limits_of_a_disk_and_of_a_day(traffic: Traffic, words: list[str]) -> None:
    assert excess(traffic) == words


def test_disks_that_are_each_within_their_limit_may_be_too_much_together() -> None:
    together = Traffic({f"disk{number}": Rates(hour=18.5 * MB) for number in range(3)}, observed=3600)
    assert excess(together) == ["the machine changes 56 MB/s over 60 min, more than 54 MB/s"]


@pytest.mark.parametrize(
    "strange", [None, 3, {}, {"disks": []}, {"disks": {"a": 3}}, {"disks": {"a": {"changed": {"60min": True}}}}]
)
def test_what_another_version_tells_in_another_way_counts_as_nothing(strange: object) -> None:
    assert traffic_of(strange).whole == Rates()
    assert excess(traffic_of(strange)) == []
