"""The vault's database is brought up to date from every schema that was released, and no row is lost on the way."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres import Postgres
from sqlalchemy import URL, select, text

from homeport.domain.states import State
from homeport.vault import engines, migrations
from homeport.vault.database import Base, Database, ItemRow, JobRow, PolicyRow, SettingRow, SiteRow, TaskRow, WorkRow

HERE = Path(__file__).parent
FIRST = HERE / "schema1.sql"
"""A database of the first version as it was left in the middle of a failover."""
HEAD = ScriptDirectory.from_config(migrations.config()).get_current_head()


def nothing() -> None:
    """Nobody waits for changes."""


def first_version(folder: Path) -> Path:
    path = folder / "vault.db"
    connection = sqlite3.connect(path)
    connection.executescript(FIRST.read_text())
    connection.close()
    return path


def rows_of(path: Path) -> dict[str, list[dict[str, object]]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {table: sorted(map(dict, connection.execute(f'SELECT * FROM "{table}"')), key=repr) for table in tables}
    connection.close()
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | URL:
    """An empty database."""
    if request.param == "sqlite":
        return tmp_path / "vault.db"
    server: Postgres = request.getfixturevalue("postgres")
    return engines.address_of(server.database())


def test_the_migrations_make_what_the_models_say(place: Path | URL) -> None:
    database = Database(place, nothing)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_a_database_of_the_first_version_keeps_every_row(tmp_path: Path) -> None:
    path = first_version(tmp_path)
    before = rows_of(path)
    Database(path, nothing).close()
    after = rows_of(path)
    assert after["alembic_version"] == [{"version_num": HEAD}]
    for table, rows in before.items():
        if table != "settings":
            assert [{name: row[name] for name in old} for old, row in zip(rows, after[table], strict=True)] == rows


def test_what_the_first_version_left_can_be_read(tmp_path: Path) -> None:
    database = Database(first_version(tmp_path), nothing)
    with database.read() as session:
        item = session.get_one(ItemRow, "i1")
        assert (item.state, item.fence, item.lineage) == (State.FAILOVER_IN_PROGRESS, 7, ["t1"])
        assert item.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert session.get_one(JobRow, "j2").before is State.PROTECTED
        assert session.get_one(TaskRow, ("j2", "stop")).state == "running"
        assert session.scalars(select(WorkRow.key)).all() == ["j2:stop:0"]
        assert session.scalars(select(SiteRow.name).order_by(SiteRow.last_seen.desc())).all() == ["west", "east"]
        assert session.get_one(PolicyRow, "gold-failback").generated
    database.close()


def test_a_copy_is_set_aside_before_and_only_then(tmp_path: Path) -> None:
    path = first_version(tmp_path)
    before = rows_of(path)
    Database(path, nothing).close()
    kept = tmp_path / "vault.db.schema-1"
    assert rows_of(kept) == before
    assert kept.stat().st_mode & 0o077 == 0
    kept.unlink()
    Database(path, nothing).close()
    assert sorted(each.name for each in tmp_path.iterdir() if "schema" in each.name) == []


def test_the_first_version_refuses_what_a_newer_one_has_made(tmp_path: Path) -> None:
    database = Database(first_version(tmp_path), nothing)
    with database.read() as session:
        # All that it looked at: it knew 1.
        assert session.get_one(SettingRow, "schema_version").value["version"] == int(HEAD or 0) > 1
    database.close()


def test_a_newer_schema_is_refused_and_left_alone(place: Path | URL) -> None:
    database = Database(place, nothing)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(migrations.SchemaUnknown, match="9999"):
        Database(place, nothing)
    engine = engines.open_engine(place)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = first_version(tmp_path)
    before = rows_of(path)

    def break_off(*_: object) -> None:
        raise RuntimeError("the power went out")

    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_check_references", break_off)
        with pytest.raises(RuntimeError, match="power"):
            Database(path, nothing)
    assert rows_of(path) == before
    Database(path, nothing).close()
    assert rows_of(path)["alembic_version"] == [{"version_num": HEAD}]


def test_of_several_that_start_at_once_one_makes_the_tables(postgres: Postgres) -> None:
    place = engines.address_of(postgres.database())
    at_once = threading.Barrier(4)

    def start(_: int) -> None:
        at_once.wait()
        Database(place, nothing).close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    engine = engines.open_engine(place)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT version_num FROM alembic_version")).all() == [HEAD]
    engine.dispose()
