"""Writes a migration: the difference between the schema before it and the models. For developers.

A column that is added must have a default for the rows that are there: its own scalar one, an empty object or list, or
none where it may be null.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Boolean, Column, Enum, text

from homeport.vault import engines, migrations
from homeport.vault.database import Base, UtcTime

HOME = Path(migrations.__file__).parent


def render(kind: str, thing: Any, context: AutogenContext) -> str | bool:
    """Our own types by the names that the migrations have for them."""
    if kind == "type" and isinstance(thing, UtcTime):
        return "UTC_TIME"
    if kind == "type" and isinstance(thing, Enum):
        return f"sa.String({thing.length})"
    return False


def fill(context: MigrationContext, revision: Any, directives: list[Any]) -> None:
    """Gives columns that are added a default for the rows that are there."""
    script = directives[0]
    for change in _flat(script.upgrade_ops):
        if isinstance(change, ops.AddColumnOp) and not change.column.nullable and change.column.server_default is None:
            change.column.server_default = _default(change.table_name, change.column)


def _flat(container: ops.OpContainer) -> list[Any]:
    found: list[Any] = []
    for change in container.ops:
        found += _flat(change) if isinstance(change, ops.OpContainer) else [change]
    return found


def _default(table: str, column: Column[Any]) -> Any:
    model = Base.metadata.tables[table].columns[column.name].default
    value = getattr(model, "arg", None)
    if callable(value):
        value = {"dict": "{}", "list": "[]"}.get(getattr(value, "__name__", ""))
    if value is None:
        raise SystemExit(f"{table}.{column.name} can't be null and has no default for the rows that are there.")
    if isinstance(column.type, Boolean):
        return text("true" if value else "false")
    return text(str(value)) if isinstance(value, int) else str(value)


def main(number: str, message: str) -> None:
    """In a copy of the migrations, so that the one that is there stays until its successor is written."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "migrations"
        shutil.copytree(HOME, copy)
        written = copy / "versions" / f"schema_{number}.py"
        written.unlink(missing_ok=True)
        engine = engines.open_engine(Path(folder) / "vault.db", foreign_keys=False)
        with engines.writing(engine).begin() as connection:
            config = migrations.config(connection)
            config.set_main_option("script_location", str(copy))
            config.attributes["render"] = render
            command.upgrade(config, "head")
            command.revision(config, message, autogenerate=True, rev_id=number, process_revision_directives=fill)
        engine.dispose()
        shutil.copy(written, HOME / "versions" / f".{written.name}")
        os.replace(HOME / "versions" / f".{written.name}", HOME / "versions" / written.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
