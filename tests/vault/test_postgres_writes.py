"""What a transaction of the vault promises, on both databases: what it read is still so when it commits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from postgres import Postgres
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from homeport.vault import engines
from homeport.vault.database import Database, SettingRow, SiteRow


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    """Two that work on one database: of two processes where it is PostgreSQL, of two threads where it is SQLite."""
    if request.param == "sqlite":
        one = Database(tmp_path / "vault.db", lambda: None)
        other = Database(tmp_path / "vault.db", lambda: None)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        place = engines.address_of(server.prepared())
        one, other = Database(place, lambda: None), Database(place, lambda: None)
    yield one, other
    one.close()
    other.close()


def test_what_many_count_at_once_is_counted_once_each(pair: tuple[Database, Database]) -> None:
    with pair[0].write() as session:
        session.add(SettingRow(name="count", value={"n": 0}))

    def count(index: int) -> None:
        for _ in range(25):
            with pair[index % 2].write() as session:
                row = session.get_one(SettingRow, "count")
                row.value = {"n": row.value["n"] + 1}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    with pair[1].read() as session:
        assert session.get_one(SettingRow, "count").value == {"n": 100}


def test_what_is_not_there_stays_so_until_the_commit(pair: tuple[Database, Database]) -> None:
    """As when an item is refused because a machine of its name is protected: there is no row to lock."""
    added = []

    def add_if_first(index: int) -> None:
        with pair[index % 2].write() as session:
            if not list(session.scalars(select(SettingRow).where(SettingRow.name.like("item-%")))):
                threading.Event().wait(0.05)
                session.add(SettingRow(name=f"item-{index}", value={}))
                added.append(index)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_if_first, range(4)))
    assert len(added) == 1


def test_a_reader_sees_one_instant_and_is_not_held_up(pair: tuple[Database, Database]) -> None:
    with pair[0].read() as reader:
        assert reader.get(SettingRow, "one") is None
        with pair[1].write() as session:
            session.add(SettingRow(name="one", value={}))
        reader.expire_all()
        assert reader.get(SettingRow, "one") is None
    with pair[0].read() as reader:
        assert reader.get(SettingRow, "one") is not None


def test_what_fails_leaves_nothing_and_holds_nobody_up(pair: tuple[Database, Database]) -> None:
    with pytest.raises(ValueError, match="no"), pair[0].write() as session:
        session.add(SettingRow(name="one", value={}))
        session.flush()
        raise ValueError("no")
    with pair[1].write() as session:
        assert session.get(SettingRow, "one") is None
        session.add(SettingRow(name="one", value={}))


def test_instants_come_back_as_they_were_and_sort_as_they_are(pair: tuple[Database, Database]) -> None:
    begin = datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    instants = [begin, begin + timedelta(microseconds=1), begin + timedelta(seconds=1), begin + timedelta(hours=1.5)]
    berlin = timezone(timedelta(hours=2))
    with pair[0].write() as session:
        for number, instant in enumerate(instants):
            session.add(
                SiteRow(name=f"s{number}", provider="qemu", path=f"/{number}", created=instant.astimezone(berlin))
            )
    with pair[1].read() as session:
        found = list(session.scalars(select(SiteRow.created).order_by(SiteRow.created)))
        assert found == instants
        assert {each.utcoffset() for each in found} == {timedelta(0)}
        assert list(session.scalars(select(SiteRow.name).where(SiteRow.created > begin).order_by(SiteRow.created))) == [
            "s1",
            "s2",
            "s3",
        ]


def test_nothing_is_written_while_reading(postgres: Postgres) -> None:
    database = Database(engines.address_of(postgres.prepared()), lambda: None)
    with pytest.raises(DBAPIError, match="read-only"), database.read() as session:
        session.add(SettingRow(name="one", value={}))
        session.flush()
    database.close()


@pytest.mark.parametrize("address", ["mysql://u@h/d", "postgresql://host", "nothing", "sqlite:///file.db"])
def test_what_names_no_postgresql_database_is_refused(address: str) -> None:
    with pytest.raises(engines.DatabaseInvalid):
        engines.address_of(address)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    place = engines.address_of("postgresql://homeport:secret@127.0.0.1:1/vault")
    with pytest.raises(engines.DatabaseUnreachable) as error:
        Database(place, lambda: None)
    assert "127.0.0.1:1/vault" in error.value.cause
    assert "secret" not in error.value.cause
