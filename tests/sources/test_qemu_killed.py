"""SIGKILL of the process that takes a point, after each single command to QEMU.

The child takes a point and hands it (or aborts it, or commits it); it is killed after its k-th QMP command. The parent
writes to the disks meanwhile, then does what a restarted process server does: recover with what its cache holds, go on.
Whatever the child left, the next point's extents must cover every block that differs from the newest content that the
cache or the store holds, and nothing of a view may stay.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from storage_daemon import StorageDaemon
from test_qemu_source import content, left_behind, missed, names, point, source_of

from homeport.disks.nbd.client import NbdClient
from homeport.domain.points import PointId
from homeport.qemu.qmp import Qmp
from homeport.sources.qemu import QemuSource

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

Content = dict[str, bytes]


def in_child(work: Callable[[], None], kill_after: int) -> int:
    """Fork; the child does ``work`` and kills itself after its ``kill_after``-th QMP command. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    original = Qmp.execute
    done = [0]

    def counted(self: Qmp, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        done[0] += 1
        if done[0] == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Qmp.execute = counted  # type: ignore[method-assign]
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


class Guest:
    """Writes to both disks. Makes no thread, so that forking beside it is harmless."""

    def __init__(self, daemon: StorageDaemon) -> None:
        self._size = daemon.size
        self._disks: list[NbdClient] = [daemon.disk("disk0"), daemon.disk("disk1")]
        self._chance = random.Random(7)

    def write(self) -> None:
        client, length = self._chance.choice(self._disks), self._chance.choice((512, 20_480, 65_536))
        offset = self._chance.randrange(0, self._size - length) // 512 * 512
        if self._chance.random() < 0.8:
            client.write(offset, self._chance.randbytes(length))
        else:
            client.trim(offset, length)


class Server:
    """What the cache and the store of a process server hold: files named for points. ``committed``: in the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.committed = 0

    def spool(self, number: int, whole: Content) -> None:
        for disk, data in whole.items():
            (self.folder / f"{number}.{disk}").write_bytes(data)
        (self.folder / f"{number}.complete").touch()

    def spooled(self) -> list[int]:
        complete = sorted(int(path.stem) for path in self.folder.glob("*.complete"))
        return [number for number in complete if number > self.committed]

    def newest(self) -> int:
        return max([self.committed, *self.spooled()])

    def content(self, number: int) -> Content:
        return {disk: (self.folder / f"{number}.{disk}").read_bytes() for disk in ("disk0", "disk1")}


def take(source: QemuSource, server: Server, number: int, base: PointId) -> None:
    view = source.begin_point(point(number), base)
    whole = content(view)
    assert missed(view, server.content(base.number), whole) == {}
    server.spool(number, whole)
    source.handed(point(number))


def child(daemon: StorageDaemon, server: Server, ending: str, number: int, base: PointId) -> None:
    source = source_of(daemon)
    if ending == "abort":
        content(source.begin_point(point(number), base))
        source.abort(point(number))
        return
    take(source, server, number, base)
    if ending == "commit":
        source.commit(point(number))
    else:
        # The cache is lost: the committed point is the base again.
        (server.folder / f"{number}.complete").unlink()
        source.begin_point(point(number), base)


@pytest.mark.parametrize("ending", ["commit", "abort", "fold"])
def test_a_kill_after_any_command_loses_no_change_and_leaves_nothing(
    daemon: StorageDaemon, tmp_path: Path, ending: str
) -> None:
    server, guest = Server(tmp_path), Guest(daemon)
    source_of(daemon).track(point(0))
    server.spool(0, {disk: bytes(daemon.size) for disk in ("disk0", "disk1")})
    kill_after, killed = 0, True
    while killed:
        kill_after += 1
        for _ in range(5):
            guest.write()
        number = server.newest() + 1
        base = point(number - 1)

        pid = in_child(partial(child, daemon, server, ending, number, base), kill_after)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            guest.write()
        killed = os.WIFSIGNALED(ended[1])
        assert killed or os.WEXITSTATUS(ended[1]) == 0, f"the child failed, kill after {kill_after}"
        guest.write()

        source = source_of(daemon)
        source.recover([point(each) for each in server.spooled()])
        assert left_behind(daemon) == [], f"killed after {kill_after}"
        for each in server.spooled():
            source.commit(point(each))
            server.committed = each
        guest.write()
        number = server.newest() + 1
        take(source, server, number, point(number - 1))
        source.commit(point(number))
        server.committed = number
        assert left_behind(daemon) == []
        assert names(daemon) == {disk: [(number, True)] for disk in ("disk0", "disk1")}, f"killed after {kill_after}"
        for path in tmp_path.glob("*"):
            if int(path.name.split(".")[0]) < number:
                path.unlink()
    assert kill_after > 30
