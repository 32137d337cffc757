"""The API answers in the caller's language; what is stored, and what programs read, is English."""

from __future__ import annotations

import json
from typing import Any

import httpx
from fake_sites import Json, World

JAPANESE = {"Accept-Language": "ja-JP, ja;q=0.9, en;q=0.5"}


def get(world: World, path: str, **headers: str) -> httpx.Response:
    return world.client.get(f"/v1{path}", headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_problem_is_told_in_the_language_that_is_wanted_most(world: World) -> None:
    english = get(world, "/items/nosuch")
    assert english.json()["cause"] == "There is no replicated item 'nosuch'."
    assert english.headers["content-language"] == "en"
    for accepted in ("ja", "en;q=0.4, ja", "fr, ja;q=0.1"):
        told = get(world, "/items/nosuch", Accept_Language=accepted)
        assert told.status_code == english.status_code
        assert told.headers["content-language"] == "ja"
        assert told.headers["content-type"] == "application/problem+json"
        assert told.json() == {
            **english.json(),
            "title": "レプリケートされたアイテム 'nosuch' はありません。",
            "cause": "レプリケートされたアイテム 'nosuch' はありません。",
            "remedy": "レプリケートされたアイテムは `homeport status` で確認できます。",
        }


def test_who_asks_for_no_language_that_is_spoken_gets_english(world: World) -> None:
    for accepted in ("fr", "ja;q=0", "", "nonsense;;;q=,"):
        told = get(world, "/items/nosuch", Accept_Language=accepted)
        assert told.headers["content-language"] == "en"
        assert told.json()["cause"] == "There is no replicated item 'nosuch'."


def test_every_answer_says_that_the_language_makes_a_difference(world: World) -> None:
    for path in ("/vault", "/items", "/items/nosuch", "/nosuch"):
        for headers in ({}, JAPANESE):
            answer = world.client.get(f"/v1{path}", headers=headers)
            assert "accept-language" in answer.headers["vary"].lower(), path
            assert answer.headers["content-language"] == ("ja" if headers else "en")


def test_without_a_token_the_refusal_is_in_the_language_too(world: World) -> None:
    bare = httpx.get(f"{world.client.base_url}/v1/items", headers=JAPANESE)
    assert bare.status_code == 401
    assert bare.json()["cause"] == "呼び出しにトークンがありません。"
    assert bare.headers["www-authenticate"] == "Bearer"


def test_the_description_of_the_api_stays_english(world: World) -> None:
    answers = [world.client.get("/openapi.json", headers=headers) for headers in ({}, JAPANESE)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["content-language"] == "en"


def test_jobs_items_and_checks_are_told_in_japanese_and_stored_in_english(world: World) -> None:
    world.protected()
    job = world.run("test-failover")["id"]
    english, japanese = (world.client.get(f"/v1/jobs/{job}", headers=headers).json() for headers in ({}, JAPANESE))
    assert english["display_name"] == "Test failover"
    assert japanese["display_name"] == "テスト フェールオーバー"
    titles = [task["title"] for task in japanese["tasks"]]
    assert "テスト マシンの起動" in titles
    assert not any(title.isascii() for title in titles)
    assert programs_part(japanese) == programs_part(english)

    refused = world.client.post("/v1/items/web/operations/failover", json={}, headers=JAPANESE)
    assert refused.status_code == 409
    told = refused.json()
    assert told["code"] == "item.test-cleanup-pending"
    assert (
        told["cause"]
        == "アイテムの状態が テスト フェールオーバーのクリーンアップ待ち の間、フェールオーバー は許可されません。"
    )
    assert "テスト フェールオーバーをクリーンアップ" in told["remedy"]
    assert told["details"]["state"] == "TestFailoverCleanupPending"

    findings = world.client.post("/v1/items/web/checks", headers=JAPANESE).json()["findings"]
    assert findings
    for finding in findings:
        for text in (finding["title"], finding["found"], finding["expected"], finding["remedy"], *finding["causes"]):
            assert not text.isascii(), text
    stored = world.call("GET", "/items/web/checks")["findings"]
    assert [finding["code"] for finding in stored] == [finding["code"] for finding in findings]
    assert all(finding["title"].isascii() for finding in stored)


def programs_part(job: Json) -> Any:
    tasks = [
        {name: value for name, value in task.items() if name not in ("title", "progress", "result")}
        for task in job["tasks"]
    ]
    left = ("display_name", "tasks", "task_tree", "result")
    return {**{name: value for name, value in job.items() if name not in left}, "tasks": tasks}


def test_what_an_operator_wrote_is_given_back_as_it_was(world: World) -> None:
    world.protected()
    world.run("test-failover")
    notes = "Nothing was done."
    job = world.run("cleanup", {"notes": notes})["id"]
    told = world.client.get(f"/v1/jobs/{job}", headers=JAPANESE).text
    assert f'"notes_of_test": "{notes}"' in told


def test_each_language_has_an_etag_and_either_may_be_changed_with_it(world: World) -> None:
    world.call("POST", "/policies", {"name": "p"}, status=201)
    english = get(world, "/policies/p")
    japanese = get(world, "/policies/p", **{"Accept_Language": "ja"})
    assert english.headers["etag"] != japanese.headers["etag"]

    def again(tag: str, language: str) -> int:
        return get(world, "/policies/p", If_None_Match=tag, Accept_Language=language).status_code

    assert again(japanese.headers["etag"], "ja") == 304
    assert again(english.headers["etag"], "en") == 304
    assert again(english.headers["etag"], "ja") == 200
    assert again(japanese.headers["etag"], "en") == 200
    assert again(f'"x", {japanese.headers["etag"]}', "ja") == 304
    assert again("*", "ja") == 304
    unchanged = get(world, "/policies/p", If_None_Match=japanese.headers["etag"], Accept_Language="ja")
    assert unchanged.headers["etag"] == japanese.headers["etag"]

    def change(tag: str, retention: int) -> httpx.Response:
        headers = {**JAPANESE, "If-Match": tag}
        return world.client.patch("/v1/policies/p", json={"retention": retention}, headers=headers)

    assert change(japanese.headers["etag"], 7200).status_code == 200
    refused = change(japanese.headers["etag"], 9000)
    assert refused.status_code == 412
    assert "読み取られた後に変更されました" in refused.json()["cause"]


def test_a_repeated_request_is_answered_in_the_language_of_each_time(world: World) -> None:
    world.protected()
    key = {"Idempotency-Key": "once"}
    first = world.client.post("/v1/items/nosuch/operations/point", json={}, headers=key)
    again = world.client.post("/v1/items/nosuch/operations/point", json={}, headers={**key, **JAPANESE})
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json()["code"] == again.json()["code"]
    assert first.json()["cause"].isascii()
    assert "ありません" in again.json()["cause"]


def test_events_speak_it_too(world: World) -> None:
    world.protected()
    with world.client.stream("GET", "/v1/events", headers=JAPANESE, timeout=30) as answer:
        assert answer.headers["content-language"] == "ja"
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: ready"
        job = world.begin("point")["id"]
        for line in lines:
            if line.startswith("data: ") and json.loads(line[6:]).get("id") == job:
                assert json.loads(line[6:])["display_name"] == "復旧ポイントの作成"
                break
