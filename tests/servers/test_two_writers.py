"""Two process servers share one tracker, the first paused between create and forget: no change falls between them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.units import BLOCK, KiB
from homeport.servers import cycle as cycles
from homeport.servers import first_copy as first_copies
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
    theirs.seen, theirs.owner = mine.seen, "the other"
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


# ── the first copy ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_first_point_that_waits_is_dropped_once_another_copied_parts(
    both: tuple[Rig, Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch while the first point waited for the store, and back before the other one had one there."""
    monkeypatch.setattr(first_copies, "PART", 512 * KiB)
    mine, theirs = both
    mine.write(20)
    first = mine.cycle()
    first.first_copy()
    mine.write()
    first.take_point()  # what it looked like is nobody's business: it never comes there
    mine.write()
    second = theirs.cycle()
    second.first_copy()
    first.close()
    second.close()
    mine.write()
    first = mine.cycle()
    assert (first.backlog, first.head) == (0, None)
    first.first_copy()
    go_on(mine, first)
    assert go_on(mine, first) == {"tracking"}
    first.close()
    assert [info.id.number for info in mine.store.points(mine.spec.timeline)] == [1, 2]


@pytest.mark.parametrize("owner", ["the other", "test"])
def test_a_part_that_comes_late_is_not_taken_into_the_first_point(both: tuple[Rig, Rig], owner: str) -> None:
    """The other one was paused before it brought a part, which is newer than what this one copied and knows of; or an
    earlier session of its own was."""
    mine, theirs = both
    theirs.owner = owner
    mine.write_at("disk0", 0, b"a" * BLOCK)
    first = mine.cycle()
    first.first_copy()
    first.close()
    mine.write_at("disk0", 0, b"b" * BLOCK)
    pause = Pause()
    before(theirs.objects, "put", pause, lambda key: "/part/" in key)
    ended: list[BaseException] = []

    def copy() -> None:
        try:
            theirs.cycle().first_copy()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        assert pause.reached.wait(30)
        first = mine.cycle()
        first.first_copy()
    finally:
        pause.go.set()
        thread.join(60)
    assert isinstance(ended[0], Fenced)
    mine.write_at("disk0", 0, b"a" * BLOCK)
    with pytest.raises(Fenced, match="another part"):
        mine.take(first)
    first.close()
    first = mine.cycle()
    first.first_copy()
    mine.write()
    go_on(mine, first)
    first.close()


# ── what one's own files say of a point that is the other's ─────────────────────────────────────────────────────────


def test_digests_of_a_point_that_was_lost_are_not_those_of_the_others_of_its_number(both: tuple[Rig, Rig]) -> None:
    mine, theirs = both
    first = began(mine)
    mine.write_at("disk0", 0, b"1" * BLOCK)
    mine.take(first)
    first.close()
    shutil.rmtree(mine.cache / "spool")
    mine.seen.popitem()
    mine.write_at("disk0", 0, b"2" * BLOCK)
    second = theirs.cycle()
    theirs.take(second)
    second.ship()
    second.close()
    mine.write_at("disk0", 0, b"1" * BLOCK)
    first = mine.cycle()
    go_on(mine, first)
    first.close()


def test_a_tracker_of_the_others_point_of_the_same_number_is_not_believed(
    both: tuple[Rig, Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits here isn't in the store yet when the next point is taken. No sample finds it out by chance."""
    monkeypatch.setattr(cycles, "sample_clean_blocks", lambda *arguments: [])
    mine, theirs = both
    first = began(mine)
    mine.write()
    mine.take(first)
    first.close()
    waits = mine.seen.copy()
    mine.write_at("disk0", 0, b"between the two" * 1000)
    second = theirs.cycle()
    theirs.take(second)  # of the same number; it stays in its cache
    second.close()
    mine.seen.update(waits)
    first = mine.cycle()
    assert first.backlog == 1
    go_on(mine, first)
    first.close()


def test_one_that_lost_the_machine_does_not_disturb_a_view_of_the_other(both: tuple[Rig, Rig]) -> None:
    mine, theirs = both
    first = began(mine)
    mine.write()
    second = theirs.cycle()

    def disturb(*arguments: Any) -> dict[str, Any]:
        with pytest.raises(Fenced):
            first.take_point()
        return {"name": "vm"}

    theirs.write()
    second._machine = disturb  # its view is open
    theirs.take(second)
    assert second._incarnation == second._source.tracked().get(second.head)
    second._machine = dict
    assert go_on(theirs, second) == {"tracking"}
    second.close()
    first.close()
