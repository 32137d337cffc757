"""Tagged points are seen and can be let go: while the item replicates, and after a commit took all others away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fake_sites import World
from vault_process import LocalVault

from homeport.vault.database import ItemRow

Json = dict[str, Any]


def tagged(world: World) -> list[str]:
    return [point["id"] for point in world.call("GET", "/items/web/points", tagged=True)["points"]]


def untag(world: World, point: str, *, status: int = 200) -> Json:
    return world.call("POST", f"/items/web/points/{point}/untag", status=status)


def kept_until_now(vault: LocalVault, world: World) -> None:
    """The time of the points that a commit left has come."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    with vault.vault.core.database.write() as session:
        item = session.get_one(ItemRow, world.item()["id"])
        item.ties = {**item.ties, "kept": [{**entry, "until": past} for entry in item.ties["kept"]]}


def test_a_replication_is_told_which_tags_count_no_more(world: World) -> None:
    world.protected()
    point = world.run("point", {"tag": "before patch"})["result"]["point"]
    other = world.run("point", {"tag": "another"})["result"]["point"]
    world.until(lambda: len(tagged(world)) == 2)
    assert tagged(world) == [point, other]
    assert world.item()["tagged_points"] == {"count": 2, "stored_bytes": 0, "past_retention": 0}
    assert untag(world, point)["tagged_points"]["count"] == 1
    assert tagged(world) == [other]
    shown = {each["id"]: each["tags"] for each in world.points()}
    assert (shown[point], shown[other]) == ([], ["another"]), "it is offered, as any of its age"
    item = world.item()["id"]
    world.until(lambda: world.east.replications[item].get("untagged") == [point])
    assert untag(world, point, status=404)["code"] == "point.not-tagged"
    assert untag(world, world.points()[0]["id"], status=404)["code"] == "point.not-tagged"


def test_what_only_its_tag_keeps_is_seen_and_let_go(vault: LocalVault, world: World) -> None:
    world.protected()
    points = [world.run("point", {"tag": tag})["result"]["point"] for tag in ("one", "two")]
    world.more_points(2)
    timeline = world.item()["timeline"]
    world.run("failover")
    world.run("commit")
    world.until(lambda: "kept" in _ties(vault, world))
    kept_until_now(vault, world)
    world.until(lambda: "kept" not in _ties(vault, world), 30)
    assert world.points() == []
    assert tagged(world) == points
    assert world.item()["tagged_points"]["past_retention"] == 2
    numbers = {int(point.rsplit("/", 1)[1]) for point in points}
    assert numbers <= set(world.west.timelines[timeline].points)
    untag(world, points[0])
    world.until(lambda: tagged(world) == [points[1]], 30)
    world.until(lambda: int(points[0].rsplit("/", 1)[1]) not in world.west.timelines[timeline].points, 30)
    assert int(points[1].rsplit("/", 1)[1]) in world.west.timelines[timeline].points


def _ties(vault: LocalVault, world: World) -> Json:
    with vault.vault.core.database.read() as session:
        return session.get_one(ItemRow, world.item()["id"]).ties
