"""Policies: changed under the feet of items, deleted with a guard, held to a profile."""

from __future__ import annotations

import threading

import pytest
from fake_sites import Json, World

DAY = 86400


def told(world: World) -> Json:
    """What the item's running replication was last told at its site."""
    site = world.east if world.item()["active_site"] == "east" else world.west
    return site.replications[world.item()["id"]]


def values(params: Json) -> Json:
    return {name: params[name] for name in ("interval", "app_consistent", "retention", "rpo_threshold")}


def test_a_policy_is_shown_with_both_thresholds(world: World) -> None:
    shown = world.call("GET", "/policies/gold")
    assert (shown["rpo_threshold"], shown["rpo_critical"], shown["generated"]) == (900, 1800, False)
    made = world.call("POST", "/policies", {"name": "tight", "rpo_threshold": 60, "rpo_critical": 90}, status=201)
    assert made["rpo_critical"] == 90
    assert world.call("GET", "/policies/none", status=404)["code"] == "policy.not-found"
    bad = world.call("POST", "/policies", {"name": "b", "rpo_threshold": 90, "rpo_critical": 60}, status=422)
    assert "critical" in bad["cause"]


def test_a_change_counts_at_once_for_items_that_replicate(world: World) -> None:
    world.protected()
    change = {"interval": 30, "retention": 2 * DAY, "app_consistent": 7200, "rpo_threshold": 120}
    changed = world.call("PATCH", "/policies/gold", change)
    assert changed["rpo_critical"] == 240, "twice the first, as long as it isn't given"
    world.until(lambda: values(told(world)) == change)
    assert world.call("GET", "/policies/gold") == changed
    east = world.call("GET", "/agent/east/replications")["replications"]
    assert values(east[0]) == change, "a server that begins is told the same"
    assert world.item()["state"] == "Protected"
    back = world.call("GET", "/policies/gold-failback")
    assert (back["interval"], back["retention"]) == (30, DAY), "the interval is the item's, the rest is fixed"


def test_the_way_home_keeps_its_own_policy(world: World) -> None:
    world.protected()
    for operation in ("failover", "commit", "reprotect"):
        world.run(operation)
    world.call("PATCH", "/policies/gold", {"interval": 30, "retention": 2 * DAY})
    wanted = {"interval": 30, "app_consistent": 3600, "retention": DAY, "rpo_threshold": 900}
    world.until(lambda: values(told(world)) == wanted)


def test_a_change_during_an_operation_counts_for_the_replication_that_it_begins(world: World) -> None:
    world.protected()
    world.run("failover")
    world.run("commit")
    entered, go = world.east.entered, world.east.hold
    entered["import-base"], go["import-base"] = threading.Event(), threading.Event()
    job = world.begin("reprotect")["id"]
    assert entered["import-base"].wait(20)
    world.call("PATCH", "/policies/gold", {"interval": 45})
    go.pop("import-base").set()
    assert world.wait(job)["state"] == "succeeded"
    assert told(world)["interval"] == 45


def test_a_change_is_held_to_the_ranges_and_to_what_it_may_change(world: World) -> None:
    for change in ({"interval": 0}, {"retention": -1}, {"rpo_threshold": 10**30}, {"rpo_critical": 1}):
        assert world.call("PATCH", "/policies/gold", change, status=422)["code"] == "policy.invalid", change
    for change in ({"name": "silver"}, {"interval": "often"}, {"interval": None}):
        assert world.call("PATCH", "/policies/gold", change, status=422)["code"] == "request.invalid", change
    refused = world.call("PATCH", "/policies/gold-failback", {"interval": 30}, status=409)
    assert refused["code"] == "policy.generated"
    assert world.call("PATCH", "/policies/none", {"interval": 30}, status=404)["code"] == "policy.not-found"
    assert world.call("GET", "/policies/gold")["interval"] == 5


def test_a_policy_that_items_refer_to_is_not_deleted(world: World) -> None:
    world.protected()
    refused = world.call("DELETE", "/policies/gold", status=409)
    assert refused["code"] == "policy.in-use"
    assert refused["details"]["items"] == ["web"]
    assert "web" in refused["cause"]
    assert world.call("DELETE", "/policies/gold-failback", status=409)["code"] == "policy.generated"
    world.run("disable")
    assert world.call("DELETE", "/policies/gold")["name"] == "gold"
    assert world.call("GET", "/policies")["policies"] == []
    assert world.call("DELETE", "/policies/gold", status=404)["code"] == "policy.not-found"
    assert world.protect(status=409)["code"] == "78253"


def test_the_name_of_a_deleted_policy_is_free(world: World) -> None:
    world.call("DELETE", "/policies/gold")
    made = world.call("POST", "/policies", {"name": "gold", "interval": 60}, status=201)
    assert (made["interval"], made["rpo_threshold"]) == (60, 3600)
    assert [each["name"] for each in world.call("GET", "/policies")["policies"]] == ["gold", "gold-failback"]


def test_the_strict_profile_holds_policies_to_the_limits_of_the_original(world: World) -> None:
    long = {"name": "long", "retention": 30 * DAY}
    world.call("POST", "/policies", long, status=201)
    assert world.call("GET", "/profile") == {"profile": "default"}
    refused = world.call("PUT", "/profile", {"profile": "strict"}, status=409)
    assert refused["code"] == "policy.profile-refused"
    assert list(refused["details"]["problems"]) == ["long"]
    world.call("PATCH", "/policies/long", {"retention": 15 * DAY})
    assert world.call("PUT", "/profile", {"profile": "strict"}) == {"profile": "strict"}
    assert "15 days" in world.call("PATCH", "/policies/long", {"retention": 30 * DAY}, status=422)["cause"]
    assert world.call("POST", "/policies", {**long, "name": "more"}, status=422)["code"] == "policy.invalid"
    world.call("PUT", "/profile", {"profile": "default"})
    world.call("PATCH", "/policies/long", {"retention": 3650 * DAY})
    assert world.call("PUT", "/profile", {"profile": "loose"}, status=422)["code"] == "request.invalid"


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_what_was_changed_meanwhile_is_not_overwritten(world: World, method: str) -> None:
    before = world.client.get("/v1/policies/gold")
    world.call("PATCH", "/policies/gold", {"interval": 30})
    body = {"interval": 60} if method == "PATCH" else None
    stale = {"If-Match": before.headers["ETag"]}
    answer = world.client.request(method, "/v1/policies/gold", json=body, headers=stale)
    assert (answer.status_code, answer.json()["code"]) == (412, "request.precondition-failed")
    fresh = {"If-Match": world.client.get("/v1/policies/gold").headers["ETag"]}
    assert world.client.request(method, "/v1/policies/gold", json=body, headers=fresh).status_code == 200
