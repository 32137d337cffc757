"""Tables and colours, calm ones: green is well, yellow wants a look, red wants a hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

HEALTH_COLOURS = {"normal": "green", "warning": "yellow", "critical": "red"}
POWER_COLOURS = {"running": "green", "off": "dim", "paused": "yellow"}
JOB_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "running": "cyan",
    "queued": "dim",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "waiting": "yellow",
}


def table(*columns: str) -> Table:
    """A table without lines but the one under its head."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def details() -> Table:
    """Names at the left, facts at the right."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def coloured(text: str, colour: str) -> Text:
    """Text in a colour; never read as markup."""
    from rich.text import Text

    return Text(text, style=colour)


def machine_name(machine: Any) -> str:
    """A machine of the API: its name, or the whole Machine."""
    if isinstance(machine, dict):
        return str(machine.get("name") or machine.get("uuid") or "?")
    return str(machine) if machine else "-"


def point_name(point: Any) -> str:
    """A point of the API: its id, or the whole Point."""
    if isinstance(point, dict):
        return str(point.get("id") or "?")
    return str(point) if point else "-"
