"""`homeport store`: a bucket and the passphrase are enough."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homeport.disks.nbd.client import NbdClient
from homeport.domain.points import Consistency, PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store.keys import VaultKey, machine_key, seal_vault
from homeport.store.local import LocalObjects
from homeport.store.timeline import MachineStore
from tests.cli.conftest import Answer, Homeport

MACHINE = "11111111-2222-3333-4444-555555555555"
TIMELINE = "5f0c2d9a7b31e846"
PASSPHRASE = "right horse"
SIZES = {"disk0": 8 * MiB, "disk1": 3 * MiB + 512}


@dataclass
class Bucket:
    path: Path
    passphrase_file: Path
    contents: list[dict[str, bytearray]]
    """The disks as of point 0, 1, 2."""

    @property
    def options(self) -> list[str]:
        return ["--store", self.path.as_uri(), "--passphrase-file", str(self.passphrase_file)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """One machine "web1" of two disks with three points; the last is app-consistent."""
    tmp_path = tmp_path_factory.mktemp("original")
    path = tmp_path / "bucket"
    path.mkdir()
    objects = LocalObjects(path)
    vault = VaultKey.create()
    seal_vault(objects, vault, PASSPHRASE)
    store = MachineStore(objects, machine_key(objects, vault, MACHINE, create=True))
    store.describe({"machine": {"uuid": MACHINE, "name": "web1"}, "policy": "gold"})
    store.create_timeline(TIMELINE)
    writer = store.writer(TIMELINE, "test")
    disks = {disk: bytearray(size) for disk, size in SIZES.items()}
    contents = []
    parent = None
    for number in range(3):
        builder = writer.builder(number, tmp_path / "spool", parent)
        for disk, size in SIZES.items():
            offset = number * 2 * BLOCK
            data = secrets.token_bytes(min(3 * BLOCK, size - offset))
            disks[disk][offset : offset + len(data)] = data
            builder.write(disk, offset, memoryview(data))
        tail = secrets.token_bytes(512)
        disks["disk1"][3 * MiB :] = tail
        builder.write("disk1", 3 * MiB, memoryview(tail))
        spooled = builder.finish(
            instant=datetime.now(UTC),
            consistency=Consistency.APP if number == 2 else Consistency.CRASH,
            disks=dict(SIZES),
            incarnation="0a0b0c0d",
            machine={"uuid": MACHINE, "name": "web1"},
        )
        writer.publish(spooled)
        spooled.remove()
        parent = PointId(TIMELINE, number)
        contents.append({disk: bytearray(data) for disk, data in disks.items()})
    store.hide(TIMELINE, 0)
    kept = tmp_path / "passphrase"
    kept.write_text(PASSPHRASE + "\n")
    return Bucket(path, kept, contents)


@pytest.fixture
def bucket(original: Bucket, tmp_path: Path) -> Bucket:
    """A copy, to be damaged."""
    shutil.copytree(original.path, tmp_path / "bucket")
    kept = tmp_path / "passphrase"
    shutil.copy(original.passphrase_file, kept)
    return Bucket(tmp_path / "bucket", kept, original.contents)


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def test_machines_timelines_and_points_are_listed(homeport: Homeport, bucket: Bucket) -> None:
    answer = homeport("store", "points", *bucket.options, "--json")
    assert answer.status == 0
    (machine,) = answer.json["machines"]
    assert (machine["uuid"], machine["name"]) == (MACHINE, "web1")
    (timeline,) = machine["timelines"]
    assert set(timeline) == {"id", "parent", "origin", "created", "ended", "points"}
    assert [point["id"] for point in timeline["points"]] == [f"{TIMELINE}/1", f"{TIMELINE}/2"]
    hidden = homeport("store", "points", *bucket.options, "--hidden", "--machine", "web1", "--json")
    assert [point["hidden"] for point in hidden.json["machines"][0]["timelines"][0]["points"]] == [True, False, False]
    words = homeport("store", "points", *bucket.options).out
    assert "web1" in words
    assert f"{TIMELINE}/2" in words


@pytest.mark.parametrize(("wanted", "number"), [("latest", 2), ("latest-app-consistent", 2), (f"{TIMELINE}/0", 0)])
def test_a_disk_is_restored_byte_for_byte(
    homeport: Homeport, bucket: Bucket, tmp_path: Path, wanted: str, number: int
) -> None:
    target = tmp_path / "restored.raw"
    answer = homeport(
        *("store", "restore", *bucket.options, "--machine", MACHINE, "--point", wanted),
        *("--disk", "disk0", "--to", str(target), "--json"),
    )
    assert answer.status == 0
    assert answer.json["restored"]["point"] == f"{TIMELINE}/{number}"
    (file,) = answer.json["restored"]["files"]
    assert (file["disk"], file["path"], file["size"]) == ("disk0", str(target), SIZES["disk0"])
    assert digest(target.read_bytes()) == digest(bucket.contents[number]["disk0"])
    assert target.stat().st_blocks * 512 < SIZES["disk0"] // 2
    assert not target.with_name("restored.raw.partial").exists()


def test_all_disks_are_restored_into_a_folder(homeport: Homeport, bucket: Bucket, tmp_path: Path) -> None:
    answer = homeport("store", "restore", *bucket.options, "--all", "--to", str(tmp_path / "all" / "disks"))
    assert answer.status == 0
    for disk in SIZES:
        restored = (tmp_path / "all" / "disks" / f"{disk}.raw").read_bytes()
        assert digest(restored) == digest(bucket.contents[2][disk])


def test_nothing_is_overwritten_by_a_restore(homeport: Homeport, bucket: Bucket, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("precious")
    answer = homeport("store", "restore", *bucket.options, "--disk", "disk0", "--to", str(target), "--json")
    assert (answer.status, answer.json["error"]["code"]) == (1, "store.target-exists")
    assert target.read_text() == "precious"


def test_a_target_is_brought_to_another_point_and_told_how(homeport: Homeport, bucket: Bucket, tmp_path: Path) -> None:
    target = tmp_path / "disk0.raw"
    restore = ("store", "restore", *bucket.options, "--disk", "disk0", "--to", str(target))
    assert homeport(*restore, "--point", f"{TIMELINE}/1").status == 0
    answer = homeport(*restore, "--differences", "--check", "--json")
    assert answer.status == 0
    (file,) = answer.json["restored"]["files"]
    assert (file["way"], file["checked"], file["written_bytes"]) == ("map", True, 3 * BLOCK)
    assert file["skipped_bytes"] == SIZES["disk0"] - 3 * BLOCK
    assert digest(target.read_bytes()) == digest(bucket.contents[2]["disk0"])
    target.with_name("disk0.raw.homeport.json").unlink()
    words = homeport(*restore, "--differences", "--point", f"{TIMELINE}/1").out
    assert "found by digests (it has no stamp)" in words
    assert digest(target.read_bytes()) == digest(bucket.contents[1]["disk0"])
    assert homeport(*restore, "--overwrite", "--differences").status == 2
    assert homeport(*restore, "--overwrite").status == 0
    assert digest(target.read_bytes()) == digest(bucket.contents[2]["disk0"])
    other = homeport("store", "restore", *bucket.options, "--all", "--to", str(tmp_path / "vhd"), "--format", "vhd")
    assert other.status == 0
    assert sorted(path.name for path in (tmp_path / "vhd").iterdir()) == ["disk0.vhd", "disk1.vhd"]
    refused(homeport(*restore, "--format", "vhdx", "--json"), "store.format-unavailable")


def refused(answer: Answer, code: str) -> None:
    assert answer.status == 1
    assert answer.json["error"]["code"] == code


def test_what_is_not_there_is_named(homeport: Homeport, bucket: Bucket, tmp_path: Path) -> None:
    restore = ["store", "restore", *bucket.options, "--to", str(tmp_path / "x"), "--json"]
    refused(homeport(*restore, "--disk", "disk7"), "store.disk-not-found")
    refused(homeport(*restore, "--disk", "disk0", "--machine", "web2"), "store.machine-not-found")
    refused(homeport(*restore, "--disk", "disk0", "--point", f"{TIMELINE}/99"), "store.point-not-found")
    assert not (tmp_path / "x").exists()
    (tmp_path / "empty").mkdir()
    elsewhere = ["--store", str(tmp_path / "empty"), "--passphrase-file", str(bucket.passphrase_file), "--json"]
    refused(homeport("store", "points", *elsewhere), "store.no-vault")


def test_a_wrong_passphrase_opens_nothing(homeport: Homeport, bucket: Bucket) -> None:
    bucket.passphrase_file.write_text("wrong horse")
    answer = homeport("store", "points", *bucket.options, "--json")
    assert (answer.status, answer.json["error"]["code"]) == (1, "store.wrong-passphrase")


def test_the_passphrase_file_may_come_from_the_environment(
    homeport: Homeport, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEPORT_PASSPHRASE_FILE", str(bucket.passphrase_file))
    assert homeport("store", "points", "--store", str(bucket.path)).status == 0


def damage(bucket: Bucket) -> None:
    """Flip a byte in the middle of the newest segment."""
    segments = sorted(
        (path for path in bucket.path.rglob("*") if path.is_file() and path.stat().st_size > 3 * BLOCK),
        key=lambda path: path.stat().st_mtime_ns,
    )
    assert segments
    with segments[-1].open("r+b") as file:
        file.seek(segments[-1].stat().st_size // 4)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_a_damaged_frame_fails_its_restore_and_leaves_no_image(
    homeport: Homeport, bucket: Bucket, tmp_path: Path
) -> None:
    damage(bucket)
    newest = homeport("store", "restore", *bucket.options, "--all", "--to", str(tmp_path / "newest"), "--json")
    assert newest.status == 1
    assert newest.json["error"]["code"].startswith("store.corrupt")
    older = ["--point", f"{TIMELINE}/1", "--to", str(tmp_path / "older")]
    assert homeport("store", "restore", *bucket.options, "--all", *older).status == 0
    for disk in SIZES:
        assert digest((tmp_path / "older" / f"{disk}.raw").read_bytes()) == digest(bucket.contents[1][disk])
    assert len(list((tmp_path / "newest").glob("*.raw"))) < len(SIZES)


def test_a_whole_store_is_verified_as_whole(homeport: Homeport, bucket: Bucket) -> None:
    for more in ([], ["--deep"], ["--expect-head", f"{TIMELINE}/2"], ["--point", f"{TIMELINE}/1"]):
        answer = homeport("store", "verify", *bucket.options, *more, "--json")
        assert answer.status == 0, answer.out
        (machine,) = answer.json["machines"]
        assert (machine["name"], machine["problems"]) == ("web1", [])


def test_damage_is_found_and_named_by_a_deep_verification(homeport: Homeport, bucket: Bucket) -> None:
    damage(bucket)
    answer = homeport("store", "verify", *bucket.options, "--deep", "--json")
    assert (answer.status, answer.json["error"]["code"]) == (1, "store.damaged")
    assert answer.json["error"]["details"]["problems"]
    (machine,) = answer.json["error"]["details"]["machines"]
    assert machine["unusable"] == [f"{TIMELINE}/2"]
    assert machine["problems"][0]["frame"] is not None
    words = homeport("store", "verify", *bucket.options, "--deep")
    assert words.status == 1
    for expected in ("web1: ", "frame ", "disk", f"points touched: {TIMELINE}/2"):
        assert expected in words.err


def test_a_cut_off_tail_is_noticed_by_who_remembers_the_head(homeport: Homeport, bucket: Bucket) -> None:
    answer = homeport("store", "verify", *bucket.options, "--expect-head", f"{TIMELINE}/3", "--json")
    assert answer.status == 1
    assert f"{TIMELINE}/3" in json.dumps(answer.json["error"])


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    yield folder
    shutil.rmtree(folder)


def test_a_point_is_served_over_nbd_until_it_is_told_to_stop(bucket: Bucket, short_folder: Path) -> None:
    socket = short_folder / "nbd"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "homeport.cli", "store", "serve", *bucket.options),
            *("--machine", "web1", "--point", f"{TIMELINE}/1", "--socket", str(socket), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        shown = ""
        while not shown.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, shown
            shown += line
        serving = json.loads(shown)["serving"]
        assert serving["point"] == f"{TIMELINE}/1"
        assert [export["disk"] for export in serving["exports"]] == ["disk0", "disk1"]
        for disk in SIZES:
            client = NbdClient(socket, disk)
            try:
                assert digest(bytes(client.read(0, client.size))) == digest(bucket.contents[1][disk])
            finally:
                client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not socket.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
