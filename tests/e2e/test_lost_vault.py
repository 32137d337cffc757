"""A vault that is lost with its state folder, made again out of the stores, fails machines of disks over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import VM, World

pytestmark = pytest.mark.qemu


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.set_up()
        world.scribble("a", 100)
        world.protect()
        yield world


def make_again(world: World, how: str, *options: str) -> dict[str, Any]:
    """Homeport and its state folder are gone; `homeport vault HOW` makes another."""
    world.kill()
    shutil.rmtree(world.state)
    secret = world.folder / "secret"
    secret.write_text(world.passphrase)
    stores = [f"--store={(site / '.homeport' / 'store').as_uri()}" for site in (world.a, world.b)]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "homeport.cli", "vault", how, *stores, "--state", str(world.state), "--json"),
            *("--passphrase-file", str(secret), *options),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    made: dict[str, Any] = json.loads(ended.stdout)["restored" if how == "restore" else "rebuilt"]
    return made


def described(world: World, site: str = "b") -> bool:
    """What lies beside the points at ``site`` is as the vault has it."""
    told = next(world.store(site).descriptions())
    return "row" in told and told["row"]["state"] == world.item()["state"]


def lose_site(world: World) -> None:
    """The home site, as far as Homeport sees; its machine's process is ended."""
    world.kill_machine("a")
    world.a.rename(world.folder / "a.lost")


def fails_over(world: World, expected: dict[str, str]) -> None:
    world.do("failover", shutdown=False, point="latest-processed")
    assert world.hashes("b") == expected
    world.do("commit")


def test_a_vault_is_restored_from_its_backup_and_fails_over_without_the_home_site(world: World) -> None:
    backup = world.api("POST", "/v1/vault/backups", {})["backup"]
    assert {site: outcome["error"] for site, outcome in backup["sites"].items()} == {"a": None, "b": None}
    world.scribble("a", 20)
    expected = world.hashes("a")
    point = world.take_point()
    made = make_again(world, "restore")
    assert made["backup"] == backup["id"]
    assert [(item["name"], item["state"]) for item in made["items"]] == [(VM, "Protected")]
    lose_site(world)
    world.up()
    assert point in [each["id"] for each in world.points()], "a point that was made after the backup"
    fails_over(world, expected)


def test_a_vault_is_rebuilt_without_a_backup_and_replication_goes_on(world: World) -> None:
    point = world.take_point()
    item = world.item()
    world.until(lambda: described(world), 30, "the item to be described")
    made = make_again(world, "rebuild")
    assert made["checks"] == []
    assert [(each["id"], each["state"]) for each in made["items"]] == [(item["id"], "Protected")]
    assert made["sites"] == ["a", "b"]
    world.up()
    assert point in [each["id"] for each in world.points()]
    world.scribble("a", 20)
    expected = world.hashes("a")
    world.until(lambda: world.item()["replication"]["phase"] == "replicating", 30, "replication to go on")
    world.take_point()
    lose_site(world)
    fails_over(world, expected)


def test_a_rebuilt_vault_brings_a_machine_home(world: World) -> None:
    world.do("failover")
    world.do("commit")
    world.do("reprotect")
    world.scribble("b", 20)
    expected = world.hashes("b")
    world.until(lambda: described(world, "a"), 30, "the item to be described")
    made = make_again(world, "rebuild")
    assert [each["state"] for each in made["items"]] == ["ReverseProtected"]
    world.up()
    world.until(lambda: world.item()["replication"]["phase"] == "replicating", 30, "replication to go on")
    world.do("failback")
    assert world.hashes("a") == expected
    world.do("commit")
    world.do("reprotect")
    assert world.item()["state"] == "Protected"


def test_an_item_that_was_never_described_is_rebuilt_from_its_timelines(world: World) -> None:
    world.do("failover")
    world.do("commit", erase_points=True)
    for key, _ in list(world.store("b").objects.list(f"machines/{world.uuid}/description/"))[1:]:
        world.store("b").objects.delete(key)
    made = make_again(world, "rebuild", "--site", f"a={world.a}")
    assert [each["state"] for each in made["items"]] == ["FailoverCommitted"]
    assert any("see that it runs" in check for check in made["checks"])
    world.up()
    expected = world.hashes("b")
    world.do("reprotect")
    world.do("failback")
    assert world.hashes("a") == expected


def test_nothing_is_made_in_a_folder_that_is_not_empty(world: World, tmp_path: Path) -> None:
    (tmp_path / "vault-key.json").write_text("{}")
    secret = tmp_path / "secret"
    secret.write_text(world.passphrase)
    store = (world.b / ".homeport" / "store").as_uri()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "homeport.cli", "vault", "rebuild", "--store", store, "--state", str(tmp_path)),
            *("--passphrase-file", str(secret), "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["code"] == "vault.state-not-empty"
    assert (tmp_path / "vault-key.json").read_text() == "{}"
