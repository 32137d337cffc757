"""A job's tasks as nested groups (reference 9): what belongs together, with its parts' state and progress rolled up.

Nothing of this is stored: groups are derived from the tasks that there are, so that jobs of earlier releases have them,
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

BYTES = "bytes"
UNSETTLED = ("running", "waiting")


@dataclass(frozen=True)
class Group:
    """``steps``: names of the tasks that belong to it."""

    title: str
    steps: tuple[str, ...]


def nested(tasks: Sequence[Json], groups: Mapping[str, Group], *, running: bool) -> list[Json]:
    """``tasks``, in the order in which they began, each with ``children``; those of a group stand below it, where the
    first of them was. ``running``: the job has not ended, so that its newest task's group hasn't either."""
    belongs = {step: name for name, group in groups.items() for step in group.steps}
    found: list[Json] = []
    of_groups: dict[str, Json] = {}
    for task in tasks:
        leaf = {**task, "children": list(task.get("children", []))}
        name = belongs.get(task["name"])
        if name is None:
            found.append(leaf)
            continue
        if name not in of_groups:
            of_groups[name] = {"name": name, "title": groups[name].title, "children": []}
            found.append(of_groups[name])
        of_groups[name]["children"].append(leaf)
    newest = belongs.get(tasks[-1]["name"]) if tasks and running else None
    for name, group in of_groups.items():
        group |= rolled_up(group["children"], unfinished=name == newest)
    return found


def rolled_up(children: Sequence[Json], *, unfinished: bool = False) -> Json:
    """What a group shows of its children: {"state", "progress", "started", "ended"}. ``unfinished``: more may come."""
    state = _state([child["state"] for child in children], unfinished)
    ends = [child["ended"] for child in children]
    over = state not in UNSETTLED and all(ends)
    return {
        "state": state,
        "progress": _progress(children),
        "started": min(child["started"] for child in children),
        "ended": max(ends) if over else None,
    }


def _state(states: Sequence[str], unfinished: bool) -> str:
    for unsettled in reversed(UNSETTLED):
        if unsettled in states:
            return unsettled
    for bad in ("failed", "cancelled"):
        if bad in states:
            return bad
    if unfinished:
        return "running"
    return "skipped" if set(states) == {"skipped"} else "succeeded"


def _progress(children: Sequence[Json]) -> Json | None:
    """Bytes of all children together, where they count bytes; the words of the one at work."""
    told = [child["progress"] for child in children if (child.get("progress") or {}).get("unit") == BYTES]
    if not told:
        return None
    words = [
        child["progress"].get("text", "")
        for child in children
        if child["state"] in UNSETTLED and child.get("progress") is not None
    ]
    return {
        "done": sum(part.get("done") or 0 for part in told),
        "total": sum(part.get("total") or 0 for part in told),
        "unit": BYTES,
        "text": words[-1] if words else "",
    }
