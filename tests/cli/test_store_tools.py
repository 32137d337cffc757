"""`homeport store info, machines, stats, key, copy, export, purge`: real runs on a bucket alone."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from homeport.domain.machines import Disk, Machine, Nic
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.sites.qemu import description
from homeport.store.keys import VaultKey, machine_key, seal_vault
from homeport.store.local import LocalObjects
from homeport.store.timeline import MachineStore
from homeport.store.unlock import KeyFile
from tests.cli.conftest import Answer, Homeport
from tests.store.stores import MACHINE, NOW, T1, blocks

FILE = KeyFile(bytes(range(32)))
SIZES = {"disk0": 2 * MiB, "disk1": 3 * BLOCK + 512}
WEB1 = Machine(
    MACHINE,
    "web1",
    tuple(Disk(disk, size, "raw", f"{disk}.raw") for disk, size in SIZES.items()),
    (Nic("52:54:00:12:34:56"),),
    memory=256 * MiB,
    cpus=2,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """web1 with three points, in a store that a key file unlocks (a passphrase takes its time)."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "bucket").mkdir()
    objects = LocalObjects(folder / "bucket")
    vault = VaultKey.create()
    seal_vault(objects, vault, FILE)
    store = MachineStore(objects, machine_key(objects, vault, MACHINE, create=True))
    store.describe({"machine": WEB1.to_json(), "policy": "gold"})
    store.create_timeline(T1)
    writer = store.writer(T1, "test")
    parent = None
    for number in range(3):
        builder = writer.builder(number, folder / "spool", parent)
        builder.write("disk0", number * 2 * BLOCK, blocks(number, 3))
        builder.write("disk1", 3 * BLOCK, bytes([number + 1]) * 512)
        spooled = builder.finish(instant=NOW, disks=SIZES, incarnation="0a0b", machine=WEB1.to_json())
        writer.publish(spooled)
        spooled.remove()
        parent = PointId(T1, number)
    FILE.write(folder / "key")
    return folder


@pytest.fixture
def bucket(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original / "bucket", tmp_path / "bucket")
    shutil.copy(original / "key", tmp_path / "key")
    return tmp_path


class Tool:
    """`homeport store …` on the bucket of a folder, unlocked by its key file."""

    def __init__(self, homeport: Homeport, folder: Path) -> None:
        self._homeport, self.folder = homeport, folder

    def run(self, *words: str, unlocked: bool = True) -> Answer:
        unlock = ["--key-file", str(self.folder / "key")] if unlocked else []
        return self._homeport("store", *words, "--store", str(self.folder / "bucket"), *unlock, "--json")

    def __call__(self, *words: str, unlocked: bool = True) -> Any:
        answer = self.run(*words, unlocked=unlocked)
        assert answer.status == 0, answer.out
        return answer.json

    def refused(self, code: str, *words: str, status: int = 1) -> Any:
        answer = self.run(*words)
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
        assert answer.json["error"]["remedy"]
        return answer.json["error"]


@pytest.fixture
def tool(homeport: Homeport, bucket: Path) -> Tool:
    return Tool(homeport, bucket)


def test_info_needs_no_key_and_tells_what_the_bucket_is(tool: Tool, homeport: Homeport) -> None:
    store = tool("info", unlocked=False)["store"]
    assert (store["format"], store["machines"], store["unlocked"]) == (1, 1, None)
    assert [way["id"] for way in store["unlock"]] == [FILE.id]
    assert store["kinds"]["point"]["objects"] == 3
    assert sum(kind["objects"] for kind in store["kinds"].values()) == store["objects"]
    assert any("Only one way" in warning for warning in store["warnings"])
    assert tool("info")["store"]["unlocked"] is True
    words = homeport("store", "info", "--store", str(tool.folder / "bucket")).out
    assert FILE.id in words
    assert FILE.key.hex() not in words


def test_machines_and_stats_tell_of_each_machine(tool: Tool, homeport: Homeport) -> None:
    (machine,) = tool("machines")["machines"]
    assert (machine["uuid"], machine["name"], machine["points"]) == (MACHINE, "web1", 3)
    assert machine["newest"]["disks"] == SIZES
    (stats,) = tool("stats", "--machine", "web1")["machines"]
    assert stats["bytes"] == machine["bytes"]
    assert [drop["points"] for drop in stats["timelines"][0]["dropping"]] == [1, 2]
    where = ["--store", str(tool.folder / "bucket"), "--key-file", str(tool.folder / "key")]
    assert "web1" in homeport("store", "machines", *where).out
    assert "live" in homeport("store", "stats", *where).out


def test_key_files_are_made_listed_and_removed(tool: Tool, bucket: Path) -> None:
    made = bucket / "safe"
    keys = tool("key", "add-file", str(made), "--label", "in the safe")["keys"]
    assert (keys["file"], keys["added"]) == (str(made), KeyFile.read(made).id)
    listed = tool("key", "list", unlocked=False)["keys"]["unlock"]
    assert [way["label"] for way in listed] == ["", "in the safe"]
    assert tool.run("points").status == 0
    tool.refused("cli.wrong-use", "key", "add-file", str(made), status=2)
    tool.refused("store.way-exists", "key", "add-file", str(made), "--existing")
    assert made.exists()
    tool.refused("cli.confirmation-needed", "key", "remove", keys["added"], status=2)
    tool.refused("store.last-way", "key", "remove", FILE.id, "--yes")
    tool("key", "remove", keys["added"], "--yes")
    assert [way["id"] for way in tool("info", unlocked=False)["store"]["unlock"]] == [FILE.id]
    # A wrong or damaged key file is told apart.
    shutil.copy(made, bucket / "key")
    tool.refused("store.wrong-key-file", "points")
    (bucket / "key").write_text("homeport-key-file 1 00\n")
    tool.refused("store.key-file-damaged", "points")
    assert not (bucket / "new").exists()


def test_a_key_file_that_could_not_be_added_is_not_left_behind(tool: Tool, bucket: Path) -> None:
    (bucket / "key").unlink()
    KeyFile.create().write(bucket / "key")
    tool.refused("store.wrong-key-file", "key", "add-file", str(bucket / "new"))
    assert not (bucket / "new").exists()


def test_the_passphrase_is_changed_and_the_vaults_key_replaced(tool: Tool, bucket: Path, homeport: Homeport) -> None:
    (bucket / "short").write_text("short\n")
    (bucket / "new").write_text("correct horse battery\n")
    tool.refused("cli.wrong-use", "key", "change-passphrase", "--new-passphrase-file", str(bucket / "short"), status=2)
    tool("key", "change-passphrase", "--new-passphrase-file", str(bucket / "new"))
    by_passphrase = ["--store", str(bucket / "bucket"), "--passphrase-file", str(bucket / "new"), "--json"]
    assert homeport("store", "machines", *by_passphrase).status == 0
    both = homeport("store", "points", *by_passphrase, "--key-file", str(bucket / "key"))
    assert (both.status, both.json["error"]["code"]) == (2, "cli.wrong-use")
    tool.refused("cli.confirmation-needed", "key", "rotate", status=2)
    assert tool.refused("store.ways-would-end", "key", "rotate", "--yes")["details"]["ways"] == ["passphrase"]
    done = tool("key", "rotate", "--drop-others", "--yes")["keys"]
    assert (done["rotated"]["machines"], done["rotated"]["dropped"]) == ([MACHINE], ["passphrase"])
    assert len(tool("points")["machines"][0]["timelines"][0]["points"]) == 3
    gone = homeport("store", "machines", *by_passphrase)
    assert (gone.status, gone.json["error"]["code"]) == (1, "store.wrong-passphrase")


def test_a_new_passphrase_may_be_typed_twice(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, bucket: Path, homeport: Homeport
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    typed = iter(["correct horse battery", "correct horse", "correct horse battery", "correct horse battery"])
    monkeypatch.setattr("getpass.getpass", lambda *_, **__: next(typed))
    tool.refused("cli.wrong-use", "key", "change-passphrase", status=2)
    tool("key", "change-passphrase")


def test_a_store_is_copied_and_kept_up_to_date(tool: Tool, bucket: Path, homeport: Homeport) -> None:
    target = bucket / "copy"
    (first,) = tool("copy", "--to", str(target))["copied"]
    assert (first["name"], len(first["points"]), first["problems"]) == ("web1", 3, [])
    (again,) = tool("copy", "--to", target.as_uri(), "--machine", "web1")["copied"]
    assert (again["points"], again["objects"], again["present"]) == ([], 0, 3)
    there = ["--store", str(target), "--key-file", str(bucket / "key"), "--json"]
    assert homeport("store", "verify", *there, "--deep").status == 0
    # Damage at the source is told, and the rest arrives.
    segment = max((bucket / "bucket").rglob("segment/*"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 1
    segment.write_bytes(data)
    error = tool.refused("store.copy-incomplete", "copy", "--to", str(bucket / "second"))
    assert "damaged" in error["details"]["problems"][0]


def test_a_point_is_exported_as_a_folder_that_a_site_can_run(tool: Tool, bucket: Path) -> None:
    folder = bucket / "web1"
    done = tool("export", "--to", str(folder), "--point", f"{T1}/1")["exported"]
    assert (done["name"], done["point"], done["folder"]) == ("web1", f"{T1}/1", str(folder))
    files = {path.name for path in folder.iterdir() if not path.name.endswith(".homeport.json")}
    assert files == {"disk0.raw", "disk1.raw", "machine.toml", "point.json"}
    disk0 = bytearray(SIZES["disk0"])
    for number in range(2):
        disk0[number * 2 * BLOCK : number * 2 * BLOCK + 3 * BLOCK] = blocks(number, 3)
    assert (folder / "disk0.raw").read_bytes() == disk0
    described = description.read(folder)
    assert described.problems == []
    found = described.description
    assert (found.uuid, found.memory, found.cpus, found.nics) == (MACHINE, WEB1.memory, 2, WEB1.nics)
    assert [(disk.id, disk.path, disk.format, disk.size) for disk in found.disks] == [
        (disk, f"{disk}.raw", "raw", size) for disk, size in SIZES.items()
    ]
    facts = json.loads((folder / "point.json").read_text())
    assert facts["point"]["id"] == f"{T1}/1"
    assert facts["description"]["policy"] == "gold"
    tool.refused("store.target-exists", "export", "--to", str(folder), "--point", f"{T1}/1")
    # Interrupted before its end, it goes on; with another point it doesn't.
    (folder / "machine.toml").unlink()
    (folder / "disk1.raw").unlink()
    tool.refused("store.target-exists", "export", "--to", str(folder), "--point", f"{T1}/2")
    (file,) = tool("export", "--to", str(folder), "--point", f"{T1}/1")["exported"]["files"]
    assert file["disk"] == "disk1"
    assert (folder / "machine.toml").exists()


def test_a_machine_is_purged_and_its_keys_first(tool: Tool, bucket: Path) -> None:
    purge = ["purge", "--machine", "web1"]
    tool.refused("cli.confirmation-needed", *purge, status=2)
    tool.refused("store.not-ended", *purge, "--yes")
    tool.refused("store.machine-not-found", "purge", "--machine", "web2", "--yes")
    shred = tool.run(*purge, "--yes", "--end", "--shred")
    if shred.status:  # a storage that doesn't say what it keeps
        assert shred.json["error"]["code"] == "store.shred-unknown"
        shred = tool.run(*purge, "--yes", "--end", "--shred", "--even-if-unknown")
    purged = shred.json["purged"]
    assert (purged["machine"], purged["name"], purged["shredded"]) == (MACHINE, "web1", True)
    assert purged["remains"]
    assert tool("machines")["machines"] == []
    assert not list((bucket / "bucket" / "machines").rglob("segment/*"))


def test_what_a_shredding_left_can_be_purged_without_the_key(tool: Tool, bucket: Path) -> None:
    shutil.rmtree(bucket / "bucket" / "machines" / MACHINE / "key")
    assert any("shredded" in warning for warning in tool("info")["store"]["warnings"])
    assert tool("machines")["machines"] == []
    purged = tool("purge", "--machine", MACHINE, "--yes")["purged"]
    assert purged["objects"] > 3
    assert tool("info")["store"]["machines"] == 0


def test_lost_records_are_rebuilt(tool: Tool, bucket: Path) -> None:
    folder = bucket / "bucket" / "machines" / MACHINE / "t" / T1
    record = folder / "point" / f"{1:016d}"
    before = record.read_bytes()
    record.unlink()
    assert tool.run("verify").status == 1
    (told,) = tool("rebuild", "--dry-run")["rebuilt"]
    assert not record.exists()
    (done,) = tool("rebuild", "--machine", "web1")["rebuilt"]
    assert done["points"] == told["points"] == [f"{T1}/1"]
    assert record.read_bytes() == before
    assert tool.run("verify", "--deep").status == 0
    record.unlink()
    (segment,) = (folder / "segment").glob("*-0000000002")
    segment.unlink()
    error = tool.refused("store.rebuild-incomplete", "rebuild")
    assert f"{T1}/1" in error["details"]["problems"][0]


def test_a_cut_chain_and_a_swapped_frame_are_told_apart(tool: Tool, bucket: Path) -> None:
    folder = bucket / "bucket" / "machines" / MACHINE / "t" / T1
    one, two = sorted((folder / "segment").iterdir())[1:3]
    data = one.read_bytes(), two.read_bytes()
    # The same bytes at another key are no less whole, and yet refused.
    size = min(map(len, data)) // 2
    one.write_bytes(data[1][:size] + data[0][size:])
    restore = ["restore", "--disk", "disk0", "--point", f"{T1}/2", "--to", str(bucket / "restored")]
    error = tool.refused("store.corrupt-frame", *restore)
    assert error["details"]["disk"] == "disk0"
    one.write_bytes(data[0])
    (folder / "point" / f"{1:016d}").unlink()
    error = tool.refused("store.broken-chain", *restore)
    assert f"{T1}/1" in error["cause"]
