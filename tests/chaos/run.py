"""One run of chaos from beginning to verdict."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from homeport.vault import engines
from homeport.vault.app import create_vault
from tests.chaos.checks import all_violations
from tests.chaos.evidence import Evidence, Item, Rows, rows
from tests.chaos.history import History
from tests.chaos.instances import LEASE, Instance
from tests.chaos.operators import operate
from tests.chaos.sites import ChaosWorld
from tests.chaos.troubles import Troubles

CALM = 600.0
"""Seconds that the vault is given to end every job, once nothing hurts it any more."""


@dataclass(frozen=True)
class Verdict:
    violations: list[str]
    figures: dict[str, Any]
    history: Path
    evidence: Evidence


def chaos(folder: Path, seed: str, operations: int, machines: int, database: str | None = None) -> Verdict:
    """``folder``: for the vault's state and the history. ``database``: an empty one of PostgreSQL, on which two
    instances run; without, one on SQLite."""
    history = History(folder / "history.jsonl")
    state = folder / "state"
    create_vault(state, database=database).close()
    instances = [Instance("vault", state, database, history)]
    if database is not None:
        # The second instance has the vault's secrets from the first one; they are not in the database.
        shutil.copytree(state, folder / "state2", ignore=shutil.ignore_patterns("*.lock", "*.db*"))
        instances.append(Instance("second", folder / "state2", database, history))

    def look() -> Rows:
        return rows(engines.open_engine(engines.address_of(database) if database else state / "vault.db"))

    begun = time.monotonic()
    for instance in instances:
        instance.start()
    token = (state / "token").read_text().strip()
    world = ChaosWorld([each.url for each in instances], token, machines, seed, history)
    try:
        with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
            _set_up(client, world)
            troubles = Troubles(world, instances, seed, long_stop=2 * LEASE if database else 0)
            troubles.begin()
            try:
                operate(world, operations)
            finally:
                troubles.end()
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=10) as client:
            allowed, quiet = _calm_down(client, world, look)
    finally:
        world.close()
        for instance in instances:
            instance.end()
    evidence = _evidence(look(), world, allowed, quiet)
    violations = [*history.violations, *all_violations(evidence)]
    history.note("verdict", violations=violations)
    history.close()
    figures = {
        "seconds": round(time.monotonic() - begun),
        "jobs": dict(Counter(f"{job.kind} {job.state}" for job in evidence.jobs)),
        "accepted": len(evidence.accepted),
        "kills": sum(each.kills for each in instances),
        "stops": sum(each.stops for each in instances),
        **{what: history.count(what) for what in ("refused", "forbidden", "second", "repeated", "cancel", "site-dies",
                                                  "work-fails", "work-loses", "superseded", "declared-dead")},
        "effects": len(evidence.effects),
    }  # fmt: skip
    return Verdict(violations, figures, history.path, evidence)


def _set_up(client: httpx.Client, world: ChaosWorld) -> None:
    for site in world.sites:
        client.post("/v1/sites", json={"name": site, "provider": "qemu", "path": f"/{site}"}).raise_for_status()
    client.post("/v1/policies", json={"name": "gold", "rpo_threshold": 900, "interval": 5}).raise_for_status()
    # So many that jobs are seldom queued: what they wait for is tested elsewhere, here it would only take time.
    client.put("/v1/jobs/limits", json={"data_moving": 10, "failovers": 10}).raise_for_status()
    for site in world.sites.values():
        site.begin()


def _calm_down(
    client: httpx.Client, world: ChaosWorld, look: Callable[[], Rows]
) -> tuple[dict[str, tuple[str, ...]], datetime]:
    """Waits until no job runs and what was asked of the sites by then is done; what is allowed for each item then, and
    when no job ran any more. What the vault asks for by itself goes on."""

    def get(path: str) -> Any:
        for _ in range(60):
            try:
                answer = client.get(f"{world.url}/v1{path}")
                answer.raise_for_status()
                return answer.json()
            except httpx.HTTPError:
                world.another()
                time.sleep(1)
        raise AssertionError("the vault does not answer in calm")

    def quiet() -> bool:
        return not any(get(f"/jobs?state={state}&limit=1")["jobs"] for state in ("queued", "running", "cancelling"))

    if not _until(quiet, CALM):
        world.history.note("not-quiet", jobs=get("/jobs?state=running")["jobs"])
    since = datetime.now(UTC)
    _until(lambda: not _left_open(look(), since), CALM)
    return {item["id"]: tuple(item["allowed_operations"]) for item in get("/items")["items"]}, since


def _left_open(found: Rows, since: datetime) -> bool:
    return any(work.open and work.created is not None and work.created < since for work in found.work)


def _until(look: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return True
        threading.Event().wait(0.5)
    return False


def _evidence(found: Rows, world: ChaosWorld, allowed: dict[str, tuple[str, ...]], quiet: datetime) -> Evidence:
    def seen(item: Item) -> Item:
        return replace(item, allowed=allowed.get(item.id, ()), left=world.left(item.id) if item.removed else ())

    return Evidence(
        jobs=found.jobs,
        items=tuple(seen(item) for item in found.items),
        work=tuple(work for work in found.work if not work.open or (work.created and work.created < quiet)),
        effects=tuple(world.history.effects),
        accepted=tuple(world.history.accepted),
        running=dict.fromkeys(world.names, "east"),
    )
