"""What an item's disks change and what of it is shipped, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeport.cli.formats import show_size
from homeport.cli.speech import fill

if TYPE_CHECKING:
    from rich.table import Table


def traffic_rows(rows: Table, traffic: dict[str, Any]) -> None:
    """What each disk changes and what of it is shipped, of statistics as a process server tells them."""
    for disk, flows in (traffic.get("disks") or {}).items():
        rows.add_row(
            "", f"{disk} changes {show_rates(flows['changed'])}, {show_size(flows['changed']['total'])} in all"
        )
        rows.add_row("", f"{disk} ships {show_rates(flows['shipped'])}, {show_size(flows['shipped']['total'])} in all")


def show_rates(flow: dict[str, Any]) -> str:
    now, hour, day = (show_size(flow[span]) for span in ("5min", "60min", "24h"))
    return fill("{now}/s now, {hour}/s (1 h), {day}/s (24 h)", now=now, hour=hour, day=day)
