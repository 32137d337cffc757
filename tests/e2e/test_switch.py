"""`homeport process-server switch` between two real process servers of one site, under load: points go on at the new
one, the one before can't write any more whatever it believes, and nothing is missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from homeport.servers.serve.site_server import GREET_EVERY
from tests.e2e.hops import PATIENCE, Hops, Mark
from tests.e2e.ledger import wait_until

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.xdist_group("switch")]


@pytest.fixture(scope="module")
def world() -> Iterator[Hops]:
    with Hops() as world:
        world.begin()
        world.add_process_server("ps2-a")
        yield world


def switch(world: Hops, to: str) -> None:
    """As an operator does it."""
    status, told = try_to_switch(world, to)
    assert status == 0, told
    assert told["switched"]["process_server"] == to


def try_to_switch(world: Hops, to: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and what is said."""
    done = subprocess.run(
        [sys.executable, "-m", "homeport.cli", "process-server", "switch", world.name, "--to", to, "--json"],
        env={**os.environ, "HOMEPORT_STATE": str(world.state)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def replicates(world: Hops, name: str) -> bool:
    """Whether the vault hears of the item from that process server, and of no trouble."""
    replication = world.item()["replication"]
    return replication.get("process_server") == name and replication.get("error") is None


def fenced(world: Hops, name: str) -> int:
    """How often a process server learnt from the store that another has taken its place."""
    return (world.folder / f"{name}.log").read_text().count('"code": "store.fenced"')


def goes_on_at(world: Hops, name: str, mark: Mark) -> None:
    """Points go on there, with nothing missed and nothing shipped twice."""
    wait_until(lambda: replicates(world, name), PATIENCE, lambda: f"{name} to replicate: {world.item()}")
    world.await_point(datetime.now(UTC), f"of {name}")
    world.await_all()
    try:
        shipped = world.shipped_since(mark)
        assert shipped.sent <= shipped.most, shipped
        assert replicates(world, name)
    finally:
        world.writer.go_on()


def test_a_switch_while_the_one_before_runs(world: Hops) -> None:
    mark = world.mark()
    switch(world, "ps2-a")
    goes_on_at(world, "ps2-a", mark)


def test_a_switch_back_to_one_that_had_it_before(world: Hops) -> None:
    """What it remembers of its own time is of no use any more, and does no harm."""
    mark = world.mark()
    switch(world, "ps-a")
    goes_on_at(world, "ps-a", mark)


def test_one_that_cannot_be_told_is_fenced_by_the_store(world: Hops) -> None:
    """It runs and writes, only its configuration server doesn't reach it."""
    mark = world.mark()
    world.relays["ps-a to cs-a"].cut()
    try:
        world.until(lambda: world.states("a")["ps-a"] == "away", PATIENCE, "ps-a to be away")
        switch(world, "ps2-a")
        goes_on_at(world, "ps2-a", mark)
        wait_until(lambda: fenced(world, "ps-a") > 0, PATIENCE, lambda: "ps-a to be fenced")
    finally:
        world.relays["ps-a to cs-a"].mend()
    world.until(lambda: world.states("a")["ps-a"] == "connected", PATIENCE, "ps-a to be connected")
    world.await_point(datetime.now(UTC), "with both there again")
    assert replicates(world, "ps2-a")
    assert fenced(world, "ps-a") == 1, "it tried again"


def test_one_that_was_killed_and_comes_back_does_not_keep_the_item(world: Hops) -> None:
    """It goes on by itself before it is told anything, and fences the one in its place; that one takes it up again."""
    world.kill_server("ps2-a")
    mark = world.mark()
    switch(world, "ps-a")
    goes_on_at(world, "ps-a", mark)
    mark, before = world.mark(), fenced(world, "ps-a")
    world.start_again("ps2-a")
    wait_until(lambda: fenced(world, "ps-a") > before, PATIENCE, lambda: "ps-a to be fenced")
    began = time.monotonic()
    goes_on_at(world, "ps-a", mark)
    assert time.monotonic() - began < GREET_EVERY, "it waited until its next greeting"


def test_one_that_hangs_in_the_middle_does_not_get_the_item(world: Hops) -> None:
    """It is there as far as anyone knows, and answers nothing: the switch ends, and replication goes on where it was,
    though the other one wakes up and begins."""
    mark = world.mark()
    with world.frozen(world.servers["ps2-a"].pid):
        began = time.monotonic()
        status, told = try_to_switch(world, "ps2-a")
        assert time.monotonic() - began < 25
        assert (status, told["error"]["code"]) == (1, "process-server.switch-failed"), told
        assert told["error"]["details"]["process_server"] == "ps-a"
        goes_on_at(world, "ps-a", mark)
    world.until(lambda: world.states("a")["ps2-a"] == "connected", PATIENCE, "ps2-a to be connected")
    world.await_point(datetime.now(UTC), "with both there again")
    wait_until(lambda: replicates(world, "ps-a"), PATIENCE, lambda: f"ps-a to replicate: {world.item()}")
