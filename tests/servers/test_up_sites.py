"""`homeport up` has servers for exactly the sites that the vault knows, on the stores that these have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homeport.domain.inventory import DISCOVERY_INTERVAL
from homeport.servers import up
from homeport.servers.discovery import Discovery
from homeport.servers.link import Link


class FakeVault:
    """``known``: its sites."""

    def __init__(self) -> None:
        self.known: list[dict[str, Any]] = []

    def sites(self) -> list[dict[str, Any]]:
        return [dict(site) for site in self.known]


class FakeWork(str):
    """Known by its store."""

    def discover(self) -> dict[str, Any]:
        return {"machines": [], "facts": {}}


class FakeServer:
    """A configuration server; all of them stand in ``made``."""

    made: list[FakeServer]

    def __init__(self, name: str, link: Link, work: str, *, greet_every: float, discovery: Discovery) -> None:
        self.name = name
        self.discovery = discovery
        self.store = work
        self.runs = False
        FakeServer.made.append(self)

    def start(self) -> None:
        self.runs = True

    def stop(self) -> None:
        self.runs = False


def running() -> dict[str, str]:
    return {server.name: server.store for server in FakeServer.made if server.runs}


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVault:
    FakeServer.made = []
    monkeypatch.setattr(up, "Worker", FakeServer)
    monkeypatch.setattr(up, "SiteWork", lambda name, site, folder, objects, url: FakeWork(url))
    (tmp_path / "token").write_text("token")
    for name in ("home", "away", "points"):
        (tmp_path / name).mkdir()
    fake = FakeVault()
    fake.known = [
        {"name": name, "provider": "qemu", "path": str(tmp_path / name), "store": None} for name in ("away", "home")
    ]
    return fake


def test_servers_follow_the_sites_and_their_stores(vault: FakeVault, tmp_path: Path) -> None:
    sites = up._Sites(vault, "http://127.0.0.1:1", tmp_path)  # type: ignore[arg-type]
    own = {name: (tmp_path / name / ".homeport" / "store").as_uri() for name in ("home", "away")}
    sites.reconcile()
    assert running() == own
    assert {server.discovery.interval for server in FakeServer.made} == {DISCOVERY_INTERVAL}
    sites.reconcile()
    assert len(FakeServer.made) == 2
    away = vault.known[0]
    away["store"] = (tmp_path / "points").as_uri()
    sites.reconcile()
    assert running() == {**own, "away": away["store"]}
    assert len(FakeServer.made) == 3
    vault.known.remove(away)
    sites.reconcile()
    assert running() == {"home": own["home"]}
    away["store"] = None
    vault.known.append(away)
    sites.reconcile()
    assert running() == own
    sites.stop()
    assert running() == {}


def test_a_store_that_can_not_be_opened_is_tried_again_when_the_site_has_another(
    vault: FakeVault, tmp_path: Path
) -> None:
    sites = up._Sites(vault, "http://127.0.0.1:1", tmp_path)  # type: ignore[arg-type]
    vault.known[0]["store"] = (tmp_path / "not there").as_uri()
    sites.reconcile()
    sites.reconcile()
    assert set(running()) == {"home"}
    vault.known[0]["store"] = (tmp_path / "points").as_uri()
    sites.reconcile()
    assert set(running()) == {"home", "away"}
