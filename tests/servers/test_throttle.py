"""All that ships shares one bucket: at a fake clock to the byte, at a real socket within 15 %."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homeport.domain.bandwidth import Schedule, ScheduleInvalid, parse_window
from homeport.servers.crossing import Crossing
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.remote_objects import RemoteObjects
from homeport.servers.throttle import BURST, Throttle, zone
from tests.servers.bucket import FolderObjects


class Clock:
    now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("rate", [64_000, 1_000_000, 100_000_000])
def test_bytes_leave_at_the_rate_and_a_pause_saves_up_no_more_than_a_burst(rate: int) -> None:
    clock = Clock()
    throttle = Throttle(Schedule(rate), clock=lambda: clock.now, sleep=clock.sleep)
    clock.now = 1000.0  # nothing was sent for long
    sent = 0
    while clock.now < 1010.0:
        throttle.take(throttle.piece())
        sent += throttle.piece()
    allowed = rate / 8 * 10
    assert allowed * 0.97 < sent <= allowed * (1 + BURST / 10) + 2 * throttle.piece()


def test_the_rate_follows_the_hours_also_for_who_waits_already() -> None:
    clock, hour = Clock(), [8]
    throttle = Throttle(
        Schedule(None, (parse_window("64k 8-9"),)),
        clock=lambda: clock.now, now=lambda: datetime(2026, 11, 30, hour[0]), sleep=clock.sleep,
    )  # fmt: skip
    throttle.take(80_000)  # on credit: ten seconds' worth
    hour[0] = 9
    throttle.take(10**9)
    assert clock.now == 0.0
    hour[0] = 8
    throttle.take(8_000)
    throttle.take(1)
    assert 0.9 < clock.now < 1.6


def test_two_items_ship_over_sockets_at_the_rate_that_both_have_together(tmp_path: Path) -> None:
    gateway = ObjectGateway(FolderObjects(tmp_path), "token")
    gateway.start()
    throttle = Throttle(Schedule(16_000_000))  # 2 MB/s
    crossing = Crossing()
    file = tmp_path / "segment"
    file.write_bytes(bytes(1 << 20))

    def ship(item: int) -> None:
        remote = RemoteObjects(gateway.url, "token", crossing, throttle=throttle)
        for number in range(2):
            remote.put_file(f"{item}/{number}", file)

    threads = [threading.Thread(target=ship, args=(item,)) for item in range(2)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    gateway.close()
    assert crossing.sent >= 4 << 20
    assert 0.85 < crossing.sent / took / 2_000_000 < 1.15


def test_the_vaults_word_rules_and_its_hours_are_those_of_its_time_zone() -> None:
    at = datetime(2026, 11, 30, 1, 30, tzinfo=UTC)  # a Monday; half past ten in Tokyo
    throttle = Throttle(Schedule(8_000_000), now=lambda: at)
    assert throttle.rate == 8_000_000
    assert throttle.to_json()["rules"] == "configuration"
    windows = (parse_window("mon-fri 08:00-18:00=1M"),)
    throttle.told = Schedule(None, windows, "Asia/Tokyo")
    assert throttle.rate == 1_000_000
    assert throttle.to_json() == {
        "rules": "vault", "limit": None, "schedule": ["1M 08:00-18:00 mon-fri"], "time_zone": "Asia/Tokyo",
        "now": 1_000_000, "clock": "10:30 JST (UTC+0900)",
    }  # fmt: skip
    throttle.told = Schedule(None, windows, "America/New_York")  # Sunday evening
    assert throttle.rate is None, "no limit, whatever the configuration says"
    throttle.told = None
    assert throttle.rate == 8_000_000
    with pytest.raises(ScheduleInvalid):
        zone("Mars/Olympus")
