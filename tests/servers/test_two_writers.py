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


@pytest.fixture
def both(daemon: StorageDaemon, tmp_path: Path) -> tuple[Rig, Rig]:
    """The same machine, timeline and store, each with a cache of its own."""
    mine, theirs = Rig(daemon, tmp_path), Rig(daemon, tmp_path)
    theirs.spec, theirs.cache = mine.spec, tmp_path / "cache-of-the-other"
    theirs.seen = mine.seen
    return mine, theirs


def began(rig: Rig) -> Cycle:
    rig.write(20)
    cycle = rig.cycle()
    cycle.first_copy()
    rig.take(cycle)
    cycle.ship()
    return cycle


def go_on(rig: Rig, cycle: Cycle) -> set[str]:
    rig.write()
    found_by = set(rig.take(cycle).found_by.values())
    cycle.ship()
    rig.check()
    return found_by


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
    both: tuple[Rig, Rig], place: Callable[[Cycle, Rig, Pause], None], is_fenced: bool
) -> None:
    """``is_fenced``: the paused one must learn, at its next look at the store, that it must not forget."""
    mine, theirs = both
    first = began(mine)
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


def test_one_that_lost_the_machine_neither_sends_its_changes_nor_disturbs_the_other(both: tuple[Rig, Rig]) -> None:
    mine, theirs = both
    first = began(mine)
    go_on(mine, first)  # from here on segments leave while their point is built
    second = theirs.cycle()
    go_on(theirs, second)
    mine.write()
    sent = mine.objects.sent
    with pytest.raises(Fenced):
        first.take_point()
    first.close()  # nothing is on its way any more
    assert mine.objects.sent == sent, "what the other one sends, too"
    assert go_on(theirs, second) == {"tracking"}, "its tracker was taken from it"
    second.close()


def test_a_tracker_that_was_lost_while_the_store_is_away_keeps_no_point_from_being_taken(
    both: tuple[Rig, Rig],
) -> None:
    mine, _ = both
    first = began(mine)
    go_on(mine, first)
    mine.objects.down = True
    mine.take(first)
    mine.restart()
    mine.write()
    assert set(mine.take(first).found_by.values()) == {"digests at the process server"}
    mine.objects.down = False
    first.ship()
    mine.check()
    assert go_on(mine, first) == {"tracking"}
    first.close()


def test_what_is_in_the_store_and_still_waits_is_not_sent_again(both: tuple[Rig, Rig]) -> None:
    """The session ended when the point was there, and its source didn't know yet."""
    mine, _ = both
    first = began(mine)
    mine.write()
    mine.take(first)
    first.publish(first.waiting[0])
    first.close()
    sent = mine.objects.sent
    first = mine.cycle()
    assert first.backlog == 1
    first.ship()
    assert mine.objects.sent - sent < 4096, "more than a claim and the record"
    go_on(mine, first)
    first.close()


def test_what_is_in_the_store_and_still_waits_is_dropped_once_another_has_gone_on(both: tuple[Rig, Rig]) -> None:
    """It was fenced, or died, just after it had brought its last point."""
    mine, theirs = both
    first = began(mine)
    mine.write()
    mine.take(first)
    first.publish(first.waiting[0])
    first.close()
    second = theirs.cycle()
    go_on(theirs, second)
    go_on(theirs, second)
    second.close()
    first = mine.cycle()
    assert first.backlog == 0
    assert first.head == mine.store.head(mine.spec.timeline)
    go_on(mine, first)
    first.close()
