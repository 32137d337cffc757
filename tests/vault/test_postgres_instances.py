"""Several instances of one vault on one PostgreSQL: what one had begun the others finish, and nothing is done twice."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fake_sites import World
from postgres import Postgres
from vault_process import QUICK, KillableVault, LocalVault

from homeport.domain.machines import Machine
from homeport.servers.discovery import Discovery
from homeport.servers.link import Link
from homeport.servers.worker import Worker
from homeport.vault.app import IdentityMissing, create_vault
from homeport.vault.core import Timeouts
from homeport.vault.instances import EXIT_DECLARED_DEAD
from homeport.vault.liveness import Liveness, Seen

LEASE = Timeouts().lease
"""Seconds of silence after which an instance is declared dead."""

PATIENT = Timeouts(take_point=60, stop_replication=60, gone=60, inventory=60)
"""As usual, but a site isn't given up while its instance stands still."""


def further(folder: Path, first: Path) -> Path:
    """The state folder of one more instance: it is given the vault's identity."""
    folder.mkdir(mode=0o700)
    for name in ("token", "vault-key.json"):
        shutil.copy(first / name, folder / name)
    return folder


class Two:
    """Two instances in processes of their own. The sites talk to the second, the operator to either."""

    def __init__(self, folder: Path, address: str, timeouts: Timeouts) -> None:
        self.address = address
        create_vault(folder / "one", database=address).close()
        further(folder / "two", folder / "one")
        self.one = KillableVault(folder / "one", database=address, timeouts=timeouts, again=False)
        self.two = KillableVault(folder / "two", database=address, timeouts=timeouts, again=False)
        self.one.start()
        self.two.start()
        self.world = World(self.two.url, (folder / "one" / "token").read_text().strip())

    def begin_at_one(self, operation: str, **body: object) -> str:
        """The job; the first instance runs it, because the second one stands still meanwhile."""
        self.two.signal(signal.SIGSTOP)
        try:
            job = self._begin(operation, body)
            self.world.until(lambda: self.runner(job) == "one")
        finally:
            self.two.signal(signal.SIGCONT)
        return job

    def runner(self, job: str) -> str | None:
        """Which instance runs it: the name of its state folder."""
        query = "SELECT place FROM instances JOIN dbos.workflow_status ON executor_id = id WHERE workflow_uuid = %s"
        with psycopg.connect(self.address) as connection:
            found = connection.execute(query, (job,)).fetchone()
        return None if found is None else Path(found[0].split(":")[1]).parent.name

    def _begin(self, operation: str, body: dict[str, object]) -> str:
        answer = httpx.post(
            f"{self.one.url}/v1/items/web/operations/{operation}",
            json=body,
            headers=self.world.client.headers,
            timeout=60,
        )
        assert answer.status_code == 202, answer.text
        job: str = answer.json()["job"]["id"]
        return job

    def fetch(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.address) as connection:
            return connection.execute(query.encode()).fetchall()

    def close(self) -> None:
        self.world.close()
        self.one.stop()
        self.two.stop()


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Iterator[Two]:
    made = Two(tmp_path, postgres.prepared(), getattr(request, "param", PATIENT))
    try:
        made.world.set_up()
        made.world.protected()
        made.world.more_points(2)
        yield made
    finally:
        made.close()


def failover_held_at_one(two: Two) -> tuple[str, Callable[[], None]]:
    """A failover that the first instance began, in the middle of starting the machine; and what lets it go on."""
    west = two.world.west
    west.hold["start-from-point"], west.entered["start-from-point"] = threading.Event(), threading.Event()
    job = two.begin_at_one("failover")
    assert west.entered["start-from-point"].wait(90)
    return job, lambda: west.hold.pop("start-from-point").set()


def done_once(two: Two) -> None:
    """The failover is complete, and each effect at the sites was had once."""
    item = two.world.expect("FailoverCommitPending", active_site="west", job=None)
    assert two.world.west.machines["web"].running
    assert not two.world.east.machines["web"].running
    assert item["failover_point"] == two.world.west.machines["web"].content
    for site, kind in (("east", "planned-stop"), ("west", "end-timeline"), ("west", "start-from-point")):
        assert two.world.sites[site].kinds().count(kind) == 1, kind


@pytest.mark.slow
def test_what_a_killed_instance_had_begun_is_finished_by_the_other(two: Two) -> None:
    job, go_on = failover_held_at_one(two)
    killed = time.monotonic()
    two.one.kill()
    go_on()
    assert two.world.wait(job, 90)["state"] == "succeeded"
    assert time.monotonic() - killed < 2 * LEASE
    assert two.runner(job) == "two"
    done_once(two)
    assert two.fetch("SELECT count(*) FROM instances WHERE dead IS NULL") == [(1,)]


@pytest.mark.slow
def test_an_instance_that_stood_still_is_replaced_and_ends_itself_when_it_goes_on(two: Two) -> None:
    job, go_on = failover_held_at_one(two)
    two.one.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    go_on()
    assert two.world.wait(job, 90)["state"] == "succeeded"
    assert time.monotonic() - stopped < 2 * LEASE
    assert two.runner(job) == "two"
    done_once(two)
    before = two.fetch("SELECT id, state, version FROM jobs") + two.fetch("SELECT id, state, attempt FROM work")
    two.one.signal(signal.SIGCONT)
    assert two.one.exit_code(30) == EXIT_DECLARED_DEAD
    assert two.fetch("SELECT id, state, version FROM jobs") + two.fetch("SELECT id, state, attempt FROM work") == before
    done_once(two)


def test_a_long_poll_at_one_instance_hears_at_once_of_what_the_other_changed(two: Two) -> None:
    two.world.east.hold["take-point"] = threading.Event()
    job = two.begin_at_one("point")
    two.world.until(lambda: two.world.call("GET", f"/jobs/{job}")["state"] == "running")
    version = two.world.call("GET", f"/jobs/{job}")["version"]
    answers: list[tuple[float, dict[str, object]]] = []

    def poll_at_one() -> None:
        seen = version
        while True:
            found = httpx.get(
                f"{two.one.url}/v1/jobs/{job}",
                params={"wait": 30, "version": seen},
                headers=two.world.client.headers,
                timeout=60,
            ).json()
            answers.append((time.monotonic(), found))
            seen = found["version"]
            if found["state"] == "succeeded":
                return

    waiting = threading.Thread(target=poll_at_one)
    waiting.start()
    threading.Event().wait(1)
    released = time.monotonic()
    two.world.east.hold.pop("take-point").set()
    waiting.join(60)
    assert answers[-1][0] - released < 10


@pytest.mark.parametrize("two", [QUICK], indirect=True)
def test_either_instance_knows_when_a_site_was_heard_of(two: Two) -> None:
    def connected_at_one() -> bool:
        answer = httpx.get(f"{two.one.url}/v1/sites/east", headers=two.world.client.headers, timeout=30)
        found: bool = answer.json()["connected"]
        return found

    two.world.until(connected_at_one)
    two.world.east.die()
    two.world.until(lambda: not connected_at_one())


class Looks:
    """The work of a configuration server whose site has one machine; ``name``: what that is called now."""

    def __init__(self) -> None:
        self.name = "first"
        self.greetings = 0

    def connect(self, report: Callable[[dict[str, Any]], None]) -> None: ...

    def present(self) -> bool:
        return True

    def greet(self, hello: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        hello({})
        self.greetings += 1

    def resume(self, replications: list[dict[str, Any]]) -> None: ...

    def carry_out(
        self, kind: str, params: dict[str, Any], progress: Callable[..., None], id: str = ""
    ) -> dict[str, Any]:
        assert kind == "inventory"
        return self.discover()

    def discover(self) -> dict[str, Any]:
        return {"machines": [Machine("5b0c2a52-0000-4000-8000-00000000000a", self.name, ()).to_json()], "facts": {}}

    def tend(self) -> None: ...

    def stop(self) -> None: ...


def test_a_configuration_server_goes_on_at_the_other_instance(tmp_path: Path, postgres: Postgres) -> None:
    made = Two(tmp_path, postgres.prepared(), QUICK)
    work = Looks()
    try:
        world = made.world  # asks the second instance
        world.call("POST", "/sites", {"name": "south", "path": "/south"}, status=201)
        link = Link(made.one.url, world.token, others=(made.two.url,))
        discovery = Discovery("south", work.discover, 0.5)
        worker = Worker("south", link, work, discovery=discovery)
        worker.start()
        try:
            world.until(lambda: [each["name"] for each in machines(world)] == ["first"])
            assert world.call("POST", "/sites/south/refresh")["new"] == []
            world.until(lambda: bool(world.call("GET", "/sites/south")["connected"]))
            made.one.kill()
            work.name = "second"
            world.until(lambda: [each["name"] for each in machines(world)] == ["second"])
            world.until(lambda: work.greetings > 1)
            discovery.interval = 600  # from here on it sees what it is asked to see
            threading.Event().wait(1)
            work.name = "third"
            (changed,) = world.call("POST", "/sites/south/refresh")["changed"]
            assert [(each["before"], each["after"]) for each in changed["changes"]] == [("second", "third")]
        finally:
            worker.stop()
    finally:
        made.close()


def machines(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.call("GET", "/sites/south/machines")["machines"]
    return found


def test_an_instance_without_the_vaults_key_is_refused(tmp_path: Path, postgres: Postgres) -> None:
    address = postgres.database()
    create_vault(tmp_path / "one", database=address).close()
    with pytest.raises(IdentityMissing, match="has no vault's key"):
        create_vault(tmp_path / "two", database=address)
    assert not (tmp_path / "two" / "vault-key.json").exists()
    create_vault(tmp_path / "other").close()
    with pytest.raises(IdentityMissing, match="has the key of vault"):
        create_vault(tmp_path / "other", database=address)
    create_vault(further(tmp_path / "three", tmp_path / "one"), database=address).close()


def test_one_silent_instance_is_declared_dead_by_one_of_those_who_look(tmp_path: Path, postgres: Postgres) -> None:
    address = postgres.database()
    create_vault(tmp_path / "one", database=address).close()
    vaults = [
        create_vault(further(tmp_path / name, tmp_path / "one"), database=address, timeouts=QUICK)
        for name in ("silent", "two", "three", "four")
    ]
    for vault in vaults:
        vault.instances.begin()
    with psycopg.connect(address) as connection:
        connection.execute(
            "UPDATE instances SET beat = beat - interval '1 hour' WHERE id = %s", (vaults[0].instances.id,)
        )
    at_once = threading.Barrier(3)
    declared: list[str] = []

    def look(index: int) -> None:
        at_once.wait()
        declared.extend(vaults[index].instances.declare_dead())

    threads = [threading.Thread(target=look, args=(index,)) for index in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert declared == [vaults[0].instances.id]

    class Ended(BaseException):
        pass

    def end() -> None:
        raise Ended

    # In its place, the process would end here.
    dead = vaults[0].core.database
    dead.lost = end
    with pytest.raises(Ended), dead.write():
        raise AssertionError("a dead instance came to write")
    with pytest.raises(Ended):
        vaults[0].instances.renew()
    for vault in vaults:
        vault.close()


def test_a_start_from_the_same_folder_ends_the_instance_before_it(tmp_path: Path, postgres: Postgres) -> None:
    vault = LocalVault(tmp_path / "state", database=postgres.prepared())
    vault.start()
    first = vault.vault.instances.id
    with psycopg.connect(vault.database or "") as connection:
        # As if it were killed: it could not say that it ended.
        vault.stop()
        connection.execute("UPDATE instances SET dead = NULL, beat = clock_timestamp()")
        connection.commit()
        vault.start()
        try:
            found = dict(connection.execute("SELECT id, dead IS NULL FROM instances").fetchall())
        finally:
            vault.stop()
    assert found == {first: False, vault.vault.instances.id: True}


def test_an_instance_that_just_began_gives_everyone_time_to_come_back() -> None:
    liveness = Liveness()
    liveness.take_in([("east", Seen(600.0, None)), ("west", Seen(600.0, 500.0))])
    assert liveness.silence("east") == pytest.approx(600, abs=1)
    assert not liveness.gone("east", 10)
    assert not liveness.gone("west", 10)
    assert liveness.gone("east", 0)


def test_what_another_instance_heard_counts_as_heard() -> None:
    liveness = Liveness()
    liveness._since -= 60
    assert liveness.silence("east") is None
    liveness.take_in([("east", Seen(5.0, None)), ("east", Seen(2.0, None))])
    assert 2 <= (liveness.silence("east") or 0) < 3
    assert not liveness.gone("east", 10)
    liveness.take_in([("east", Seen(20.0, None))])
    assert liveness.gone("east", 10)
    liveness.take_in([("east", Seen(4.0, 4.0))])
    assert liveness.gone("east", 10), "its connection broke at another instance, and it did not come back"
    liveness.take_in([("east", Seen(4.0, 4.0)), ("east", Seen(1.0, None))])
    assert not liveness.gone("east", 10), "it came back, to a third one"
    liveness.heard("east")
    assert liveness.silence("east") == pytest.approx(0, abs=1)
    assert set(liveness.own()) == {"east"}
