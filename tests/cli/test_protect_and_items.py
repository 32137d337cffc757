"""`homeport protect` of one and of many, `homeport item …`, `homeport site …`: what is sent, and what is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from homeport.cli.protect import parse_machine_size
from tests.cli.conftest import Homeport
from tests.cli.fake_vault import FakeVault

SITES = ("--from", "home", "--to", "away", "--policy", "gold")


def sent(vault: FakeVault, method: str, path: str) -> list[Any]:
    return [body for asked, of, body in vault.asked if (asked, of) == (method, path)]


def test_what_is_chosen_for_the_other_site_goes_with_it(homeport: Homeport, vault: FakeVault) -> None:
    chosen = ("--name", "web1-dr", "--size", "2x4GiB", "--network", "blue", "--ip", "10.0.2.40")
    answer = homeport(
        "protect", "web1", *SITES, *chosen, "--exclude-disk", "disk1", "--exclude-disk", "disk2", "--tag", "shop"
    )
    assert answer.status == 0, answer.err
    assert sent(vault, "POST", "/v1/items") == [
        {
            "machine": "web1",
            "from": "home",
            "to": "away",
            "policy": "gold",
            "name": "web1-dr",
            "cpus": 2,
            "memory": 4 << 30,
            "network": "blue",
            "ip": "10.0.2.40",
            "exclude_disks": ["disk1", "disk2"],
            "tags": ["shop"],
        }
    ]


def test_a_seed_names_an_image_for_each_disk(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("protect", "web1", *SITES, "--seed", "seeds/a.img", "--seed", "data=seeds/b=1.qcow2").status == 0
    assert sent(vault, "POST", "/v1/items")[0]["seed"] == {"disk0": "seeds/a.img", "data": "seeds/b=1.qcow2"}


def test_a_deleted_item_is_taken_up_again(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("item", "restore", "web1")
    assert answer.status == 0, answer.err
    assert "web1 is protected again, with its earlier points" in answer.out
    assert ("POST", "/v1/items/deleted/web1/restore") in [(method, path) for method, path, _ in vault.asked]


def test_a_tag_is_taken_back(homeport: Homeport, vault: FakeVault) -> None:
    point = "0123456789abcdef/17"
    assert f"{point} is kept as others of its age are" in homeport("item", "untag", "web1", point).out
    assert sent(vault, "POST", f"/v1/items/web1/points/{point}/untag") == [{}]
    assert homeport("item", "untag", "web1", "before-patch").status == 2
    assert homeport("points", "web1", "--tagged").status == 0


def test_how_many_points_only_a_tag_keeps_is_shown(homeport: Homeport, vault: FakeVault) -> None:
    next(iter(vault.items.values()))["tagged_points"] = {"count": 3, "stored_bytes": 1 << 20, "past_retention": 2}
    assert "3, 2 past retention, 1.0 MiB" in " ".join(homeport("status", "web1").out.split())


def test_one_bad_machine_does_not_stop_the_rest(homeport: Homeport, vault: FakeVault) -> None:
    vault.refused = {"db1"}
    answer = homeport("protect", "web1", "db1", "web2", *SITES)
    assert answer.status == 1
    assert "db1: refused: db1 can't be protected: it is off. (machine.not-protectable)" in answer.out
    assert "web1: protected from home to away" in answer.out
    assert "web2: protected from home to away" in answer.out
    answer = homeport("protect", "web1", "db1", *SITES, "--json")
    assert answer.status == 1
    assert [job["item_name"] for job in answer.json["jobs"]] == ["web1"]
    assert [(each["machine"], each["error"]["code"]) for each in answer.json["refused"]] == [
        ("db1", "machine.not-protectable")
    ]
    vault.refused = set()
    assert homeport("protect", "web1", "db1", *SITES, "--json").json["refused"] == []


def test_a_job_that_fails_is_told_by_its_machine(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome, vault.error = "failed", {"code": "78093", "cause": "it is off", "remedy": "Start it."}
    answer = homeport("protect", "web1", "web2", *SITES)
    assert answer.status == 1
    assert "web2: failed: it is off (78093) Start it." in answer.out


def test_many_can_be_left_to_run(homeport: Homeport, vault: FakeVault) -> None:
    vault.held.clear()
    answer = homeport("protect", "web1", "web2", *SITES, "--no-wait")
    assert answer.status == 0
    assert answer.out == "web1: accepted, job job1\nweb2: accepted, job job2\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ("web1", "--network", "blue", "--network-later"),
        ("web1", "web2", "--name", "x"),
        ("web1", "web2", "--ip", "10.0.0.1"),
        ("web1", "web2", "--seed", "a.img"),
        ("web1", "--seed", "a.img", "--seed", "disk0=b.img"),
        ("web1", "--size", "big"),
        ("web1", "--size", "2x4"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_wrong_use(homeport: Homeport, vault: FakeVault, wrong: tuple[str, ...]) -> None:
    answer = homeport("protect", *wrong, *SITES)
    assert answer.status == 2
    assert sent(vault, "POST", "/v1/items") == []


def test_sizes_are_read() -> None:
    assert parse_machine_size("2x4GiB") == (2, 4 << 30)
    assert parse_machine_size("16 X 512M") == (16, 512 << 20)


def test_an_item_is_shown_as_it_would_be(homeport: Homeport, vault: FakeVault) -> None:
    out = homeport("item", "show", "web1").out
    assert "web1-dr" in out
    assert "256.0 MiB (as at home)" in out
    assert "disk1: not replicated" in out
    assert "a [b]" in out
    assert "web1-dr" in homeport("item", "list").out


def test_properties_are_set_and_taken_back(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("item", "set", "web1", "--cpus", "4", "--memory", "8GiB", "--network", "same", "--policy", "tin")
    assert answer.status == 0, answer.err
    assert sent(vault, "PATCH", "/v1/items/web1") == [{"cpus": 4, "memory": 8 << 30, "network": None, "policy": "tin"}]
    for wrong in ((), ("--cpus", "many"), ("--memory", "8"), ("--policy", "same")):
        assert homeport("item", "set", "web1", *wrong).status == 2
    assert len(sent(vault, "PATCH", "/v1/items/web1")) == 1


def test_deleted_items_are_listed_and_purged_only_when_that_is_confirmed(homeport: Homeport, vault: FakeVault) -> None:
    out = homeport("item", "list", "--deleted").out
    assert "old1" in out
    assert "7" in out
    assert homeport("item", "purge", "old1").status == 2
    assert sent(vault, "POST", "/v1/items/deleted/old1/purge") == []
    assert homeport("item", "purge", "old1", "--yes").status == 0
    vault.deleted[0]["waiting"] = ["The configuration server of site 'away' is not there."]
    assert "being deleted" in homeport("item", "list", "--deleted").out
    vault.deleted.clear()
    assert "No deleted item" in homeport("item", "list", "--deleted").out


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ((), {}),
        (("--purge",), {"purge": True}),
        (("--source-gone", "--purge"), {"source_gone": True, "purge": True}),
    ],
    ids=str,
)
def test_what_becomes_of_the_points_goes_with_disable(
    homeport: Homeport, vault: FakeVault, options: tuple[str, ...], inputs: dict[str, bool]
) -> None:
    assert homeport("disable", "web1", *options, "--yes").status == 0
    assert vault.operations == [("disable", inputs)]


def test_a_site_is_removed_only_when_that_is_confirmed(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("site", "remove", "home").status == 2
    assert ("DELETE", "/v1/sites/home", None) not in vault.asked
    assert homeport("site", "remove", "home", "--yes").status == 0
    assert ("DELETE", "/v1/sites/home", None) in vault.asked
    assert "recovery store of site home stays" in homeport("site", "remove", "home", "--force", "--yes").out
    assert "state folder stays" in homeport("server", "remove", "ps-1", "--force", "--yes").out


def test_the_last_discovery_is_shown_and_whether_it_may_be_believed(homeport: Homeport, vault: FakeVault) -> None:
    looks = (("site", "list"), ("site", "show", "home"), ("machine", "list", "home"))
    for look in looks:
        out = homeport(*look).out
        assert re.search(r"3 min( \d+ s)? ago", out)
        assert "stale" not in out
    why = "The last discovery is more than two intervals ago."
    vault.discovery |= {"stale": True, "why": why, "error": {"code": "x", "cause": "The hypervisor is busy."}}
    for look in looks:
        assert re.search(r"3 min( \d+ s)? ago, stale", homeport(*look).out)
    assert why in homeport("machine", "list", "home", "--no-refresh").out
    shown = homeport("site", "show", "home").out
    assert why in shown
    assert "The last try failed: The hypervisor is busy." in shown
    vault.discovery["last"] = None
    assert "never, stale" in homeport("site", "list").out


def test_a_refresh_says_what_is_new_gone_and_changed(homeport: Homeport, vault: FakeVault) -> None:
    out = homeport("site", "refresh", "home").out
    assert "Discovered home: 1 new, 1 gone, 1 changed." in out
    assert "new: new1" in out
    assert "gone: gone1" in out
    assert "changed: web1: power: off → running" in out
    assert "changed: web1: disks: disk0 1.0 GiB raw → disk0 2.0 GiB raw" in out


def test_backups_of_configuration_servers_are_listed_with_their_schedule(homeport: Homeport, vault: FakeVault) -> None:
    out = homeport("configuration-server", "backups").out
    assert "asked for" in out
    assert "2.0 KiB" in out
    assert "cs-home of home: every 1 d and after a change; the next is due" in out
    vault.backed_up = False
    assert "No configuration server has handed over a backup yet." in homeport("configuration-server", "backups").out


def test_a_sites_store_is_set_and_shown(homeport: Homeport, vault: FakeVault) -> None:
    assert "file:///srv/points" in homeport("site", "set", "home", "--store", "file:///srv/points").out
    assert "in its own folder" in homeport("site", "set", "home", "--store", "default").out
    assert sent(vault, "PATCH", "/v1/sites/home") == [{"store": "file:///srv/points"}, {"store": None}]
    assert "8.0 GiB" in homeport("site", "show", "home").out


def test_a_process_server_is_named(homeport: Homeport, vault: FakeVault) -> None:
    assert homeport("protect", "web1", *SITES, "--process-server", "ps2").status == 0
    assert sent(vault, "POST", "/v1/items")[0]["process_server"] == "ps2"
