"""What disks change and what of it is shipped: counted by disk, bounded, and known again after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from homeport.servers.traffic import Traffic

HOUR = 3600.0


class Clock:
    now = 1_699_999_200.0  # a full half hour

    def __call__(self) -> float:
        return self.now


def test_each_disk_has_its_own_rates_and_totals(tmp_path: Path) -> None:
    clock = Clock()
    traffic = Traffic(clock=clock)
    for _ in range(24 * 60):
        traffic.note_changed({"disk0": 600, "disk1": 0})
        traffic.note_shipped({"disk0": 60})
        traffic.note_crossed(90)
        clock.now += 60
    clock.now -= 1
    told = traffic.to_json()
    assert told["disks"]["disk0"]["changed"] == {"5min": 10, "60min": 10, "24h": 10, "total": 600 * 1440}
    assert told["disks"]["disk0"]["shipped"] == {"5min": 1, "60min": 1, "24h": 1, "total": 60 * 1440}
    assert told["disks"]["disk1"]["changed"] == {"5min": 0, "60min": 0, "24h": 0, "total": 0}
    assert told["shipped"]["total"] == 90 * 1440
    assert told["observed"] == 24 * HOUR - 1
    clock.now += 600  # nothing changes any more
    now, hour, day = (traffic.to_json()["disks"]["disk0"]["changed"][span] for span in ("5min", "60min", "24h"))
    assert (now, hour, day) == (0, 8, 10)


def test_it_goes_on_after_a_restart_and_a_minute_at_most_is_lost_of_it(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "item" / "traffic.json"
    traffic = Traffic(path, clock)
    traffic.note_changed({"disk0": 1 << 20})
    traffic.note_shipped({"disk0": 1 << 18})
    traffic.keep()
    before = traffic.to_json()
    traffic.note_changed({"disk0": 5})
    traffic.keep()  # not yet
    clock.now += 30
    again = Traffic(path, clock).to_json()  # the process was killed
    assert again["disks"]["disk0"]["changed"]["total"] == 1 << 20
    assert again["disks"]["disk0"]["shipped"] == {**before["disks"]["disk0"]["shipped"], **_rates(1 << 18, 30)}
    traffic.keep(every=0)  # it ends in order
    assert Traffic(path, clock).to_json()["disks"]["disk0"]["changed"]["total"] == (1 << 20) + 5


def _rates(amount: int, seconds: int) -> dict[str, int]:
    return dict.fromkeys(("5min", "60min", "24h"), round(amount / seconds))


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b"{}", b'{"changed": {"a": {}}, "shipped": {}, "begun": 1}', b"\x00" * 40]
)
def test_damaged_statistics_begin_anew(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "traffic.json"
    path.write_bytes(damaged)
    traffic = Traffic(path, Clock())
    assert traffic.to_json()["disks"] == {}
    traffic.note_changed({"disk0": 1})
    traffic.keep()
    assert json.loads(path.read_bytes())["changed"]["disk0"]["total"] == 1


def test_a_disk_that_no_point_had_for_a_day_is_not_told_any_more() -> None:
    clock = Clock()
    traffic = Traffic(clock=clock)
    traffic.note_changed({"disk0": 1, "disk1": 1})
    for _ in range(30):
        clock.now += HOUR
        traffic.note_changed({"disk0": 1})
    assert list(traffic.to_json()["disks"]) == ["disk0"]
