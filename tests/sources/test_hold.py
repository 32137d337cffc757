"""A machine stands still for an instant, and never for longer, whatever becomes of who held it. Real QEMU, no guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from homeport.qemu import graph
from homeport.qemu.qmp import Qmp, QmpGone
from homeport.sources import hold as holds
from homeport.sources.hold import GUARD, HELD_AT_MOST, NODE, HoldFailed, QemuHold, let_go

pytestmark = pytest.mark.qemu

HOLDER = """
import sys, time
from homeport.qemu.qmp import Qmp
from homeport.sources import hold
hold.HELD_AT_MOST = float(sys.argv[2])
qmp = Qmp.connect(sys.argv[1])
hold.QemuHold(qmp).hold() if len(sys.argv) < 4 else hold.GUARD.begin(qmp.fileno(), float(sys.argv[2]))
print(hold.GUARD._process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def machine() -> Iterator[Path]:
    """The QMP socket of a QEMU that runs."""
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    socket = folder / "qmp"
    command = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults"]
    process = subprocess.Popen([*command, "-qmp", f"unix:{socket},server=on,wait=off"])
    try:
        deadline = time.monotonic() + 20
        while True:  # the socket is there before anybody listens
            try:
                Qmp.connect(socket).close()
                break
            except QmpGone:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield socket
    finally:
        process.kill()
        process.wait()
        rmtree(folder, ignore_errors=True)


def status(machine: Path) -> str:
    with Qmp.connect(machine) as qmp:
        return str(qmp.execute("query-status")["status"])


def until_it_runs(machine: Path, seconds: float) -> float:
    """How long it took."""
    began = time.monotonic()
    while status(machine) != "running":
        assert time.monotonic() - began < seconds, "it stands still for ever"
        time.sleep(0.02)
    return time.monotonic() - began


def holder(machine: Path, seconds: float) -> tuple[subprocess.Popen[str], int]:
    """Another process, which holds the machine; with its guard's pid."""
    command = [sys.executable, "-c", HOLDER, str(machine), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_it_stands_still_between_hold_and_release(machine: Path) -> None:
    with Qmp.connect(machine) as qmp:
        hold = QemuHold(qmp)
        for _ in range(3):
            hold.hold()
            assert qmp.execute("query-status")["status"] == "paused"
            assert NODE in graph.nodes(qmp)
            hold.release()
            assert qmp.execute("query-status")["status"] == "running"
            assert NODE not in graph.nodes(qmp)


def test_letting_a_machine_go_on_takes_far_less_than_its_guard_gives_it(machine: Path) -> None:
    with Qmp.connect(machine) as qmp:
        hold = QemuHold(qmp)
        stood = []
        for _ in range(10):
            hold.hold()
            began = time.monotonic()
            hold.release()
            stood.append(time.monotonic() - began)
        assert sorted(stood)[5] < HELD_AT_MOST / 2, stood


def test_a_machine_that_was_paused_stays_so(machine: Path) -> None:
    with Qmp.connect(machine) as qmp:
        qmp.execute("stop")
        hold = QemuHold(qmp)
        hold.hold()
        hold.release()
        let_go(qmp, graph.nodes(qmp))
        assert qmp.execute("query-status")["status"] == "paused"


def test_a_paused_machine_that_somebody_else_lets_go_on_meanwhile_was_not_held(machine: Path) -> None:
    """Else its view would count as of the instant of all others, though it wrote in between."""
    with Qmp.connect(machine) as qmp:
        qmp.execute("stop")
        hold = QemuHold(qmp)
        hold.hold()
        qmp.execute("cont")
        with pytest.raises(HoldFailed, match="somebody else"):
            hold.release()
        assert qmp.execute("query-status")["status"] == "running"


def test_the_guard_lets_it_go_on_when_its_time_is_up_and_the_holder_is_told(
    machine: Path,
) -> None:
    with Qmp.connect(machine) as qmp:
        hold = QemuHold(qmp)
        GUARD.begin(qmp.fileno(), 0.3)
        qmp.execute("stop")
        time.sleep(0.6)
        assert qmp.execute("query-status")["status"] == "running"
        assert GUARD.end(qmp.fileno())
        hold.hold()  # and it is of use again
        hold.release()


def test_a_holder_that_is_killed_leaves_it_running(machine: Path) -> None:
    process, _ = holder(machine, 30)
    process.kill()
    process.wait()
    assert until_it_runs(machine, 5) < 2


def test_a_holder_that_is_stuck_leaves_it_running(machine: Path) -> None:
    """It holds the one QMP connection all the while; what shows is that its ``cont`` was heard before it goes on."""
    process, _ = holder(machine, 1.0)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        assert status(machine) == "running"
        assert time.monotonic() - began < 3
    finally:
        if process.poll() is None:
            process.kill()


def test_what_was_left_standing_by_two_that_were_killed_goes_on_with_the_next(machine: Path) -> None:
    process, guard = holder(machine, 30)
    os.kill(guard, signal.SIGKILL)
    process.kill()
    process.wait()
    with Qmp.connect(machine) as qmp:
        assert qmp.execute("query-status")["status"] == "paused"
        let_go(qmp, graph.nodes(qmp))
        assert qmp.execute("query-status")["status"] == "running"
        assert NODE not in graph.nodes(qmp)


def test_without_a_guard_nothing_is_held(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds.sys, "executable", "/bin/false")
    GUARD.close()
    try:
        with Qmp.connect(machine) as qmp:
            hold = QemuHold(qmp)
            with pytest.raises(HoldFailed, match="guard"):
                hold.hold()
            assert qmp.execute("query-status")["status"] == "running"
            assert NODE not in graph.nodes(qmp)
    finally:
        GUARD.close()
