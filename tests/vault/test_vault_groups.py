"""Replication groups in the vault: joining, what is refused to one member, and operations on all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_sites import FakeMachine, Json, World
from vault_process import LocalVault

from homeport.domain.machines import Disk, Machine, Power
from homeport.domain.points import Consistency, PointId, PointInfo
from homeport.vault import timers
from homeport.vault.database import ItemRow, PointRow

GROUP = "shop"
NAMES = ("cache", "db", "web")


class GroupWorld(World):
    """Three machines at the site east: a group."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token)
        for number, name in enumerate(("db", "cache", "other")):
            disks = (Disk("disk0", 1 << 30, "raw"), Disk("disk1", 1 << 30, "qcow2"))
            machine = Machine(f"5b0c2a52-0000-4000-8000-0000000001{number:02d}", name, disks, power=Power.RUNNING)
            self.east.descriptions[name] = machine
            self.east.machines[name] = FakeMachine(name)
        self.rounds = 0

    def grouped(self) -> None:
        jobs = [self.protect(machine=name, group=GROUP)["job"]["id"] for name in NAMES]
        for job in jobs:
            assert self.wait(job)["state"] == "succeeded"

    def of(self, name: str) -> Json:
        return self.call("GET", f"/items/{name}")

    def round(self, *names: str, told: bool = True) -> str:
        """The members ``names`` (all) share an instant; the round's id."""
        self.rounds += 1
        made = f"{self.rounds:016x}"
        for name in names or NAMES:
            item = self.of(name)
            active, store = (self.east, self.west) if item["active_site"] == "east" else (self.west, self.east)
            point = str(store.add_point(item["timeline"], group=f"{GROUP}/{made}"))
            if told:
                active._report_one(active.replications[item["id"]])
                self.until(lambda: point in [each["id"] for each in self.points_of(name)])  # noqa: B023
        return made

    def points_of(self, name: str) -> list[Json]:
        found: list[Json] = self.call("GET", f"/items/{name}/points")["points"]
        return found

    def group(self) -> Json:
        return self.call("GET", f"/groups/{GROUP}")

    def common(self) -> list[str]:
        return [each["round"] for each in self.group()["common_points"]]

    def begin_all(self, operation: str, body: Json | None = None, *, status: int = 202) -> Any:
        found = self.call("POST", f"/groups/{GROUP}/operations/{operation}", body or {}, status=status)
        return found.get("jobs", found)

    def run_all(self, operation: str, body: Json | None = None) -> dict[str, Json]:
        done = [self.wait(job["id"]) for job in self.begin_all(operation, body)]
        assert [job["state"] for job in done] == ["succeeded"] * 3, done
        return {job["item_name"]: job for job in done}

    def started_from(self, jobs: dict[str, Json]) -> set[str | None]:
        """The rounds of the points that the machines were started from."""
        rounds = set()
        for name, job in jobs.items():
            points = {point["id"]: point["group"] for point in self.points_of(name)}
            rounds.add(points[job["result"]["point"]])
        return rounds


@pytest.fixture
def world(vault: LocalVault) -> Iterator[GroupWorld]:
    made = GroupWorld(vault.url, vault.vault.token)
    try:
        made.set_up()
        yield made
    finally:
        made.close()


def test_members_join_by_being_protected_and_share_what_they_must(world: GroupWorld) -> None:
    world.call("GET", f"/groups/{GROUP}", status=404)
    world.grouped()
    found = world.group()
    assert [member["name"] for member in found["members"]] == list(NAMES)
    assert (found["from"], found["to"], found["policy"]) == ("east", "west", "gold")
    assert {world.of(name)["group"] for name in NAMES} == {GROUP}
    assert [each["name"] for each in world.call("GET", "/groups")["groups"]] == [GROUP]
    assert [each["name"] for each in world.call("GET", "/items", group=GROUP)["items"]] == list(NAMES)
    assert {params["group"] for params in world.east.replications.values()} == {GROUP}, "their site was not told"
    assert {params["group"] for kind, params in world.east.calls if kind == "replicate"} == {GROUP}

    world.call("POST", "/policies", {"name": "silver", "rpo_threshold": 900}, status=201)
    refused = world.protect(machine="other", group=GROUP, policy="silver", status=409)
    assert refused["code"] == "group.not-joinable"
    assert world.protect(machine="other", group="a/b", status=422)["code"] == "group.name-invalid"
    assert world.protect(machine="web", group="else", status=409)["code"] == "item.protection-refused"
    assert world.call("GET", "/items/other", status=404)["code"] == "item.not-found", "a refusal left an item"

    refused = world.call("PATCH", "/items/web", {"policy": "silver"}, status=409)
    assert refused["code"] == "group.one-policy"
    assert world.of("web")["policy"] == "gold"
    assert world.call("PATCH", f"/groups/{GROUP}", {"policy": "silver"})["policy"] == "silver"
    assert {world.of(name)["policy"] for name in NAMES} == {"silver"}
    done = world.wait(world.protect(machine="other", group=GROUP, policy="silver")["job"]["id"])
    assert done["state"] == "succeeded"
    world.wait(world.call("POST", "/items/other/operations/disable", {})["job"]["id"])
    assert len(world.group()["members"]) == 3, "one whose protection ended is a member no more"


def test_one_member_moves_by_itself_only_where_that_is_asked_for(world: GroupWorld) -> None:
    world.grouped()
    refused = world.begin("failover", status=409)
    assert refused["code"] == "group.member-alone"
    assert refused["details"]["members"] == ["web", "cache", "db"]
    assert f"--group {GROUP}" in refused["remedy"]
    drill = world.run("test-failover")
    assert drill["state"] == "succeeded", "a drill of one member harms nobody"
    world.run("cleanup")
    world.run("failover", {"alone": True})
    world.expect("FailoverCommitPending")
    assert world.begin("change-point", {"point": "latest"}, status=409)["code"] == "group.member-alone"
    refused = world.begin_all("failover", status=409)
    assert refused["code"] in ("group.not-together", "group.no-common-point")
    assert {world.of(name)["state"] for name in ("db", "cache")} == {"Protected"}


def test_a_group_fails_over_to_the_newest_point_that_all_have(world: GroupWorld) -> None:
    world.grouped()
    refused = world.begin_all("failover", status=409)
    assert refused["code"] == "group.no-common-point"
    older = world.round()
    newest = world.round()
    world.round("db", "web")  # cache was busy
    assert world.common() == [newest, older]
    assert world.group()["rpo_seconds"] > 0
    for item in NAMES:
        assert world.of(item)["state"] == "Protected"
    assert world.begin_all("failover", {"point": "f" * 16}, status=409)["code"] == "group.no-common-point"
    world.call("PUT", "/jobs/limits", {"data_moving": 1, "failovers": 1})  # they wait for each other, not for room
    done = world.run_all("failover", {"shutdown": False})
    assert world.started_from(done) == {f"{GROUP}/{newest}"}
    assert {world.of(name)["state"] for name in NAMES} == {"FailoverCommitPending"}

    again = world.run_all("change-point", {"point": older})
    assert world.started_from(again) == {f"{GROUP}/{older}"}


def test_machines_that_all_shut_down_lose_nothing(world: GroupWorld) -> None:
    world.grouped()
    world.round()
    done = world.run_all("failover")
    for name, job in done.items():
        assert job["result"]["point"] == world.points_of(name)[-1]["id"], "the last changes were left behind"

    # … and home again, the same way
    for name in NAMES:
        for operation in ("commit", "reprotect"):
            job = world.call("POST", f"/items/{name}/operations/{operation}", {})["job"]["id"]
            assert world.wait(job)["state"] == "succeeded"
    assert world.begin("failback", status=409)["code"] == "group.member-alone"
    assert {params["group"] for params in world.west.replications.values()} == {GROUP}
    world.round()
    home = world.run_all("failback")
    for name, job in home.items():
        assert job["result"]["point"] == world.points_of(name)[-1]["id"]
        assert world.east.machines[name].content == job["result"]["point"]
        assert world.of(name)["state"] == "FailbackCommitPending"


def test_where_one_machine_could_not_be_stopped_all_go_to_the_last_point_that_they_share(world: GroupWorld) -> None:
    world.grouped()
    shared = world.round()
    world.round("db")
    world.east.incomplete_stops = 1
    done = world.run_all("failover")
    assert world.started_from(done) == {f"{GROUP}/{shared}"}


def test_they_wait_for_each_other_and_one_that_is_cancelled_meanwhile_goes_back(world: GroupWorld) -> None:
    """db's stop takes long: the others stand at the choice of the point until it is through. cache went on at home
    while db was not stopped yet: their last points are of no one instant, and are not taken for it."""
    world.grouped()
    shared = world.round()
    let_go = threading.Event()
    held = {world.of("db")["id"]}
    do = world.east._do

    def hold(kind: str, params: Json, alive: Any) -> Json:
        if kind == "planned-stop" and params["item"] in held:
            let_go.wait(30)
        return do(kind, params, alive)

    world.east._do = hold  # type: ignore[method-assign]
    jobs = {job["item_name"]: job["id"] for job in world.begin_all("failover")}

    def at_the_choice(name: str) -> bool:
        tasks = world.call("GET", f"/jobs/{jobs[name]}")["tasks"]
        return any(task["name"] == "choose-point" and task["state"] == "running" for task in tasks)

    world.until(lambda: at_the_choice("web") and at_the_choice("cache"))
    world.call("POST", f"/jobs/{jobs['cache']}/cancel")
    cancelled = world.wait(jobs["cache"])
    assert cancelled["state"] == "cancelled"
    assert at_the_choice("web"), "it did not wait for db"
    let_go.set()
    done = {name: world.wait(jobs[name]) for name in ("db", "web")}
    assert [job["state"] for job in done.values()] == ["succeeded"] * 2, done
    assert world.started_from(done) == {f"{GROUP}/{shared}"}
    assert world.of("cache")["state"] == "Protected"


def test_retention_of_earlier_timelines_keeps_what_all_members_share(world: GroupWorld, vault: LocalVault) -> None:
    world.grouped()
    core = vault.vault.core
    then = (datetime.now(UTC) - timedelta(hours=5)).replace(minute=10, second=0, microsecond=0)
    with core.database.write() as session:
        for number, name in enumerate(NAMES):
            item = session.get_one(ItemRow, world.of(name)["id"])
            earlier = f"{number + 1:016x}"
            item.lineage = [earlier, item.timeline]
            own = {1: f"{GROUP}/{1:016x}", 2: None, 3: None} if name == "web" else {1: f"{GROUP}/{1:016x}"}
            for each, mark in own.items():
                point = PointId(earlier, each)
                info = PointInfo(point, then + timedelta(minutes=each), Consistency.CRASH, group=mark)
                session.add(PointRow(timeline=earlier, number=each, data=info.to_json()))
    with core.database.read() as session:
        web = session.get_one(ItemRow, world.of("web")["id"])
        assert timers._past_retention(session, web) == {web.lineage[0]: [2]}, "of the same hour there is a newer one"
        web.test = {"point": f"{web.lineage[0]}/2"}
        assert timers._past_retention(session, web) == {}, "a drill runs from it"
        session.rollback()


def test_a_request_whose_answer_was_lost_gets_all_jobs_again(world: GroupWorld) -> None:
    world.grouped()
    world.round()
    path = f"/v1/groups/{GROUP}/operations/failover"
    headers = {"Idempotency-Key": "once"}
    first = world.client.post(path, json={}, headers=headers).json()
    again = world.client.post(path, json={}, headers=headers)
    assert [job["id"] for job in again.json()["jobs"]] == [job["id"] for job in first["jobs"]]
    assert again.headers["Idempotency-Replayed"] == "true"
    for job in first["jobs"]:
        assert world.wait(job["id"])["state"] == "succeeded"
