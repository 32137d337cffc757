"""Images that were carried to a site become the hidden beginning of a timeline, or are refused by what is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homeport.disks.images import open_image
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.seeds import import_seed, seed_images
from homeport.store import MachineStore, block_digests
from homeport.store.writer import Writer
from tests.servers.bucket import KEYS, FolderObjects, read_point

T1 = "1" * 16
SIZE = MiB
DISKS = [{"id": "disk0", "size": SIZE}, {"id": "disk1", "size": SIZE}]
MACHINE = Machine(KEYS.machine, "vm", (Disk("disk0", SIZE, "raw"), Disk("disk1", SIZE, "qcow2")))
SEED = {"disk0": "carried/disk0.img", "disk1": "carried/disk1.qcow2"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's folder with the images of both disks in it."""
    carried = tmp_path / "site" / "carried"
    carried.mkdir(parents=True)
    for name in ("disk0.img", "disk1.raw"):
        (carried / name).write_bytes(os.urandom(SIZE // 2) + bytes(SIZE // 2))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk1.raw", "disk1.qcow2"]
    subprocess.run(convert, cwd=carried, check=True)
    return tmp_path / "site"


def test_the_images_become_a_point_that_nobody_is_offered(site: Path, tmp_path: Path) -> None:
    store = MachineStore(FolderObjects(tmp_path / "store"), KEYS)
    for _ in range(2):  # asked again it is there already
        with seed_images(site, SEED, DISKS) as images:
            point, taken = import_seed(
                store, KEYS, T1, MACHINE, images, tmp_path / "spool", "test", lambda done, total: None
            )
        assert (point, taken) == (f"{T1}/0", SIZE)
    held = {"disk0": (site / "carried/disk0.img").read_bytes(), "disk1": (site / "carried/disk1.raw").read_bytes()}
    assert read_point(store, PointId.parse(point)) == held
    reader = store.open(PointId(T1, 0))
    for disk, data in held.items():
        assert np.array_equal(reader.digests(disk).blocks(0), block_digests(KEYS, data))
    assert store.points(T1) == []
    assert store.head(T1) == PointId(T1, 0), "what is shipped next is compared with it"
    (info,) = store.points(T1, hidden=True)
    assert info.tags == ("seed",)


def test_a_seed_is_hidden_before_it_is_there(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MachineStore(FolderObjects(tmp_path / "store"), KEYS)
    publish = Writer.publish

    def killed(*args: Any) -> None:
        publish(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "publish", killed)
    with pytest.raises(KeyboardInterrupt), seed_images(site, SEED, DISKS) as images:
        import_seed(store, KEYS, T1, MACHINE, images, tmp_path / "spool", "test", lambda done, total: None)
    assert len(store.points(T1, hidden=True)) == 1
    assert store.points(T1) == []


def wrong_size(site: Path) -> None:
    os.truncate(site / "carried/disk0.img", SIZE + BLOCK)


def missing(site: Path) -> None:
    (site / "carried/disk0.img").unlink()


def folder(site: Path) -> None:
    missing(site)
    (site / "carried/disk0.img").mkdir()


def leads_out(site: Path) -> None:
    """As a link that somebody left there would."""
    (site / "carried/disk0.img").rename(site.parent / "elsewhere.img")
    (site / "carried/disk0.img").symlink_to(site.parent / "elsewhere.img")


def leads_into_our_own(site: Path) -> None:
    (site / ".homeport").mkdir()
    (site / "carried/disk0.img").rename(site / ".homeport" / "disk0.img")
    (site / "carried/disk0.img").symlink_to(site / ".homeport" / "disk0.img")


def disguised(site: Path) -> None:
    """A guest wrote the head of a qcow2 image to the start of its disk."""
    with (site / "carried/disk0.img").open("r+b") as file:
        file.write(b"QFI\xfb\0\0\0\3")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (wrong_size, "seed.wrong-size"),
        (missing, "seed.not-found"),
        (folder, "seed.not-found"),
        (leads_out, "seed.path-invalid"),
        (leads_into_our_own, "seed.path-invalid"),
        (disguised, "seed.format"),
    ],
)
def test_what_is_no_image_of_the_disk_is_refused(site: Path, spoil: object, code: str) -> None:
    with seed_images(site, SEED, DISKS) as images:
        assert set(images) == {"disk0", "disk1"}
    assert callable(spoil)
    spoil(site)
    with pytest.raises(HomeportError) as refused, seed_images(site, SEED, DISKS):
        pass
    assert refused.value.code == code


def test_an_image_that_somebody_writes_to_is_refused(site: Path) -> None:
    with open_image(site / "carried/disk1.qcow2", "qcow2", writable=True), pytest.raises(HomeportError) as refused:  # noqa: SIM117
        with seed_images(site, SEED, DISKS):
            pass
    assert refused.value.code == "disk.in-use"
