"""The door between sites over TLS: who comes in, who doesn't, what crosses; and how a blocked way is told."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.domain.servers import Role
from homeport.servers.crossing import Crossing
from homeport.servers.object_gateway import PROBE, ObjectGateway
from homeport.servers.remote_objects import RemoteObjects
from homeport.servers.serve.check import PROBE_BYTES, Peer, try_way
from homeport.store.errors import StoreUnavailable
from homeport.store.memory import MemoryObjects
from homeport.trust.identity import Identity
from tests.ports import free_port
from tests.servers.identities import OTHER, Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def source(authority: Authority) -> Identity:
    """The process server of the other site."""
    return authority.identity(Role.PROCESS_SERVER, "a", "ps-a")


@pytest.fixture
def target(authority: Authority) -> Identity:
    return authority.identity(Role.PROCESS_SERVER, "b", "ps-b")


@pytest.fixture
def gateway(target: Identity) -> Iterator[ObjectGateway]:
    gateway = ObjectGateway(MemoryObjects(), "token", identity=target)
    gateway.start()
    yield gateway
    gateway.close()


def at(gateway: ObjectGateway, caller: Identity, site: str = "b", crossing: Crossing | None = None) -> RemoteObjects:
    context = caller.client_context(Role.PROCESS_SERVER, site)
    return RemoteObjects(gateway.url, "token", crossing, timeout=10, context=context)


def test_a_process_server_brings_and_fetches(gateway: ObjectGateway, source: Identity) -> None:
    assert gateway.url.startswith("https://")
    objects, data = at(gateway, source), os.urandom(3 << 20)
    objects.put("k", data)
    assert objects.get("k") == data
    assert objects.get_range("k", 5, 7) == data[5:12]


def test_what_crosses_is_counted_with_what_tls_adds(gateway: ObjectGateway, source: Identity) -> None:
    crossing = Crossing()
    objects, size = at(gateway, source, crossing=crossing), 4 << 20
    objects.put("k", os.urandom(size))
    assert size < crossing.sent < size * 1.01 + 8192
    before = crossing.received
    objects.get("k")
    assert size < crossing.received - before < size * 1.01 + 8192


def test_another_role_of_the_vault_does_not_come_in(gateway: ObjectGateway, authority: Authority) -> None:
    stranger = authority.identity(Role.MASTER_TARGET, "a", "mt-a")
    with pytest.raises(StoreUnavailable):
        at(gateway, stranger).put("k", b"data")


def test_another_vaults_server_does_not_come_in(gateway: ObjectGateway, tmp_path: Path, authority: Authority) -> None:
    stranger = Authority(tmp_path, OTHER).identity(Role.PROCESS_SERVER, "a", "ps-a")
    with pytest.raises(StoreUnavailable):
        at(gateway, stranger).put("k", b"data")


def test_nobody_comes_in_without_a_certificate_or_without_tls(gateway: ObjectGateway) -> None:
    with pytest.raises(StoreUnavailable):
        RemoteObjects(gateway.url.replace("https", "http"), "token", timeout=5).get("k")
    with pytest.raises(ValueError, match="not a gateway's address"):
        RemoteObjects(gateway.url, "token")


def test_a_gateway_of_another_site_is_not_written_to(gateway: ObjectGateway, source: Identity) -> None:
    with pytest.raises(StoreUnavailable, match="not of site 'c'"):
        at(gateway, source, site="c").put("k", b"data")


def test_a_revoked_server_is_refused_on_its_open_connection(
    gateway: ObjectGateway, source: Identity, target: Identity, authority: Authority
) -> None:
    objects = at(gateway, source)
    objects.put("k", b"data")
    authority.revoke(source, told=target)
    with pytest.raises(StoreUnavailable, match="certificate"):
        objects.get("k")
    with pytest.raises(StoreUnavailable, match="certificate"):
        objects.put("l", bytes(32 << 20))  # refused before it has all come


def test_a_caller_that_says_nothing_keeps_nobody_waiting(gateway: ObjectGateway, source: Identity) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)):
        at(gateway, source).put("k", b"data")


def peer(url: str, site: str = "b", token: str | None = None) -> Peer:
    return Peer("process server of b", url, Role.PROCESS_SERVER, site, PROBE, token)


def test_an_open_way_is_measured(gateway: ObjectGateway, source: Identity) -> None:
    way = try_way(peer(gateway.url, token="token"), source)
    assert (way.blocked, way.why) == (None, "")
    assert list(way.steps) == ["name", "tcp", "tls", "answer", "throughput"]
    assert "homeport://" in way.steps["tls"]
    assert way.latency is not None
    assert 0 < way.latency < 1
    for speed in (way.up, way.down):
        assert speed is not None
        assert PROBE_BYTES / speed < 5


def test_the_step_that_blocks_is_named(gateway: ObjectGateway, source: Identity, tmp_path: Path) -> None:
    assert try_way(peer("https://nowhere.invalid:9443"), source).blocked == "name"
    nobody = try_way(peer(f"https://127.0.0.1:{free_port()}"), source)
    assert nobody.blocked == "tcp"
    assert list(nobody.steps) == ["name"]
    wrong = try_way(peer(gateway.url, site="c"), source)
    assert wrong.blocked == "tls"
    assert "not of site 'c'" in wrong.why
    stranger = Authority(tmp_path, OTHER).identity(Role.PROCESS_SERVER, "a", "ps-a")
    assert try_way(peer(gateway.url), stranger).blocked == "tls"


def test_what_takes_connections_and_speaks_something_else_is_blocked_at_tls(source: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-something\r\n")

        threading.Thread(target=answer, daemon=True).start()
        way = try_way(peer(f"https://127.0.0.1:{listener.getsockname()[1]}"), source)
    assert way.blocked == "tls"
    assert way.remedy
