"""Two process servers at a site: what one should give the other is told, done, and then no longer told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fake_sites import World
from vault_process import LocalVault

from homeport.servers.relay_errors import SwitchFailed
from homeport.vault.database import ItemRow, SiteRow

Json = dict[str, Any]
MB = 1_000_000


def flow(rate: int) -> Json:
    return {"5min": rate, "60min": rate, "24h": rate, "total": 0}


def traffic(rate: int) -> Json:
    return {"disks": {"disk0": {"changed": flow(rate), "shipped": flow(rate // 2)}}, "shipped": flow(rate // 2),
            "observed": 90_000, "pending": None}  # fmt: skip


def server(name: str, items: Json, *, cpu: float = 0.2, state: str = "connected", heard: str = "") -> Json:
    vitals = {"cpu": cpu, "memory": 0.2, "cache": {"free": 90, "total": 100}, "pending": None, "items": items}
    return {
        "name": name, "role": "process-server", "state": state, "version": "1", "process_server": vitals,
        "last_contact": heard or datetime.now(UTC).isoformat(),
    }  # fmt: skip


def tell(vault: LocalVault, *servers: Json) -> None:
    with vault.vault.core.database.write() as session:
        session.get_one(SiteRow, "east").facts = {"servers": list(servers)}


def protected(world: World, server: str) -> str:
    job = world.protect(process_server=server)["job"]
    assert world.wait(job["id"])["state"] == "succeeded"
    return str(world.item()["id"])


def test_what_is_suggested_is_done_and_is_then_no_longer_suggested(world: World, vault: LocalVault) -> None:
    tell(vault, server("ps1", {}), server("ps2", {}))
    item = protected(world, "ps1")
    busy = {"ghost": traffic(MB), item: traffic(MB)}
    tell(vault, server("ps1", busy, cpu=0.9), server("ps2", {}))
    (told,) = world.call("GET", "/process-servers/suggestions")["suggestions"]
    (move,) = told["moves"]
    assert (told["site"], told["add"]) == ("east", [])
    assert (move["item"], move["item_name"], move["from"], move["to"]) == (item, "web", "ps1", "ps2")
    assert move["why"] == "CPU: 90% over 15 min, more than 80%"
    assert move["from_load"][0] > move["to_load"][1] > move["to_load"][0] == 0
    assert world.call("GET", "/servers")["suggestions"] == {"moves": 1, "add": []}
    shown = world.call("GET", "/servers/ps1")["process_server"]
    assert shown["moves"] == [{"item": "web", "to": "ps2"}]
    assert shown["items"]["web"]["disks"]["disk0"]["changed"]["60min"] == MB
    assert world.call("GET", "/process-servers/suggestions", site="west") == {"suggestions": []}
    assert world.call("GET", "/process-servers/suggestions", status=404, site="north")["code"] == "site.not-found"

    switched = world.call("PUT", f"/items/{item}/process-server", {"name": move["to"]})
    assert switched == {"process_server": "ps2", "before": "ps1"}
    tell(vault, server("ps1", {"ghost": traffic(MB)}, cpu=0.9), server("ps2", {item: traffic(MB)}))
    assert world.call("GET", "/process-servers/suggestions") == {"suggestions": []}


def test_what_a_dead_server_had_is_known_though_nobody_tells_of_it(world: World, vault: LocalVault) -> None:
    """The site's configuration server restarted since: it knows the dead one's name alone."""
    tell(vault, server("ps1", {}), server("ps2", {}))
    item = protected(world, "ps1")
    world.until(lambda: world.item()["replication"]["process_server"] == "ps1")
    dead = {**server("ps1", {}, state="away", heard="2026-01-01T00:00:00+00:00"), "process_server": None}
    tell(vault, dead, server("ps2", {}))
    (told,) = world.call("GET", "/process-servers/suggestions")["suggestions"]
    assert [(move["item"], move["to"]) for move in told["moves"]] == [(item, "ps2")]
    assert "(806)" in told["moves"][0]["why"]
    assert world.call("GET", "/servers/ps1")["process_server"]["items"] == {"web": None}
    tell(vault, dead)
    (told,) = world.call("GET", "/process-servers/suggestions")["suggestions"]
    assert (told["moves"], len(told["add"])) == ([], 1)
    assert "no other process server of the site has room" in told["add"][0]
    assert world.call("GET", "/servers")["suggestions"] == {"moves": 0, "add": ["east"]}
    with vault.vault.core.database.write() as session:
        session.get_one(ItemRow, item).group_name = "shop"
    tell(vault, dead, server("ps2", {}))
    assert world.call("GET", "/process-servers/suggestions") == {"suggestions": []}, "a group stays together"


def test_a_switch_to_one_that_dies_in_the_middle_is_told_of_the_item(world: World, vault: LocalVault) -> None:
    tell(vault, server("ps1", {}), server("ps2", {}))
    item = protected(world, "ps1")
    world.until(lambda: world.item()["replication"]["process_server"] == "ps1")
    replicated = world.east.replications.pop(item)  # it was stopped there before the other one died

    def dies(params: Json) -> Json:
        raise SwitchFailed("ps2 is away", process_server=has, reason="site.server-away")

    world.east.do_switch_process_server = dies  # type: ignore[method-assign]
    for has, trouble in (("ps1", None), ("ps2", "process-server.switch-failed")):
        refused = world.call("PUT", f"/items/{item}/process-server", {"name": "ps2"}, status=502)
        assert (refused["code"], refused["details"]["process_server"]) == ("process-server.switch-failed", has)
        assert "Switch it to another one" in refused["remedy"]
        shown = world.item()["replication"]
        assert shown["process_server"] == has
        assert (shown["error"] or {}).get("code") == trouble
    assert any("ps2 is away" in reason for reason in world.item()["health_reasons"])
    del world.east.do_switch_process_server
    world.east.replications[item] = replicated
    assert world.call("PUT", f"/items/{item}/process-server", {"name": "ps3"})["process_server"] == "ps3"


def test_churn_over_the_limit_is_told_as_long_as_it_lasts(world: World, vault: LocalVault) -> None:
    world.east.traffic = traffic(25 * MB)
    world.protected()
    world.until(lambda: world.item()["replication"]["traffic"] is not None)
    words = "disk0 changes 25 MB/s over 60 min, more than 20 MB/s"
    assert [reason for reason in world.item()["health_reasons"] if "78188" in reason] == [
        f"{words} (78188)", "the machine changes 2.2 TB a day over 24 hours, more than 2 TB (78188)",
    ]  # fmt: skip
    found = world.call("POST", "/items/web/checks")["findings"]
    (finding,) = [each for each in found if each["code"] == "78188"]
    assert words in finding["found"]
    world.east.traffic = traffic(MB)
    world.until(lambda: not any("78188" in reason for reason in world.item()["health_reasons"]))
    assert world.item()["replication"]["traffic"]["disks"]["disk0"]["changed"] == flow(MB)
