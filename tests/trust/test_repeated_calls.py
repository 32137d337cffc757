"""What a configuration server asks of an instance that did it and said 503, and then of the next: done once, or seen to
fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.configuration_backup import Schedule
from homeport.servers.discovery import Discovery
from homeport.servers.joining import sign_at_vault
from homeport.servers.link import Link
from homeport.servers.next_url import NextUrl
from homeport.servers.worker import Worker
from homeport.trust.certificates import make_request, new_key
from homeport.vault import configuration_backups, work
from homeport.vault.database import CertificateRow, ItemRow, PolicyRow, WorkRow
from homeport.vault.dump import dump, parse
from tests.trust.world import Site, TlsVault

Json = dict[str, Any]
TIMELINE = "1" * 16
FIRST = "https://first.example:443"
MOMENTS = ("last_seen", "received", "tried", "changed", "inventoried")


class DoneAndAway(httpx.BaseTransport):
    """Two instances of the vault at ``url``: the first does what it is asked and says 503. ``answers``: of the
    second."""

    def __init__(self, url: str, inner: httpx.BaseTransport) -> None:
        self._url, self._inner = httpx.URL(url), inner
        self.asked: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        first = request.url.host == "first.example"
        self.asked.append("first" if first else "second")
        url = request.url.copy_with(host=self._url.host, port=self._url.port)
        headers = {**request.headers, "host": url.netloc.decode()}
        answer = self._inner.handle_request(
            httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
        )
        if not first:
            return answer
        answer.read()
        answer.close()
        assert answer.status_code < 300, answer.content
        return httpx.Response(503)


class Caller:
    """The clients of the site's configuration server, each new to the vault's two addresses."""

    def __init__(self, vault: TlsVault, home: Site) -> None:
        self._home, self._url = home, vault.url
        self._inner = httpx.HTTPTransport(verify=home.identity.client_context(Role.VAULT), trust_env=False)
        self.transport = DoneAndAway(vault.url, self._inner)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=FIRST, transport=NextUrl([FIRST, self._url], self.transport))


@pytest.fixture
def caller(vault: TlsVault, home: Site) -> Iterator[Caller]:
    made = Caller(vault, home)
    yield made
    made._inner.close()


class Idle:
    def connect(self, report: object) -> None:
        """Nothing is reported."""


def state(vault: TlsVault) -> dict[str, list[str]]:
    """All rows, but for when things were heard."""

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: still(each) for name, each in value.items() if name not in MOMENTS}
        return value

    with vault.core.database.read() as session:
        rows = parse(dump(session, "v")).rows
    return {table: sorted(json.dumps(still(row), sort_keys=True) for row in found) for table, found in rows.items()}


def test_what_is_declared_repeatable_is_done_once(vault: TlsVault, home: Site, caller: Caller) -> None:
    with vault.core.database.write() as session:
        session.add(PolicyRow(name="gold", rpo_threshold=1, retention=1, app_consistent=0, interval=1, generated=False))
        session.flush()
        session.add(
            ItemRow(id="i", name="web", machine="m", description={}, machine_key="", home="home", away="away",
                    policy="gold", active_site="home", store_site="away", timeline=TIMELINE, lineage=[TIMELINE],
                    replicate={"at": "home", "store": "away"})
        )  # fmt: skip
    work.post(vault.core, work.Ask("home", "inventory", {}, key="k"))
    (piece,) = work.take(vault.core, "home")
    report: Json = {"item": "i", "timeline": TIMELINE, "phase": "replicating", "crossed": {"out": 1000, "in": 7}}
    link = Link(vault.url, identity=home.identity, role=Role.VAULT)
    worker = Worker("home", link, Idle())  # type: ignore[arg-type]

    def send_report() -> None:
        worker._report(report)
        sending = threading.Thread(target=worker._send_reports)
        sending.start()
        worker._stop.set()
        worker._reported.set()
        sending.join(20)
        worker._stop.clear()

    discovery = Discovery("home", lambda: {}, 900.0)
    found: Json = {"machines": [], "facts": {"a": 1}}
    calls = {
        "hello": lambda client: worker._hello({"gateway": {"url": "https://gw:1", "token": "t"}, "facts": {"b": 2}}),
        "report": lambda client: send_report(),
        "inventory": lambda client: discovery._told(client, found, 0.0),
        "work": lambda client: worker._answer(piece, {"state": "done", "result": {"r": 1}}),
    }
    single = httpx.Client(base_url=vault.url, transport=caller._inner)
    for name, call in calls.items():
        caller.transport.asked.clear()
        kept, worker._client = worker._client, caller.client()
        call(worker._client)
        assert caller.transport.asked == ["first", "second"], name
        twice = state(vault)
        worker._client = single
        call(single)
        assert state(vault) == twice, name
        worker._client = kept
    with vault.core.database.read() as session:
        row = session.get(WorkRow, piece["id"])
        item = session.get(ItemRow, "i")
        assert row is not None
        assert (row.state, row.result) == ("done", {"r": 1})
        assert item is not None
        assert item.crossed["home"]["out"][0] == 1000
    worker._client.close()


def test_a_server_that_joins_gets_one_certificate(
    vault: TlsVault, home: Site, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = caller.client()
    monkeypatch.setattr(home.client, "request", client.request)
    made = home.join(tmp_path / "ps")
    assert caller.transport.asked[:2] == ["first", "second"]
    with vault.core.database.read() as session:
        assert [row.serial for row in session.query(CertificateRow).filter_by(server="ps-1")] == [made.serial]


def test_what_would_be_done_twice_is_seen_to_fail_and_asked_again(
    vault: TlsVault, home: Site, caller: Caller, tmp_path: Path
) -> None:
    Schedule(tmp_path / "state", "home", caller.client()).tend()
    assert caller.transport.asked == ["first"]
    assert len(configuration_backups.listed(vault.core)["backups"]) == 1, "not a second one, which drops the oldest"
    caller.transport.asked.clear()
    client = caller.client()
    request = make_request(new_key(), "cs-home")
    with pytest.raises((HomeportError, httpx.HTTPError)):
        sign_at_vault(client, "home")(request)
    assert caller.transport.asked == ["first"]
    assert sign_at_vault(client, "home")(request), "the next is asked the next time"
    assert caller.transport.asked == ["first", "second"]
