"""SIGKILL of the process server, and of the mobility service, at every step of a point that crosses between them, while
the guest writes: nothing missed, no point changed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from storage_daemon import StorageDaemon

from homeport.domain.points import PointId
from homeport.mobility.uplink import Uplink
from homeport.servers.remote_source import RemoteSource
from homeport.servers.source_exchange import SourceExchange
from homeport.sources.errors import SourceError
from homeport.sources.qemu import QemuSource
from homeport.store.builder import PointBuilder
from homeport.store.spool import SpooledPoint
from homeport.store.writer import Writer
from tests.servers.deaths import Steps, dies
from tests.servers.elsewhere import RemoteRig

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


def forked(work: Callable[[], None]) -> int:
    """The id of a process that does ``work``. The caller has no threads (it forks)."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[int]:
    """A process that lives while the context does, unless it dies before."""
    pid = forked(work)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)


def send(rig: RemoteRig) -> None:
    with rig.sending():
        time.sleep(1000)


def arm(steps: Steps, wanted: dict[type, tuple[str, ...]], calls: Container[int] = (1, 2)) -> None:
    for owner, names in wanted.items():
        for name in names:
            steps.around(owner, name, calls)


def take(rig: RemoteRig, told: Path) -> None:
    """As a process server that begins anew: what waits is shipped, a point is taken and shipped."""
    with rig.served():
        cycle = rig.cycle()
        cycle.ship()
        if cycle.head is None:
            cycle.first_copy()
        deadline = time.monotonic() + 30
        while True:
            try:
                taken = cycle.take_point()
                break
            except SourceError:  # its mobility service has just been killed
                assert time.monotonic() < deadline
                time.sleep(0.05)
        cycle.ship()
        cycle.close()
        told.write_text(json.dumps([str(taken.point), sorted(set(taken.found_by.values()))]))


def point(rig: RemoteRig, told: Path) -> list[str]:
    """A point of disks that nobody writes to meanwhile; how its changes were found."""
    assert ended(forked(partial(take, rig, told))) == 0
    id, found_by = json.loads(told.read_text())
    rig.seen[PointId.parse(id)] = rig.disks()
    rig.check(newest=3)
    found: list[str] = found_by
    return found


def one_round(rig: RemoteRig, steps: Steps) -> None:
    arm(
        steps,
        {
            PointBuilder: ("write", "finish"),
            RemoteSource: ("recover", "begin_point", "handed", "commit"),
            SourceExchange: ("poll", "answer", "take_frames"),
            Writer: ("publish",),
            SpooledPoint: ("remove",),
        },
    )
    with rig.served():
        cycle = rig.cycle()
        cycle.ship()
        cycle.take_point()
        cycle.ship()
        cycle.close()


def test_a_process_server_killed_at_any_step_leaves_nothing_missed(daemon: StorageDaemon, tmp_path: Path) -> None:
    rig = RemoteRig(daemon, tmp_path)
    rig.write(20)
    with beside(partial(send, rig)):
        point(rig, tmp_path / "told")
        fatal, killed = 1, True
        while killed:
            rig.write(2)
            killed = dies(partial(one_round, rig), fatal, meanwhile=partial(rig.write, 1))
            rig.write(2)
            assert point(rig, tmp_path / "told") == ["tracking"], fatal
            fatal += 2
    rig.check()
    assert fatal > 20


def send_and_die(rig: RemoteRig, steps: Steps) -> None:
    arm(
        steps,
        {
            QemuSource: ("recover", "begin_point", "handed", "commit", "abort"),
            Uplink: ("_bring", "ask"),
        },
    )
    with rig.sending():
        time.sleep(20)  # the parent ends it where it had fewer steps


def test_a_mobility_service_killed_at_any_step_leaves_nothing_missed(daemon: StorageDaemon, tmp_path: Path) -> None:
    rig = RemoteRig(daemon, tmp_path)
    rig.patience = 2.0
    rig.write(20)
    with beside(partial(send, rig)):
        point(rig, tmp_path / "told")
    fatal, deaths, killed = 1, 0, True
    while killed:
        rig.write(2)
        sender = forked(lambda: send_and_die(rig, Steps(fatal)))  # noqa: B023
        server = forked(partial(take, rig, tmp_path / "told"))
        deadline = time.monotonic() + 15
        killed = False
        while time.monotonic() < deadline and not killed:
            rig.write(1)
            pid, status = os.waitpid(sender, os.WNOHANG)
            killed = pid != 0
            assert not killed or os.WIFSIGNALED(status), "it ended by itself"
            if not killed and os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        if not killed:
            os.kill(sender, signal.SIGKILL)
            ended(sender)
        deaths += killed
        with beside(partial(send, rig)):
            assert ended(server) == 0
            assert set(point(rig, tmp_path / "told")) == {"tracking"}, fatal
        fatal += 2
    rig.check()
    assert deaths > 5
