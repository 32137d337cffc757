"""Process servers as their sites tell of them: shown, suggested about, and none that is critical for a new machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.vault import server_health
from homeport.vault.database import SiteRow
from homeport.vault.process_servers import GroupHasOne, require
from homeport.vault.servers import ServerNotFound

Json = dict[str, Any]


def server(name: str, free: int, **more: Any) -> Json:
    told = {"cpu": 0.1, "memory": 0.1, "cache": {"free": free, "total": 100}, "pending": None, "items": {}, **more}
    heard = datetime.now(UTC).isoformat()
    return {
        "name": name, "role": "process-server", "state": "connected", "last_contact": heard, "version": "1",
        "process_server": told,
    }  # fmt: skip


def tell(vault: LocalVault, **facts: Any) -> None:
    with vault.vault.core.database.write() as session:
        session.get_one(SiteRow, "east").facts = facts


def test_health_statistics_and_what_to_move(world: World, vault: LocalVault) -> None:
    flow = {"5min": 9, "60min": 7, "24h": 2, "total": 100}
    items = {"an item": {"disks": {"disk0": {"changed": flow, "shipped": flow}}, "shipped": flow, "pending": 2000.0}}
    away = {**server("ps3", 90), "state": "away"}
    away["last_contact"] = (datetime.now(UTC) - timedelta(minutes=20)).isoformat()
    tell(vault, servers=[server("ps1", 28, items=items, pending=2000.0), server("ps2", 90), away])
    core = vault.vault.core
    found = server_health.shown(core, "ps1")["process_server"]
    assert (found["site"], found["health"]) == ("east", "warning")
    assert len(found["reasons"]) == 2
    assert found["moves"] == []  # the only item of a server that isn't silent: the receiver would be as busy
    assert found["items"] == items
    assert server_health.shown(core, "ps2")["process_server"]["health"] == "healthy"
    gone = server_health.shown(core, "ps3")["process_server"]
    assert gone["health"] == "critical"
    assert "20 min (806)" in gone["reasons"][0]
    with pytest.raises(ServerNotFound):
        server_health.shown(core, "ps4")


def test_a_process_server_in_the_vaults_own_process_has_its_sites_name(world: World, vault: LocalVault) -> None:
    tell(vault, process_server=server("", 22)["process_server"])
    found = server_health.shown(vault.vault.core, "east")["process_server"]
    assert found["reasons"] == ["cache: 22% free, less than 25%"]


@pytest.mark.parametrize("facts", [{"servers": "many"}, {"servers": [3, {"role": "process-server"}]}, {}])
def test_what_a_site_of_another_version_tells_is_not_believed_to_be_more(facts: Json) -> None:
    assert [vitals.cache for vitals in server_health.process_servers("east", facts, 1.0)] in ([], [None])


def test_a_machine_begins_with_the_process_server_that_is_named(world: World, vault: LocalVault) -> None:
    tell(vault, servers=[server("ps1", 90), server("ps2", 90)])
    refused = world.protect(process_server="ps3", status=409)
    assert refused["code"] == "process-server.unknown"
    assert "ps1, ps2" in refused["cause"]
    job = world.protect(process_server="ps2", group="shop")["job"]
    assert world.wait(job["id"])["state"] == "succeeded"
    assert world.east.replications[job["item"]]["process_server"] == "ps2"
    (resumed,) = world.call("GET", "/agent/east/replications")["replications"]
    assert "process_server" not in resumed, "which one has it now its site knows: a switch stays"
    with pytest.raises(GroupHasOne):
        require(vault.vault.core, "east", "ps1", "shop")
