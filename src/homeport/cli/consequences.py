"""What an operation will lose or end, said with the item's own facts before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from homeport.cli.api import Item, Point
from homeport.cli.formats import seconds_between, show_instant, show_span
from homeport.cli.tables import machine_name, point_name

LATEST = "latest"
ON_THE_WAY_HOME = "FailbackCommitPending"


def other_site(item: Item) -> str:
    """The site where the item does not run now."""
    return item["to"] if item.get("active_site") == item["from"] else item["from"]


def meant(points: Sequence[Point], wanted: str) -> Point | None:
    """The offered point that ``wanted`` (a kind or an id) means, where the list tells."""
    for point in points:
        if point["id"] == wanted or wanted in point.get("offered_as", ()):
            return point
    return None


def failover(item: Item, points: Sequence[Point], wanted: str, shutdown: bool, *, planned: bool = False) -> list[str]:
    name, here, there = item["name"], item["active_site"], other_site(item)
    point = meant(points, wanted)
    lines = [f"Fail over {name}: it starts at {there} from {_described(point, wanted)}."]
    if planned:
        lines.append(
            f"{name} at {here} is shut down first and its last changes are sent over: nothing is lost. If that fails, "
            "everything is undone, and it goes on there."
        )
    elif shutdown and wanted == LATEST:
        lines.append(
            f"{name} at {here} is shut down first and its last changes are sent over, so nothing is lost if that "
            f"succeeds; otherwise what was written after that point is lost (RPO now: {_rpo(item)})."
        )
    else:
        first = f"{name} at {here} is shut down. " if shutdown else f"{name} at {here} is not shut down and not asked. "
        lines.append(f"{first}{_lost(item, points, point, there)}")
    lines.append(f"Replication from {here} to {there} ends.")
    return lines


def commit_policy(item: Item, action: str, after: float) -> list[str]:
    if action == "auto-commit":
        return [f"Unless you decide before, it is committed by itself after {show_span(after)}."]
    if action == "auto-rollback":
        return [
            f"Unless you decide before, it is undone by itself after {show_span(after)}: {item['name']} then goes on "
            f"at {item['active_site']}, without what was written at {other_site(item)}."
        ]
    return []


def undo(item: Item) -> list[str]:
    name, away, home = item["name"], item["active_site"], other_site(item)
    machine = machine_name(item.get("recovery_machine") or name)
    return [
        f"Undo the failover of {name}: the machine {machine} at {away} is shut down and removed; {name} goes on at "
        f"{home} where it stopped, and replicates to {away} again.",
        f"What {machine} wrote since the failover is no longer part of {name}: it can be restored from the store at "
        f"{away} for 24 hours, then it is lost.",
    ]


def complete_migration(item: Item) -> list[str]:
    name, here, former = item["name"], item["active_site"], other_site(item)
    return [
        f"Complete the migration of {name}: it stays at {here} for good. Its recovery points at both sites are "
        f"deleted; it can't be reprotected, nor fail back to {former}. Nothing protects it until you do so anew.",
        f"The original at {former} stays powered off, with its disks.",
    ]


def change_point(item: Item, points: Sequence[Point], wanted: str) -> list[str]:
    there = item["active_site"]
    machine = machine_name(item.get("recovery_machine") or item["name"])
    return [
        f"Change the point of {item['name']}: the machine {machine} that runs at {there} from "
        f"{point_name(item.get('failover_point'))} is ended and removed, and everything it wrote since is lost.",
        f"It starts there again from {_described(meant(points, wanted), wanted)}.",
    ]


def commit(item: Item, *, erase_points: bool = False) -> list[str]:
    fate = (
        "Its recovery points are dropped now."
        if erase_points
        else "Its recovery points are kept for the retention of their policy."
    )
    name, here, there = item["name"], item["active_site"], other_site(item)
    if item.get("state") == ON_THE_WAY_HOME:
        machine = machine_name(item.get("recovery_machine") or name)
        return [
            f"Commit the failback of {name}: it stays at {here}. The recovery machine {machine} at {there} is removed "
            f"with its disks, and going back to it is no longer possible. {fate}"
        ]
    return [
        f"Commit the failover of {name}: it stays at {here}, running from {point_name(item.get('failover_point'))}. "
        f"The point can't be changed, nor the failover undone, afterwards. {fate}"
    ]


def failback(item: Item, points: Sequence[Point], wanted: str) -> list[str]:
    name, here, home = item["name"], item["active_site"], other_site(item)
    point = meant(points, wanted)
    lines = [f"Fail back {name}: the recovery machine at {here} is shut down, and its last changes are sent to {home}."]
    reached = "its last state" if wanted == LATEST else _described(point, wanted)
    lines.append(
        f"The original's disks at {home} are overwritten to hold {reached} (what they held goes to the retention drive "
        "first); then the original starts."
    )
    if wanted != LATEST:
        lines.append(_lost(item, points, point, home))
    return lines


def disable(item: Item, *, purge: bool = False) -> list[str]:
    name, here = item["name"], item["active_site"]
    points = (
        "Its recovery points are deleted at once and its key is shredded: nothing of it can be restored."
        if purge
        else "Its recovery points stay in the store for 14 days; then they are deleted (homeport item list --deleted)."
    )
    return [
        f"Disable the protection of {name}: replication ends; {name} can't be recovered at {other_site(item)} any "
        f"more. The machine that runs at {here} goes on running.",
        points,
    ]


def cleanup(item: Item) -> list[str]:
    test = item.get("test") or {}
    return [
        f"Clean up the test of {item['name']}: the test machine {machine_name(test.get('machine'))} at "
        f"{other_site(item)} is ended and removed with everything written in it. {item['name']} itself isn't touched."
    ]


def _described(point: Point | None, wanted: str) -> str:
    if point is None:
        return f"the point {wanted}"
    consistency = point.get("consistency", "?")
    if wanted == point["id"]:
        return f"point {wanted} of {show_instant(point.get('time'))}, {consistency}"
    return f"the {wanted} point, now {point['id']} of {show_instant(point.get('time'))}, {consistency}"


def _rpo(item: Item) -> str:
    return show_span(item.get("rpo_seconds"))


def _lost(item: Item, points: Sequence[Point], point: Point | None, there: str) -> str:
    """What was written after ``point`` does not arrive; how much that is, where the list tells."""
    if point is not None and points:
        newest = max(points, key=lambda one: one["time"])
        behind = seconds_between(point.get("time"), newest.get("time"))
        if behind:
            return (
                f"What was written after that point is not there at {there}: RPO now {_rpo(item)}, and the point is "
                f"{show_span(behind)} older than the newest one."
            )
    return f"What was written after that point is not there at {there}: RPO now {_rpo(item)}."
