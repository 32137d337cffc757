"""The blocking QMP client against a real qemu-storage-daemon."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp import QMPClient
from storage_daemon import StorageDaemon, storage_daemon

from homeport.qemu.qmp import Qmp, QmpError, QmpGone, QmpSilent

pytestmark = pytest.mark.qemu


@pytest.fixture
def daemon() -> Iterator[StorageDaemon]:
    with storage_daemon(server=False) as running:
        yield running


def test_a_command_returns_its_value_and_a_refused_one_says_why(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        assert qmp.execute("query-version")["qemu"]["major"] >= 6
        with pytest.raises(QmpError) as caught:
            qmp.execute("blockdev-del", {"node-name": "nobody"})
    assert caught.value.error_class == "GenericError"
    assert "nobody" in caught.value.desc


def test_commands_of_many_threads_get_their_own_answers(daemon: StorageDaemon) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            try:
                qmp.execute("blockdev-del", {"node-name": f"node{number}"})
            except QmpError as error:
                answers[number] = error.desc

    with Qmp.connect(daemon.qmp) as qmp:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(f"node{number}" in answers[number] for number in range(8))


def test_events_are_kept_until_they_are_asked_for_and_given_once(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        qmp.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(daemon.nbd)}}})
        for name in ("a", "b"):
            qmp.execute("block-export-add", {"type": "nbd", "id": name, "name": name, "node-name": "disk0"})
            qmp.execute("block-export-del", {"id": name})
        event = qmp.wait_event("BLOCK_EXPORT_DELETED", 10, lambda data: data["id"] == "b")
        assert event is not None
        assert event["data"]["id"] == "b"
        event = qmp.wait_event("BLOCK_EXPORT_DELETED", 10)
        assert event is not None
        assert event["data"]["id"] == "a"
        assert qmp.wait_event("BLOCK_EXPORT_DELETED", 0) is None


def test_a_second_client_is_told_that_the_socket_is_held(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp), pytest.raises(QmpSilent):
        Qmp.connect(daemon.qmp, 0.3)
    with Qmp.connect(daemon.qmp) as qmp:
        assert qmp.alive


def test_a_path_longer_than_a_socket_address_is_reached(daemon: StorageDaemon) -> None:
    deep = daemon.folder / ("d" * 100)
    deep.mkdir()
    (deep / "qmp").symlink_to(daemon.qmp)
    assert len(os.fsencode(deep / "qmp")) > 107
    with Qmp.connect(deep / "qmp") as qmp:
        assert qmp.execute("query-block-exports") == []


def test_a_process_that_dies_is_gone_for_waiting_and_asking(daemon: StorageDaemon) -> None:
    with Qmp.connect(daemon.qmp) as qmp:
        killer = threading.Timer(0.2, daemon.kill)
        killer.start()
        with pytest.raises(QmpGone):
            qmp.wait_event("NEVER", 30)
        with pytest.raises(QmpGone):
            qmp.execute("query-version")
        killer.join()
    with pytest.raises(QmpGone):
        Qmp.connect(daemon.qmp)


def test_a_closed_connection_leaves_no_thread(daemon: StorageDaemon) -> None:
    before = threading.active_count()
    for _ in range(3):
        qmp = Qmp.connect(daemon.qmp)
        qmp.close()
        qmp.close()
        with pytest.raises(QmpGone):
            qmp.execute("query-version")
    assert threading.active_count() == before


def test_a_process_that_ends_just_after_its_greeting_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own state has changed before it looks at it."""
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
                connection.recv(4096)
                connection.sendall(b'{"return": {}, "id": "__qmp#00000"}\r\n')

        negotiated = QMPClient._establish_session

        async def slowly(self: QMPClient) -> None:
            await negotiated(self)
            await asyncio.sleep(0.2)

        monkeypatch.setattr(QMPClient, "_establish_session", slowly)
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(QmpGone):
            Qmp.connect(path, 5)
        thread.join()
