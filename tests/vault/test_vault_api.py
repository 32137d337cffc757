"""The REST API: token, problems, resources, long polls, what servers of sites are told."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fake_sites import World
from vault_process import LocalVault

from homeport.vault.app import StateInUse, create_vault


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dTpw"}])
@pytest.mark.parametrize("path", ["/v1/vault", "/openapi.json", "/nowhere", "/v1/agent/east/work"])
def test_nothing_is_told_without_the_token(vault: LocalVault, headers: dict[str, str], path: str) -> None:
    answer = httpx.get(vault.url + path, headers=headers, verify=False)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "vault.unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_api_describes_itself(world: World) -> None:
    described = world.client.get("/openapi.json").json()
    for path in ("/v1/items/{item}/operations/failover", "/v1/agent/{site}/work", "/v1/jobs/{job}/restart"):
        assert path in described["paths"]


def test_secrets_are_for_the_owner_only(vault: LocalVault) -> None:
    databases = () if vault.database else ("vault.db", "workflows.db")
    for name in ("token", "vault-key.json", "passphrase", *databases):
        assert (vault.state / name).stat().st_mode & 0o077 == 0, name


def test_the_passphrase_is_shown_once_and_deleted_when_it_is_confirmed(vault: LocalVault, world: World) -> None:
    shown = vault.vault.first_passphrase
    assert shown is not None
    assert len(shown.replace("-", "")) == 24
    assert world.east.hello_answer["passphrase"] == shown
    assert world.east.hello_answer["vault"] == world.call("GET", "/vault")["id"]
    assert len(bytes.fromhex(world.east.hello_answer["vault_key"])) == 32
    assert world.call("GET", "/vault")["passphrase_confirmed"] is False
    wrong = world.call("POST", "/vault/passphrase/confirm", {"passphrase": "wrong"}, status=403)
    assert wrong["code"] == "vault.passphrase-wrong"
    typed = f" {shown.upper()} "
    assert world.call("POST", "/vault/passphrase/confirm", {"passphrase": typed})["passphrase_confirmed"] is True
    assert not (vault.state / "passphrase").exists()
    world.west.die()
    world.west.begin()
    assert world.west.hello_answer["passphrase"] is None


def test_a_second_vault_on_one_state_folder_is_refused(vault: LocalVault) -> None:
    with pytest.raises(StateInUse):
        create_vault(vault.state)


def test_a_vault_that_starts_again_keeps_its_identity(tmp_path: Path) -> None:
    first = create_vault(tmp_path / "state")
    identity = (first.token, first.core.secrets.vault_id, first.core.secrets.vault_key)
    first.close()
    again = create_vault(tmp_path / "state")
    assert (again.token, again.core.secrets.vault_id, again.core.secrets.vault_key) == identity
    assert again.first_passphrase is None
    assert again.core.secrets.passphrase is not None
    again.close()


def test_sites_and_policies_are_made_once_and_checked(world: World) -> None:
    names = [site["name"] for site in world.call("GET", "/sites")["sites"]]
    assert names == ["east", "west"]
    assert world.call("POST", "/sites", {"name": "east", "path": "/x"}, status=409)["code"] == "site.exists"
    assert world.call("POST", "/sites", {"name": "a b", "path": "/x"}, status=422)["code"] == "site.invalid"
    for path in ("/east", "/east/", "/east/in", "/west/../east", "/"):
        refused = world.call("POST", "/sites", {"name": "x", "path": path}, status=409)
        assert refused["code"] == "site.path-overlaps", path
        assert "/east" in refused["cause"]
    bad = world.call("POST", "/sites", {"name": "x", "path": "/x", "provider": "punchcards"}, status=422)
    assert bad["code"] == "request.invalid"
    assert world.call("GET", "/sites/nowhere", status=404)["code"] == "site.not-found"
    policies = {policy["name"]: policy for policy in world.call("GET", "/policies")["policies"]}
    assert policies["gold-failback"] == {
        "name": "gold-failback",
        "rpo_threshold": 900,
        "retention": 86400,
        "app_consistent": 3600,
        "interval": 5,
        "generated": True,
        "rpo_critical": 1800,
    }
    assert world.call("POST", "/policies", {"name": "gold"}, status=409)["code"] == "policy.exists"
    bad = world.call("POST", "/policies", {"name": "bad", "rpo_threshold": 1}, status=422)
    assert bad["code"] == "policy.invalid"
    assert bad["details"]["problems"]


def test_the_listener_hears_of_a_new_site(tmp_path: Path) -> None:
    heard: list[dict[str, object]] = []
    vault = create_vault(tmp_path / "state", on_site_added=heard.append)

    async def add_site() -> int:
        transport = httpx.ASGITransport(vault.app)
        headers = {"Authorization": f"Bearer {vault.token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://vault", headers=headers) as client:
            return (await client.post("/v1/sites", json={"name": "east", "path": "/e"})).status_code

    try:
        assert asyncio.run(add_site()) == 201
        assert [site["name"] for site in heard] == ["east"]
        assert vault.sites() == [{"name": "east", "provider": "qemu", "path": "/e", "store": None}]
    finally:
        vault.close()


def test_machines_are_listed_with_what_stands_in_their_way(world: World) -> None:
    assert world.call("GET", "/sites/east/machines")["machines"] == []
    listed = world.call("GET", "/sites/east/machines", refresh=True)["machines"]
    found = {machine["name"]: machine for machine in listed}
    assert found["web"]["protectable"]
    assert found["broken"]["obstacles"] == ["a disk is shared"]
    asked = world.east.kinds().count("inventory")
    world.call("GET", "/sites/east/machines")
    assert world.east.kinds().count("inventory") == asked
    world.call("GET", "/sites/east/machines", refresh=True)
    assert world.east.kinds().count("inventory") == asked + 1


def test_points_say_what_they_are_offered_as(world: World) -> None:
    world.protected()
    job = world.run("point", {"app_consistent": True, "tag": "before-upgrade"})
    world.more_points(1)
    points = world.points()
    assert points[-1]["offered_as"] == ["latest", "latest-processed"]
    tagged = next(point for point in points if point["tags"])
    assert tagged["id"] == job["result"]["point"]
    assert tagged["offered_as"] == ["latest-app-consistent"]
    world.east.app_obstacle = True
    done = world.run("point", {"app_consistent": True})
    assert "78144" in done["result"]["notes"][0]


def test_a_job_is_told_of_as_soon_as_it_changes(world: World) -> None:
    world.protected()
    world.west.hold["start-from-point"] = hold = threading.Event()
    world.west.entered["start-from-point"] = threading.Event()
    job = world.begin("test-failover")
    assert world.west.entered["start-from-point"].wait(20)
    found = world.call("GET", f"/jobs/{job['id']}")
    for _ in range(5):
        later = world.call("GET", f"/jobs/{job['id']}", wait=0.3, version=found["version"])
        if later["version"] == found["version"]:
            break
        found = later
    assert found["tasks"][-1]["name"] == "start-machine"
    begun = time.monotonic()
    threading.Timer(0.3, hold.set).start()
    later = world.call("GET", f"/jobs/{job['id']}", wait=30, version=found["version"])
    assert later["version"] > found["version"]
    assert time.monotonic() - begun < 10
    assert world.wait(job["id"])["state"] == "succeeded"
    listed = world.call("GET", "/jobs", item="web", state="succeeded")["jobs"]
    assert [each["kind"] for each in listed] == ["test-failover", "protect"]


def test_progress_of_work_shows_in_its_task(world: World) -> None:
    world.protected()
    world.west.hold["start-from-point"] = hold = threading.Event()
    world.west.entered["start-from-point"] = threading.Event()
    job = world.begin("test-failover")["id"]
    assert world.west.entered["start-from-point"].wait(20)
    progress = {"done": 3, "total": 9, "unit": "bytes", "text": "copying"}
    work = next(iter(world.west._in_hand))
    world.call("POST", f"/agent/west/work/{work}", {"state": "running", "progress": progress})
    assert world.call("GET", f"/jobs/{job}")["tasks"][-1]["progress"] == progress
    hold.set()
    world.wait(job)


def test_a_report_of_a_timeline_that_was_left_changes_nothing(world: World) -> None:
    world.protected()
    item = world.item()
    stale = {"item": item["id"], "timeline": "00" * 8, "phase": "error", "error": "old"}
    assert world.call("POST", "/agent/east/report", stale) == {"current": False}
    right = {**stale, "timeline": item["timeline"]}
    assert world.call("POST", "/agent/west/report", right) == {"current": False}
    assert world.call("POST", "/agent/east/report", {**right, "points": [{"id": "x"}]}, status=422)
    assert world.item()["health"] == "normal"


def test_health_and_rpo_follow_the_reports(world: World) -> None:
    world.protected()
    item = world.item()
    assert 0 < item["rpo_seconds"] < 900
    world.east.replications.clear()  # this site's own reports stop; what follows is told by hand
    report = {"item": item["id"], "timeline": item["timeline"], "phase": "replicating"}

    def told(**values: object) -> dict[str, object]:
        world.call("POST", "/agent/east/report", {**report, **values})
        return world.item()

    old = (datetime.now(UTC) - timedelta(seconds=1000)).isoformat()
    found = told(rpo_from=old)
    assert found["health"] == "warning"
    assert "RPO" in found["health_reasons"][0]
    found = told(phase="resyncing", error={"code": "store.full", "cause": "The store is full."})
    assert (found["state"], found["health"]) == ("Resyncing", "critical")
    assert found["allowed_operations"] == ["test-failover", "failover", "pause", "disable"]
    assert "The store is full." in found["health_reasons"][0]
    now = datetime.now(UTC).isoformat()
    crossed = found["replication"]["crossed"]
    found = told(rpo_from=now, crossed={"out": 5, "in": 2})
    assert (found["state"], found["health"]) == ("Protected", "normal")
    # A count below the last one is a server that began again: it adds to what had crossed before.
    assert found["replication"]["crossed"] == {"out": crossed["out"] + 5, "in": crossed["in"] + 1}


def test_a_site_that_begins_again_is_told_what_should_replicate(world: World) -> None:
    world.protected()
    item = world.item()
    found = world.call("GET", "/agent/east/replications")["replications"]
    assert [params["item"] for params in found] == [item["id"]]
    assert found[0]["timeline"] == item["timeline"]
    assert found[0]["store"] == {"site": "west", "url": "tcp://west", "token": "t"}
    assert found[0]["keys"] == world.east.replications[item["id"]]["keys"]
    assert world.call("GET", "/agent/west/replications")["replications"] == []
    world.run("failover")
    assert world.call("GET", "/agent/east/replications")["replications"] == []


def test_a_result_that_nobody_waits_for_is_refused(world: World) -> None:
    assert world.call("POST", "/agent/east/work/0", {"state": "done"}, status=410)["code"] == "work.unknown"


def test_a_server_that_breaks_off_is_noticed_at_once(world: World) -> None:
    world.until(lambda: world.call("GET", "/sites/east")["connected"])
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"], seconds=8)
    assert world.call("GET", "/sites/west")["connected"]


def test_unknown_parameters_are_refused(world: World) -> None:
    world.protected()
    answer = world.begin("failover", {"shutdwon": False}, status=422)
    assert answer["code"] == "request.invalid"
    assert "shutdwon" in answer["cause"]
    world.expect("Protected")
