"""Tasks in groups: what a group shows is rolled up from its parts."""

from __future__ import annotations

from typing import Any

import pytest

from homeport.domain.task_tree import Group, nested, rolled_up

GROUPS = {"stop": Group("Stop it", ("a", "b")), "undo": Group("Undo", ("u",))}


def task(name: str, state: str = "succeeded", *, begun: int = 0, **more: Any) -> dict[str, Any]:
    ended = None if state in ("running", "waiting") else f"2026-01-01T00:00:{begun + 1:02}+00:00"
    started = f"2026-01-01T00:00:{begun:02}+00:00"
    shown = {"name": name, "title": name.upper(), "state": state, "progress": None}
    return {**shown, "started": started, "ended": ended, **more}


def test_tasks_of_a_group_stand_below_it_and_others_where_they_were() -> None:
    tree = nested([task("x"), task("a", begun=1), task("y", begun=2), task("b", begun=5)], GROUPS, running=False)
    assert [node["name"] for node in tree] == ["x", "stop", "y"]
    stop = tree[1]
    assert (stop["title"], stop["state"]) == ("Stop it", "succeeded")
    assert [child["name"] for child in stop["children"]] == ["a", "b"]
    assert (stop["started"][-8:-6], stop["ended"][-8:-6]) == ("01", "06")
    assert tree[0]["children"] == []


def test_nothing_is_grouped_that_is_not_known() -> None:
    assert [node["name"] for node in nested([task("old-step")], GROUPS, running=False)] == ["old-step"]
    assert nested([], GROUPS, running=True) == []


@pytest.mark.parametrize(
    ("states", "unfinished", "state"),
    [
        (["succeeded", "running"], False, "running"),
        (["failed", "waiting"], False, "waiting"),
        (["succeeded", "failed"], True, "failed"),
        (["succeeded", "cancelled"], False, "cancelled"),
        (["skipped", "succeeded"], False, "succeeded"),
        (["skipped", "skipped"], False, "skipped"),
        (["succeeded"], True, "running"),
        (["skipped"], True, "running"),
    ],
)
def test_the_state_of_a_group(states: list[str], unfinished: bool, state: str) -> None:
    found = rolled_up([task(str(number), each) for number, each in enumerate(states)], unfinished=unfinished)
    assert found["state"] == state
    assert (found["ended"] is None) is (state in ("running", "waiting"))


def test_between_two_steps_only_the_newest_group_of_a_running_job_is_at_work() -> None:
    tasks = [task("a"), task("u", begun=3)]
    assert [node["state"] for node in nested(tasks, GROUPS, running=True)] == ["succeeded", "running"]
    assert [node["state"] for node in nested(tasks, GROUPS, running=False)] == ["succeeded", "succeeded"]


def test_bytes_are_added_up_and_the_one_at_work_gives_the_words() -> None:
    done = task("a", progress={"done": 10, "total": 10, "unit": "bytes", "text": "reading"})
    working = task("b", "running", progress={"done": 3, "total": 20, "unit": "bytes", "text": "shipping"})
    assert rolled_up([done, working])["progress"] == {"done": 13, "total": 30, "unit": "bytes", "text": "shipping"}
    assert rolled_up([task("a", progress={"done": 1, "total": 2, "unit": "points"})])["progress"] is None
