"""`homeport store compact` on a bucket whose points were dropped."""

from __future__ import annotations

from pathlib import Path

from homeport.domain.units import BLOCK
from homeport.store.keys import VaultKey, machine_key, seal_vault
from homeport.store.local import LocalObjects
from homeport.store.timeline import MachineStore
from homeport.store.unlock import KeyFile
from tests.cli.conftest import Homeport
from tests.store.stores import MACHINE, T1, add_point, noise

SIZE = 40 * BLOCK
FILE = KeyFile(bytes(range(32)))


def test_space_is_given_back_in_two_runs(homeport: Homeport, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    objects = LocalObjects(bucket)
    vault = VaultKey.create()
    seal_vault(objects, vault, FILE)
    FILE.write(tmp_path / "key")
    store = MachineStore(objects, machine_key(objects, vault, MACHINE, create=True))
    store.describe({"machine": {"name": "web1"}})
    store.create_timeline(T1)
    writer = store.writer(T1, "test")
    parent = add_point(writer, tmp_path, None, [("disk0", 0, noise(1, SIZE))], {"disk0": SIZE})
    parent = add_point(writer, tmp_path, parent, [("disk0", 0, noise(2, 30 * BLOCK))], {"disk0": SIZE})
    store.expire(T1, [1])

    where = ("store", "compact", "--store", str(bucket), "--key-file", str(tmp_path / "key"))
    dry = homeport(*where, "--dry-run", "--json").json["machines"][0]["timelines"][0]
    assert (dry["chosen"], dry["records"], dry["written_bytes"]) == (1, 1, 0)
    assert homeport(*where, "--threshold", "0.1", "--json").json["machines"][0]["timelines"][0]["chosen"] == 0
    words = homeport(*where, "--budget", "1G")
    assert words.status == 0
    assert "copied" in words.out
    again = homeport(*where, "--json").json["machines"][0]["timelines"][0]
    assert again["deleted_bytes"] > 30 * BLOCK
    assert store.open(parent).read("disk0", 0, SIZE) == noise(2, 30 * BLOCK) + noise(1, SIZE)[30 * BLOCK :]
    assert homeport(*where, "--threshold", "2").status == 2
    assert homeport(*where, "--budget", "much").status == 2
