"""The same on a whole QEMU with devices (its guest never runs an instruction): also when the guest has shut down."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from storage_daemon import StorageDaemon, answers, storage_daemon
from test_qemu_source import BLOCK, content, left_behind, point

from homeport.disks.nbd.client import NbdClient
from homeport.domain.extents import Extents
from homeport.qemu.qmp import Qmp
from homeport.sources.exports import nbd_address
from homeport.sources.qemu import QemuSource

pytestmark = pytest.mark.qemu


@pytest.fixture(params=["shared", "exclusive"])
def machine(request: pytest.FixtureRequest) -> Iterator[StorageDaemon]:
    """``shared``: others may write beside the device, as the tests do; ``exclusive``: as machines really run."""
    with storage_daemon() as daemon:
        daemon.stop()
        share = "on" if request.param == "shared" else "off"
        command = [
            "qemu-system-x86_64",
            "-M",
            "pc",
            "-accel",
            "tcg",
            "-m",
            "32",
            "-display",
            "none",
            "-nodefaults",
            "-S",
        ]
        command += ["-no-shutdown", "-no-reboot", "-qmp", f"unix:{daemon.qmp},server=on,wait=off"]
        for disk, form in (("disk0", "raw"), ("disk1", "qcow2")):
            path = daemon.images[disk]
            command += ["-blockdev", f"driver=file,node-name={disk}-file,filename={path},discard=unmap"]
            command += ["-blockdev", f"driver={form},node-name={disk}-format,file={disk}-file,discard=unmap"]
            command += ["-blockdev", f"driver=raw,node-name={disk},file={disk}-format,discard=unmap"]
            command += ["-device", f"virtio-blk-pci,drive={disk},id={disk}-dev,share-rw={share}"]
        daemon.qmp.unlink(missing_ok=True)
        daemon.process = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while not answers(daemon.qmp):
            assert daemon.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield daemon


def write(machine: StorageDaemon, disk: str, offset: int, data: bytes) -> None:
    """As the guest would: through the filter node."""
    with Qmp.connect(machine.qmp) as qmp:
        export = {"type": "nbd", "id": "writer", "name": "writer", "node-name": disk, "writable": True}
        qmp.execute("block-export-add", export)
        with NbdClient(nbd_address(machine.folder, machine.qmp), "writer") as client:
            client.write(offset, data, fua=True)
        qmp.execute("block-export-del", {"id": "writer", "mode": "hard"})
        assert qmp.wait_event("BLOCK_EXPORT_DELETED", 10)


def source_of(machine: StorageDaemon) -> QemuSource:
    return QemuSource(
        machine.qmp,
        agent_path=None,
        scratch=machine.folder / "scratch",
        scratch_limit=1 << 26,
        nbd_dir=machine.folder,
    )


def test_a_view_is_switched_in_and_out_below_a_device(machine: StorageDaemon) -> None:
    source = source_of(machine)
    source.track(point(0))
    live = source.live()
    assert content(live) == {disk: bytes(machine.size) for disk in ("disk0", "disk1")}
    for number in (1, 2):
        view = source.begin_point(point(number), point(number - 1))
        assert content(view) == {disk: bytes(machine.size) for disk in ("disk0", "disk1")}
        source.handed(point(number))
    assert left_behind(machine) == []


@pytest.mark.parametrize("machine", ["shared"], indirect=True)
def test_points_of_a_machine_with_devices_up_to_the_last_change_after_its_shutdown(machine: StorageDaemon) -> None:
    source = source_of(machine)
    source.track(point(0))
    view = source.begin_point(point(1), point(0))
    write(machine, "disk0", 0, b"a" * BLOCK)
    assert content(view)["disk0"] == bytes(machine.size)
    source.handed(point(1))
    write(machine, "disk1", 5 * BLOCK, b"b" * BLOCK)
    with Qmp.connect(machine.qmp) as qmp:
        qmp.execute("cont")
        qmp.execute("system_reset")
        assert qmp.wait_event("SHUTDOWN", 30)
        deadline = time.monotonic() + 30
        while qmp.execute("query-status")["status"] != "shutdown":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    view = source.begin_point(point(2), point(1))
    assert [disk.changed.extents for disk in view.disks] == [
        Extents.of([(0, BLOCK)]),
        Extents.of([(5 * BLOCK, BLOCK)]),
    ]
    now = content(view)
    assert now["disk0"][:BLOCK] == b"a" * BLOCK
    assert now["disk1"][5 * BLOCK : 6 * BLOCK] == b"b" * BLOCK
    source.handed(point(2))
    source.commit(point(2))
    assert left_behind(machine) == []
