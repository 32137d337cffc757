"""The command line, and how the accelerator is found."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Nic
from homeport.domain.points import PointId
from homeport.sites.interface import PointService
from homeport.sites.qemu import accelerator, bootsector
from homeport.sites.qemu.description import Description, Origin, connected
from homeport.sites.qemu.launch import block_nodes, netdev, qemu_command

NIC = Nic("52:54:00:00:00:01", "default", ("8080:80",))


def described(*, hydrated: bool | None = None) -> Description:
    service = PointService("/p.sock", {"disk0": "first"}, ())
    origin = None if hydrated is None else Origin(PointId("0" * 16, 1), service, hydrated=hydrated)
    return Description(
        uuid=str(uuid.uuid4()), disks=(Disk("disk0", 0, "qcow2", "disk0.qcow2"),), nics=(NIC,), origin=origin
    )


def names(folder: Path, wanted: Description) -> list[str]:
    return [node["node-name"] for node in block_nodes(folder, wanted)]


def test_the_block_graph_has_the_point_below_only_until_it_is_copied(tmp_path: Path) -> None:
    plain = ["disk0-file", "disk0-format", "disk0"]
    assert names(tmp_path, described()) == plain
    assert names(tmp_path, described(hydrated=True)) == plain
    assert names(tmp_path, described(hydrated=False)) == ["disk0-point", *plain]
    point, _, form, top = block_nodes(tmp_path, described(hydrated=False))
    assert form["backing"] == "disk0-point"
    assert point["export"] == "first"
    assert point["reconnect-delay"] >= 3600
    assert top == {"driver": "raw", "node-name": "disk0", "file": "disk0-format", "discard": "unmap"}


def test_a_guest_is_stopped_at_an_error_and_held_after_its_end(tmp_path: Path) -> None:
    command = qemu_command("a,b", tmp_path, described(), "tcg")
    assert {"-no-shutdown", "-S"} <= set(command)
    assert "guest=a,,b" in command
    device = next(json.loads(part) for part in command if part.startswith('{"driver": "virtio-blk-pci"'))
    assert (device["id"], device["drive"]) == ("disk0-dev", "disk0")
    assert (device["werror"], device["rerror"], device["bootindex"]) == ("stop", "stop", 1)


def test_an_isolated_network_has_no_way_out_and_only_the_doors_asked_for() -> None:
    second = replace(NIC, mac="52:54:00:00:00:02")
    first, other = connected((NIC, second), "isolated", ("127.0.0.1:9000:80",))
    assert netdev("n", first) == "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:9000-:80"
    assert netdev("n", other) == "user,id=n,restrict=on"
    assert netdev("n", connected((NIC,), "isolated", ())[0]) == "user,id=n,restrict=on"
    assert netdev("n", connected((NIC,), None, ())[0]) == "user,id=n,restrict=off,hostfwd=tcp:127.0.0.1:8080-:80"


@pytest.mark.parametrize(
    ("ip", "said"),
    [
        ("10.0.5.40", ",net=10.0.5.0/24,host=10.0.5.2,dns=10.0.5.3,dhcpstart=10.0.5.40"),
        ("10.0.5.2", ",net=10.0.5.0/24,host=10.0.5.3,dns=10.0.5.4,dhcpstart=10.0.5.2"),
        ("10.0.5.255", ""),
        ("fd00::7", ""),
        ("", ""),
    ],
)
def test_the_guest_gets_the_address_that_was_chosen(ip: str, said: str) -> None:
    assert netdev("n", Nic("52:54:00:00:00:01", ip=ip)) == f"user,id=n,restrict=off{said}"


def test_the_environment_decides_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(accelerator.OVERRIDE, "kvm")
    assert accelerator.choose(tmp_path).kind == "kvm"
    monkeypatch.setenv(accelerator.OVERRIDE, "magic")
    with pytest.raises(HomeportError) as caught:
        accelerator.choose(tmp_path)
    assert caught.value.code == "site.accelerator-unknown"


def test_without_a_device_there_is_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(accelerator.OVERRIDE, raising=False)
    monkeypatch.setattr(accelerator, "_DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(accelerator, "probe", lambda *_: pytest.fail("probed"))
    chosen = accelerator.choose(tmp_path)
    assert chosen.kind == "tcg"
    assert "not there" in chosen.why


def test_a_probe_runs_once_per_boot_kernel_and_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []

    def probe(kind: str, cpu: str, kernel: Path | None) -> accelerator.Accelerator:
        probed.append((kind, cpu))
        return accelerator.Accelerator("tcg", "it is broken")

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.delenv(accelerator.OVERRIDE, raising=False)
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    monkeypatch.setattr(accelerator, "probe", probe)
    for _ in range(2):
        assert accelerator.choose(tmp_path / "c").why == "it is broken"
    assert probed == [("kvm", "host")]
    monkeypatch.setattr(accelerator, "_key", lambda kernel: "another boot")
    accelerator.choose(tmp_path / "c")
    assert len(probed) == 2


@pytest.mark.qemu
def test_the_boot_sector_passes_where_guests_run() -> None:
    assert len(bootsector.boot_sector()) == 512
    passed = accelerator.probe("tcg", "max", None, 60)
    assert passed.why == "a boot sector reached 64-bit mode under tcg"


@pytest.mark.qemu
def test_a_processor_that_can_not_do_it_fails_the_probe() -> None:
    failed = accelerator.probe("tcg", "486", None, 2)
    assert failed.kind == "tcg"
    assert "not boot under tcg" in failed.why


@pytest.mark.qemu
def test_no_kernel_message_means_no(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-nonsense").write_bytes(b"\0" * 4096)
    assert "not boot under tcg" in accelerator.probe("tcg", "max", tmp_path / "vmlinuz-nonsense", 2).why
