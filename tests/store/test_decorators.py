"""Retry, limit and trace, each by itself, with a clock that the test turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.store import AlreadyExists, MemoryObjects, NotFound
from homeport.store.errors import Locked, StoreDenied, StoreError, StoreThrottled, StoreUnreachable
from homeport.store.limiting import Limiting, Pace
from homeport.store.objects import versioned
from homeport.store.retrying import Retrying
from homeport.store.tracing import Tracing, Traffic


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Flaky(MemoryObjects):
    """``script``: an error for each of the next calls of any verb (None: it works); ``after``: done all the same."""

    def __init__(self, script: list[StoreError | None] | None = None, *, after: bool = False) -> None:
        super().__init__()
        self.script = script or []
        self.after = after
        self.calls = 0

    def _step(self, act: Callable[[], object]) -> None:
        self.calls += 1
        error = self.script.pop(0) if self.script else None
        if error is not None and self.after:
            act()
        if error is not None:
            raise error

    def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
        def act() -> None:
            MemoryObjects.put(self, key, data, if_absent=if_absent)

        self._step(act)
        act()

    def get(self, key: str) -> bytes:
        self._step(lambda: None)
        return super().get(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in super().list(prefix):
            self._step(lambda: None)
            yield entry

    def delete(self, key: str) -> None:
        self._step(lambda: None)
        super().delete(key)


def retrying(inner: MemoryObjects, clock: Clock, **options: float) -> Retrying:
    return Retrying(inner, clock=clock, sleep=clock.sleep, chance=lambda low, high: high, **options)  # type: ignore[arg-type]


def test_waits_double_up_to_a_bound_until_patience_ends() -> None:
    clock = Clock()
    inner = Flaky([StoreThrottled("slow down")] * 100)
    with pytest.raises(StoreThrottled):
        retrying(inner, clock, patience=100, first=1, longest=20).get("k")
    assert clock.slept == [1, 2, 4, 8, 16, 20, 20, 20, 9]
    assert inner.calls == len(clock.slept) + 1


def test_waits_are_spread_over_the_whole_bound() -> None:
    """Full jitter: clients that failed together don't come back together."""
    bounds: list[tuple[float, float]] = []
    clock = Clock()

    def chance(low: float, high: float) -> float:
        bounds.append((low, high))
        return low

    Retrying(Flaky([StoreUnreachable("x")] * 3), first=1, clock=clock, sleep=clock.sleep, chance=chance).delete("k")
    assert bounds == [(0, 1), (0, 2), (0, 4)]


@pytest.mark.parametrize("error", [StoreDenied("no"), NotFound("no"), Locked("no"), StoreError("what?")])
def test_only_what_may_pass_is_tried_again(error: StoreError) -> None:
    clock = Clock()
    inner = Flaky([error])
    with pytest.raises(type(error)):
        retrying(inner, clock).delete("k")
    assert (inner.calls, clock.slept) == (1, [])


@given(
    failures=st.lists(st.sampled_from([StoreUnreachable("x"), StoreThrottled("x")]), max_size=5),
    after=st.booleans(),
    there=st.sampled_from([None, b"same", b"else", b"longer"]),
)
def test_a_create_succeeds_exactly_if_the_key_was_free(
    failures: list[StoreError | None], after: bool, there: bytes | None
) -> None:
    """However often it failed, done or not. (What is there with our own bytes can't be told from ours after a
    failure, and needn't.)"""
    inner = Flaky(list(failures), after=after)
    if there is not None:
        inner.objects["k"] = there
    clock = Clock()
    objects = retrying(inner, clock)
    try:
        objects.put("k", b"same")
        created = True
    except AlreadyExists:
        created = False
    assert created == (there is None or (there == b"same" and bool(failures) and not after))
    assert inner.objects["k"] == (there or b"same")


def test_our_own_file_is_compared_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(bytes(9 << 20))
    inner = Flaky([StoreUnreachable("x")], after=True)
    retrying(inner, Clock()).put_file("k", path)
    for there in (bytes((9 << 20) - 1) + b"x", bytes(1)):
        inner.objects["k"] = there
        inner.script, inner.after = [StoreUnreachable("x")], False
        with pytest.raises(AlreadyExists):
            retrying(inner, Clock()).put_file("k", path)


def test_a_list_goes_on_where_it_broke_off_each_time() -> None:
    inner = Flaky()
    for number in range(10):
        inner.objects[f"m/{number}"] = b""
    clock = Clock()
    again: list[StoreError | None] = [None, None, StoreUnreachable("x"), None, None, None, StoreThrottled("x")]
    inner.script = again
    assert [key for key, _ in retrying(inner, clock).list("m/")] == [f"m/{number}" for number in range(10)]
    assert len(clock.slept) == 2


def test_a_pace_lets_a_second_pass_at_once_and_then_holds_the_rate() -> None:
    clock = Clock()
    pace = Pace(1000, clock=clock, sleep=clock.sleep)
    pace.take(1000)
    assert clock.now == 1000
    for _ in range(10):
        pace.take(500)
    assert clock.now == pytest.approx(1005)
    clock.now += 100
    began = clock.now
    pace.take(3000)  # a pause earns a second, not more
    assert clock.now - began == pytest.approx(2)


def test_both_ways_are_paid_for() -> None:
    clock = Clock()
    inner = MemoryObjects()
    objects = Limiting(inner, pace=Pace(1000, clock=clock, sleep=clock.sleep))
    objects.put("k", bytes(1000))
    objects.get("k")
    objects.get_range("k", 0, 500)
    assert clock.now == pytest.approx(1001.5)
    assert list(objects.list("")) == [("k", 1000)]


def test_no_more_requests_at_a_time_than_allowed() -> None:
    inside = most = 0
    lock = threading.Lock()
    full = threading.Event()

    class Counting(MemoryObjects):
        def get(self, key: str) -> bytes:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
                if inside == 3:
                    full.set()
            full.wait(5)
            with lock:
                inside -= 1
            return b""

    objects = Limiting(Counting(), requests=3)
    threads = [threading.Thread(target=objects.get, args=("k",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_requests_and_bytes_are_counted_by_verb(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(bytes(70))
    inner = MemoryObjects()
    objects = Tracing(inner)
    objects.put("a", bytes(30))
    objects.put_file("b", path)
    with pytest.raises(AlreadyExists):
        objects.put("a", bytes(30))
    objects.get("b")
    objects.get_range("b", 10, 20)
    objects.size("a")
    objects.delete("a")
    for number in range(2500):
        inner.objects[f"m/{number}"] = b""
    assert len(list(objects.list("m/"))) == 2500
    list(objects.list("none/"))
    found = objects.traffic()
    assert all(traffic.seconds >= 0 for traffic in found.values())
    for traffic in found.values():
        traffic.seconds = 0
    assert found == {
        "put": Traffic(requests=3, failed=1, sent=130),
        "get": Traffic(requests=2, received=90),
        "head": Traffic(requests=1),
        "delete": Traffic(requests=1),
        "list": Traffic(requests=4),
    }
    assert versioned(Retrying(Limiting(objects))) is False
