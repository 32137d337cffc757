"""Two process servers share one tracker, the first paused between create and forget: no change falls between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon

from homeport.servers.cycle import Cycle
from homeport.store.errors import Fenced
from tests.servers.rig import Rig

pytestmark = [pytest.mark.qemu]


class Pause:
    """Stops the thread that comes by, until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go.wait(60)


def before(target: Any, name: str, pause: Pause, when: Callable[[Any], bool] = lambda argument: True) -> None:
    original = getattr(target, name)

    def paused(argument: Any, *rest: Any, **options: Any) -> Any:
        if when(argument):
            pause()
        return original(argument, *rest, **options)

    setattr(target, name, paused)


def after(target: Any, name: str, pause: Pause, when: Callable[[Any], bool] = lambda argument: True) -> None:
    original = getattr(target, name)

    def paused(argument: Any, *rest: Any, **options: Any) -> Any:
        result = original(argument, *rest, **options)
        if when(argument):
            pause()
        return result

    setattr(target, name, paused)


def is_record(key: str) -> bool:
    return "/point/" in key


def pause_before_create(cycle: Cycle, rig: Rig, pause: Pause) -> None:
    before(rig.objects, "put", pause, is_record)


def pause_after_create(cycle: Cycle, rig: Rig, pause: Pause) -> None:
    after(rig.objects, "put", pause, is_record)


def pause_before_forgetting(cycle: Cycle, rig: Rig, pause: Pause) -> None:
    before(cycle._source, "commit", pause)


def pause_after_forgetting(cycle: Cycle, rig: Rig, pause: Pause) -> None:
    after(cycle._source, "commit", pause)


@pytest.mark.parametrize(
    ("place", "is_fenced"),
    [
        (pause_before_create, True),
        (pause_after_create, True),
        (pause_before_forgetting, False),
        (pause_after_forgetting, False),
    ],
)
def test_one_of_two_is_paused_between_create_and_forget(
    daemon: StorageDaemon, tmp_path: Path, place: Callable[[Cycle, Rig, Pause], None], is_fenced: bool
) -> None:
    """``is_fenced``: the paused one must learn, at its next look at the store, that it must not forget."""
    mine, theirs = Rig(daemon, tmp_path), Rig(daemon, tmp_path)
    theirs.spec, theirs.cache = mine.spec, tmp_path / "cache-of-the-other"
    theirs.seen = mine.seen
    mine.write(20)
    first = mine.cycle()
    first.first_copy()
    mine.take(first)
    first.ship()
    mine.write()
    mine.take(first)
    pause = Pause()
    place(first, mine, pause)
    ended: list[BaseException | None] = []

    def ship() -> None:
        try:
            first.ship()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=ship)
    thread.start()
    try:
        assert pause.reached.wait(30)
        mine.write()
        second = theirs.cycle()
        second.ship()
        theirs.take(second)
        second.ship()
        mine.write()
    finally:
        pause.go.set()
        thread.join(60)
    assert len(ended) == 1
    if is_fenced:
        assert isinstance(ended[0], Fenced), ended
    else:
        assert ended == [None]
    mine.write()
    for _ in range(2):
        taken = theirs.take(second)
        assert set(taken.found_by.values()) == {"tracking"}, "nothing had to be compared, so nothing was forgotten"
        second.ship()
        mine.write()
    with pytest.raises(Fenced):  # the paused one goes on, knows nothing, and writes no more
        first.take_point()
        first.ship()
    mine.write()
    theirs.take(second)  # whatever the other did to the tracker: the point is what the disks are
    second.ship()
    second.close()
    theirs.check()
