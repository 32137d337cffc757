"""A configuration server discovers its site by itself, and the vault hears of it, be it away for a while."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from homeport.domain.errors import HomeportError
from homeport.servers import discovery
from homeport.servers.discovery import Discovery

Json = dict[str, Any]


class Vault:
    """``answers``: the next statuses (0: it can't be reached), then 200."""

    def __init__(self, *answers: int) -> None:
        self.told: list[Json] = []
        self.tries = 0
        self._answers = list(answers)
        self.client = httpx.Client(base_url="http://vault", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/agent/home/inventory")
        self.tries += 1
        status = self._answers.pop(0) if self._answers else 200
        if not status:
            raise httpx.ConnectError("nobody listens")
        if status == 200:
            self.told.append(json.loads(request.content))
        return httpx.Response(status, json={})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "AGAIN", 0.02)


@contextmanager
def running(made: Discovery, vault: Vault) -> Iterator[None]:
    ending = threading.Event()
    thread = threading.Thread(target=made.run, args=(vault.client, ending))
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(10)
        assert not thread.is_alive()


def until(found: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_site_is_discovered_at_once_and_then_at_intervals() -> None:
    vault, looks = Vault(), iter(range(1000))
    made = Discovery("home", lambda: {"machines": [{"name": str(next(looks))}], "facts": {"host": "h"}}, 60)
    with running(made, vault):
        until(lambda: vault.told)
        assert vault.told[0]["machines"] == [{"name": "0"}]
        assert (vault.told[0]["facts"], vault.told[0]["interval"]) == ({"host": "h"}, 60)
        assert vault.told[0]["age"] < 30
        time.sleep(0.1)
        assert len(vault.told) == 1
        made.interval = 0.05  # it was configured anew
        until(lambda: len(vault.told) > 3)
    names = [told["machines"][0]["name"] for told in vault.told]
    assert names[:4] == ["0", "1", "2", "3"]


def test_a_vault_that_was_away_is_told_how_old_it_is_by_then() -> None:
    vault, looks = Vault(0, 503, 0), iter(range(1000))
    with running(Discovery("home", lambda: {"machines": [{"name": str(next(looks))}]}, 60), vault):
        until(lambda: vault.told)
    assert (vault.tries, len(vault.told)) == (4, 1)
    assert vault.told[0]["machines"] == [{"name": "0"}], "it did not look again"
    assert vault.told[0]["age"] >= 3 * 0.02


def test_a_vault_that_stays_away_hears_of_the_newest_look() -> None:
    vault, looks = Vault(*[0] * 12), iter(range(1000))
    with running(Discovery("home", lambda: {"machines": [{"name": str(next(looks))}]}, 0.1), vault):
        until(lambda: vault.told)
    assert int(vault.told[0]["machines"][0]["name"]) >= 1
    assert vault.told[0]["age"] < 0.1 + 5


def test_why_nothing_was_seen_is_told_and_the_next_look_is_in_time() -> None:
    vault = Vault()
    outcomes: list[Any] = [HomeportError("it is locked", code="x.locked"), RuntimeError("a defect"), {"machines": []}]

    def look() -> Json:
        found = outcomes.pop(0) if outcomes else {"machines": []}
        if isinstance(found, Exception):
            raise found
        return dict(found)

    with running(Discovery("home", look, 0.05), vault):
        until(lambda: len(vault.told) >= 3)
    assert [told.get("error", {}).get("code") for told in vault.told[:3]] == ["x.locked", "internal", None]
    assert "machines" not in vault.told[0]


def test_what_the_vault_refuses_is_not_told_again() -> None:
    vault = Vault(404)
    with running(Discovery("home", lambda: {"machines": []}, 60), vault):
        until(lambda: vault.tries)
        time.sleep(0.1)
    assert vault.tries == 1
