"""Protecting from images that were carried to the other site: refused at once where they can't be, else the beginning
of the timeline that nobody is shown."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.domain.operations import Operation
from homeport.vault.steps import VERSIONS, WORKFLOWS

Json = dict[str, Any]
GiB = 1 << 30
SEED = {"disk0": "seeds/web0.img", "disk1": "seeds/web1.qcow2"}


@pytest.fixture
def carried(world: World) -> World:
    world.west.seeds = dict.fromkeys(SEED.values(), GiB)
    return world


def test_the_first_copy_begins_from_the_seed_and_the_seed_is_no_recovery_point(carried: World) -> None:
    world = carried
    job = world.wait(world.protect(seed=SEED)["job"]["id"])
    assert job["state"] == "succeeded", job
    names = [task["name"] for task in job["tasks"]]
    assert names == ["check", "import-seed", "replicate", "first-point", "drop-seed", "finalize"]
    item = world.expect("Protected")
    assert job["result"]["point"] == f"{item['timeline']}/1", "the seed is waited past"
    assert [point["id"] for point in world.points()] == [job["result"]["point"]]
    assert 0 not in world.west.timelines[item["timeline"]].points
    kinds = world.west.kinds()
    assert kinds.index("probe-seed") < kinds.index("import-seed") < kinds.index("drop-points")
    assert "import-seed" not in world.east.kinds(), "no path of another site is opened by anyone"


def test_disks_that_are_left_out_need_no_seed(carried: World) -> None:
    job = carried.wait(carried.protect(seed={"disk0": SEED["disk0"]}, exclude_disks=["disk1"])["job"]["id"])
    assert job["state"] == "succeeded", job


@pytest.mark.parametrize(
    ("seed", "code", "status"),
    [
        ({"disk0": "seeds/web0.img"}, "seed.disk-missing", 422),
        ({**SEED, "disk7": "x.img"}, "protect.disk-unknown", 422),
        ({**SEED, "disk0": "/etc/shadow"}, "seed.path-invalid", 422),
        ({**SEED, "disk0": "../east/web/disk0.raw"}, "seed.path-invalid", 422),
        ({**SEED, "disk0": ".homeport/gateway.token"}, "seed.path-invalid", 422),
        ({**SEED, "disk0": ""}, "seed.path-invalid", 422),
        ({**SEED, "disk0": "seeds/web0.vmdk"}, "seed.format", 422),
        ({**SEED, "disk0": "seeds/other.img"}, "seed.not-found", 409),
        ({**SEED, "disk0": "seeds/small.img"}, "seed.wrong-size", 409),
        ({**SEED, "disk0": 7}, "request.invalid", 422),
    ],
)
def test_what_can_not_be_a_seed_is_refused_at_once(carried: World, seed: Json, code: str, status: int) -> None:
    carried.west.seeds["seeds/small.img"] = GiB - 1
    assert carried.protect(seed=seed, status=status)["code"] == code
    assert carried.call("GET", "/items")["items"] == []
    assert carried.call("GET", "/jobs")["jobs"] == []


def test_an_import_that_fails_is_restarted_with_the_same_seed(carried: World) -> None:
    carried.west.fail["import-seed"] = 1
    failed = carried.wait(carried.protect(seed=SEED)["job"]["id"])
    assert failed["error"]["code"] == "fake.import-seed"
    carried.expect("EnableFailed")
    again = carried.wait(carried.call("POST", f"/jobs/{failed['id']}/restart", status=202)["job"]["id"])
    assert again["state"] == "succeeded", again
    assert [kind for kind in carried.west.kinds() if kind == "import-seed"] == ["import-seed"] * 2


def test_a_seeded_protection_that_is_cancelled_leaves_nothing(carried: World) -> None:
    carried.east.produce = False
    job = carried.protect(seed=SEED)["job"]["id"]
    carried.until(lambda: carried.east.replications != {})
    carried.call("POST", f"/jobs/{job}/cancel", status=202)
    assert carried.wait(job)["state"] == "cancelled"
    assert carried.west.timelines == {}
    assert carried.call("GET", "/items")["items"] == []


def test_a_seed_that_can_not_be_dropped_now_stays_out_of_sight(carried: World) -> None:
    carried.west.fail["drop-points"] = 1
    job = carried.wait(carried.protect(seed=SEED)["job"]["id"])
    assert job["state"] == "succeeded"
    assert any("fake.drop-points" in note for note in job["result"]["notes"])
    assert [point["id"] for point in carried.points()] == [job["result"]["point"]]


def test_a_protection_that_the_release_before_began_is_finished(
    vault: LocalVault, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.west.hold["verify-point"], world.west.entered["verify-point"] = threading.Event(), threading.Event()
    with monkeypatch.context() as before:
        before.setitem(WORKFLOWS, Operation.PROTECT, VERSIONS["protect.v2"])
        job = world.protect()["job"]["id"]
        assert world.west.entered["verify-point"].wait(20)
        vault.stop()
    world.west.hold.pop("verify-point").set()
    vault.start()
    done = world.wait(job)
    assert done["state"] == "succeeded", done
    assert {task["name"] for task in done["tasks"]} <= set(VERSIONS["protect.v2"].steps)
    world.expect("Protected")
