"""What an operator is told of two looks at a site."""

from __future__ import annotations

from dataclasses import replace

from homeport.domain.inventory import DISCOVERY_INTERVAL, compare, is_stale
from homeport.domain.machines import Disk, Machine, Nic, Power

DISK = Disk("disk0", 1 << 30, "raw", "a.raw")
WEB = Machine("u1", "web", (DISK,), (Nic("52:54:00:00:00:01"),), memory=1 << 28, power=Power.RUNNING)
DB = Machine("u2", "db", (DISK,), power=Power.OFF)


def test_the_same_is_no_difference() -> None:
    assert not compare([WEB, DB], [DB, WEB])
    moved = replace(WEB, disks=(replace(DISK, path="elsewhere.raw"),), extra={"origin": "x"})
    assert not compare([WEB], [moved]), "where its file lies is its site's affair"


def test_machines_that_came_went_and_changed() -> None:
    bigger = replace(WEB, disks=(replace(DISK, size=2 << 30),), power=Power.OFF)
    new = Machine("u3", "new", ())
    found = compare([WEB, DB], [bigger, new]).to_json()
    assert found["new"] == [{"name": "new", "uuid": "u3"}]
    assert found["gone"] == [{"name": "db", "uuid": "u2"}]
    (changed,) = found["changed"]
    assert changed["name"] == "web"
    assert [(each["field"], each["before"], each["after"]) for each in changed["changes"]] == [
        ("power", "running", "off"),
        (
            "disks",
            [{"id": "disk0", "size": 1 << 30, "format": "raw"}],
            [{"id": "disk0", "size": 2 << 30, "format": "raw"}],
        ),
    ]


def test_a_renamed_machine_is_the_same_and_a_clone_is_new() -> None:
    renamed = replace(WEB, name="shop")
    (changed,) = compare([WEB], [renamed]).to_json()["changed"]
    assert changed["changes"] == [{"field": "name", "before": "web", "after": "shop"}]
    clone = compare([WEB], [WEB, renamed])
    assert ([machine.name for machine in clone.new], clone.gone, clone.changed) == (["shop"], (), ())
    clones = [WEB, renamed]
    assert [machine.name for machine in compare(clones, [replace(WEB, name="third")]).new] == ["third"], "whose?"


def test_two_intervals_make_it_stale() -> None:
    assert DISCOVERY_INTERVAL == 15 * 60, "reference 1.4"
    assert is_stale(None, DISCOVERY_INTERVAL)
    assert not is_stale(2 * DISCOVERY_INTERVAL, DISCOVERY_INTERVAL)
    assert is_stale(2 * DISCOVERY_INTERVAL + 1, DISCOVERY_INTERVAL)
