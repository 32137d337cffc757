"""What a backup holds is what the database held, and nothing else is taken for a backup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.states import Direction, State
from homeport.vault import dump
from homeport.vault.database import (
    Database,
    ItemRow,
    JobRow,
    PointRow,
    PolicyRow,
    SettingRow,
    SiteRow,
    TaskRow,
    WorkRow,
)

LATER = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
VAULT = "0" * 32


def fill(session: Session) -> None:
    """A row of each kind that matters."""
    session.add_all([SiteRow(name=name, provider="qemu", path=f"/{name}", facts={"ü": 1}) for name in ("east", "west")])
    session.add(
        PolicyRow(name="gold", rpo_threshold=900, retention=86400, app_consistent=0, interval=5, generated=False)
    )
    session.flush()
    session.add(
        ItemRow(
            id="i1", name="web", machine="m1", description={"name": "web"}, machine_key="11" * 32, home="east",
            away="west", policy="gold", state=State.TEST_FAILOVER_CLEANUP_PENDING, direction=Direction.REVERSE,
            active_site="east", store_site="west", timeline="1" * 16, lineage=["1" * 16], fence=1 << 41, created=LATER,
        )
    )  # fmt: skip
    session.flush()
    job = JobRow(
        id="j1", kind="failover", item="i1", item_name="web", params={"point": "latest"}, before=State.PROTECTED,
        direction=Direction.FORWARD, state="running",
    )  # fmt: skip
    session.add(job)
    session.flush()
    session.add(TaskRow(job="j1", name="begin", number=0, title="Begin"))
    session.add(PointRow(timeline="1" * 16, number=3, data={"id": f"{'1' * 16}/3"}))
    session.add(SettingRow(name="sealed", value={"text": "header\nof two lines"}))
    session.add(WorkRow(id="w1", key="k", site="east", kind="points", params={}))


def everything(session: Session) -> dict[str, list[dict[str, object]]]:
    """Rows by table, in any order."""
    return {
        table.name: sorted((dict(row) for row in session.execute(select(table)).mappings()), key=str)
        for table in dump.tables()
    }


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "vault.db", lambda: None)
    with database.write() as session:
        fill(session)
    yield database
    database.close()


@pytest.fixture
def content(full: Database) -> bytes:
    with full.read() as session:
        return dump.dump(session, VAULT)


def test_what_is_loaded_is_what_was_there(full: Database, content: bytes, tmp_path: Path) -> None:
    found = dump.parse(content)
    assert (found.vault, found.schema) == (VAULT, dump.schema())
    other = Database(tmp_path / "other.db", lambda: None)
    with other.write() as session:
        session.add(SettingRow(name="of another vault", value={}))
        session.flush()
        dump.load(session, found)
    with full.read() as before, other.read() as after:
        assert everything(after) == everything(before)
        item = after.get_one(ItemRow, "i1")
        assert (item.state, item.direction) == (State.TEST_FAILOVER_CLEANUP_PENDING, Direction.REVERSE)
        assert (item.created, item.fence) == (LATER, 1 << 41)
    other.close()


def test_what_only_counts_while_a_vault_runs_stays_out(content: bytes) -> None:
    told = [json.loads(line) for line in content.splitlines()]
    assert {line["table"] for line in told if "table" in line} >= {
        "sites",
        "items",
        "jobs",
        "tasks",
        "points",
        "settings",
    }
    assert dump.OF_THE_MOMENT.isdisjoint(line["table"] for line in told if "table" in line)


def test_a_row_of_an_earlier_schema_gets_the_defaults_of_what_it_lacks(content: bytes, tmp_path: Path) -> None:
    found = dump.parse(content)
    for row in found.rows["items"]:
        del row["ties"], row["timelines"], row["target"]
    database = Database(tmp_path / "other.db", lambda: None)
    with database.write() as session:
        dump.load(session, found)
        item = session.get_one(ItemRow, "i1")
        assert (item.ties, item.timelines, item.target) == ({}, {}, {})
    database.close()


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


@pytest.mark.parametrize("spoil", ["empty", "no end", "a row is missing", "not JSON", "another format"])
def test_what_is_no_whole_backup_is_refused(content: bytes, spoil: str) -> None:
    spoiled = {
        "empty": b"",
        "no end": b"".join(lines(content)[:-1]),
        "a row is missing": b"".join(lines(content)[:3] + lines(content)[4:]),
        "not JSON": content.replace(b"{", b"[", 1),
        "another format": content.replace(b"homeport vault backup", b"something else", 1),
    }[spoil]
    with pytest.raises(dump.BackupInvalid):
        dump.parse(spoiled)


@pytest.mark.parametrize(("told", "newer"), [(b'"version":1', b'"version":2'), (b'"schema":"', b'"schema":"9')])
def test_a_backup_of_a_newer_version_is_refused(content: bytes, told: bytes, newer: bytes) -> None:
    with pytest.raises(dump.BackupInvalid, match="newer Homeport"):
        dump.parse(content.replace(told, newer, 1))
