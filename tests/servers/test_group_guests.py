"""Two real virtual CPUs, each in a loop of its own boot sector, pass a token over a serial line: A writes record n to
its disk and tells B, B writes n to its own and tells A. At any instant B <= A <= B + 1, and so it is in every round."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from homeport.qemu import graph
from homeport.qemu.qmp import Qmp
from homeport.servers import replication as replications
from homeport.sources.hold import NODE, NothingRuns, QemuHold
from tests.servers.bucket import read_point
from tests.servers.test_group_points import ROUNDS, Pair, in_order, uneven_switches, until

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(240)]

_SETUP = (
    "fa 31c0 8ed8 8ec0 8ed0 bc007c fb"  # ds = es = ss = 0; sp = 0x7c00
    "66c706007e00000000"  # the record at 0x7e00: number 0
    "66c706047e4b4f5048"  # and "KOPH", once this runs
)
_LOOP = (
    "66ff06007e e81c00"  # number + 1; call write
    "bafd03 ec a820 74fb baf803 b055 ee"  # when COM1 takes a byte: send one
    "bafd03 ec a801 74fb baf803 ec ebdc"  # when COM1 has a byte: take it, go on at the first line
    "b80103 b90200 ba8000 bb007e cd13 c3"  # write: INT 13h, sector 2 of the first disk
)
SECTORS = {
    "A": bytes.fromhex(_SETUP + _LOOP),
    "B": bytes.fromhex(_SETUP + "e82600 eb16" + _LOOP),  # call write; begin by waiting for a byte
}
SIZE = 1 << 20


class Guest:
    """As :class:`StorageDaemon`, with a processor that writes to its one disk."""

    nbd = None
    """QEMU starts its own server when it is asked to."""
    size = SIZE

    def __init__(self, name: str, folder: Path, serial: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.qmp = self.folder / "qmp"
        self.image = self.folder / "disk0.raw"
        with self.image.open("wb") as file:
            file.write(SECTORS[name].ljust(510, b"\0") + b"\x55\xaa")
            file.truncate(SIZE)
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "32", "-display", "none", "-nodefaults"),
                *("-no-user-config", "-qmp", f"unix:{self.qmp},server=on,wait=off"),
                *("-blockdev", f"driver=file,node-name=disk0-file,filename={self.image},discard=unmap"),
                *("-blockdev", "driver=raw,node-name=disk0-format,file=disk0-file,discard=unmap"),
                *("-blockdev", "driver=raw,node-name=disk0,file=disk0-format,discard=unmap"),
                *("-device", "virtio-blk-pci,drive=disk0,id=disk0-dev,bootindex=0"),
                *("-chardev", f"socket,id=line,path={folder / 'line'},{serial}", "-serial", "chardev:line"),
            ]
        )

    @property
    def record(self) -> int | None:
        """The newest on the disk; None: it has not begun."""
        with self.image.open("rb") as file:
            file.seek(512)
            data = file.read(8)
        return int.from_bytes(data[:4], "little") if data[4:] == b"KOPH" else None


class GuestPair(Pair):
    def record(self, number: int, point: Any) -> int:
        return int.from_bytes(read_point(self.rigs[number].store, point)["disk0"][512:516], "little")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuestPair]:
    monkeypatch.setattr(replications, "RETRY_AFTER", 0.05)
    folder = Path(tempfile.mkdtemp(prefix="hpg"))
    guests: list[Guest] = []
    made: GuestPair | None = None
    try:
        guests.append(Guest("B", folder, "server=on,wait=off"))
        until(lambda: guests[0].record is not None)
        guests.insert(0, Guest("A", folder, "server=off"))
        until(lambda: (guests[1].record or 0) > 3)
        made = GuestPair(guests, tmp_path)  # type: ignore[arg-type]
        yield made
    finally:
        if made is not None:
            made.close()
        for guest in guests:
            guest.process.kill()
            guest.process.wait()
        rmtree(folder, ignore_errors=True)


def test_two_guests_are_in_order_in_every_round_and_never_stand_still_for_long(
    pair: GuestPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with uneven_switches(monkeypatch, pair.daemons):
        for number in (0, 1):
            pair.begin(number, QemuHold)
        until(lambda: len(pair.rounds()) >= ROUNDS, 120)
        for loop in pair.loops:
            loop.stop(30)
    found = pair.rounds()
    assert all(in_order(each) for each in found), found
    assert found[-1][0] > found[0][0], "the guests stood still all the time"
    mixed = [(early[0], late[1]) for early, late in pairwise(found) if late[1] > early[1] + 1]
    assert mixed
    assert not any(in_order(each) for each in mixed), "the check can't tell disks of two instants"
    for guest in pair.daemons:
        with Qmp.connect(guest.qmp) as qmp:
            assert qmp.execute("query-status")["status"] == "running"
            assert NODE not in graph.nodes(qmp)
    before = pair.daemons[0].record  # type: ignore[attr-defined]
    until(lambda: pair.daemons[0].record > before)  # type: ignore[attr-defined]


def test_without_standing_still_two_guests_are_out_of_order(pair: GuestPair, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = graph.switch

    def late(qmp: Qmp, known: graph.Nodes, children: Any) -> None:
        if qmp.path == pair.daemons[1].qmp and all(child.endswith("-cbw") for child in children.values()):
            before = pair.daemons[1].record  # type: ignore[attr-defined]
            deadline = time.monotonic() + 5
            while pair.daemons[1].record < before + 3 and time.monotonic() < deadline:  # type: ignore[attr-defined]
                time.sleep(0.01)
        switch(qmp, known, children)

    monkeypatch.setattr(graph, "switch", late)
    for number in (0, 1):
        pair.begin(number, lambda qmp: NothingRuns())
    until(lambda: len(pair.rounds()) >= 2, 120)
    assert not all(in_order(each) for each in pair.rounds()), pair.rounds()
