"""The guest as a machine of a QEMU site, and what can be asked of its builder."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.guest.machine import GuestImages, write_machine
from demo.guest.modules import Modules
from demo.guest.settings import GuestSettings
from homeport.domain.units import GiB, MiB
from homeport.sites.qemu.description import read


def test_the_site_reads_the_machine_without_a_complaint(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    images = GuestImages(built / "disk0.raw", built / "disk1.qcow2", built / "vmlinuz")
    for disk in (images.disk0, images.disk1):
        disk.write_bytes(b"disk")
    uuid = write_machine(tmp_path / "site", "web", images, forward="127.0.0.1:8080:80")
    folder = tmp_path / "site/web"
    described = read(folder)
    assert described.problems == []
    machine = described.description
    assert (machine.uuid, machine.memory, machine.runner) == (uuid, 256 * MiB, "qemu")
    assert [(disk.id, disk.format) for disk in machine.disks] == [("disk0", "raw"), ("disk1", "qcow2")]
    assert all((folder / disk.path).read_bytes() == b"disk" for disk in machine.disks)
    assert not images.disk0.exists()
    assert len(machine.nics) == 1


def test_records_that_do_not_fit_on_the_disks_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        GuestSettings(data_size=64 * MiB)
    with pytest.raises(ValueError, match="too small"):
        GuestSettings(capacity=100_000)
    assert GuestSettings(capacity=100_000, system_size=GiB, data_size=GiB).capacity == 100_000


def test_the_default_guest_writes_for_half_an_hour() -> None:
    settings = GuestSettings()
    assert settings.capacity / settings.rate >= 30 * 60


def test_kernel_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    for name, needs in {"virtio_blk": "virtio-ring,virtio", "virtio": "virtio-ring", "virtio-ring": ""}.items():
        (tmp_path / f"{name}.ko").write_bytes(b"\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")
    order = Modules(tmp_path).in_order(("virtio_blk", "ext4", "virtio"))
    assert [path.stem for path in order] == ["virtio-ring", "virtio", "virtio_blk"]
