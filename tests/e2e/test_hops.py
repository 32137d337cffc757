"""Restart, kill, full disk, cut and silence at every hop, under a steady writer: replication goes on by itself, every
point is what the disks held at an instant, and nothing is shipped twice beyond one generation.

Which hop and trouble is shown where: hop_matrix.py. One world lives through all of it, one trouble after the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime

import pytest

from homeport.domain.units import KiB, MiB
from tests.e2e.hop_matrix import name_of, shown_here
from tests.e2e.hops import FRESH, PATIENCE, WRITTEN, Hops
from tests.e2e.ledger import wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.xdist_group("hops")]

A_WHILE = 5.0
"""Seconds that a trouble lasts which doesn't end by itself."""
Trouble = Callable[[Hops], AbstractContextManager[None]]
"""Entered when it begins; mended at the end. What is done within is what goes on meanwhile."""

CONFIGURATION_SERVERS = ("cs-a", "cs-b")


@pytest.fixture(scope="module")
def world() -> Iterator[Hops]:
    with Hops() as world:
        world.begin()
        yield world


# ── troubles ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def restarted(world: Hops, *names: str) -> Iterator[None]:
    for name in names:
        world.end_server(name)
    yield
    for name in names:
        world.start_again(name)


@contextmanager
def killed(world: Hops, *names: str) -> Iterator[None]:
    for name in names:
        world.kill_server(name)
    yield
    for name in names:
        world.start_again(name)


@contextmanager
def silent(world: Hops, *names: str) -> Iterator[None]:
    with world.frozen(*(world.servers[name].pid for name in names)):
        yield


@contextmanager
def full(world: Hops, *volumes: str) -> Iterator[None]:
    with ExitStack() as stack:
        for name in volumes:
            stack.enter_context(world.volumes[name].full())
        yield


@contextmanager
def cut(world: Hops, *relays: str) -> Iterator[None]:
    for name in relays:
        world.relays[name].cut()
    try:
        yield
    finally:
        for name in relays:
            world.relays[name].mend()


@contextmanager
def silenced(world: Hops, *relays: str) -> Iterator[None]:
    for name in relays:
        world.relays[name].silence()
    try:
        yield
    finally:
        for name in relays:
            world.relays[name].mend()


@contextmanager
def machine_shut_down(world: Hops) -> Iterator[None]:
    os.kill(world.machine_pid(), signal.SIGTERM)
    world.until(lambda: world.machine("a").power == "off", 30, "the machine to be off")
    yield
    world.power_on()


@contextmanager
def machine_killed(world: Hops) -> Iterator[None]:
    world.kill_machine("a")
    yield
    world.power_on()


@contextmanager
def machine_silent(world: Hops) -> Iterator[None]:
    with world.frozen(world.machine_pid()):
        yield


@contextmanager
def machine_disk_full(world: Hops) -> Iterator[None]:
    """The machine writes where it has no room yet, and is refused it."""
    with world.volumes["machine"].full():
        world.writer.area = {"disk0": FRESH, "disk1": FRESH}
        wait_until(lambda: world.writer.refused, PATIENCE, lambda: "the machine to be refused a write")
        try:
            yield
        finally:
            world.writer.area = {"disk0": WRITTEN, "disk1": WRITTEN}


@contextmanager
def cache_full(world: Hops) -> Iterator[None]:
    with world.volumes["cache"].full():
        told = ("process-server.cache-full",)
        wait_until(lambda: world.error_code() in told, PATIENCE, lambda: f"the vault to be told: {world.item()}")
        yield


@contextmanager
def store_full(world: Hops) -> Iterator[None]:
    with world.volumes["store"].full():
        wait_until(lambda: world.error_code() == "store.full", PATIENCE, lambda: f"it to be told: {world.item()}")
        yield


@contextmanager
def store_away(world: Hops) -> Iterator[None]:
    with world.volumes["store"].away():
        wait_until(world.error_code, PATIENCE, lambda: f"the vault to be told: {world.item()}")
        yield


@contextmanager
def state_full(world: Hops, *names: str) -> Iterator[None]:
    """And they are killed, and started again while it is full."""
    with full(world, *names):
        for name in names:
            world.kill_server(name)
            world.start_server(name)
        yield


WAN = "to ps-b"
TO_CS = "ps-a to cs-a"
TO_VAULT = ("cs-a to vault", "cs-b to vault")

TROUBLES: dict[tuple[str, str], Trouble] = {
    ("machine", "restart"): machine_shut_down,
    ("machine", "kill"): machine_killed,
    ("machine", "disk full"): machine_disk_full,
    ("machine", "silence"): machine_silent,
    ("process server", "restart"): lambda world: restarted(world, "ps-a"),
    ("process server", "kill"): lambda world: killed(world, "ps-a"),
    ("process server", "disk full"): cache_full,
    ("process server", "silence"): lambda world: silent(world, "ps-a"),
    ("way to the other site", "cut"): lambda world: cut(world, WAN),
    ("way to the other site", "silence"): lambda world: silenced(world, WAN),
    ("gateway", "restart"): lambda world: restarted(world, "ps-b"),
    ("gateway", "kill"): lambda world: killed(world, "ps-b"),
    ("gateway", "disk full"): lambda world: state_full(world, "ps-b"),
    ("gateway", "silence"): lambda world: silent(world, "ps-b"),
    ("store", "disk full"): store_full,
    ("store", "cut"): store_away,
    ("way to the configuration server", "cut"): lambda world: cut(world, TO_CS),
    ("way to the configuration server", "silence"): lambda world: silenced(world, TO_CS),
    ("configuration servers", "restart"): lambda world: restarted(world, *CONFIGURATION_SERVERS),
    ("configuration servers", "kill"): lambda world: killed(world, *CONFIGURATION_SERVERS),
    ("configuration servers", "disk full"): lambda world: state_full(world, *CONFIGURATION_SERVERS),
    ("configuration servers", "silence"): lambda world: silent(world, *CONFIGURATION_SERVERS),
    ("way to the vault", "cut"): lambda world: cut(world, *TO_VAULT),
    ("way to the vault", "silence"): lambda world: silenced(world, *TO_VAULT),
    ("vault", "restart"): lambda world: restarted(world, "vault"),
    ("vault", "kill"): lambda world: killed(world, "vault"),
    ("vault", "disk full"): lambda world: full(world, "vault"),
    ("vault", "silence"): lambda world: silent(world, "vault"),
}

DIRECTED = ("way to the configuration server", "configuration servers", "way to the vault", "vault")
"""Those who only tell others what to do: while they are away points go on, and arrive."""
WAITS_IN_CACHE = ("way to the other site", "store")
"""While they are away points go on, and wait in the cache."""

assert list(TROUBLES) == shown_here()


@pytest.mark.parametrize(("hop", "trouble"), TROUBLES, ids=[name_of(*cell) for cell in TROUBLES])
def test_replication_goes_on_by_itself(
    world: Hops, hop: str, trouble: str, record_property: Callable[[str, object], None]
) -> None:
    if (trouble == "disk full" or (hop, trouble) == ("store", "cut")) and world.unmountable:
        pytest.skip(world.unmountable)
    mark = world.mark()
    with TROUBLES[hop, trouble](world):
        if hop in DIRECTED:
            world.await_point(datetime.now(UTC), "while they are away who only tell others what to do")
        elif trouble not in ("restart", "kill"):
            time.sleep(A_WHILE)
    mended = datetime.now(UTC)
    seconds = world.await_point(mended, f"after {trouble} of {hop}")
    world.await_all()
    try:
        shipped = world.shipped_since(mark)
        record_property("cell", f"{seconds:.1f} s, {shipped}")
        assert shipped.sent <= shipped.most, shipped
        if hop in WAITS_IN_CACHE:
            assert [seen for seen in world.seen if mark.at < seen.info.time < mended], "no point is of that time"
        world.await_told()
    finally:
        world.writer.go_on()


def test_a_kill_while_a_large_point_crosses_ships_no_more_than_that_point_again(world: Hops) -> None:
    """Over a slow way, when the half of it has crossed."""
    mark = world.mark()
    world.wan.slow(512 * KiB)
    with contextlib.ExitStack() as stack:
        stack.callback(world.wan.mend)
        pause, world.writer.pause = world.writer.pause, 0.0
        stack.callback(setattr, world.writer, "pause", pause)
        wait_until(lambda: world.ledger.acked > mark.point.upto + 500, PATIENCE, lambda: "500 writes")
        world.writer.pause = pause
        wait_until(lambda: world.wan.sent - mark.sent > 2 * MiB, PATIENCE, lambda: "a part of them to cross")
        world.kill_server("ps-a")
        world.start_again("ps-a")
    world.await_point(datetime.now(UTC), "after the kill")
    world.await_all()
    try:
        shipped = world.shipped_since(mark)
        assert shipped.generation > 2 * MiB, "it wasn't killed in a large point"
        assert shipped.sent <= shipped.most, shipped
    finally:
        world.writer.go_on()


def test_what_all_of_it_left_is_what_the_machine_has(world: Hops) -> None:
    """After all troubles: the points that are listed are those that were compared, and a planned failover loses
    nothing."""
    world.await_all()
    world.await_told()
    listed = {point["id"] for point in world.points()}
    assert str(world.seen[-1].info.id) in listed
    assert listed <= {str(seen.info.id) for seen in world.seen}
    before = world.hashes("a")
    world.do("failover")
    assert world.hashes("b") == before
