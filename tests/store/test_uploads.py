"""Segments are sent while points are being built: in order, a few at once, and none twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeport.store import uploads as module
from homeport.store.errors import StoreUnavailable
from homeport.store.names import Segment
from homeport.store.uploads import Uploads


class Store:
    """``gate``: while it isn't set, a put takes for ever. ``down``: what a put raises."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.down: Exception | None = None
        self.begun: list[int] = []
        self.done: list[int] = []
        self.at_once = self.most = 0
        self.lock = threading.Lock()

    def put(self, segment: Segment, path: Path) -> None:
        with self.lock:
            self.begun.append(segment.seq)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            self.gate.wait()
            if self.down is not None:
                raise self.down
            path.read_bytes()
        finally:
            with self.lock:
                self.at_once -= 1
        with self.lock:
            self.done.append(segment.seq)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(store: Store) -> Iterator[Callable[[int], Uploads]]:
    made: list[Uploads] = []

    def uploads(threads: int) -> Uploads:
        made.append(Uploads(store.put, threads))
        return made[-1]

    yield uploads
    store.gate.set()
    for each in made:
        each.close()


def segments(folder: Path, *seqs: int) -> list[tuple[Segment, int, Path]]:
    found = []
    for seq in seqs:
        path = folder / str(seq)
        path.write_bytes(b"x" * seq)
        found.append((Segment("0" * 16, 1, seq), seq, path))
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_was_sent_early_is_not_sent_again(store: Store, make: Callable[[int], Uploads], tmp_path: Path) -> None:
    uploads = make(2)
    ours = segments(tmp_path, 1, 2, 3)
    for segment, _, path in ours[:2]:
        uploads.begin(segment, path)
    until(lambda: len(store.done) == 2)
    told: list[tuple[int, int]] = []
    uploads.finish(ours, lambda done, total: told.append((done, total)))
    assert sorted(store.done) == [1, 2, 3]
    assert told == [(6, 6)]


def test_no_more_are_sent_at_once_than_there_are_threads(
    store: Store, make: Callable[[int], Uploads], tmp_path: Path
) -> None:
    uploads = make(3)
    store.gate.clear()
    early, waited = segments(tmp_path, 1, 2, 3, 4, 5), segments(tmp_path, 6, 7, 8)
    for segment, _, path in early:
        uploads.begin(segment, path)
    until(lambda: store.at_once == 3)
    waiting = threading.Thread(target=uploads.finish, args=(waited,))
    waiting.start()
    time.sleep(0.05)
    assert store.at_once == 3
    store.gate.set()
    waiting.join(10)
    assert not waiting.is_alive()
    until(lambda: len(store.done) == 8)
    assert store.most == 3
    assert sorted(store.begun[:3]) == [1, 2, 3]
    assert sorted(store.begun[3:6]) == [6, 7, 8], "who waits goes before what is early"


def test_an_error_is_told_to_who_waits_and_tried_again_for_the_next(
    store: Store, make: Callable[[int], Uploads], tmp_path: Path
) -> None:
    uploads = make(2)
    store.down = StoreUnavailable("away")
    early, later = segments(tmp_path, 1, 2)
    uploads.begin(early[0], early[2])
    until(lambda: not store.at_once and store.begun == [1])
    until(lambda: uploads._error)
    uploads.begin(later[0], later[2])  # nothing is sent early to a store that is away
    time.sleep(0.02)
    assert store.begun == [1]
    with pytest.raises(StoreUnavailable):
        uploads.finish([early])
    store.down = None
    uploads.finish([early, later])
    assert sorted(store.done) == [1, 2]


def test_what_is_gone_when_its_turn_comes_was_given_up_unless_somebody_waits(
    store: Store, make: Callable[[int], Uploads], tmp_path: Path
) -> None:
    uploads = make(1)
    gone, there = segments(tmp_path, 1, 2)
    gone[2].unlink()
    uploads.begin(gone[0], gone[2])
    uploads.begin(there[0], there[2])
    until(lambda: store.done == [2])
    with pytest.raises(FileNotFoundError):
        uploads.finish([gone])


def test_who_is_told_may_stop_the_rest(store: Store, make: Callable[[int], Uploads], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    uploads = make(1)
    ours = segments(tmp_path, 1, 2, 3)
    store.gate.clear()
    for segment, _, path in ours:
        uploads.begin(segment, path)
    until(lambda: store.begun)
    store.begun.clear()
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            uploads.finish(ours, stop)
        except Stop as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: uploads._waiter)
    store.gate.set()
    thread.join(10)
    assert waiting
    assert not store.begun


def test_threads_end_when_there_is_nothing_to_do(
    store: Store, make: Callable[[int], Uploads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 0.05)
    uploads = make(2)
    for segment, _, path in segments(tmp_path, 1, 2):
        uploads.begin(segment, path)
    until(lambda: len(store.done) == 2)
    until(lambda: not uploads._threads)
    (again,) = segments(tmp_path, 3)
    uploads.begin(again[0], again[2])
    until(lambda: 3 in store.done)
