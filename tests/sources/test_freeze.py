"""App-consistent points: the guest is frozen for the instant only, and never stays frozen."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest
from storage_daemon import StorageDaemon
from test_qemu_source import left_behind, names, point, source_of

from homeport.domain.points import Consistency
from homeport.sources.errors import FreezeFailed
from homeport.sources.freeze import Freeze


class FakeAgent:
    """A guest agent as it looks through QEMU's chardev socket: one client at a time, commands served in order, junk of
    a dropped client still in the stream. ``deaf``: commands that it never answers; ``log``: commands that came."""

    def __init__(self, path: Path, deaf: frozenset[str] = frozenset(), file_systems: int = 2) -> None:
        self.path, self.deaf, self.file_systems = path, deaf, file_systems
        self.frozen = 0
        self.log: list[str] = []
        self.changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._client: socket.socket | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ending:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            with self._client as client:
                buffer = b'{"return": "junk of an earlier client"}\n'
                try:
                    client.sendall(buffer)
                    self._talk(client)
                except OSError:
                    continue

    def _talk(self, client: socket.socket) -> None:
        buffer = b""
        while data := client.recv(4096):
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                answer = self._answer(line)
                if answer is not None:
                    client.sendall(answer)

    def _answer(self, line: bytes) -> bytes | None:
        mark = b""
        if line.startswith(b"\xff"):
            line = line[1:]
        request = json.loads(line)
        command = request["execute"]
        value: object = {}
        with self.changed:
            self.log.append(command)
            if command == "guest-sync-delimited":
                mark, value = b"\xff", request["arguments"]["id"]
            elif command == "guest-fsfreeze-freeze":
                value = self.frozen = self.file_systems
            elif command == "guest-fsfreeze-thaw":
                value, self.frozen = self.frozen, 0
            elif command == "guest-fsfreeze-status":
                value = "frozen" if self.frozen else "thawed"
            self.changed.notify_all()
        if command in self.deaf:
            return None
        return mark + json.dumps({"return": value}).encode() + b"\n"

    def wait(self, what: str, times: int = 1, seconds: float = 20.0) -> None:
        """Until ``what`` came so many times."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.log.count(what) >= times, seconds), self.log

    def close(self) -> None:
        self._ending = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink()
        if self._client:
            try:
                self._client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hp"))
    yield path
    rmtree(path)


@pytest.fixture
def agent(folder: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(folder / "agent")
    yield fake
    fake.close()


@pytest.mark.qemu
def test_an_app_consistent_point_freezes_for_the_instant_only(daemon: StorageDaemon, agent: FakeAgent) -> None:
    source = source_of(daemon, agent_path=str(agent.path))
    source.track(point(0))
    view = source.begin_point(point(1), point(0), Consistency.APP)
    assert (view.consistency, view.notes) == (Consistency.APP, ())
    assert agent.frozen == 0
    assert agent.log.index("guest-fsfreeze-freeze") < agent.log.index("guest-fsfreeze-thaw")
    source.handed(point(1))


@pytest.mark.qemu
@pytest.mark.parametrize("deaf", ["guest-sync-delimited", "guest-fsfreeze-freeze"])
def test_an_agent_that_does_not_answer_gives_a_crash_consistent_point_with_a_note(
    daemon: StorageDaemon, folder: Path, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeport.sources.freeze._ANSWER", 0.5)
    monkeypatch.setattr("homeport.sources.freeze._FREEZE", 0.5)
    fake = FakeAgent(folder / "agent", deaf=frozenset({deaf}))
    try:
        source = source_of(daemon, agent_path=str(fake.path))
        source.track(point(0))
        view = source.begin_point(point(1), point(0), Consistency.APP)
        assert view.consistency is Consistency.CRASH
        assert len(view.notes) == 1
        assert "crash-consistent instead of app-consistent" in view.notes[0]
        source.handed(point(1))
        if deaf == "guest-fsfreeze-freeze":
            fake.wait("guest-fsfreeze-status")
            assert fake.frozen == 0, "the watchdog did not thaw what froze late"
        with pytest.raises(FreezeFailed):
            source.begin_point(point(2), point(1), Consistency.APP, strict=True)
        if deaf == "guest-fsfreeze-freeze":
            fake.wait("guest-fsfreeze-status", times=2)
        assert left_behind(daemon) == []
        assert names(daemon) == {disk: [(0, False), (1, True)] for disk in ("disk0", "disk1")}
    finally:
        fake.close()


@pytest.mark.qemu
def test_a_machine_without_an_agent_gives_a_crash_consistent_point_with_a_note(daemon: StorageDaemon) -> None:
    source = source_of(daemon)
    source.track(point(0))
    view = source.begin_point(point(1), point(0), Consistency.APP)
    assert view.consistency is Consistency.CRASH
    assert view.notes
    source.handed(point(1))


def test_nothing_to_freeze_is_no_app_consistent_point(folder: Path) -> None:
    fake = FakeAgent(folder / "agent", file_systems=0)
    try:
        freeze = Freeze(str(fake.path))
        with pytest.raises(FreezeFailed, match="no file system"):
            freeze.freeze()
        fake.wait("guest-fsfreeze-status")
    finally:
        fake.close()


FREEZE_AND = """
import sys, time
from homeport.sources.freeze import Freeze
freeze = Freeze(sys.argv[1], float(sys.argv[2]))
freeze.freeze()
print("frozen", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_the_watchdog_thaws_when_homeport_was_killed_or_is_stuck(agent: FakeAgent, end: signal.Signals) -> None:
    seconds = 600.0 if end is signal.SIGKILL else 1.0
    command = [sys.executable, "-c", FREEZE_AND, str(agent.path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"frozen\n"
        assert agent.frozen == 2
        os.kill(process.pid, end)
        agent.wait("guest-fsfreeze-status")
        assert agent.frozen == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_freeze_that_ended_before_the_instant_is_told(agent: FakeAgent) -> None:
    freeze = Freeze(str(agent.path), 0.2)
    freeze.freeze()
    agent.wait("guest-fsfreeze-status")
    assert freeze.thaw() != ""
    assert agent.frozen == 0


def test_the_agent_is_free_for_others_after_a_thaw(agent: FakeAgent) -> None:
    for _ in range(2):
        freeze = Freeze(str(agent.path))
        freeze.freeze()
        assert freeze.thaw() == ""
    assert agent.log.count("guest-fsfreeze-freeze") == 2
