"""A point's server is a process of its own: one per socket, started again after a kill, ended and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homeport.disks.nbd.client import NbdClient
from homeport.disks.nbd.errors import NbdError
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers import point_services
from homeport.servers.durable import write_all, write_durably
from homeport.servers.point_services import PointServices
from homeport.servers.process import end, is_running, process_identity, read_identity
from homeport.sites.interface import PointService
from homeport.store import MachineStore, open_objects
from tests.servers.bucket import KEYS

T = "1" * 16
SIZE = 2 * MiB
MACHINE = Machine(KEYS.machine, "vm", (Disk("disk0", SIZE, "raw"),))


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = os.urandom(10 * BLOCK) + bytes(SIZE - 10 * BLOCK)
        url = (folder / "store").as_uri()
        (folder / "store").mkdir()
        store = MachineStore(open_objects(url), KEYS)
        store.create_timeline(T)
        writer = store.writer(T, "test")
        builder = writer.builder(1, folder / "spool", None)
        builder.write("disk0", 0, self.content)
        writer.publish(builder.finish(instant=datetime.now(UTC), disks={"disk0": SIZE}))
        self.services = PointServices(folder / "points", url)
        self.own = folder / "points" / "vm"

    def prepare(self) -> PointService:
        return self.services.prepare("vm", MACHINE, PointId(T, 1), KEYS)

    def identity(self) -> dict[str, int] | None:
        return read_identity(self.own / "point.pid")

    def read(self, service: PointService) -> bytes:
        client = NbdClient(service.socket, service.exports["disk0"])
        try:
            return client.read(0, client.size)
        finally:
            client.close()

    def serves(self, service: PointService) -> bool:
        try:
            return self.read(service) == self.content and self.identity() is not None
        except (OSError, NbdError):
            return False


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    try:
        yield (place := Place(folder))
        place.services.end("vm")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(service: PointService) -> None:
    subprocess.run(service.command, check=True, stdin=subprocess.DEVNULL)


def test_it_serves_the_point_and_outlives_whoever_started_it(place: Place) -> None:
    service = place.prepare()
    start(service)
    until(lambda: place.serves(service))
    identity = place.identity()
    assert identity
    fields = Path(f"/proc/{identity['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()  # another parent
    assert int(fields[3]) != os.getsid(0)  # another session
    # Killed, it leaves its socket and its lock; the next one serves.
    os.kill(identity["pid"], signal.SIGKILL)
    until(lambda: not is_running(identity))
    assert not place.serves(service)
    start(service)
    until(lambda: place.identity() != identity and place.serves(service))
    new = place.identity()
    assert new
    place.services.end("vm")
    assert not is_running(new)
    assert not place.own.exists()
    place.services.end("vm")  # twice does no harm


def test_started_several_times_at_once_there_is_one(place: Place) -> None:
    service = place.prepare()
    starters = [subprocess.Popen(service.command, stdin=subprocess.DEVNULL) for _ in range(4)]
    assert [starter.wait(30) for starter in starters] == [0] * 4
    until(lambda: place.serves(service))
    identity = place.identity()
    start(service)
    assert place.identity() == identity
    assert place.serves(service)
    mine = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if _names(path, str(place.own))]
    assert mine == [str(identity["pid"])] if identity else False


def _names(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False


SLOW = """
import fcntl, json, os, sys, time
from pathlib import Path
from homeport.servers.process import process_identity
place = Path(sys.argv[1])
lock = (place / "point.lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
time.sleep(0.5)
(place / "point.pid").write_text(json.dumps(process_identity(os.getpid())))
time.sleep(60)
"""


def test_one_that_is_just_starting_is_ended_too(place: Place) -> None:
    """It holds the lock, and takes its time until it has written down who it is."""
    place.prepare()
    starting = subprocess.Popen([sys.executable, "-c", SLOW, str(place.own)], stdout=subprocess.PIPE)
    try:
        assert starting.stdout
        starting.stdout.readline()
        place.services.end("vm")
        assert starting.wait(10) == -signal.SIGTERM
        assert not place.own.exists()
    finally:
        starting.kill()
        starting.wait()
        assert starting.stdout
        starting.stdout.close()


def test_one_that_does_not_end_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.prepare()
    start(service)
    until(lambda: place.serves(service))
    identity = place.own / "point.pid"
    kept = identity.read_bytes()
    identity.unlink()
    monkeypatch.setattr(point_services, "END_SECONDS", 0.1)
    with pytest.raises(HomeportError) as stuck:
        place.services.end("vm")
    assert stuck.value.code == "point-server.stuck"
    assert place.serves(service) is False or place.own.exists()
    identity.write_bytes(kept)


def test_the_specification_holds_a_key_and_is_for_us_alone(place: Place) -> None:
    place.prepare()
    file = place.own / "point.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_bytes())["machine_key"] == KEYS.key.hex()
    before = file.read_bytes()
    place.prepare()
    assert file.read_bytes() == before


def test_the_exports_name_of_another_point_is_another_one(place: Place) -> None:
    one = place.prepare()
    other = place.services.prepare("vm", MACHINE, PointId(T, 2), KEYS)
    assert set(one.exports.values()).isdisjoint(other.exports.values())


def test_a_recycled_process_number_is_never_ended(place: Place) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        identity = process_identity(bystander.pid)
        assert is_running(identity)
        stale = {**identity, "started": identity["started"] - 1}
        assert not is_running(stale)
        place.prepare()
        write_durably(place.own / "point.pid", json.dumps(stale).encode())
        place.services.end("vm")
        assert bystander.poll() is None
        end(identity)
        assert bystander.wait(10) == -signal.SIGTERM
        assert not is_running(identity)
    finally:
        bystander.kill()
        bystander.wait()


def test_one_that_ignores_sigterm_is_killed() -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()"
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert stubborn.stdout
        stubborn.stdout.readline()
        identity = process_identity(stubborn.pid)
        end(identity, timeout=0.2)
        assert stubborn.wait(10) == -signal.SIGKILL
    finally:
        stubborn.kill()
        stubborn.wait()
        assert stubborn.stdin
        stubborn.stdin.close()
        stubborn.stdout.close()


def test_what_is_not_an_identity_is_none(tmp_path: Path) -> None:
    assert read_identity(tmp_path / "no") is None
    (tmp_path / "torn").write_text('{"pid": 1')
    assert read_identity(tmp_path / "torn") is None


def test_small_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b" / "file"
    synced: list[str] = []
    fsync = os.fsync

    def spying(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", spying)
    write_durably(path, b"one")
    folders = [str(folder) for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert [name for name in synced if name in folders] == folders  # each name on the way is durable
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_durably(path, b"two")
    assert path.read_bytes() == b"one"


def test_a_write_that_stops_short_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, memoryview(data)[:7], offset))
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), bytes(range(100)), 5)
    assert (tmp_path / "file").read_bytes() == bytes(5) + bytes(range(100))
