"""A site's configuration server is killed and its folder lost: restored from the vault, elsewhere, it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.apart import Apart
from tests.e2e.world import Refused
from tests.ports import free_port

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


@pytest.fixture
def world() -> Iterator[Apart]:
    with Apart() as world:
        world.set_up()
        yield world


def restore(world: Apart, *options: str) -> tuple[int, dict[str, Any]]:
    """`homeport configuration-server restore` of site a, into a new folder."""
    key = world.folder / "a.key"
    if not key.exists():
        key.write_text(world.api("POST", "/v1/registration-keys", {"site": "a", "replace": True})["key"])
    state = ("--state", str(world.folder / "servers" / "restored"))
    command = ("configuration-server", "restore", "--key", str(key), *state, "--json", *options)
    done = subprocess.run(
        [sys.executable, "-m", "homeport.cli", *command], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, json.loads(done.stdout)


def restored(world: Apart) -> dict[str, Any] | None:
    """What it told once the vault let it; None: it has heard of the lost one a moment ago."""
    status, told = restore(world, "--from-vault")
    return told["restored"] if status == 0 else None


def move(world: Apart) -> None:
    """The configuration server's folder and address are others now, and its site's servers are told."""
    world.urls["cs-a"] = f"https://127.0.0.1:{free_port()}"
    old, new = world.own("cs-a"), world.folder / "servers" / "restored"
    new.rename(old)
    world._configure("cs-a", folder=str(world.a))
    world.start_server("cs-a")
    for name in ("ps-a", "mt-a"):
        text = world.config(name).read_text()
        world.config(name).write_text(text + f'configuration_server = "{world.urls["cs-a"]}"\n')
        world.replace_server(name)
    world.until(world.all_connected, 60, "all servers of both sites to be connected")


def test_a_lost_configuration_server_is_restored_at_another_address_and_its_site_comes_home(world: Apart) -> None:
    world.scribble("a", 100)
    with pytest.raises(Refused) as refused_name:
        world.protect(process_server="ps-b")
    assert refused_name.value.problem["code"] == "process-server.unknown"
    world.protect(process_server="ps-a")
    world.take_point()
    assert world.item()["replication"]["process_server"] == "ps-a"
    settled = world.own("cs-a") / "assignments.json"
    assigned = json.loads(settled.read_text())
    assert set(assigned.values()) == {"ps-a"}
    backed_up = world.own("cs-a") / "backed-up.json"
    world.until(lambda: backed_up.stat().st_mtime > settled.stat().st_mtime, 30, "a backup after that change")

    status, refused = restore(world, "--from-vault")
    assert (status, refused["error"]["code"]) == (1, "configuration-server.still-there")
    world.kill_server("cs-a")
    shutil.rmtree(world.own("cs-a"))
    shutil.rmtree(world.a / ".homeport" / "fences")
    made = world.until(lambda: restored(world), 30, "the restore")
    assert (made["name"], made["servers"]) == ("cs-a", ["mt-a", "ps-a"])
    move(world)
    assert json.loads(settled.read_text()) == assigned

    world.scribble("a", 10)
    point = world.until(world.try_point, 60, "a point after the restore")
    before = world.hashes("a")
    assert world.point_hashes("b", point) == before
    world.do("failover")
    assert world.hashes("b") == before
    world.do("commit")
    world.do("reprotect")
    world.scribble("b", 15)
    last = world.hashes("b")
    world.do("failback")
    assert world.hashes("a") == last, "a planned failback loses nothing"
