"""Two instances of the vault on one PostgreSQL, behind one address, and servers that joined over mutual TLS: either may
be killed, and what it had begun, replication, and trust go on with the other."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from homeport.domain.servers import Role
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.joining import join_configuration_server
from tests.e2e.apart import Apart
from tests.e2e.relays import Relay
from tests.ports import free_port
from tests.vault.postgres import Postgres

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

FIRST, SECOND = "vault", "vault-2"


class TwoVaults(Apart):
    """Servers reach the first one that takes a connection; the operator is at :attr:`state`'s."""

    def __init__(self, database: str) -> None:
        super().__init__()
        self.database = database
        self.roles[SECOND] = Role.VAULT
        self.address = Relay(*(urlsplit(self._url(name)).port or 0 for name in (FIRST, SECOND)))
        self.states_of = {FIRST: self.state, SECOND: self.own(SECOND)}
        for name in (FIRST, SECOND):
            local = f"127.0.0.1:{free_port()}"
            self._configure(name, name=name, urls=[self.address.url], local=local, database=database)

    def up(self, **environment: str) -> None:
        super().up(**environment)
        self.own(SECOND).mkdir(mode=0o700, parents=True)
        for name in ("token", "vault-key.json"):
            shutil.copy(self.state / name, self.own(SECOND) / name)
        self.start_server(SECOND)
        self.until((self.own(SECOND) / "endpoint").exists, 60, "the second vault to be up")

    def kill_and_go_to_the_other(self, name: str) -> None:
        self.kill_server(name)
        del self.servers[name]
        other = SECOND if name == FIRST else FIRST
        self.process, self.state = self.servers[other], self.states_of[other]

    def runner(self, job: str) -> str | None:
        """Which instance runs a job."""
        query = "SELECT place FROM instances JOIN dbos.workflow_status ON executor_id = id WHERE workflow_uuid = %s"
        with psycopg.connect(self.database) as connection:
            found = connection.execute(query, (job,)).fetchone()
        if found is None:
            return None
        place = Path(found[0].split(":")[1]).parent
        return next(name for name, state in self.states_of.items() if state == place)

    def close(self) -> None:
        self.address.close()
        super().close()


@pytest.fixture
def world() -> Iterator[TwoVaults]:
    server = Postgres()
    try:
        server.start()
        with TwoVaults(server.prepared()) as world:
            world.set_up()
            yield world
    finally:
        server.close()


def test_operations_replication_and_trust_go_on_with_the_instance_that_is_left(world: TwoVaults) -> None:
    world.scribble("a", 100)
    world.protect()
    before = world.hashes("a")
    world.servers[SECOND].send_signal(signal.SIGSTOP)
    try:
        job = world.start("failover")
        world.until(lambda: world.runner(job["id"]) == FIRST, 60, "the first instance to run it")
    finally:
        world.servers[SECOND].send_signal(signal.SIGCONT)
    world.kill_and_go_to_the_other(FIRST)
    world.wait(job)
    assert world.runner(job["id"]) == SECOND
    assert world.hashes("b") == before, "a planned failover loses nothing"

    world.until(world.all_connected, 60, "all servers to be connected to the instance that is left")
    joined = world.own("ps2-b")
    passphrase = JoinPassphrase(world.own("cs-b")).text
    identity = join_configuration_server(world.urls["cs-b"], passphrase, Role.PROCESS_SERVER, joined, name="ps2-b")
    assert identity.who.name == "ps2-b", "who signs is the authority that both have"
    world.do("commit")
    world.do("reprotect")

    world.start_server(FIRST)
    world.kill_and_go_to_the_other(SECOND)
    world.until(world._answers, 60, "the first instance to be up again")
    world.scribble("b", 20)
    point = world.until(world.try_point, 90, "a point with the first instance alone")
    assert world.point_hashes("a", point) == world.hashes("b")
    last = world.hashes("b")
    world.do("failback")
    assert world.hashes("a") == last, "a planned failback loses nothing"
