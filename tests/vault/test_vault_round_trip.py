"""Operations end to end: API, durable workflows, the queue of work, two sites."""

from __future__ import annotations

from fake_sites import World


def test_a_machine_is_protected_drilled_failed_over_reprotected_and_brought_home(world: World) -> None:
    world.protected()
    item = world.expect("Protected", direction="forward", active_site="east", health="normal", job=None)
    assert item["allowed_operations"] == ["test-failover", "failover", "resync", "point", "pause", "disable"]
    first = item["timeline"]
    assert world.east.replications[item["id"]]["interval"] == 5
    assert world.west.kinds()[0] == "inventory"
    assert next(kind for kind in world.west.kinds() if kind != "inventory") == "prepare-timeline"
    world.more_points(3)

    done = world.run("test-failover", {"forward": ["127.0.0.1:8080:80"]})
    assert [task["state"] for task in done["tasks"]] == ["succeeded"] * len(done["tasks"])
    item = world.expect("TestFailoverCleanupPending", allowed_operations=["cleanup"])
    assert item["test"]["machine"] == "web-test"
    assert world.west.machines["web-test"].running
    assert item["id"] in world.east.replications
    world.run("cleanup", {"notes": "went well"})
    assert "web-test" not in world.west.machines
    world.expect("Protected", test=None)

    done = world.run("failover")
    item = world.expect(
        "FailoverCommitPending",
        active_site="west",
        allowed_operations=["change-point", "commit", "undo", "complete-migration"],
        rpo_seconds=None,
    )
    assert item["failover_point"] == done["result"]["point"] == world.points()[-1]["id"]
    assert not world.east.machines["web"].running
    assert item["recovery_machine"]["name"] == "web"
    three_back = world.points()[-3]["id"]
    world.run("change-point", {"point": three_back})
    assert world.expect("FailoverCommitPending")["failover_point"] == three_back
    assert world.west.machines["web"].content == three_back

    offered = world.points()
    world.run("commit")
    world.expect("FailoverCommitted", allowed_operations=["reprotect", "disable"])
    assert world.points() == offered != []
    assert len(world.west.timelines[first].offered()) == len(offered)

    world.run("reprotect")
    item = world.expect("ReverseProtected", direction="reverse", active_site="west")
    second = item["timeline"]
    assert world.east.machines["web"].fenced
    _, params = next(call for call in world.east.calls if call[0] == "import-base")
    assert (params["parent"], params["origin"], params["timeline"]) == (None, three_back, second)
    params = world.west.replications[item["id"]]
    assert params["tracker_base"] == three_back
    assert params["same_as"] == done["result"]["point"]
    assert params["store"]["site"] == "east"
    assert (params["retention"], params["app_consistent"]) == (86400, 3600)
    world.more_points(1)

    done = world.run("failback")
    item = world.expect("FailbackCommitPending", active_site="east", allowed_operations=["commit"])
    home_point = done["result"]["point"]
    _, params = next(call for call in world.east.calls if call[0] == "write-disks")
    assert (params["base"], params["point"]) == (f"{second}/0", home_point)
    assert world.east.machines["web"].running
    assert not world.west.machines["web"].running
    world.run("commit")
    item = world.expect("FailbackCommitted", allowed_operations=["reprotect", "disable"], recovery_machine=None)
    assert "web" not in world.west.machines
    _, params = next(call for call in world.west.calls if call[0] == "import-base")
    assert (params["parent"], params["origin"]) == (three_back, home_point)
    third = params["timeline"]

    world.run("reprotect")
    item = world.expect("Protected", direction="forward", active_site="east", timeline=third)
    params = world.east.replications[item["id"]]
    assert (params["tracker_base"], params["same_as"]) == (home_point, home_point)
    world.run("failover", {"shutdown": False, "point": "latest-processed"})
    world.run("commit")
    world.run("reprotect")
    params = [params for kind, params in world.east.calls if kind == "import-base"][-1]
    assert params["parent"] == home_point
    world.run("disable")
    assert world.call("GET", "/items")["items"] == []
