"""Lists in pages, with filters; ETags; repeated requests; events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fake_sites import Json, World
from sqlalchemy import update
from vault_process import LocalVault

from homeport.vault import idempotency
from homeport.vault.database import IdempotencyRow, InstanceRow, now

# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pages(world: World, path: str, of: str, limit: int, **filters: Any) -> list[list[Json]]:
    found, after = [], None
    while True:
        asked = filters if after is None else {**filters, "after": after}
        answer = world.call("GET", path, limit=limit, **asked)
        found.append(answer[of])
        after = answer["next"]
        if after is None:
            return found


def test_lists_come_in_pages_that_neither_repeat_nor_skip(world: World) -> None:
    for number in range(5):
        world.call("POST", "/policies", {"name": f"p{number}"}, status=201)
        world.call("POST", "/sites", {"name": f"s{number}", "path": f"/s{number}"}, status=201)
    world.protected()
    for _ in range(4):
        world.run("point")
    world.more_points(3)
    for path, of in (
        ("/policies", "policies"),
        ("/sites", "sites"),
        ("/items", "items"),
        ("/jobs", "jobs"),
        ("/items/web/points", "points"),
    ):
        key = "name" if of in ("policies", "sites") else "id"
        whole = [each[key] for each in world.call("GET", path)[of]]
        assert world.call("GET", path)["next"] is None
        for limit in (1, 2, len(whole), len(whole) + 1):
            split = pages(world, path, of, limit)
            assert [each[key] for page in split for each in page] == whole, (path, limit)
            assert len(split) == -(-len(whole) // limit), (path, limit)


def test_a_page_goes_on_where_the_last_one_ended_though_the_list_changed(world: World) -> None:
    for name in ("b", "d", "f"):
        world.call("POST", "/policies", {"name": name}, status=201)
    first = world.call("GET", "/policies", limit=3)
    assert [policy["name"] for policy in first["policies"]] == ["b", "b-failback", "d"]
    for name in ("a", "e"):
        world.call("POST", "/policies", {"name": name}, status=201)
    second = world.call("GET", "/policies", limit=100, after=first["next"])
    assert [policy["name"] for policy in second["policies"]][:3] == ["d-failback", "e", "e-failback"]


def test_a_cursor_that_is_none_is_refused(world: World) -> None:
    world.protected()
    for path in ("/jobs", "/items", "/items/web/points"):
        for after in ("", "x", "e30=", "WzFd", "WyJhIiwiYiIsImMiXQ==", "WyJub3ciLCJ4Il0=", "ü"):
            if (path, after) == ("/items", "WyJub3ciLCJ4Il0="):
                continue  # two words are a place in this list
            assert world.call("GET", path, after=after, status=422)["code"] == "request.cursor-invalid", (path, after)


def test_jobs_are_filtered(world: World) -> None:
    world.protected()
    begun = datetime.now(UTC)
    world.run("test-failover")
    between = datetime.now(UTC)
    world.run("cleanup")

    def kinds(**filters: Any) -> list[str]:
        return [job["kind"] for job in world.call("GET", "/jobs", **filters)["jobs"]]

    assert kinds() == ["cleanup", "test-failover", "protect"]
    assert kinds(kind="protect") == ["protect"]
    assert kinds(kind=["protect", "cleanup"]) == ["cleanup", "protect"]
    assert kinds(since=begun.isoformat()) == ["cleanup", "test-failover"]
    assert kinds(since=begun.isoformat(), until=between.isoformat()) == ["test-failover"]
    other_zone = begun.astimezone().isoformat() if begun.astimezone().tzinfo != UTC else begun.isoformat()
    assert kinds(until=other_zone) == ["protect"]
    assert kinds(state=["failed", "running"]) == []
    assert kinds(state="succeeded", item="web", limit=1) == ["cleanup"]
    refused = world.call("GET", "/jobs", since="2026-01-01T00:00:00", status=422)
    assert "since" in refused["cause"]


def test_items_and_sites_are_filtered(world: World) -> None:
    world.protected()

    def names(path: str, of: str, **filters: Any) -> list[str]:
        return [each["name"] for each in world.call("GET", path, **filters)[of]]

    assert names("/items", "items", state="Protected", site="east", policy="gold") == ["web"]
    assert names("/items", "items", state=["Paused", "no such state"]) == []
    assert names("/items", "items", site="north") == []
    assert names("/sites", "sites", connected=True) == ["east", "west"]
    world.east.die()
    world.until(lambda: names("/sites", "sites", connected=False) == ["east"])
    assert names("/policies", "policies", generated=False) == ["gold"]


# ── ETags ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_one_has_already_is_not_told_again(world: World) -> None:
    first = world.client.get("/v1/policies/gold")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = world.client.get("/v1/policies/gold", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert world.client.get("/v1/policies/gold", headers={"If-None-Match": '"other"'}).json() == first.json()
    world.call("PATCH", "/policies/gold", {"retention": 7200})
    changed = world.client.get("/v1/policies/gold", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["retention"]) == (200, 7200)
    assert "etag" not in world.client.get("/v1/policies/none").headers


def test_a_change_made_meanwhile_is_not_overwritten(world: World) -> None:
    tag = world.client.get("/v1/policies/gold").headers["etag"]
    ours = world.client.patch("/v1/policies/gold", json={"retention": 7200}, headers={"If-Match": tag})
    assert ours.status_code == 200
    theirs = world.client.patch("/v1/policies/gold", json={"retention": 3600}, headers={"If-Match": tag})
    assert (theirs.status_code, theirs.json()["code"]) == (412, "request.precondition-failed")
    gone = world.client.delete("/v1/policies/gold", headers={"If-Match": tag})
    assert gone.status_code == 412
    now_tag = theirs.json()["details"]["etag"]
    assert world.client.get("/v1/policies/gold").headers["etag"] == now_tag
    assert world.client.delete("/v1/policies/gold", headers={"If-Match": now_tag}).is_success


def test_an_item_may_be_changed_though_its_rpo_grew(world: World) -> None:
    world.protected()
    world.more_points(1)
    tags = set()

    def seen() -> bool:
        tags.add(world.client.get("/v1/items/web").headers["etag"])
        return len(tags) > 2

    world.until(seen)
    assert len({tag.partition(".")[0] for tag in tags}) == 1, "what nobody set changed its part of the tag"
    old = tags.pop()
    asked = world.client.patch("/v1/items/web", json={"cpus": 2}, headers={"If-Match": old})
    assert asked.status_code == 200, asked.text
    again = world.client.patch("/v1/items/web", json={"cpus": 3}, headers={"If-Match": old})
    assert again.status_code == 412


# ── requests that are repeated ──────────────────────────────────────────────────────────────────────────────────────


def post(world: World, path: str, body: Json | None, key: str) -> httpx.Response:
    return world.client.post(f"/v1{path}", json=body, headers={"Idempotency-Key": key})


def test_a_repeated_request_has_its_effect_once(world: World) -> None:
    world.protected()
    first = post(world, "/items/web/operations/point", {"tag": "a"}, "k1")
    assert first.status_code == 202
    world.wait(first.json()["job"]["id"])
    again = post(world, "/items/web/operations/point", {"tag": "a"}, "k1")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"] == f"/v1/jobs/{first.json()['job']['id']}"
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert [job["kind"] for job in world.call("GET", "/jobs")["jobs"]] == ["point", "protect"]
    for path, body in (("/items/web/operations/point", {"tag": "b"}), ("/items/web/operations/failover", {"tag": "a"})):
        other = post(world, path, body, "k1")
        assert (other.status_code, other.json()["code"]) == (409, "request.idempotency-mismatch")
    world.expect("Protected")


def test_a_refusal_is_repeated_too(world: World) -> None:
    refused = post(world, "/sites", {"name": "east", "path": "/other"}, "k2")
    again = post(world, "/sites", {"name": "east", "path": "/other"}, "k2")
    assert (refused.status_code, again.status_code, again.content) == (409, 409, refused.content)
    assert again.headers["content-type"] == "application/problem+json"


def test_of_two_at_once_one_is_told_to_come_again(world: World) -> None:
    world.protected()
    world.east.hold["inventory"] = hold = threading.Event()
    world.east.entered["inventory"] = threading.Event()
    body = {"machine": "none", "from": "east", "to": "west", "policy": "gold"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, world, "/items", body, "k3")
        assert world.east.entered["inventory"].wait(20)
        second = post(world, "/items", body, "k3")
        hold.set()
        assert first.result().status_code == 404
    assert (second.status_code, second.json()["code"]) == (409, "request.in-progress")
    assert second.headers["retry-after"] == "2"
    assert post(world, "/items", body, "k3").status_code == 404


def test_what_failed_for_want_of_a_site_can_be_asked_again(world: World) -> None:
    world.east.die()
    world.until(lambda: not world.call("GET", "/sites/east")["connected"])
    body = {"machine": "none", "from": "east", "to": "west", "policy": "gold"}
    assert post(world, "/items", body, "k4").status_code == 503
    world.east.begin()
    assert post(world, "/items", body, "k4").status_code == 404


def test_a_vault_that_died_before_it_answered_knows_the_job(vault: LocalVault, world: World) -> None:
    world.protected()
    first = post(world, "/items/web/operations/point", {"tag": "x"}, "k5").json()["job"]["id"]
    world.wait(first)
    # As the other process left it: accepted, not answered.
    with vault.vault.core.database.write() as session:
        session.add(InstanceRow(id="another", place="elsewhere", beat=now()))
        session.execute(update(IdempotencyRow).values(owner="another", status=None, body=None, headers=None))
    again = post(world, "/items/web/operations/point", {"tag": "x"}, "k5")
    assert (again.status_code, again.json()["job"]["id"]) == (202, first)
    assert again.headers["location"] == f"/v1/jobs/{first}"
    with vault.vault.core.database.write() as session:
        session.execute(update(IdempotencyRow).values(job=None))
    assert post(world, "/items/web/operations/point", {"tag": "x"}, "k5").status_code == 409
    with vault.vault.core.database.write() as session:
        session.get_one(InstanceRow, "another").dead = now()
    taken = post(world, "/items/web/operations/point", {"tag": "x"}, "k5")
    assert taken.json()["job"]["id"] != first
    world.wait(taken.json()["job"]["id"])


def test_a_key_is_forgotten_after_a_day(vault: LocalVault, world: World) -> None:
    assert post(world, "/policies", {"name": "once"}, "k6").status_code == 201
    with vault.vault.core.database.write() as session:
        session.execute(update(IdempotencyRow).values(created=now() - idempotency.KEPT - timedelta(seconds=1)))
    assert post(world, "/policies", {"name": "twice"}, "k6").status_code == 201
    assert post(world, "/policies", {"name": "thrice"}, "k" * 256).json()["code"] == "request.invalid"


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def events(world: World, last: str | None = None, **query: str) -> Iterator[tuple[str, str, Json]]:
    """Id, kind and data of each; a heartbeat is ("", "comment", {})."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with world.client.stream("GET", "/v1/events", params=query, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                yield "", "comment", {}
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield fields.get("id", ""), fields.get("event", ""), json.loads(fields.get("data", "{}"))
                fields = {}


def test_changes_are_told_as_they_happen(world: World) -> None:
    followed = events(world)
    assert next(followed)[1] == "ready"
    job = world.protect()["job"]["id"]
    seen: list[str] = []
    kinds = set()
    for _, kind, data in followed:
        kinds.add(kind)
        if kind == "job" and data["id"] == job:
            seen.append(data["state"])
            if data["state"] == "succeeded":
                break
    assert seen[-1] == "succeeded"
    assert kinds == {"job", "item"}
    for _, kind, data in followed:
        if kind == "item" and data["state"] == "Protected":
            assert data["removed"] is None
            break


def test_who_comes_back_is_told_what_changed_meanwhile(world: World) -> None:
    world.protected()
    followed = events(world)
    last = next(followed)[0]
    followed.close()
    job = world.run("point")["id"]
    told = events(world, last, kind="job", item="web")
    assert next(told)[1] == "ready"
    found = [data["id"] for _, _, data in (next(told), next(told))]
    assert job in found
    for wrong in ("yesterday", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"):
        refused = world.client.get("/v1/events", headers={"Last-Event-ID": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "request.event-id-invalid")
    assert world.client.get("/v1/events", params={"item": "none"}).status_code == 404


def test_a_quiet_stream_shows_that_it_lives_and_ends_with_the_vault(
    vault: LocalVault, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeport.vault.api.events.HEARTBEAT", 0.5)
    followed = events(world)
    assert next(followed)[1] == "ready"
    assert next(followed)[1] == "comment"
    begun = time.monotonic()
    vault.vault.core.signal.stop()
    assert list(followed) in ([], [("", "comment", {})])
    assert time.monotonic() - begun < 20
