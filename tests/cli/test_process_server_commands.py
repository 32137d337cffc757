"""`homeport process-server suggest|switch|throttle`, and what `server show` and `status` tell of bytes and rates."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Homeport
from tests.cli.fake_vault import TRAFFIC, FakeVault, item


def move(name: str, to: str = "ps2") -> dict[str, Any]:
    why = "CPU: 90% over 15 min, more than 80%"
    return {"item": f"{name}-1" if name == "item" else name, "item_name": "web1", "from": "ps1", "to": to, "why": why}


def puts(vault: FakeVault) -> list[tuple[str, Any]]:
    return [(path, body) for method, path, body in vault.asked if method == "PUT"]


def test_suggestions_are_shown_and_done_only_when_that_is_said(homeport: Homeport, vault: FakeVault) -> None:
    assert "Nothing to suggest" in homeport("process-server", "suggest").out
    assert "suggest" not in homeport("server", "list").out
    add = ["ps3: cache: 20% free, less than 25%; no other process server of the site has room"]
    vault.suggestions = [{"site": "home", "moves": [move("item")], "add": add}]
    told = homeport("process-server", "suggest").out
    assert "web1: from ps1 to ps2 (CPU: 90% over 15 min, more than 80%)" in told
    assert "home: add a process server. ps3: cache" in told
    assert homeport("process-server", "suggest", "away", "--json").json == {"suggestions": []}
    listed = homeport("server", "list").out
    assert "(1 machines): homeport process-server suggest" in listed
    assert "needed at home" in listed
    shown = homeport("process-server", "switch", "--suggested")
    assert "Nothing was done yet" in shown.out
    assert puts(vault) == []
    done = homeport("process-server", "switch", "--suggested", "--yes", "--json")
    assert done.json["done"] is True
    assert [each["item"] for each in done.json["switched"]] == ["web1"]
    assert puts(vault) == [("/v1/items/item-1/process-server", {"name": "ps2"})]


def test_all_that_a_server_has_is_switched_and_who_is_refused_keeps_nobody(
    homeport: Homeport, vault: FakeVault
) -> None:
    assert "db1: from ps1 to ps2" in homeport("process-server", "switch", "--from", "ps1", "--to", "ps2").out
    assert puts(vault) == []
    done = homeport("process-server", "switch", "--from", "ps1", "--to", "ps2", "--yes")
    assert done.status == 1
    assert "web1 is replicated by ps2." in done.out
    assert "db1: refused: the item is a member of group shop" in done.out


@pytest.mark.parametrize(
    "wrong",
    [
        (), ("web1",), ("--to", "ps2"), ("web1", "--suggested"), ("--suggested", "--to", "ps2"), ("--from", "ps1"),
        ("web1", "--to", "ps2", "--site", "home"), ("--from", "mt1", "--to", "ps2"),
    ],
)  # fmt: skip
def test_what_is_to_be_switched_is_said_in_one_way(
    homeport: Homeport, vault: FakeVault, wrong: tuple[str, ...]
) -> None:
    assert homeport("process-server", "switch", *wrong).status == 2
    assert puts(vault) == []


def test_a_throttle_is_set_shown_and_taken_back(homeport: Homeport, vault: FakeVault) -> None:
    assert "no limit, by the server's own configuration" in homeport("process-server", "throttle", "ps1").out
    effective = {
        "rules": "vault", "limit": 40_000_000, "schedule": ["10M 08:00-18:00 mon-fri"], "time_zone": "Asia/Tokyo",
        "now": 10_000_000, "clock": "10:30 JST (UTC+0900)",
    }  # fmt: skip
    vault.throttle |= {"vault": effective, "effective": effective}
    window = "Mon-Fri 08:00-18:00=10Mbit"
    asked = (
        "process-server",
        "throttle",
        "ps1",
        "--limit",
        "40Mbit",
        "--schedule",
        window,
        "--time-zone",
        "Asia/Tokyo",
    )
    told = homeport(*asked).out
    body = {"limit": "40Mbit", "schedule": [window], "time_zone": "Asia/Tokyo"}
    assert puts(vault) == [("/v1/process-servers/ps1/throttle", body)]
    assert "10 Mbit/s, by the vault" in told
    assert "08:00-18:00 mon-fri: 10 Mbit/s; else 40 Mbit/s (hours: Asia/Tokyo)" in told
    assert "It is 10:30 JST (UTC+0900) there." in told
    assert "10 Mbit/s, by the vault" in homeport("server", "show", "ps1").out
    vault.throttle |= {"vault": None, "applied": False}
    assert "The vault says: nothing. The server has not" in homeport("process-server", "throttle", "ps1", "--off").out
    assert ("DELETE", "/v1/process-servers/ps1/throttle", None) in vault.asked
    for wrong in (("--off", "--limit", "1M"), ("--show", "--off"), ("--time-zone", "UTC"), ("--schedule", "8-18")):
        assert homeport("process-server", "throttle", "ps1", *wrong).status != 0
    assert len(puts(vault)) == 1


def test_bytes_and_rates_of_each_disk_are_shown(homeport: Homeport, vault: FakeVault) -> None:
    told = homeport("server", "show", "ps1").out
    assert "disk0 changes 1.0 MiB/s now, 2.0 MiB/s (1 h), 3.0 MiB/s (24 h), 1.0 TiB in all" in told
    assert "disk0 ships 1.0 KiB/s now, 2.0 KiB/s (1 h), 3.0 KiB/s (24 h), 1.0 TiB in all" in told
    assert "ships 2.0 KiB/s now" in told
    assert "it has told nothing of this machine" in told
    assert homeport("server", "show", "ps1", "--json").json["process_server"]["items"]["web1"] == TRAFFIC
    vault.items["web1"] = item(replication={"phase": "replicating", "traffic": TRAFFIC})
    told = homeport("status", "web1").out
    assert "disk0 changes 1.0 MiB/s now" in told
    assert homeport("status", "web1", "--json").json["item"]["replication"]["traffic"] == TRAFFIC
