"""How fast a process server may ship, as the vault says: it holds at the socket, at once, and after every restart."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from vault_process import LocalVault

from homeport.domain.bandwidth import Schedule
from homeport.servers.crossing import Crossing
from homeport.servers.link import Link
from homeport.servers.relay import Relay
from homeport.servers.relay_errors import NotAsked
from homeport.servers.remote_objects import RemoteObjects
from homeport.servers.role_work import RoleWork
from homeport.servers.shipping import Shipping
from homeport.servers.throttle import Throttle
from homeport.servers.work import SiteWork
from homeport.servers.work.kinds import Duty
from homeport.servers.work.process_server_work import Door, ProcessServerWork
from homeport.servers.work.site_context import SiteContext
from homeport.servers.work.site_work import ServersHere
from homeport.servers.worker import Worker
from homeport.sites.qemu import QemuSite
from homeport.store import open_objects

Json = dict[str, Any]


def until(found: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


class Site:
    """A site without machines, and its configuration server, connected to a vault. ``relay``: of its servers, where
    they are processes of their own."""

    def __init__(self, vault: LocalVault, folder: Path, relay: Relay | None = None) -> None:
        self.vault = vault
        self.folder = folder
        self.own = folder / ".homeport"
        (self.own / "store").mkdir(parents=True, exist_ok=True)
        self.url = (self.own / "store").as_uri()
        self.relay = relay
        self.headers = {"Authorization": f"Bearer {vault.vault.token}"}

    def begin(self) -> None:
        work = SiteWork("a", QemuSite(self.folder, name="a"), self.own, open_objects(self.url), self.url, self.relay)
        self.work = work
        self.worker = Worker("a", Link(self.vault.url, self.vault.vault.token), work)
        if self.relay is not None:
            self.relay.changed = self.worker.refresh
        self.worker.start()
        until(lambda: self.call("GET", "/sites/a")["connected"])

    def end(self) -> None:
        self.worker.stop()

    def call(self, method: str, path: str, body: Json | None = None, status: int = 200) -> Json:
        answer = httpx.request(method, self.vault.url + "/v1" + path, json=body, headers=self.headers, timeout=30)
        assert answer.status_code == status, answer.text
        found: Json = answer.json()
        return found


@pytest.fixture
def site(vault: LocalVault, tmp_path: Path) -> Iterator[Site]:
    made = Site(vault, tmp_path / "a")
    made.call("POST", "/sites", {"name": "a", "provider": "qemu", "path": str(made.folder)}, status=201)
    made.begin()
    yield made
    made.end()


class Shipper:
    """Somebody ships all the time, as replication does. ``rate``: bits per second that left in the last while."""

    def __init__(self, server: ProcessServerWork, file: Path) -> None:
        gateway, self.crossing = server.gateway(), Crossing()
        self._remote = RemoteObjects(gateway["url"], gateway["token"], self.crossing, throttle=server.shipping.throttle)
        file.write_bytes(bytes(256 << 10))
        self._file, self._ending = file, threading.Event()
        self._thread = threading.Thread(target=self._ship, daemon=True)
        self._thread.start()

    def _ship(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            self._remote.put_file(f"machines/x/{number % 4}", self._file, if_absent=False)

    def rate(self, seconds: float) -> float:
        began, before = time.monotonic(), self.crossing.sent
        time.sleep(seconds)
        return (self.crossing.sent - before) * 8 / (time.monotonic() - began)

    def end(self) -> None:
        self._ending.set()
        self._thread.join(20)


def test_the_vaults_word_holds_at_the_socket_within_a_second_and_after_a_restart(site: Site) -> None:
    assert isinstance(site.work.servers, ServersHere)
    server = site.work.servers.process_server
    shown = until(lambda: (told := site.call("GET", "/process-servers/a/throttle"))["effective"] and told)
    assert (shown["vault"], shown["applied"]) == (None, True)
    assert shown["effective"]["rules"] == "configuration"
    shipper = Shipper(server, site.folder / "segment")
    try:
        assert shipper.rate(0.3) > 12_000_000, "no limit"
        told = site.call("PUT", "/process-servers/a/throttle", {"limit": "8Mbit"})
        assert (told["applied"], told["error"]) == (True, None)
        assert told["effective"]["now"] == 8_000_000
        time.sleep(0.3)  # what was under way
        assert shipper.rate(1.5) == pytest.approx(8_000_000, rel=0.25)
        window = {"limit": "none", "schedule": ["00:00-24:00=4Mbit"], "time_zone": "Asia/Tokyo"}
        told = site.call("PUT", "/process-servers/a/throttle", window)
        assert told["effective"]["schedule"] == ["4M"]
        assert "JST" in told["effective"]["clock"]
        time.sleep(0.3)
        assert shipper.rate(1.5) == pytest.approx(4_000_000, rel=0.25)
    finally:
        shipper.end()
    site.end()
    site.begin()
    server = site.work.servers.process_server
    assert server.shipping.throttle.rate == 4_000_000, "known before the vault is asked"
    told = site.call("DELETE", "/process-servers/a/throttle")
    assert (told["vault"], told["applied"]) == (None, True)
    assert server.shipping.throttle.rate is None
    assert site.call("GET", "/servers/a")["process_server"]["told"]["throttle"]["rules"] == "configuration"


def test_what_makes_no_sense_or_names_nobody_is_refused(site: Site) -> None:
    until(lambda: site.call("GET", "/process-servers/a/throttle")["effective"])
    for wrong in ({"limit": "fast"}, {"schedule": ["8-18"]}, {"time_zone": "Mars/Olympus"}):
        assert site.call("PUT", "/process-servers/a/throttle", wrong, 422)["code"] == "process-server.schedule-invalid"
    assert site.call("GET", "/process-servers/a/throttle")["vault"] is None
    assert site.call("PUT", "/process-servers/b/throttle", {"limit": "8M"}, 404)["code"] == "server.not-found"


class Apart:
    """A process server as one of its own, joined to the relay by hand: it does what waits for it there."""

    def __init__(self, relay: Relay, name: str, folder: Path, schedule: Schedule | None = None) -> None:
        own = folder / ".homeport"
        context = SiteContext("a", QemuSite(folder, name="a"), own, open_objects((own / "store").as_uri()), "")
        self.throttle = Throttle(schedule)
        state = folder.parent / name
        state.mkdir(exist_ok=True)
        shipping = Shipping.unlimited(context.caches)
        shipping.throttle = self.throttle
        self.work = RoleWork(ProcessServerWork(context, Door(state=state), shipping), own, state)
        self.relay, self.name = relay, name
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def begin(self) -> None:
        self.greet()
        self._thread.start()

    def greet(self) -> None:
        self.work.greet(lambda body: self.relay.hello(self.name, Duty.PROCESS_SERVER, {"executor": "1", **body}) or {})

    def _poll(self) -> None:
        with self.relay.polling(self.name):
            while not self._ending.wait(0.02):
                for piece in self.relay.take(self.name, frozenset()):
                    result = self.work.carry_out(piece["kind"], piece["params"], lambda *_, **__: None)
                    with contextlib.suppress(NotAsked):  # nobody waits for it
                        self.relay.answer(self.name, piece["id"], {"state": "done", "result": result})

    def end(self) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        self.work.stop()


def test_each_of_several_process_servers_has_its_own_and_who_was_away_is_told_when_it_comes(
    vault: LocalVault, tmp_path: Path
) -> None:
    relay = Relay(tmp_path)
    site = Site(vault, tmp_path / "a", relay)
    site.call("POST", "/sites", {"name": "a", "provider": "qemu", "path": str(site.folder)}, status=201)
    one, two = Apart(relay, "ps1", site.folder, Schedule(9_000_000)), Apart(relay, "ps2", site.folder)
    site.begin()
    one.begin()
    two.greet()
    relay.dropped("ps2")  # it is away
    try:
        until(lambda: len(site.call("GET", "/sites/a")["facts"].get("servers", [])) == 2)
        told = site.call("PUT", "/process-servers/ps1/throttle", {"limit": "5M"})
        assert (told["applied"], told["effective"]["now"], one.throttle.rate) == (True, 5_000_000, 5_000_000)
        told = site.call("PUT", "/process-servers/ps2/throttle", {"limit": "6M"})
        assert (told["applied"], told["error"]) == (False, None)
        assert two.throttle.rate is None
        two.begin()
        until(lambda: two.throttle.rate == 6_000_000)
        assert one.throttle.rate == 5_000_000
        again = Relay(tmp_path)  # the configuration server restarts while the vault is away
        other = Apart(again, "ps1", site.folder)
        other.throttle.told = None  # as if its own folder were lost
        other.begin()
        until(lambda: other.throttle.rate == 5_000_000)
        other.end()
        site.call("DELETE", "/process-servers/ps1/throttle")
        one.greet()
        until(lambda: one.throttle.rate == 9_000_000)
    finally:
        one.end()
        two.end()
        site.end()
