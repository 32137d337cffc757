"""All that the vault knows as lines of JSON, the same for every database, and back (docs/store-format.md, "Backups of
the vault").

    {"format": "homeport vault backup", "version": 1, "vault": …, "created": …, "schema": …, "homeport": …}
    {"table": "sites", "row": {…}}
    …
    {"end": {"sites": 2, …}}

What only counts while a vault runs (work in the queue, instances, idempotency keys) stays out.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import Column, Enum, Table, delete, insert, select
from sqlalchemy.orm import Session

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.vault import migrations
from homeport.vault.database import Base, Json, UtcTime, now

FORMAT = "homeport vault backup"
VERSION = 1
OF_THE_MOMENT = frozenset({"work", "instances", "heard", "idempotency"})
"""Tables of what only counts while a vault runs."""
_AT_ONCE = 500


class BackupInvalid(HomeportError):
    """It is whole (the store saw to that), and not what this version can read."""

    code = "vault.backup-invalid"
    remedy = "Use the version of Homeport that made the backup, or a newer one; or another backup."


@dataclass(frozen=True)
class Dump:
    """``rows``: by table, as JSON has them. ``created``: the instant that all of it shows."""

    vault: str
    created: datetime
    schema: str
    rows: dict[str, list[Json]] = field(default_factory=dict)


def schema() -> str:
    """That of this version's tables."""
    return str(ScriptDirectory.from_config(migrations.config()).get_current_head())


def tables() -> list[Table]:
    """Those that are kept, each after those that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in OF_THE_MOMENT]


def dump(session: Session, vault: str) -> bytes:
    """``session``: sees one instant."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "vault": vault,
        "created": now().isoformat(),
        "schema": schema(),
        "homeport": __version__,
    }
    return b"".join(_line(line) for line in (head, *_lines(session)))


def _lines(session: Session) -> Iterator[Json]:
    counts = {}
    for table in tables():
        counts[table.name] = 0
        for row in session.execute(select(table)).mappings():
            counts[table.name] += 1
            yield {"table": table.name, "row": row_to_json(dict(row))}
    yield {"end": counts}


def _line(data: Json) -> bytes:
    return json.dumps(data, separators=(",", ":"), default=str).encode() + b"\n"


def parse(content: bytes) -> Dump:
    """Raises :class:`BackupInvalid`."""
    try:
        head, *lines, end = (json.loads(line) for line in content.splitlines())
        if head["format"] != FORMAT or "end" not in end:
            raise ValueError("it does not begin or end as a backup does")
        rows: dict[str, list[Json]] = {name: [] for name in end["end"]}
        for line in lines:
            rows[line["table"]].append(line["row"])
        if {name: len(found) for name, found in rows.items()} != end["end"]:
            raise ValueError("rows are missing")
        version = int(head["version"])
        found = Dump(str(head["vault"]), datetime.fromisoformat(head["created"]), str(head["schema"]), rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupInvalid(f"The backup can't be read: {error}.") from error
    if version != VERSION or found.schema > schema():
        raise BackupInvalid(
            f"A newer Homeport made the backup (format {version}, schema {found.schema}); "
            f"this one knows format {VERSION} and schema {schema()}."
        )
    return found


def load(session: Session, found: Dump) -> None:
    """In place of all that is there. Columns that a backup of an earlier schema hasn't get their defaults."""
    for table in reversed(Base.metadata.sorted_tables):
        session.execute(delete(table))
    for table in tables():
        rows = [row_from_json(table, row) for row in found.rows.get(table.name, [])]
        for start in range(0, len(rows), _AT_ONCE):
            session.execute(insert(table), rows[start : start + _AT_ONCE])


def row_to_json(row: dict[str, Any]) -> Json:
    return {name: _plain(value) for name, value in row.items()}


def row_from_json(table: Table, row: Json) -> dict[str, Any]:
    """The columns that the table has, as the database takes them."""
    return {column.name: _typed(column, row[column.name]) for column in table.columns if column.name in row}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.value if isinstance(value, enum.Enum) else value


def _typed(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, UtcTime):
        return datetime.fromisoformat(value)
    if isinstance(column.type, Enum) and column.type.enum_class is not None:
        return column.type.enum_class(value)
    return value
