"""machine.toml: read, written, and wrong in every way."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.machines import Disk, Nic
from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.sites.interface import PointService
from homeport.sites.qemu import description
from homeport.sites.qemu.description import Description, Origin, parse_forward

from .conftest import Bench

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=20)


@given(socket=texts, command=st.lists(texts, max_size=3), export=texts, memory=st.integers(1, 1 << 44))
def test_what_is_written_is_read_again(socket: str, command: list[str], export: str, memory: int) -> None:
    import tempfile

    wanted = Description(
        uuid=str(uuid.uuid4()),
        memory=memory,
        cpus=3,
        runner="storage-daemon",
        disks=(Disk("disk0", 5 * MiB, "raw", "a b.raw"), Disk("disk1", 0, "qcow2", "disk1.qcow2")),
        nics=(Nic("52:54:00:00:00:01", "default", ("127.0.0.1:8080:80", "22:22"), "10.0.2.40"),),
        origin=Origin(
            PointId("0123456789abcdef", 4), PointService(socket, {"disk0": export, "disk1": "b"}, tuple(command)), True
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        wanted.write(Path(folder))
        assert os.listdir(folder) == [description.FILE]
        found = description.read(Path(folder))
    assert found.problems == []
    assert found.description == wanted


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("memory = 5 5", "line"),
        ('memory = "256Mib"', "memory: '256Mib' is not a size"),
        ("cpus = 0", "cpus: 0"),
        ('firmware = "uefi"', "firmware: 'uefi' is not supported"),
        ('runner = "xen"', "runner: 'xen'"),
        ('accelerator = "hvf"', "accelerator: 'hvf'"),
        ("memmory = 5", "memmory: is not a known field"),
        ('disk = "x"', "disk: is not a list of tables"),
        ('[[disk]]\nid = "sda"\npath = "x"\nformat = "raw"', "disk 1: id: 'sda'"),
        ('[[disk]]\nid = "disk0"\nformat = "raw"', "disk 1: path: is missing"),
        ('[[nic]]\nmac = "nonsense"', "nic 1: mac: 'nonsense'"),
        ('[[nic]]\nmac = "52:54:00:00:00:01"\nforward = ["80"]', "nic 1: forward: '80'"),
        ('[origin]\npoint = "x"\nsocket = "s"', "origin: point: not a recovery point"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, change: str, named: str) -> None:
    (tmp_path / description.FILE).write_text(f'uuid = "{uuid.uuid4()}"\n{change}\n')
    problems = description.read(tmp_path).problems
    assert any(named in problem and description.FILE in problem for problem in problems), problems


def test_a_forward_may_only_listen_on_loopback() -> None:
    assert parse_forward("8080:80") == ("127.0.0.1", 8080, 80)
    assert parse_forward("127.0.0.2:8080:80") == ("127.0.0.2", 8080, 80)
    for wrong in ("0.0.0.0:8080:80", "8080:70000", "0:80", "8080", "8080:80,guestfwd=x"):
        with pytest.raises(ValueError, match=r"."):
            parse_forward(wrong)


def test_a_broken_machine_is_listed_with_its_obstacle_beside_the_others(bench: Bench) -> None:
    bench.make("good")
    (bench.make("torn") / description.FILE).write_text('uuid = "')
    (bench.make("lost") / "disk0.raw").unlink()
    (bench.make("odd") / "disk1.qcow2").write_bytes(b"no qcow2 at all" * 10)
    (bench.path / "no machine").mkdir()
    (bench.path / ".creating-x").mkdir()
    (bench.path / ".creating-x" / description.FILE).write_text("")
    found = {machine.name: machine for machine in bench.site.machines()}
    assert sorted(found) == ["good", "lost", "odd", "torn"]
    assert found["good"].protectable
    assert [disk.size for disk in found["good"].disks] == [8 * MiB, 8 * MiB]
    assert "machine.toml" in found["torn"].obstacles[0]
    assert "disk0: " in found["lost"].obstacles[0]
    assert "No such file" in found["lost"].obstacles[0]
    assert "disk1: " in found["odd"].obstacles[0]
    assert "not a qcow2" in found["odd"].obstacles[0]


def test_two_machines_with_one_uuid_hinder_each_other(bench: Bench) -> None:
    same = str(uuid.uuid4())
    bench.make("one", identity=same)
    bench.make("two", identity=same.upper())
    one, two = bench.site.machines()
    assert one.obstacles == ("uuid: two has the same one",)
    assert two.obstacles == ("uuid: one has the same one",)
    assert bench.site.machine("one").obstacles == one.obstacles


def test_a_machine_without_disks_is_not_protectable(bench: Bench) -> None:
    (bench.make() / description.FILE).write_text(f'uuid = "{uuid.uuid4()}"\n')
    assert "nothing to protect" in bench.site.machine("vm").obstacles[0]
