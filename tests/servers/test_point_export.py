"""A recovery point served over NBD, to our client and to others'."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from homeport.disks.nbd import wire
from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.export import PieceExport
from homeport.disks.nbd.pool import NbdPool
from homeport.disks.nbd.status import allocated
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, KiB, MiB
from homeport.servers.point_export import PointExport, default_cache, served
from homeport.store import MachineStore, MemoryObjects
from homeport.store.read_ahead import FetchPool
from tests.servers.bucket import KEYS

T = "1" * 16
SIZE = 20 * MiB + 512


@dataclass
class Point:
    store: MachineStore
    content: bytes
    socket: Path
    uri: str


@pytest.fixture(scope="module")
def point() -> Iterator[Point]:
    """Two points: noise with holes, and a few blocks over it; the second is served."""
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    content = bytearray(SIZE)
    store = MachineStore(MemoryObjects(), KEYS, cache_bytes=4 * MiB)
    store.create_timeline(T)
    writer = store.writer(T, "test")
    rng = np.random.default_rng(4)
    parent = None
    for number in (1, 2):
        builder = writer.builder(number, folder / "spool", parent)
        ranges = (
            [(0, 3 * MiB), (5 * MiB, 9 * MiB), (20 * MiB, 512)] if number == 1 else [(MiB, BLOCK), (6 * MiB, BLOCK)]
        )
        for offset, length in ranges:
            content[offset : offset + length] = rng.bytes(length)
            builder.write("disk0", offset, content[offset : offset + length])
        spooled = builder.finish(instant=datetime.now(UTC), disks={"disk0": SIZE})
        writer.publish(spooled)
        spooled.remove()
        parent = PointId(T, number)
    store = MachineStore(store.objects, KEYS, cache_bytes=4 * MiB)
    socket = folder / "nbd"
    try:
        with served(store.open(PointId(T, 2)), {"disk0": "the-disk"}) as server:
            server.serve_unix(socket)
            server.start()
            yield Point(store, bytes(content), socket, f"nbd+unix:///the-disk?socket={socket}")
    finally:
        shutil.rmtree(folder)


def test_several_connections_read_the_point_with_a_cache_too_small_for_it(point: Point) -> None:
    rng = np.random.default_rng(1)
    reads = [(int(rng.integers(SIZE - 4096)), int(rng.choice([512, 4096, 300_000]))) for _ in range(400)]
    reads = [(offset, min(length, SIZE - offset)) for offset, length in reads]
    with NbdPool(point.socket, "the-disk", connections=4) as pool, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda read: pool.read(*read), reads))
        for (offset, length), data in zip(reads, found, strict=True):
            assert data == point.content[offset : offset + length]
        assert pool.read(0, SIZE) == point.content
    assert point.store.frames.weight <= 4 * MiB


def test_holes_are_told(point: Point) -> None:
    with NbdClient(point.socket, "the-disk", meta_contexts=(wire.BASE_ALLOCATION,)) as client:
        held = allocated(client)
    assert list(held) == [(0, 3 * MiB), (5 * MiB, 9 * MiB), (20 * MiB, 512)]


def test_it_sends_from_memory(point: Point) -> None:
    pool = FetchPool()
    export = PointExport(point.store.open(PointId(T, 2)), "disk0", pool)
    assert isinstance(export, PieceExport)
    (piece,) = export.pieces(MiB + 100, 50)
    assert isinstance(piece, memoryview)
    frame = export.pieces(MiB, BLOCK)[0]
    assert isinstance(frame, memoryview)
    assert piece.obj is frame.obj  # no copy
    buffer = memoryview(bytearray(8 * KiB))
    export.read_into(5 * MiB - 4 * KiB, buffer)
    assert buffer == point.content[5 * MiB - 4 * KiB : 5 * MiB + 4 * KiB]


def test_the_cache_follows_the_memory() -> None:
    assert 0 < default_cache() <= 1 << 30


def test_closed_behind_its_context_whatever_happens(point: Point) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), served(point.store.open(PointId(T, 2)), {"disk0": "d"}) as server:
        server.serve_tcp()
        server.start()
        1 / 0  # noqa: B018
    for _ in range(200):
        if threading.active_count() <= before:
            return
        threading.Event().wait(0.02)
    raise AssertionError([thread.name for thread in threading.enumerate()])


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_qemu_reads_it(point: Point, tmp_path: Path) -> None:
    (tmp_path / "expected").write_bytes(point.content)
    command = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(tmp_path / "expected"), point.uri]
    assert "identical" in subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    shown = subprocess.run(["qemu-img", "map", "--output=json", point.uri], check=True, capture_output=True, timeout=60)
    assert [(run["start"], run["length"]) for run in json.loads(shown.stdout) if run["data"]] == [
        (0, 3 * MiB),
        (5 * MiB, 9 * MiB),
        (20 * MiB, 512),
    ]


@pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is not installed")
def test_nbdcopy_reads_it(point: Point, tmp_path: Path) -> None:
    for option in ("--no-extents", "--connections=4", "--request-size=4096"):
        copied = tmp_path / option
        subprocess.run(["nbdcopy", option, point.uri, str(copied)], check=True, timeout=60)
        assert copied.read_bytes() == point.content
