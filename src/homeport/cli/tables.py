"""Tables and colours, calm ones: green is well, yellow wants a look, red wants a hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeport.cli.speech import label, told

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


VOCABULARIES: dict[str, tuple[str, ...]] = {
    "State": ("state", "job", "server"),
    "Role": ("role",),
    "Operation": ("operation",),
    "Health": ("health",),
    "Power": ("power",),
    "Consistency": ("consistency",),
    "": ("severity", "field"),
    "Hidden": ("field",),
    "Can be protected": ("field",),
    "Connected": ("field",),
    "Guest agent": ("field",),
    "Critical": ("field",),
    "App-consistent every": ("field",),
    "Network": ("field",),
    "IP": ("field",),
}
"""By the name of a column, or of a row of details: whose words stand in it."""


def table(*columns: str) -> Table:
    """A table without lines but the one under its head. ``columns``: their names, in English; what stands in a column
    of states, operations … is translated."""
    from rich import box

    from homeport.cli.spoken_console import SpokenTable

    made = SpokenTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    made.vocabularies = [VOCABULARIES.get(column, ()) for column in columns]
    for column in columns:
        made.add_column(label(column), overflow="fold")
    return made


def details() -> Table:
    """Names at the left, facts at the right."""
    from homeport.cli.spoken_console import SpokenDetails

    made = SpokenDetails.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def coloured(text: str, colour: str) -> Text:
    """Text in a colour; never read as markup."""
    from rich.text import Text

    return Text(told(text), style=colour)


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
