"""Starting, adopting, shutting down, ending, fencing and deleting machines. No guest boots: their disks are empty."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from homeport.domain.machines import Power
from homeport.domain.points import PointId
from homeport.qemu.bitmaps import bitmaps
from homeport.qemu.qmp import Qmp, QmpGone
from homeport.sites.errors import MachineFenced, MachineNotFound, MachineWouldNotStart
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from homeport.sites.qemu.process import MachineProcess

from .conftest import POINT, SIZE, Bench

pytestmark = pytest.mark.qemu
BASE = PointId("00112233aabbccdd", 3)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """No such process, or only its entry in the process table is left."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("runner", ["qemu", "storage-daemon"])
def test_a_machine_starts_is_adopted_and_ends(bench: Bench, runner: str) -> None:
    bench.make(runner=runner)
    assert bench.site.machine("vm").power is Power.OFF
    assert bench.site.start("vm", StartOptions()).power is Power.RUNNING
    pid = bench.process().pid()
    assert pid is not None
    another = QemuSite(bench.path, name="here", cache=bench.folder / "cache")
    assert another.machine("vm").power is Power.RUNNING
    assert another.machine("vm").protectable
    another.start("vm", StartOptions())
    assert bench.process().pid() == pid
    another.power_off("vm")
    assert gone(pid)
    assert bench.site.machine("vm").power is Power.OFF
    bench.site.power_off("vm")
    # the images are free: their locks went with the process
    for image in ("disk0.raw", "disk1.qcow2"):
        form = image.split(".")[1]
        subprocess.run(
            ["qemu-io", "-f", form, "-c", "write 0 512", bench.path / "vm" / image], check=True, capture_output=True
        )


@pytest.mark.parametrize("runner", ["qemu", "storage-daemon"])
def test_tracking_is_on_before_the_first_instruction(bench: Bench, runner: str) -> None:
    bench.make(runner=runner)
    bench.site.start("vm", StartOptions(base=BASE))
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        found = bitmaps(qmp)
    assert {disk: [bitmap.point for bitmap in of_disk] for disk, of_disk in found.items()} == {
        "disk0": [BASE],
        "disk1": [BASE],
    }
    if runner == "storage-daemon":
        with bench.disk("disk0") as disk:
            disk.write(16384, b"x" * 16384)
            disk.flush()
        with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
            assert bitmaps(qmp)["disk0"][0].count == 16384


@pytest.mark.parametrize("runner", ["qemu", "storage-daemon"])
def test_a_killed_machine_is_off_and_starts_again(bench: Bench, runner: str) -> None:
    bench.make(runner=runner)
    bench.site.start("vm", StartOptions())
    pid = bench.process().pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: bench.site.machine("vm").power is Power.OFF)
    assert bench.process().pid() is None
    assert bench.site.start("vm", StartOptions()).power is Power.RUNNING
    assert bench.process().pid() != pid


def test_a_recycled_pid_is_never_taken_for_the_machine(bench: Bench) -> None:
    folder = bench.make(runner="storage-daemon")
    bench.site.start("vm", StartOptions())
    bench.site.power_off("vm")
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            for name in ("pid", "qemu.pid"):
                (folder / "run" / name).write_text(f"{innocent.pid}\n")
            bench.site.power_off("vm")
            assert bench.site.machine("vm").power is Power.OFF
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_a_hanging_process_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.sites.qemu.process._QUIT_SECONDS", 0.3)
    bench.make()
    bench.site.start("vm", StartOptions())
    pid = bench.process().pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    bench.site.power_off("vm")
    assert gone(pid)


def test_a_storage_daemon_shuts_down_at_once_and_its_disks_are_held(bench: Bench) -> None:
    bench.make(runner="storage-daemon")
    bench.site.start("vm", StartOptions(base=BASE))
    with bench.disk("disk0") as disk:
        disk.write(0, b"x" * 16384)
    assert bench.site.shut_down("vm", 5) is True
    machine = bench.site.machine("vm")
    assert machine.power is Power.OFF
    assert machine.extra["held"] is True
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert bitmaps(qmp)["disk0"][0].count == 16384
        assert qmp.execute("query-block-exports") == []
    pid = bench.process().pid()
    assert bench.site.start("vm", StartOptions()).power is Power.RUNNING
    assert bench.process().pid() == pid
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert bitmaps(qmp)["disk0"][0].count == 16384


def test_a_held_machine_that_starts_on_a_new_base_gets_a_new_process(bench: Bench) -> None:
    bench.make(runner="storage-daemon")
    bench.site.start("vm", StartOptions(base=BASE))
    pid = bench.process().pid()
    bench.site.shut_down("vm", 5)
    bench.site.start("vm", StartOptions(base=POINT))
    assert bench.process().pid() != pid
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert [bitmap.point for bitmap in bitmaps(qmp)["disk0"]] == [POINT]


def test_a_guest_that_does_not_listen_is_not_shut_down(bench: Bench) -> None:
    bench.make()
    bench.site.start("vm", StartOptions())
    assert bench.site.shut_down("vm", 1) is False
    assert bench.site.machine("vm").power is Power.RUNNING


def boot_sector(folder: Path, code: str) -> None:
    with (folder / "disk0.raw").open("r+b") as image:
        image.write(bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa")


OFF = "ba0406 b80020 ef f4 ebfd"
"""mov dx, 0x604 (PM1 control of the "pc" machine); mov ax, 0x2000 (sleep enable, S5); out dx, ax; halt."""


def test_a_guest_that_hears_the_power_button_is_shut_down_and_held(bench: Bench) -> None:
    folder = bench.make()
    # enable the power button's event (port 0x602), poll its status (0x600, bit 8), then switch off
    boot_sector(folder, "fa ba0206 b80001 ef ba0006 ed a90001 74fa" + OFF)
    bench.site.start("vm", StartOptions(base=BASE))
    pid = bench.process().pid()
    assert bench.site.shut_down("vm", 30) is True
    machine = bench.site.machine("vm")
    assert machine.power is Power.OFF
    assert machine.extra["held"] is True
    assert bench.process().pid() == pid
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert [bitmap.point for bitmap in bitmaps(qmp)["disk0"]] == [BASE]


def test_a_guest_that_ends_by_itself_is_noticed_and_can_go_on(bench: Bench) -> None:
    boot_sector(bench.make(), "fa" + OFF)
    bench.site.start("vm", StartOptions())
    until(lambda: bench.site.machine("vm").extra["status"] == "shutdown")
    machine = bench.site.machine("vm")
    assert machine.power is Power.OFF
    assert machine.extra["held"] is True
    assert bench.site.shut_down("vm", 1) is True
    pid = bench.process().pid()
    bench.site.start("vm", StartOptions())
    assert bench.process().pid() == pid
    until(lambda: bench.site.machine("vm").extra["status"] == "shutdown")
    bench.site.power_off("vm")
    assert bench.site.machine("vm").extra["held"] is False


def test_a_process_that_fails_leaves_its_reason_and_nothing_else(bench: Bench) -> None:
    bench.make(extra='machine = "nonsense"')
    with pytest.raises(MachineWouldNotStart) as caught:
        bench.site.start("vm", StartOptions())
    assert "unsupported machine type" in caught.value.cause
    assert caught.value.code == "78093"
    assert not bench.process().alive()


def test_a_machine_with_a_broken_description_does_not_start(bench: Bench) -> None:
    bench.make(extra="cpus = 0")
    with pytest.raises(MachineWouldNotStart, match="cpus"):
        bench.site.start("vm", StartOptions())


def test_only_one_of_two_starts_makes_a_process(bench: Bench) -> None:
    bench.make(runner="storage-daemon")
    sites = [QemuSite(bench.path, name="here") for _ in range(4)]
    errors: list[BaseException] = []

    def start(site: QemuSite) -> None:
        try:
            site.start("vm", StartOptions())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (bench.path / "vm" / "run" / "qemu.log").read_bytes().count(b"Z ['qemu-storage-daemon'") == 1


def test_a_qemu_of_somebody_else_is_adopted_by_its_socket(bench: Bench) -> None:
    folder = bench.make()
    (folder / "run").mkdir()
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "16", "-accel", "tcg", "-S"]
    command += ["-drive", f"file={folder}/disk0.raw,format=raw,if=virtio,id=x"]
    command += ["-chardev", "socket,path=qmp.sock,server=on,wait=off,id=q", "-mon", "chardev=q,mode=control"]
    with subprocess.Popen(command, cwd=folder / "run") as foreign:
        try:
            until(lambda: bench.process().alive())
            machine = bench.site.machine("vm")
            assert machine.power is Power.PAUSED
            assert "does not have Homeport's block graph" in machine.obstacles[0]
            assert bench.process().pid() == foreign.pid
            bench.site.power_off("vm")
            assert foreign.wait(10) == 0
        finally:
            foreign.kill()


def test_sockets_lie_at_paths_of_any_length(bench: Bench) -> None:
    site = QemuSite(bench.folder / ("d" * 100) / "s", name="deep")
    folder = site.path / "vm"
    folder.parent.mkdir(parents=True)
    bench.make(runner="storage-daemon").rename(folder)
    try:
        assert site.start("vm", StartOptions()).power is Power.RUNNING
        assert len(str(site.qmp_socket("vm"))) > 107
    finally:
        MachineProcess(folder).end()


def test_a_fenced_machine_does_not_start(bench: Bench) -> None:
    bench.make(runner="storage-daemon")
    bench.site.fence("vm", "it runs at the other site")
    assert bench.site.machine("vm").extra["fenced"] == "it runs at the other site"
    with pytest.raises(MachineFenced, match="it runs at the other site"):
        QemuSite(bench.path, name="here").start("vm", StartOptions())
    (bench.path / "vm" / "fenced").write_text("torn{")
    with pytest.raises(MachineFenced, match="can't be read"):
        bench.site.start("vm", StartOptions())
    bench.site.fence("vm", None)
    bench.site.fence("vm", None)
    assert bench.site.start("vm", StartOptions()).power is Power.RUNNING
    with pytest.raises(MachineNotFound):
        bench.site.fence("nobody", "x")


def test_deleting_leaves_no_process_and_no_file(bench: Bench) -> None:
    bench.make(runner="storage-daemon")
    bench.site.start("vm", StartOptions())
    pid = bench.process().pid()
    assert pid is not None
    (bench.path / ".deleted-vm.0badcafe").mkdir()  # of an attempt that was killed
    bench.site.delete("vm")
    assert gone(pid)
    assert list(bench.path.iterdir()) == []
    bench.site.delete("vm")
    assert list(bench.path.iterdir()) == []
    with pytest.raises(MachineNotFound):
        bench.site.machine("vm")


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "x\n"])
def test_a_name_never_leads_out_of_the_site(bench: Bench, name: str) -> None:
    with pytest.raises(MachineNotFound):
        bench.site.delete(name)


def test_a_paused_guest_is_told_apart_and_resumed(bench: Bench) -> None:
    bench.make()
    bench.site.start("vm", StartOptions())
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        qmp.execute("stop")
    assert bench.site.machine("vm").power is Power.PAUSED
    assert bench.site.resume("vm").power is Power.RUNNING


def test_a_start_that_was_killed_before_the_guest_began_is_done_again(bench: Bench) -> None:
    bench.make()
    bench.site.start("vm", StartOptions())
    bench.site.power_off("vm")
    process = bench.process()
    process.start(json.loads((process.run / "command.json").read_text()))  # and no `cont`
    assert bench.site.machine("vm").extra["status"] == "prelaunch"
    assert bench.site.start("vm", StartOptions(base=BASE)).power is Power.RUNNING
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert [bitmap.point for bitmap in bitmaps(qmp)["disk0"]] == [BASE]


def test_facts_tell_what_checks_need(bench: Bench) -> None:
    facts = bench.site.facts()
    assert facts["free_memory"] > 0
    assert facts["free_disk"] > SIZE
    assert facts["accelerator"] == {"kind": "tcg", "why": "set by HOMEPORT_ACCELERATOR"}


def test_a_monitor_of_a_dead_machine_says_so(bench: Bench) -> None:
    bench.make()
    with pytest.raises(QmpGone), bench.process().monitor(0.2):
        pass
