"""The door between the sites: objects over HTTP, byte for byte, counted, and refused without the token."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.domain.units import MiB
from homeport.servers.crossing import Crossing
from homeport.servers.object_gateway import MOST, ObjectGateway
from homeport.servers.remote_objects import RemoteObjects
from homeport.store.errors import AlreadyExists, Locked, NotFound, StoreUnavailable
from homeport.store.local import LocalObjects
from homeport.store.memory import MemoryObjects
from tests.ports import free_port
from tests.store.proxy import LOSE_ANSWER, RESET, Proxy


@pytest.fixture
def gateway() -> Iterator[ObjectGateway]:
    gateway = ObjectGateway(MemoryObjects(), "token")
    gateway.start()
    yield gateway
    gateway.close()


@pytest.fixture
def objects(gateway: ObjectGateway) -> RemoteObjects:
    return RemoteObjects(gateway.url, "token")


def test_what_is_put_is_got(objects: RemoteObjects) -> None:
    data = secrets.token_bytes(3_000_000)
    objects.put("machines/x/segment/1", memoryview(data))
    assert objects.get("machines/x/segment/1") == data
    assert objects.size("machines/x/segment/1") == len(data)
    assert objects.get_range("machines/x/segment/1", 1_000, 77) == data[1_000:1_077]


def test_a_key_is_created_once(objects: RemoteObjects) -> None:
    objects.put("a/b", b"one")
    with pytest.raises(AlreadyExists):
        objects.put("a/b", b"two")
    assert objects.get("a/b") == b"one"
    objects.put("a/b", b"two", if_absent=False)
    assert objects.get("a/b") == b"two"


def test_what_is_not_there_is_said(objects: RemoteObjects) -> None:
    for ask in (lambda: objects.get("no"), lambda: objects.size("no"), lambda: objects.get_range("no", 0, 1)):
        with pytest.raises(NotFound):
            ask()
    objects.delete("no")


def test_lists_are_sorted_and_hold_sizes(objects: RemoteObjects) -> None:
    for name in ("p/3", "p/1", "p/2", "q/1"):
        objects.put(name, name.encode() * 2)
    assert list(objects.list("p/")) == [("p/1", 6), ("p/2", 6), ("p/3", 6)]
    objects.delete("p/2")
    assert [key for key, _ in objects.list("p/")] == ["p/1", "p/3"]


def test_bytes_are_counted_both_ways(gateway: ObjectGateway) -> None:
    crossing = Crossing()
    objects = RemoteObjects(gateway.url, "token", crossing)
    objects.put("k", bytes(100_000))
    assert 100_000 < crossing.sent < 101_000
    assert 0 < crossing.received < 1_000
    objects.get("k")
    assert 100_000 < crossing.received < 102_000


def test_a_wrong_token_opens_nothing(gateway: ObjectGateway) -> None:
    RemoteObjects(gateway.url, "token").put("k", b"secret")
    with pytest.raises(StoreUnavailable):
        RemoteObjects(gateway.url, "tokem").get("k")


def test_several_threads_share_it(objects: RemoteObjects) -> None:
    def put(number: int) -> None:
        objects.put(f"t/{number}", str(number).encode() * 1000)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(objects.list("t/"))) == 16


def test_a_gateway_that_is_gone_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        RemoteObjects(f"http://127.0.0.1:{free_port()}", "token").get("k")


def test_a_connection_that_broke_is_made_again(gateway: ObjectGateway, objects: RemoteObjects) -> None:
    objects.put("k", b"v")
    objects._local.connection.sock.shutdown(socket.SHUT_RDWR)
    assert objects.get("k") == b"v"


def test_a_path_outside_the_store_is_refused(objects: RemoteObjects) -> None:
    status, _, _ = objects._request("GET", "/objects/../token", None, {})
    assert status == 400


def test_half_an_object_never_gets_a_key(gateway: ObjectGateway, objects: RemoteObjects) -> None:
    """The sender is killed in the middle of an upload: what arrived is dropped, and the key stays free."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(
            b"PUT /objects/p/1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\nContent-Length: 1000\r\n\r\n"
        )
        connection.sendall(b"half")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b"", "no answer: it was not stored"
    with pytest.raises(NotFound):
        objects.get("p/1")
    objects.put("p/1", b"whole")
    assert objects.get("p/1") == b"whole"


def test_a_create_whose_answer_was_lost_is_no_conflict_with_itself(gateway: ObjectGateway) -> None:
    proxy = Proxy(f"127.0.0.1:{gateway.port}")
    objects = RemoteObjects(f"http://{proxy.netloc}", "token")
    proxy.fail("PUT", LOSE_ANSWER)
    objects.put("p/1", b"ours")
    assert objects.get("p/1") == b"ours"
    proxy.fail("PUT", RESET)
    with pytest.raises(AlreadyExists):
        objects.put("p/1", b"theirs")
    with pytest.raises(AlreadyExists):
        objects.put("p/1", b"ours")
    proxy.close()


def test_an_object_that_the_storage_keeps_is_said_to_be_locked() -> None:
    class Keeping(MemoryObjects):
        def delete(self, key: str) -> None:
            raise Locked(f"{key} is kept", key=key, until="2026-11-24T00:00:00+00:00")

    gateway = ObjectGateway(Keeping(), "token")
    gateway.start()
    with pytest.raises(Locked) as raised:
        RemoteObjects(gateway.url, "token").delete("p/1")
    assert raised.value.code == "store.locked"
    assert raised.value.details["key"] == "p/1"
    gateway.close()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_what_a_full_store_refused_crosses_once_until_there_is_room(small_volume: Path) -> None:
    gateway = ObjectGateway(LocalObjects(small_volume), "token")
    gateway.start()
    try:
        crossing = Crossing()
        objects = RemoteObjects(gateway.url, "token", crossing)
        objects.put("first", bytes(MiB))
        for _ in range(5):
            with pytest.raises(StoreUnavailable) as refused:
                objects.put("second", bytes(3 * MiB // 2))
            assert refused.value.code == "store.full"
        assert crossing.sent < (1 + 1.5 + 0.1) * MiB
        objects.delete("first")
        objects.put("second", bytes(3 * MiB // 2))
        objects.put("third", b"asked for no room")
        assert objects.size("second") == 3 * MiB // 2
        assert not list((small_volume / ".homeport-staging").iterdir())
    finally:
        gateway.close()


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def answer_to(gateway: ObjectGateway, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status of the answer to a request, and what comes after its head until the gateway closes the connection (which
    it must): nothing more of the request is sent, and the connection stays open from here."""
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as connection:
        connection.sendall("\r\n".join([*head.split("\n"), "", ""]).encode() + body)
        said = b""
        while more := connection.recv(65536):
            said += more
    status, _, rest = said.partition(b"\r\n\r\n")
    return int(status.split()[1]), rest


PUT = "PUT /objects/k HTTP/1.1\nHost: x\nAuthorization: Bearer token"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("PUT /objects/k HTTP/1.1\nHost: x\nContent-Length: 1000000", 401),
        ("PUT /objects/k HTTP/1.1\nHost: x\nAuthorization: Bearer tokem\nContent-Length: 10", 401),
        ("PUT /objects/k HTTP/1.1\nHost: x\nAuthorization: Bearer tokem\nTransfer-Encoding: chunked", 401),
        ("POST /probe HTTP/1.1\nHost: x\nContent-Length: -1", 401),
        (PUT, 411),
        (f"{PUT}\nTransfer-Encoding: chunked", 411),
        (f"{PUT}\nTransfer-Encoding: chunked\nContent-Length: 5", 411),
        (f"{PUT}\nContent-Length: -1", 400),
        (f"{PUT}\nContent-Length: +1", 400),
        (f"{PUT}\nContent-Length: 1_0", 400),
        (f"{PUT}\nContent-Length: ten", 400),
        (f"{PUT}\nContent-Length: ", 400),
        (f"{PUT}\nContent-Length: 5\nContent-Length: 6", 400),
        (f"{PUT}\nContent-Length: {MOST + 1}", 413),
        (f"{PUT}\nContent-Length: {'9' * 5000}", 413),
        (f"{PUT.replace('/k', '/../k')}\nContent-Length: 10", 400),
        (f"{PUT.replace('/objects', '/things')}\nContent-Length: 10", 404),
        (f"{PUT.replace('PUT', 'POST')}\nContent-Length: 10", 405),
        (f"{PUT.replace('PUT', 'GET')}\nContent-Length: 10", 400),
        (f"{PUT.replace('PUT', 'DELETE')}\nContent-Length: 10", 400),
        ("POST /probe HTTP/1.1\nHost: x\nAuthorization: Bearer token\nContent-Length: 99999999999", 413),
    ],
)
def test_a_body_that_nobody_wants_is_refused_before_it_came(gateway: ObjectGateway, head: str, status: int) -> None:
    """None of these bodies is ever sent: who waits for one says nothing, and who reads on after its refusal would take
    a body for the next request."""
    objects = RemoteObjects(gateway.url, "token")
    objects.put("k", b"kept", if_absent=False)
    assert answer_to(gateway, head)[0] == status
    assert objects.get("k") == b"kept"


def test_what_follows_a_refusal_is_no_request(gateway: ObjectGateway) -> None:
    smuggled = b"DELETE /objects/k HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\r\n"
    objects = RemoteObjects(gateway.url, "token")
    objects.put("k", b"kept")
    head = f"PUT /objects/../x HTTP/1.1\nHost: x\nAuthorization: Bearer token\nContent-Length: {len(smuggled)}"
    status, rest = answer_to(gateway, head, smuggled)
    assert (status, rest) == (400, b"")
    assert objects.get("k") == b"kept"


def test_a_connection_is_kept_after_bodies_that_were_read(gateway: ObjectGateway, objects: RemoteObjects) -> None:
    objects.put("k", b"one")
    connection = objects._local.connection
    with pytest.raises(AlreadyExists):
        objects.put("k", b"two")
    assert objects._request("POST", "/probe", bytes(3 * MiB), {})[0] == 200
    with pytest.raises(NotFound):
        objects.get("no")
    objects.put("empty", b"")
    assert objects.get("empty") == b""
    assert objects._local.connection is connection
    assert connection.sock is not None


def test_who_sends_much_hears_why_it_is_refused(gateway: ObjectGateway) -> None:
    with pytest.raises(StoreUnavailable, match="its token"):
        RemoteObjects(gateway.url, "tokem").put("k", bytes(32 * MiB))
