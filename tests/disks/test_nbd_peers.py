"""Our NBD client and server against QEMU's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disk_peers import ended, qemu_nbd, run, short_folder

from homeport.disks.errors import DiskError
from homeport.disks.nbd import wire
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdClosed, NbdError, NbdRefused
from homeport.disks.nbd.export import FileExport
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.server import NbdServer
from homeport.disks.nbd.status import allocated, dirty, dirty_bitmap
from homeport.domain.extents import Extents
from homeport.domain.units import KiB, MiB

pytestmark = pytest.mark.qemu
ALLOCATION = (wire.BASE_ALLOCATION,)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


# Our client, QEMU's servers


def test_what_the_client_writes_to_qemu_nbd_is_what_it_reads_back(folder):
    image = folder / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "40M")
    expected = bytearray(40 * MiB)
    rng = random.Random(3)
    with (
        qemu_nbd(folder, "--format=qcow2", image) as address,
        NbdClient(address, "", meta_contexts=ALLOCATION) as client,
    ):
        assert client.size == 40 * MiB
        assert not client.read_only
        for _ in range(30):
            offset = rng.randrange(40 * MiB)
            data = rng.randbytes(rng.randrange(min(3 * MiB, 40 * MiB - offset)) + 1)
            client.write(offset, data)
            expected[offset : offset + len(data)] = data
        client.zero(10 * MiB + 3, 20 * MiB)
        expected[10 * MiB + 3 : 30 * MiB + 3] = bytes(20 * MiB)
        client.trim(0, 0)
        client.write(5, b"durable", fua=True)
        expected[5:12] = b"durable"
        client.flush()
        assert client.read(0, client.size) == expected
        assert allocated(client).intersect(Extents.of([(11 * MiB, 18 * MiB)])) == Extents()
        with NbdPool(address, "") as pool, ThreadPoolExecutor(4) as threads:
            parts = list(threads.map(lambda index: pool.read(index * MiB, MiB), range(40)))
        assert b"".join(parts) == expected
    raw = folder / "disk.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
    assert raw.read_bytes() == expected


def test_errors_of_qemu_nbd_are_told_and_the_connection_goes_on(folder):
    image = folder / "disk.raw"
    image.write_bytes(b"a" * MiB)
    with qemu_nbd(folder, "--format=raw", "--read-only", image) as address, NbdClient(address, "") as client:
        with pytest.raises(NbdError, match="read-only") as caught:
            client.write(0, b"x")
        assert caught.value.name in ("EPERM", "EINVAL")  # by the protocol; by QEMU 7.2
        assert client.read(0, 3) == b"aaa"
        with pytest.raises(NbdRefused, match="nothing"):
            NbdClient(address, "nothing")


def test_a_killed_qemu_nbd_is_a_closed_connection(folder):
    image = folder / "disk.raw"
    image.write_bytes(b"a" * MiB)
    with qemu_nbd(folder, "--format=raw", image) as address:
        client = NbdClient(address, "")
    with pytest.raises(NbdClosed):
        client.read(0, 1)


class StorageDaemon:
    """A qemu-storage-daemon, told what to do over its standard input."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert "QMP" in self._line()
        self("qmp_capabilities")

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "qemu-storage-daemon ended"
        return json.loads(line)

    def __call__(self, command: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.process.stdin.flush()
        while True:
            answer = self._line()
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]


@contextmanager
def storage_daemon(folder: Path, node: dict[str, Any]) -> Iterator[tuple[StorageDaemon, str]]:
    """One with ``node`` as "disk0", and the address of its NBD server."""
    address = str(folder / "qsd")
    process = subprocess.Popen(
        [
            *("qemu-storage-daemon", "--chardev", "stdio,id=q", "--monitor", "chardev=q"),
            *("--blockdev", json.dumps({"node-name": "disk0", "discard": "unmap", **node})),
            *("--nbd-server", f"addr.type=unix,addr.path={address},max-connections=10"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process, ended(process):
        yield StorageDaemon(process), address


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_dirty_bitmap_tells_exactly_what_was_written(folder, format):
    image = folder / "disk"
    run("qemu-img", "create", "-q", "-f", format, image, "3G")
    context = dirty_bitmap("hp.0123456789abcdef.7.deadbeef")
    node = {"driver": format, "file": {"driver": "file", "filename": str(image), "discard": "unmap"}}
    with storage_daemon(folder, node) as (daemon, address):
        daemon("block-dirty-bitmap-add", node="disk0", name="hp.0123456789abcdef.7.deadbeef", granularity=16 * KiB)
        daemon(
            "block-export-add",
            type="nbd",
            id="e",
            name="disk0",
            **{"node-name": "disk0", "writable": True, "bitmaps": ["hp.0123456789abcdef.7.deadbeef"]},
        )
        with NbdClient(address, "disk0", meta_contexts=[context, *ALLOCATION]) as client:
            assert dirty(client, context) == Extents()
            writes = [
                (16 * KiB * 5, 16 * KiB),
                (MiB + 100, 40 * KiB),
                (2048 * MiB - 512, 1024),
                (3072 * MiB - 512, 512),
            ]
            for offset, length in writes:
                client.write(offset, os.urandom(length))
            client.zero(100 * MiB, 3 * MiB)
            client.flush()
            changed = Extents.of([*writes, (100 * MiB, 3 * MiB)]).align(16 * KiB, client.size)
            assert dirty(client, context) == changed
            data = allocated(client)
            assert Extents.of(writes).subtract(data) == Extents()
            assert data.total < 2 * MiB
            # Every other block of 64 MiB: more runs than one answer to a block status may hold on some servers.
            for start in range(500 * MiB, 510 * MiB, 32 * KiB):
                client.write(start, b"x")
            blocks = Extents.of((start, 16 * KiB) for start in range(500 * MiB, 510 * MiB, 32 * KiB))
            assert dirty(client, context) == changed.union(blocks)
        with pytest.raises(NbdRefused, match="dirty-bitmap:other"):
            NbdClient(address, "disk0", meta_contexts=[dirty_bitmap("other")])


# Our server, QEMU's clients


class Broken:
    """A disk whose second MiB can't be read."""

    size, read_only = 4 * MiB, True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 2 * MiB and offset + len(buffer) > MiB:
            raise DiskError("frame 17 of segment 3 is corrupt")
        buffer[:] = b"k" * len(buffer)

    def status(self, offset: int, length: int) -> list[tuple[int, int]]:
        return [(length, 0)]


@pytest.fixture
def disk(folder: Path) -> Path:
    """16 MiB and a sector: data, a hole, data, zeroes."""
    path = folder / "disk.raw"
    with path.open("wb") as file:
        file.write(random.Random(5).randbytes(3 * MiB))
        file.seek(8 * MiB)
        file.write(b"\x5a" * MiB)
        file.truncate(16 * MiB + 512)
    return path


@contextmanager
def serving(folder: Path, **exports: Any) -> Iterator[str]:
    server = NbdServer(exports)
    server.serve_unix(folder / "ours")
    with server:
        yield f"nbd+unix:///{{}}?socket={folder / 'ours'}"


def test_qemu_img_sees_the_holes_and_converts_the_same_bytes(folder, disk):
    export = FileExport(disk)
    with serving(folder, disk=export) as uri:
        found = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri.format("disk")))
        assert [(part["start"], part["length"]) for part in found if part["data"]] == [(0, 3 * MiB), (8 * MiB, MiB)]
        assert sum(part["length"] for part in found) == 16 * MiB + 512
        copy = folder / "copy.raw"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri.format("disk"), copy)
        assert copy.read_bytes() == disk.read_bytes()
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri.format("disk"), disk)
    export.close()


def test_qemu_io_reads_patterns_writes_zeroes_discards_and_flushes(folder, disk):
    export = FileExport(disk, writable=True)
    expected = bytearray(disk.read_bytes())
    with serving(folder, disk=export) as uri:
        said = run(
            *(
                "qemu-io",
                "-f",
                "raw",
                "-c",
                "read -P 0x5a 8M 1M",
                "-c",
                "read -P 0 9M 7M",
                "-c",
                "write -P 0x11 1M 64k",
            ),
            *("-c", "write -z 2M 64k", "-c", "write -P 0x22 -f 16M 512", "-c", "discard 8M 64k", "-c", "flush"),
            *("-c", "read -P 0x11 1M 64k", "-c", "read -P 0 2M 64k", uri.format("disk")),
        )
    assert "failed" not in said
    export.close()
    expected[MiB : MiB + 64 * KiB] = b"\x11" * 64 * KiB
    expected[2 * MiB : 2 * MiB + 64 * KiB] = bytes(64 * KiB)
    expected[16 * MiB :] = b"\x22" * 512
    expected[8 * MiB : 8 * MiB + 64 * KiB] = bytes(64 * KiB)
    assert disk.read_bytes() == expected


def test_qemu_converts_into_our_server(folder, disk):
    target = folder / "target.raw"
    with target.open("wb") as file:
        file.truncate(disk.stat().st_size)
    export = FileExport(target, writable=True)
    with serving(folder, disk=export) as uri:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", disk, uri.format("disk"))
    export.close()
    assert target.read_bytes() == disk.read_bytes()
    assert target.stat().st_blocks * 512 < 5 * MiB


def test_several_qemus_read_at_once(folder, disk):
    export = FileExport(disk)
    with serving(folder, disk=export) as uri, ThreadPoolExecutor(4) as threads:
        compare = ("qemu-img", "compare", "-f", "raw", "-F", "raw", uri.format("disk"), disk)
        assert len(list(threads.map(lambda _: run(*compare), range(4)))) == 4
    export.close()


def test_qemu_sees_an_io_error_where_the_export_fails_and_reads_on_elsewhere(folder):
    with serving(folder, disk=Broken()) as uri:
        command = ["qemu-io", "-r", "-f", "raw"]
        for part in ("read -P 0x6b 0 1M", "read 1M 64k", "read -P 0x6b 2M 1M"):
            command += ["-c", part]
        done = subprocess.run([*command, uri.format("disk")], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.count("read 1048576/1048576") == 2
    assert "read failed: Input/output error" in done.stdout


def test_qemu_nbd_lists_our_exports(folder, disk):
    export = FileExport(disk)
    with serving(folder, disk=export, broken=Broken()):
        said = run("qemu-nbd", "--list", "-k", folder / "ours")
    export.close()
    assert "exports available: 2" in said
    assert "size:  16777728" in said
    assert "base:allocation" in said
    assert "multi" in said


def test_an_overlay_on_our_export_runs_and_waits_for_a_restarted_server(folder, disk):
    overlay = folder / "overlay.qcow2"
    export = FileExport(disk)
    first = NbdServer({"disk": export})
    first.serve_unix(folder / "ours")
    first.start()
    backing = {
        "driver": "raw",
        "file": {
            "driver": "nbd",
            "server": {"type": "unix", "path": str(folder / "ours")},
            "export": "disk",
            "reconnect-delay": 30,
        },
    }
    run("qemu-img", "create", "-q", "-f", "qcow2", overlay, str(16 * MiB + 512))
    options = {"driver": "qcow2", "file": {"driver": "file", "filename": str(overlay)}, "backing": backing}
    with storage_daemon(folder, options) as (daemon, address):
        daemon("block-export-add", type="nbd", id="e", name="disk0", **{"node-name": "disk0", "writable": True})
        with NbdClient(address, "disk0") as client:
            assert client.read(0, MiB) == disk.read_bytes()[:MiB]
            client.write(100, b"overlay")
            first.close()
            answers: list[bytes] = []
            waiting = threading.Thread(target=lambda: answers.append(client.read(2 * MiB, MiB)))
            waiting.start()
            with NbdServer({"disk": export}) as second:
                second.serve_unix(folder / "ours")
                waiting.join(40)
                assert answers == [disk.read_bytes()[2 * MiB : 3 * MiB]]
                assert client.read(98, 12)[2:9] == b"overlay"
    export.close()


def test_reads_and_status_of_any_range_work_on_a_server_that_wants_whole_blocks(folder):
    image = folder / "disk"
    content = random.Random(1).randbytes(MiB) + bytes(MiB)
    image.write_bytes(content)
    node = {"driver": "blkdebug", "align": 4096, "max-transfer": 64 * KiB}
    node["image"] = {"driver": "file", "filename": str(image)}
    with storage_daemon(folder, node) as (daemon, address):
        daemon("block-export-add", type="nbd", id="e", name="disk0", **{"node-name": "disk0"})
        with NbdClient(address, "disk0", meta_contexts=ALLOCATION) as client:
            assert client.minimum_block == 4096
            assert client.maximum_block == 64 * KiB
            rng = random.Random(2)
            for _ in range(50):
                offset = rng.randrange(len(content))
                length = rng.randrange(len(content) - offset) + 1
                assert client.read(offset, length) == content[offset : offset + length]
                assert client.block_status(wire.BASE_ALLOCATION, offset, length)[:, 0].sum() == length
