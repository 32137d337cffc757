"""Images in other formats: QEMU reads the same disk from each, and a raw one made of it equals the point."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.bucket.restore_formats import FormatUnavailable, by_name
from homeport.bucket.restoring import TargetExists, TargetUnsuitable
from homeport.disks import vhd
from homeport.disks.errors import DiskError
from homeport.disks.vmdk import GRAIN, HEADER, SECTOR, SparseVmdk
from homeport.domain.units import BLOCK, GiB, KiB, MiB
from tests.bucket.restores import ONE, TWO, Dying, Machine
from tests.store.stores import blocks, noise

SIZE = 70 * MiB + 40 * KiB + 512
"""Over two grain tables, and no multiple of a grain."""

QEMU = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vmdk": "vmdk", "vmdk-stream": "vmdk"}
needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")


@pytest.fixture
def folder() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="hp"))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def machine(folder: Path) -> Machine:
    machine = Machine(folder)
    tail = 70 * MiB + 32 * KiB
    first = [
        (0, blocks(1, 64)),
        (5 * MiB + BLOCK, blocks(2, 70)),
        (33 * MiB, noise(3, MiB)),
        (tail, noise(4, SIZE - tail)),
    ]
    machine.add(first, SIZE)
    machine.add([(BLOCK, blocks(9, 3)), (5 * MiB + BLOCK, bytes(20 * BLOCK)), (40 * MiB, blocks(8, 1))], SIZE)
    return machine


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_qemu
@pytest.mark.parametrize("format", [name for name in QEMU if name != "raw"])
def test_qemu_reads_the_same_disk(machine: Machine, folder: Path, format: str) -> None:
    image, raw, back = folder / "image", folder / "raw", folder / "back"
    found = machine.restore(TWO, image, format=format)
    assert found.format == format
    raw.write_bytes(machine.contents[TWO])
    qemu_img("compare", "-f", QEMU[format], "-F", "raw", image, raw)
    qemu_img("convert", "-f", QEMU[format], "-O", "raw", image, back)
    assert back.read_bytes() == machine.contents[TWO]
    if format != "vhd":  # which QEMU can't check
        assert "No errors" in qemu_img("check", "-f", QEMU[format], image)
    assert not list(folder.glob("image.partial*"))
    if format == "vmdk-stream":
        assert image.stat().st_size < found.data + MiB
    with pytest.raises(TargetExists):
        machine.restore(ONE, image, format=format)
    with pytest.raises(TargetUnsuitable):
        machine.restore(ONE, image, format=format, differences=True)
    machine.restore(ONE, image, format=format, overwrite=True)
    raw.write_bytes(machine.contents[ONE])
    qemu_img("compare", "-f", QEMU[format], "-F", "raw", image, raw)


def test_the_targets_name_says_the_format() -> None:
    names = {"a.raw": "raw", "a.img": "raw", "a": "raw", "a.qcow2": "qcow2", "a.VHD": "vhd", "b.vmdk": "vmdk"}
    assert {name: by_name("", Path(name)).name for name in names} == names
    assert by_name("vmdk-stream", Path("a.raw")).name == "vmdk-stream"
    with pytest.raises(FormatUnavailable):
        by_name("vhdx", Path("a"))


def test_native_formats_need_no_tool(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for format in ("vhd", "vmdk", "vmdk-stream"):
        machine.restore(TWO, folder / format, format=format)
    with pytest.raises(FormatUnavailable):
        machine.restore(TWO, folder / "qcow2", format="qcow2")


def test_a_fixed_vhd_is_the_disk_with_a_footer(machine: Machine, folder: Path) -> None:
    machine.restore(TWO, folder / "image.vhd")
    data = (folder / "image.vhd").read_bytes()
    assert data[:SIZE] == machine.contents[TWO]
    footer = data[SIZE:]
    assert len(footer) == 512
    cookie, *_, size, _, cylinders, heads, sectors, kind, checksum, identity, _, _ = vhd.FOOTER.unpack(footer)
    assert (cookie, size, kind) == (b"conectix", SIZE, 2)
    assert cylinders * heads * sectors * 512 <= SIZE
    assert checksum == ~(sum(footer[:64]) + sum(footer[68:])) & 0xFFFFFFFF
    assert identity != bytes(16)
    assert struct.unpack(">Q", footer[16:24])[0] == 0xFFFFFFFFFFFFFFFF


def test_geometry_is_that_of_the_specification() -> None:
    """Examples worked out by hand from its pseudo code."""
    assert vhd.geometry(1 * GiB) == (2080, 16, 63)
    assert vhd.geometry(10 * MiB) == (301, 4, 17)
    assert vhd.geometry(2000 * GiB) == (65535, 16, 255)
    with pytest.raises(DiskError):
        vhd.footer(2041 * GiB)


def test_an_interrupted_vhd_goes_on_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.bucket.restore_plan.READ_MOST", MiB // 2)
    machine = Machine(folder, Dying())
    assert isinstance(machine.objects, Dying)
    machine.add([(0, noise(1, 8 * MiB))], 9 * MiB)
    machine.objects.left = 20
    with pytest.raises(Exception, match="gone"):
        machine.restore(ONE, folder / "image.vhd")
    machine.objects.left = 1 << 60
    assert machine.restore(ONE, folder / "image.vhd").way == "resumed"
    assert (folder / "image.vhd").read_bytes()[: 9 * MiB] == machine.contents[ONE]


def test_grains_that_are_written_in_parts_and_zeroed(folder: Path) -> None:
    path = folder / "image.vmdk"
    with SparseVmdk(path, 3 * MiB, 'a "name"') as image:
        image.write(2 * MiB + 16 * KiB, b"x" * 16 * KiB)
        image.write(2 * MiB + 48 * KiB, b"y" * 100 * KiB)
        image.zero(2 * MiB + 16 * KiB, 8 * KiB)
        image.zero(0, MiB)
    data = path.read_bytes()
    head = HEADER.unpack_from(data)
    assert head[0] == b"KDMV"
    first = head[10] * SECTOR
    assert first % GRAIN == 0
    assert data[first + 16 * KiB :][: 24 * KiB] == bytes(8 * KiB) + b"x" * 8 * KiB + bytes(8 * KiB)
    assert len(data) == first + 3 * GRAIN
    assert b'SPARSE "a _name_"' in data[SECTOR : 21 * SECTOR]


def test_a_stream_is_in_the_order_of_the_disk(machine: Machine, folder: Path) -> None:
    """Read as who gets it over a pipe does: from the first marker to the last."""
    machine.restore(TWO, folder / "image.vmdk", format="vmdk-stream")
    data = (folder / "image.vmdk").read_bytes()
    found, place, kinds = bytearray(SIZE), GRAIN, []
    before = -1
    while place < len(data):
        number, size = struct.unpack_from("<QI", data, place)
        if size:
            assert number > before
            before = number
            grain = zlib.decompress(data[place + 12 : place + 12 + size])
            assert len(grain) == GRAIN
            found[number * SECTOR : number * SECTOR + GRAIN] = grain
            place += -(-(12 + size) // SECTOR) * SECTOR
            continue
        (kind,) = struct.unpack_from("<I", data, place + 12)
        kinds.append(kind)
        place += SECTOR + number * SECTOR
    assert bytes(found[:SIZE]) == machine.contents[TWO]
    assert kinds == [1, 1, 1, 2, 3, 0]
