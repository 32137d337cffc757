"""PostgreSQL ends in the middle of an operation: what is under way waits for it, and goes on when it is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sites import World
from postgres import Postgres
from vault_process import LocalVault


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One of this test's own, to be ended."""
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_an_operation_goes_on_when_the_database_is_back(tmp_path: Path, server: Postgres) -> None:
    vault = LocalVault(tmp_path / "state", database=server.prepared())
    vault.start()
    world = World(vault.url, vault.vault.token)
    try:
        world.set_up()
        world.protected()
        world.more_points(2)
        world.west.hold["start-from-point"], world.west.entered["start-from-point"] = (
            threading.Event(),
            threading.Event(),
        )
        job = world.begin("failover")["id"]
        assert world.west.entered["start-from-point"].wait(30)
        server.stop()
        world.west.hold.pop("start-from-point").set()
        refused = world.call("GET", "/items", status=503)
        assert refused["code"] == "vault.database-unreachable"
        server.start()
        assert world.wait(job, 90)["state"] == "succeeded"
        world.expect("FailoverCommitPending", active_site="west")
        assert world.west.kinds().count("start-from-point") == 1
    finally:
        world.close()
        vault.stop()
