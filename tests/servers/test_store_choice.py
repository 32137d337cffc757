"""Which store a site's server opens: the vault's word, its own settings, or what it heard last; never two at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from homeport.domain.servers import Role
from homeport.servers.relay import Relay
from homeport.servers.serve.settings import check_config
from homeport.servers.serve.store_choice import StoreChoice, StoreContradicts
from homeport.servers.site_service import work_routes

ONE, OTHER = "s3://one/points", "file:///srv/other"


def choice(folder: Path, **settings: Any) -> StoreChoice:
    folder.mkdir(exist_ok=True)
    given = {"folder": "/srv/site", "state": str(folder), **settings}
    return StoreChoice(check_config(Role.MASTER_TARGET, given))


def asked(of: StoreChoice, status: int = 200, **answer: Any) -> None:
    def answered(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/agent/mt-1/store"
        if not status:
            raise httpx.ConnectError("nobody is there")
        return httpx.Response(status, json=answer)

    with httpx.Client(transport=httpx.MockTransport(answered), base_url="http://cs") as client:
        of.ask(client, "mt-1")


@pytest.mark.parametrize(
    ("configured", "told", "opened", "named"),
    [
        ("", None, "file:///srv/site/.homeport/store", None),
        ("", ONE, ONE, ONE),
        (ONE, None, ONE, ONE),
        (ONE, ONE + "/", ONE + "/", ONE + "/"),
    ],
)
def test_the_vaults_word_counts_then_the_settings(
    tmp_path: Path, configured: str, told: str | None, opened: str, named: str | None
) -> None:
    made = choice(tmp_path, store=configured)
    asked(made, store=told)
    assert (made.open(), made.named(), made.otherwise()) == (opened, named, None)


def test_settings_that_contradict_are_refused_also_where_nobody_answers(tmp_path: Path) -> None:
    first = choice(tmp_path, store=OTHER)
    asked(first, store=ONE)
    with pytest.raises(StoreContradicts, match=f"{OTHER}.*{ONE}"):
        first.open()
    later = choice(tmp_path, store=OTHER)
    asked(later, 0)
    with pytest.raises(StoreContradicts):
        later.open()
    asked(later, store=None)
    assert later.open() == OTHER


@pytest.mark.parametrize("status", [0, 404, 500])
def test_where_nobody_says_what_was_heard_last_counts(tmp_path: Path, status: int) -> None:
    choice(tmp_path).hear({"store": ONE})
    made = choice(tmp_path)
    asked(made, status)
    assert made.open() == ONE
    made.hear({})  # a greeting's answer of another version
    assert made.otherwise() is None


def test_a_store_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    made = choice(tmp_path)
    made.open()
    made.hear({"store": None})
    assert made.otherwise() is None
    made.hear({"store": ONE})
    assert ONE in str(made.otherwise())
    again = choice(tmp_path)
    assert (again.open(), again.otherwise()) == (ONE, None)


def test_a_configuration_server_tells_the_others(tmp_path: Path) -> None:
    relay, api = Relay(tmp_path), FastAPI()
    api.include_router(work_routes(relay, lambda request, server: None, lambda: 0))

    async def heard() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://cs") as client:
            told = await client.get("/v1/agent/mt-1/store")
            greeted = await client.post("/v1/agent/mt-1/hello", json={"role": "master-target", "executor": "1"})
            return [told.json(), greeted.json()]

    assert asyncio.run(heard()) == [{}] * 2, "it has heard of none itself: who asks goes by what it knows"
    relay.store_known = True
    assert asyncio.run(heard()) == [{"store": None}] * 2
    relay.store = ONE
    assert asyncio.run(heard()) == [{"store": ONE}] * 2


def test_who_was_never_told_and_can_not_ask_does_not_know(tmp_path: Path) -> None:
    """Which a configuration server must not pass on as "in the site's own folder"."""
    made = choice(tmp_path / "new")
    asked(made, 0)
    assert not made.known
    asked(made, store=None)
    assert made.known
    assert choice(tmp_path / "new").known, "also after a restart"
    assert choice(tmp_path / "set", store=ONE).known
