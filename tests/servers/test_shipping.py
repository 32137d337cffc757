"""While the store is out of reach, or stands still as behind a cut WAN, points go on being taken; later all of them are
there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.points import Consistency
from homeport.servers.crossing import Crossing
from homeport.servers.cycle import SPOOL_LIMIT
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.replication import Replication
from homeport.servers.replication_spec import StoreAddress
from homeport.servers.shipper import Shipper
from homeport.store.errors import StoreUnavailable
from tests.servers.bucket import FolderObjects
from tests.servers.rig import Rig

pytestmark = pytest.mark.qemu
INTERVAL = 0.05


class StandingStill(FolderObjects):
    """While ``open`` isn't set, whoever asks gets no answer, as behind a WAN that swallows everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open = threading.Event()
        self.open.set()

    def _path(self, key: str) -> Path:
        self.open.wait(60)
        return super()._path(key)


class Machine:
    def __init__(self, rig: Rig) -> None:
        self.source = rig.source

    def describe(self) -> dict[str, Any]:
        return {"name": "vm"}

    def quiesce(self, timeout: float) -> bool:
        return True

    def power_off(self) -> None:
        pass


class Running:
    """The loop of a machine of disks, whose store is behind a gateway that can stand still."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.store = StandingStill(rig.objects.folder)
        self.gateway = ObjectGateway(self.store, "token")
        self.gateway.start()
        self.reports: list[dict[str, Any]] = []
        address = StoreAddress("b", self.gateway.url, "token")
        spec = replace(rig.spec, store=address, interval=INTERVAL, retention=86400.0)
        self.loop = Replication(spec, Machine(rig), rig.own, rig.cache, "test", self.reports.append, Crossing())
        self.loop.start()

    def published(self) -> int:
        return len(self.rig.store.points(self.rig.spec.timeline))

    def waiting(self) -> int:
        return len(list((self.rig.cache / "spool" / self.rig.spec.timeline).glob("*/record")))

    def close(self) -> None:
        self.store.open.set()
        self.loop.stop(20)
        self.gateway.close()


@pytest.fixture
def running(daemon: StorageDaemon, tmp_path: Path) -> Iterator[Running]:
    running = Running(Rig(daemon, tmp_path))
    until(lambda: running.published() >= 1)
    yield running
    running.close()


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.02)


def test_points_go_on_until_the_cache_is_full_and_all_of_them_get_through_later(running: Running) -> None:
    running.store.open.clear()
    until(lambda: running.waiting() == SPOOL_LIMIT)
    until(lambda: running.reports[-1]["error"] is not None)  # said, and not given up
    assert running.reports[-1]["error"]["code"] == "store.unavailable"
    before = running.published()
    running.rig.write()
    running.store.open.set()
    until(lambda: running.published() >= before + SPOOL_LIMIT + 2)
    assert running.loop.stop(20)
    numbers = sorted(head_numbers(running))
    assert numbers == list(range(1, len(numbers) + 1))
    running.rig.check(newest=3)


def head_numbers(running: Running) -> list[int]:
    return [point.id.number for point in running.rig.store.points(running.rig.spec.timeline)]


def test_who_asked_for_a_point_is_answered_when_it_is_published_not_before(running: Running) -> None:
    running.store.open.clear()
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(running.loop.take_point, Consistency.CRASH, ("mine",), 30)
        until(lambda: running.waiting() >= 4)
        assert not asked.done()
        running.store.open.set()
        taken = asked.result(30)
    points = {point.id: point for point in running.rig.store.points(running.rig.spec.timeline)}
    assert "mine" in points[taken.point].tags


def test_a_store_that_is_down_is_tried_again_and_who_asked_is_told(running: Running) -> None:
    running.store.down = True
    with pytest.raises(StoreUnavailable):
        running.loop.take_point(Consistency.CRASH, (), 30)
    until(lambda: running.waiting() >= 3)
    running.store.down = False
    before = running.published()
    until(lambda: running.published() >= before + 3)


class TestShipper:
    def test_it_works_in_order_and_hands_back_what_was_raised(self) -> None:
        shipper = Shipper("test")
        order: list[int] = []
        answers = [shipper.submit(lambda number=number: order.append(number)) for number in range(5)]  # type: ignore[misc]
        failed = shipper.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(5)
        assert order == [0, 1, 2, 3, 4]
        assert all(answer.done() for answer in answers)
        shipper.close()

    def test_closing_waits_for_what_is_at_hand(self) -> None:
        shipper = Shipper("test")
        go = threading.Event()
        answer = shipper.submit(lambda: go.wait(5))
        threading.Timer(0.1, go.set).start()
        shipper.close()
        assert answer.result(0)

    def test_one_that_had_no_work_has_no_thread(self) -> None:
        before = threading.active_count()
        Shipper("test").close()
        assert threading.active_count() == before
