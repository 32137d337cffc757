"""What the vault knows of a site's machines: as of when, what has changed, and when it may be believed no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fake_sites import World
from vault_process import LocalVault

from homeport.domain.machines import Disk, Machine
from homeport.vault.database import SiteRow

NEW = Machine("5b0c2a52-0000-4000-8000-000000000003", "new", (Disk("disk0", 1 << 30, "raw"),))


def tell(world: World, *machines: Machine, age: float = 0, **more: Any) -> None:
    """What the configuration server of east says by itself."""
    body: dict[str, Any] = {"age": age, "interval": 900, **more}
    if "error" not in more:
        body["machines"] = [machine.to_json() for machine in machines]
    world.call("POST", "/agent/east/inventory", body)


def known(world: World) -> list[str]:
    return [machine["name"] for machine in world.call("GET", "/sites/east/machines")["machines"]]


def discovery(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.call("GET", "/sites/east")["discovery"]
    assert world.call("GET", "/sites/east/machines")["discovery"] == found
    (listed,) = [site for site in world.call("GET", "/sites")["sites"] if site["name"] == "east"]
    assert listed["discovery"] == found
    return found


def age(world: World) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(discovery(world)["last"])).total_seconds()


def test_a_refresh_says_what_is_new_gone_and_changed(world: World) -> None:
    assert discovery(world)["why"] == "The site was not discovered yet."
    first = world.call("POST", "/sites/east/refresh")
    assert [each["name"] for each in first["new"]] == ["broken", "web"]
    assert (first["site"]["discovery"]["stale"], first["site"]["discovery"]["error"]) == (False, None)
    assert age(world) < 5
    world.east.descriptions["new"] = NEW
    del world.east.descriptions["broken"], world.east.machines["broken"]
    world.east.machines["web"].running = False
    found = world.call("POST", "/sites/east/refresh")
    assert [each["name"] for each in found["new"]] == ["new"]
    assert [each["name"] for each in found["gone"]] == ["broken"]
    (changed,) = found["changed"]
    assert (changed["name"], changed["changes"]) == ("web", [{"field": "power", "before": "running", "after": "off"}])
    again = world.call("POST", "/sites/east/refresh")
    assert (again["new"], again["gone"], again["changed"]) == ([], [], [])
    assert world.call("POST", "/sites/nowhere/refresh", status=404)["code"] == "site.not-found"


def test_what_a_site_tells_by_itself_is_known_without_asking_it(world: World) -> None:
    tell(world, NEW, age=60, facts={"host": "h"})
    assert known(world) == ["new"]
    assert 60 <= age(world) < 70
    assert world.call("GET", "/sites/east")["facts"]["host"] == "h"
    assert "inventory" not in world.east.kinds()
    tell(world, age=120)
    assert known(world) == ["new"], "an older view came late"
    tell(world)
    assert known(world) == []


def test_a_failed_discovery_is_told_and_takes_nothing_away(world: World) -> None:
    tell(world, NEW, age=10)
    tell(world, error={"code": "x", "cause": "The hypervisor is busy.", "remedy": "", "details": {}})
    found = discovery(world)
    assert (known(world), found["stale"]) == (["new"], False)
    assert found["error"]["cause"] == "The hypervisor is busy."
    assert found["tried"] > found["last"]
    tell(world, NEW)
    assert discovery(world)["error"] is None
    refused = world.call("POST", "/agent/east/inventory", {"age": 0, "interval": 900, "machines": [{}]}, status=422)
    assert refused["code"] == "request.invalid"
    assert known(world) == ["new"]


def test_what_is_old_or_of_a_silent_site_is_stale(world: World, vault: LocalVault) -> None:
    tell(world, NEW, age=1700)
    assert not discovery(world)["stale"]
    tell(world, NEW, interval=60)
    with vault.vault.core.database.write() as session:
        session.get_one(SiteRow, "east").inventoried = datetime.now(UTC) - timedelta(seconds=121)
    assert discovery(world)["why"] == "The last discovery is more than two intervals ago."
    tell(world, NEW)
    world.east.die()
    world.until(lambda: bool(world.call("GET", "/sites/east")["discovery"]["stale"]))
    assert discovery(world)["why"] == "The site's configuration server is not in contact."
    refused = world.call("POST", "/sites/east/refresh", status=503)
    assert refused["code"] == "site.unreachable"
    assert (known(world), discovery(world)["error"]["code"]) == (["new"], "site.unreachable")
    tell(world, NEW)
    assert discovery(world)["stale"], "what is told by a server that takes no work is no sign of life"


def test_a_site_that_is_added_again_was_not_discovered_yet(world: World) -> None:
    tell(world, NEW)
    world.call("DELETE", "/sites/east")
    added = world.call("POST", "/sites", {"name": "east", "path": "/elsewhere"}, status=201)
    assert (added["discovery"]["last"], added["discovery"]["tried"]) == (None, None)
