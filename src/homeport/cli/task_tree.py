"""The tasks of a job, nested: each with the path that leads to it. A vault of an earlier release tells them flat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from homeport.cli.api import Job, TaskNode

Path = tuple[str, ...]


def walk(job: Job) -> Iterator[tuple[Path, TaskNode]]:
    """Every task and group of tasks with the titles that lead to it, its own last; a group before what it holds."""
    tree: Sequence[Any] = job.get("task_tree") or job.get("tasks") or ()
    yield from _walk(tree, ())


def _walk(nodes: Sequence[TaskNode], above: Path) -> Iterator[tuple[Path, TaskNode]]:
    for node in nodes:
        path = (*above, title(node))
        yield path, node
        yield from _walk(node.get("children") or (), path)


def title(node: TaskNode) -> str:
    return node.get("title") or node.get("name") or "?"
