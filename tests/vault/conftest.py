from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbos import DBOS
from fake_sites import World
from postgres import Postgres
from vault_process import LocalVault

from homeport.vault import migrations
from homeport.vault import workflows as _registered  # noqa: F401
from homeport.vault.app import _prepare_workflow_database
from homeport.vault.steps import VERSIONS, WORKFLOWS

RELEASED = dict(VERSIONS), dict(WORKFLOWS)
"""What the product registers: read before any test's module is."""

ON_BOTH = {"test_vault_api", "test_vault_round_trip"}
"""Modules whose tests of a vault run on both databases."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames:
        module = metafunc.module.__name__.rsplit(".", 1)[-1]
        kinds = ["sqlite", "postgresql"] if module in ON_BOTH else ["sqlite"]
        metafunc.parametrize("database", kinds, indirect=True)


@pytest.fixture(autouse=True)
def _released_workflows() -> Iterator[None]:
    """A test that registers a workflow, or chooses another version, leaves none of it to the next one."""
    assert (VERSIONS, WORKFLOWS) == RELEASED, "registered where a test's module is imported"
    yield
    assert (VERSIONS, WORKFLOWS) == RELEASED, "this test leaves what it registered"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    """What a vault is given to keep its rows in: the address of an empty database; None: SQLite."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.prepared()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with SQLite's files as a first start makes them: all tables, no rows."""
    folder = tmp_path_factory.mktemp("empty") / "state"
    folder.mkdir(0o700)
    migrations.upgrade(folder / "vault.db")
    _prepare_workflow_database(folder / "workflows.db")
    DBOS.migrate(f"sqlite:///{folder / 'workflows.db'}")
    return folder


@pytest.fixture
def vault(tmp_path: Path, database: str | None, empty: Path) -> Iterator[LocalVault]:
    if database is None:  # else each test pays for the making of the tables
        shutil.copytree(empty, tmp_path / "state")
    served = LocalVault(tmp_path / "state", database=database)
    served.start()
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def world(vault: LocalVault) -> Iterator[World]:
    """Two sites whose servers are connected to the vault."""
    made = World(vault.url, vault.vault.token)
    try:
        made.set_up()
        yield made
    finally:
        made.close()
