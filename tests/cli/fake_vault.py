"""A vault that knows only what the API's contract says: enough to run the command line against it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

TOKEN = "a-token"
BACKUP = "20261120T040000Z-0123abcd"
TIMELINE = "5f0c2d9a7b31e846"
START = datetime.now(UTC) - timedelta(minutes=5)
ALLOWED = ["test-failover", "failover", "resync", "point", "disable"]
JSON = dict[str, Any]


def point(number: int, **more: Any) -> JSON:
    return {
        "id": f"{TIMELINE}/{number}",
        "time": (START + timedelta(seconds=15 * number)).isoformat(),
        "consistency": "crash-consistent",
        "parent": f"{TIMELINE}/{number - 1}",
        "tags": [],
        "logical_bytes": 1 << 20,
        "stored_bytes": 1 << 19,
        "hidden": False,
        "disks": {"disk0": 1 << 30},
        "offered_as": [],
        **more,
    }


def item(**more: Any) -> JSON:
    return {
        "id": "item-1",
        "name": "web1",
        "machine": {"uuid": "11111111-2222-3333-4444-555555555555", "name": "web1"},
        "from": "home",
        "to": "away",
        "policy": "gold",
        "state": "Protected",
        "direction": "forward",
        "active_site": "home",
        "health": "normal",
        "health_reasons": [],
        "rpo_seconds": 12.0,
        "last_point": point(3),
        "timeline": TIMELINE,
        "replication": {
            "phase": "replicating",
            "progress": {"done": 1 << 20, "total": 4 << 20, "unit": "bytes", "text": None},
            "error": None,
            "crossed": {"out": 1 << 20, "in": 2048},
        },
        "test": None,
        "allowed_operations": list(ALLOWED),
        "job": None,
        "recovery_machine": None,
        "failover_point": None,
        "target": {
            "name": "web1-dr",
            "cpus": None,
            "memory": None,
            "network": None,
            "ip": None,
            "excluded_disks": ["disk1"],
            "tags": ["a [b]"],
        },
        "target_machine": {
            "name": "web1-dr",
            "cpus": 1,
            "memory": 1 << 28,
            "disks": [{"id": "disk0", "size": 1 << 30}],
            "nics": [{"network": "default"}],
        },
        "created": START.isoformat(),
        **more,
    }


def flow(rate: int) -> JSON:
    return {"5min": rate, "60min": 2 * rate, "24h": 3 * rate, "total": 1 << 40}


TRAFFIC: JSON = {
    "disks": {"disk0": {"changed": flow(1 << 20), "shipped": flow(1 << 10)}},
    "shipped": flow(1 << 11),
    "observed": 90_000,
    "pending": 7.0,
}


@dataclass
class FakeVault:
    """``asked``: every request (method, path, body). ``outcome``: how jobs end. ``held``: jobs run until it is set."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    """That answers were asked for in."""
    items: dict[str, JSON] = field(default_factory=lambda: {"web1": item()})
    jobs: dict[str, JSON] = field(default_factory=dict)
    points: list[JSON] = field(
        default_factory=lambda: [
            point(1),
            point(2, consistency="app-consistent", tags=["before [upgrade]"], offered_as=["latest-app-consistent"]),
            point(3, offered_as=["latest", "latest-processed"]),
        ]
    )
    group: JSON = field(
        default_factory=lambda: {
            "name": "shop",
            "from": "home",
            "to": "away",
            "policy": "gold",
            "members": [
                {"item": "item-1", "name": "web1", "state": "Protected", "active_site": "home"},
                {"item": "item-2", "name": "db1", "state": "Protected", "active_site": "home"},
            ],
            "rpo_seconds": 12.0,
            "common_points": [
                {
                    "round": f"{number:016x}",
                    "time": START.isoformat(),
                    "consistency": "crash-consistent",
                    "points": {"web1": f"{TIMELINE}/{number}", "db1": f"{TIMELINE}/{number}"},
                }
                for number in range(15, 0, -1)
            ],
        }
    )
    refused: set[str] = field(default_factory=set)
    """Machines that can't be protected."""
    deleted: list[JSON] = field(
        default_factory=lambda: [
            {
                "id": "item-0",
                "name": "old1",
                "machine": "u0",
                "from": "home",
                "to": "away",
                "removed": START.isoformat(),
                "purge_at": (START + timedelta(days=14)).isoformat(),
                "points": 7,
                "waiting": None,
            }
        ]
    )
    discovery: JSON = field(
        default_factory=lambda: {
            "last": (datetime.now(UTC) - timedelta(minutes=3)).isoformat(),
            "tried": datetime.now(UTC).isoformat(),
            "error": None,
            "interval": 900.0,
            "stale": False,
            "why": None,
        }
    )
    backed_up: bool = True
    findings: list[JSON] = field(default_factory=list)
    suggestions: list[JSON] = field(default_factory=list)
    """Of moving items to other process servers."""
    throttle: JSON = field(
        default_factory=lambda: {
            "vault": None,
            "effective": {"rules": "configuration", "now": None, "limit": None, "schedule": [], "time_zone": None},
            "applied": True,
            "error": None,
        }
    )
    confirmed: bool = False
    passphrase: str = "right horse"
    outcome: str = "succeeded"
    error: JSON | None = None
    page: int = 1000
    limits: JSON = field(default_factory=lambda: {"data_moving": 4, "failovers": 16})
    held: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.held.set()

    @property
    def operations(self) -> list[tuple[str, Any]]:
        """The operations that were begun, with their inputs."""
        return [(path.rsplit("/", 1)[1], body) for method, path, body in self.asked if "/operations/" in path]

    def begin(self, kind: str, of: str) -> str:
        name = f"job{len(self.jobs) + 1}"
        now = datetime.now(UTC).isoformat()
        self.jobs[name] = {
            "id": name,
            "kind": kind,
            "item": "item-1",
            "item_name": of,
            "state": "running",
            "version": 1,
            "created": now,
            "started": now,
            "ended": None,
            "tasks": [
                {
                    "name": "ship",
                    "title": "Send the last changes",
                    "state": "running",
                    "progress": {"done": 1 << 20, "total": 4 << 20, "unit": "bytes", "text": None},
                    "started": now,
                    "ended": None,
                }
            ],
            "error": None,
            "result": None,
            "allowed": ["cancel"],
        }
        return name

    def finish(self, name: str, outcome: str) -> None:
        job, now = self.jobs[name], datetime.now(UTC).isoformat()
        task_state = "failed" if outcome == "failed" else "succeeded"
        job["tasks"][0].update(state=task_state, ended=now, error=self.error)
        job.update(
            state=outcome,
            ended=now,
            version=job["version"] + 1,
            error=self.error if outcome == "failed" else None,
            allowed=["restart"] if outcome == "failed" else [],
        )


class _Refusal(Exception):
    def __init__(self, status: int, code: str, cause: str, **details: Any) -> None:
        self.status = status
        self.body = {
            "type": "about:blank",
            "title": cause,
            "status": status,
            "code": code,
            "cause": cause,
            "remedy": "Do something else.",
            "details": details,
        }


def application(vault: FakeVault) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(_Refusal)
    def refuse(request: Request, refusal: _Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, media_type="application/problem+json")

    @app.middleware("http")
    async def notice(request: Request, call: Any) -> Any:
        vault.languages.append(request.headers.get("accept-language", ""))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            refusal = _Refusal(401, "api.unauthorized", "the token isn't right")
            return JSONResponse(refusal.body, 401, media_type="application/problem+json")
        body = await request.json() if request.method in ("POST", "PATCH", "PUT") and await request.body() else None
        vault.asked.append((request.method, request.url.path, body))
        return await call(request)

    def found(name: str) -> JSON:
        for one in vault.items.values():
            if name in (one["name"], one["id"]):
                return one
        raise _Refusal(404, "item.not-found", f"There is no replicated item {name!r}.")

    def job_of(name: str) -> JSON:
        if name not in vault.jobs:
            raise _Refusal(404, "job.not-found", f"There is no job {name!r}.")
        return vault.jobs[name]

    @app.get("/v1/vault")
    def get_vault() -> JSON:
        return {"id": "v", "version": "0.1.0", "passphrase_confirmed": vault.confirmed, "sites": 2, "items": 1}

    @app.post("/v1/vault/passphrase/confirm")
    def confirm(body: JSON) -> JSON:
        if body["passphrase"] != vault.passphrase:
            raise _Refusal(422, "vault.wrong-passphrase", "This is not the recovery passphrase.")
        vault.confirmed = True
        return {"passphrase_confirmed": True}

    @app.post("/v1/vault/backups", status_code=201)
    def back_up(body: JSON) -> JSON:
        silent = {"code": "site.unreachable", "cause": "It is not there.", "remedy": "", "details": {}}
        sites = {name: {"error": None if name == "home" else silent} for name in body["sites"] or ["away", "home"]}
        return {"backup": {"id": BACKUP, "created": "2026-11-20T04:00:00+00:00", "size": 4096, "sites": sites}}

    @app.get("/v1/vault/backups")
    def backups() -> JSON:
        made = {"id": BACKUP, "created": "2026-11-20T04:00:00+00:00", "size": 4096, "sites": ["home"]}
        return {
            "backups": [made],
            "keep": 7,
            "sites": {"home": {"due": "2026-11-21T04:00:00+00:00", "error": None}},
        }

    @app.get("/v1/configuration-backups")
    def configuration_backups(server: str | None = None) -> JSON:
        made = {"site": "home", "server": "cs-home", "created": START.isoformat(), "size": 2048}
        backups = [
            {**made, "version": "0.1.0", "reason": "asked"},
            {**made, "version": None, "reason": None},
        ]
        due = (START + timedelta(days=1)).isoformat()
        schedule = {"site": "home", "server": "cs-home", "every": 86400, "last": START.isoformat(), "due": due}
        return {"backups": backups if vault.backed_up else [], "schedules": [{**schedule, "overdue": False}], "keep": 7}

    @app.delete("/v1/servers/{name}")
    def remove_server(name: str, force: bool = False) -> JSON:
        return {"removed": [{"name": name}], "left": [f"On the machine of {name} its state folder stays."]}

    @app.get("/v1/sites")
    def sites() -> JSON:
        return {"sites": [{"name": "home", "provider": "qemu", "path": "/srv/home", "discovery": vault.discovery}]}

    @app.post("/v1/sites/{site}/refresh")
    def refresh(site: str) -> JSON:
        changes = [
            {"field": "power", "before": "off", "after": "running"},
            {
                "field": "disks",
                "before": [{"id": "disk0", "size": 1 << 30, "format": "raw"}],
                "after": [{"id": "disk0", "size": 2 << 30, "format": "raw"}],
            },
        ]
        return {
            "site": {"name": site, "discovery": vault.discovery},
            "new": [{"name": "new1", "uuid": "u3"}],
            "gone": [{"name": "gone1", "uuid": "u4"}],
            "changed": [{"name": "web1", "uuid": "u1", "changes": changes}],
        }

    @app.post("/v1/sites", status_code=201)
    def add_site(body: JSON) -> JSON:
        return body

    @app.get("/v1/sites/{site}")
    def get_site(site: str) -> JSON:
        facts = {"free_memory": 1 << 33, "cpus": 4}
        shown = {"name": site, "provider": "qemu", "path": f"/srv/{site}", "store": None, "facts": facts}
        return {**shown, "discovery": vault.discovery}

    @app.patch("/v1/sites/{site}")
    def set_site(site: str, body: JSON) -> JSON:
        return {"name": site, "provider": "qemu", "path": f"/srv/{site}", "connected": True, "facts": {}, **body}

    @app.delete("/v1/sites/{site}")
    def remove_site(site: str, force: bool = False) -> JSON:
        left = [f"The recovery store of site {site} stays as it is: s3://points."]
        return {"name": site, "provider": "qemu", "path": f"/srv/{site}", "left": left if force else []}

    @app.post("/v1/sites/{site}/machines/{machine}/start")
    def start_machine(site: str, machine: str) -> JSON:
        return {"machine": {"name": machine, "power": "running"}}

    @app.get("/v1/sites/{site}/machines")
    def machines(site: str, refresh: bool = False) -> JSON:
        disks = [{"id": "disk0", "size": 1 << 30, "format": "raw", "path": "disk0.raw"}]
        shared = {"disks": disks, "memory": 1 << 28, "cpus": 1, "guest_agent": True}
        return {
            "machines": [
                {"uuid": "u1", "name": "web1", "power": "running", "obstacles": [], "protectable": True, **shared},
                {
                    "uuid": "u2",
                    "name": "db1",
                    "power": "off",
                    "obstacles": ["it is off"],
                    "protectable": False,
                    **shared,
                },
            ],
            "discovery": vault.discovery,
        }

    @app.get("/v1/servers")
    def servers() -> JSON:
        moves = sum(len(each["moves"]) for each in vault.suggestions)
        add = [each["site"] for each in vault.suggestions if each["add"]]
        return {"servers": [], "version": "1", "upgrade": [], "suggestions": {"moves": moves, "add": add}}

    @app.get("/v1/servers/{name}")
    def server(name: str) -> JSON:
        told = {"cpu": 0.5, "threads": 4, "throttle": vault.throttle["effective"]}
        vitals = {
            "health": "healthy",
            "reasons": [],
            "moves": [],
            "told": told,
            "items": {"web1": TRAFFIC, "db1": None},
        }
        return {"server": None, "process_server": vitals if name == "ps1" else None}

    @app.get("/v1/process-servers/suggestions")
    def suggestions(site: str | None = None) -> JSON:
        return {"suggestions": [each for each in vault.suggestions if site in (None, each["site"])]}

    @app.put("/v1/items/{name}/process-server")
    def switch(name: str, body: JSON) -> JSON:
        if name not in ("item-1", "web1"):
            raise _Refusal(409, "site.group-together", "the item is a member of group shop")
        return {"process_server": body["name"], "before": "ps1"}

    @app.api_route("/v1/process-servers/{name}/throttle", methods=["GET", "PUT", "DELETE"])
    def throttle(name: str) -> JSON:
        return {"server": name, "site": "home", **vault.throttle}

    @app.get("/v1/policies")
    def policies() -> JSON:
        return {"policies": [{"name": "gold", "rpo_threshold": 900, "retention": 86400, "app_consistent": 0}]}

    @app.post("/v1/policies", status_code=201)
    def create_policy(body: JSON) -> JSON:
        return {"interval": 15, **body}

    @app.get("/v1/policies/{name}")
    def get_policy(name: str) -> JSON:
        if name != "gold":
            raise _Refusal(404, "policy.not-found", f"There is no policy {name!r}.")
        return {"name": "gold", "rpo_threshold": 900, "rpo_critical": 1800, "retention": 86400, "app_consistent": 0}

    @app.patch("/v1/policies/{name}")
    def change_policy(name: str, body: JSON) -> JSON:
        return {**get_policy(name), **body}

    @app.delete("/v1/policies/{name}")
    def delete_policy(name: str) -> JSON:
        return get_policy(name)

    @app.get("/v1/profile")
    def profile() -> JSON:
        return {"profile": "default"}

    @app.put("/v1/profile")
    def set_profile(body: JSON) -> JSON:
        return body

    @app.get("/v1/items")
    def items() -> JSON:
        return {"items": list(vault.items.values())}

    @app.post("/v1/items", status_code=202)
    def protect(body: JSON) -> JSON:
        if body["machine"] in vault.refused:
            raise _Refusal(409, "machine.not-protectable", f"{body['machine']} can't be protected: it is off.")
        return {"job": vault.begin("protect", body["machine"])}

    @app.get("/v1/items/deleted")
    def deleted_items() -> JSON:
        return {"items": vault.deleted}

    @app.post("/v1/items/deleted/{name}/purge", status_code=202)
    def purge_deleted(name: str) -> JSON:
        return {"item": next(one for one in vault.deleted if name in (one["name"], one["id"]))}

    @app.post("/v1/items/deleted/{name}/restore", status_code=202)
    def restore_deleted(name: str) -> JSON:
        return {"job": vault.jobs[vault.begin("protect", name)]}

    @app.post("/v1/items/{name}/points/{timeline}/{number}/untag")
    def untag(name: str, timeline: str, number: int) -> JSON:
        return found(name)

    @app.patch("/v1/items/{name}")
    def change_item(name: str, body: JSON) -> JSON:
        one = found(name)
        for key, value in body.items():
            if key == "policy":
                one["policy"] = value
            else:
                one["target"][key] = value
                one["target_machine"][key] = value or one["target_machine"].get(key)
        return one

    @app.get("/v1/items/{name}")
    def get_item(name: str) -> JSON:
        return found(name)

    @app.get("/v1/items/{name}/points")
    def points(name: str) -> JSON:
        found(name)
        return {"points": vault.points}

    @app.get("/v1/items/{name}/checks")
    def last_checks(name: str) -> JSON:
        one = found(name)
        at = START.isoformat() if vault.findings else None
        return {"item": one["id"], "item_name": one["name"], "at": at, "due": at, "findings": vault.findings}

    @app.post("/v1/items/{name}/checks")
    def run_checks(name: str, before: str | None = None) -> JSON:
        one = found(name)
        told = {"before": before} if before else {"at": START.isoformat(), "due": START.isoformat()}
        return {"item": one["id"], "item_name": one["name"], **told, "findings": vault.findings}

    @app.post("/v1/items/{name}/operations/{operation}", status_code=202)
    def operate(name: str, operation: str, body: JSON) -> JSON:
        one = found(name)
        if operation not in one["allowed_operations"]:
            raise _Refusal(
                409,
                "item.operation-not-allowed",
                f"{operation} is not allowed while the item is {one['state']}.",
                state=one["state"],
                allowed_operations=one["allowed_operations"],
            )
        return {"job": vault.begin(operation, name)}

    @app.get("/v1/groups")
    def groups() -> JSON:
        return {"groups": [vault.group] if vault.group else []}

    @app.get("/v1/groups/{name}")
    def get_group(name: str) -> JSON:
        if name != vault.group["name"]:
            raise _Refusal(404, "group.not-found", f"There is no replication group {name!r}.")
        return vault.group

    @app.patch("/v1/groups/{name}")
    def change_group(name: str, body: JSON) -> JSON:
        return {**get_group(name), **body}

    @app.post("/v1/groups/{name}/operations/{operation}", status_code=202)
    def operate_group(name: str, operation: str, body: JSON) -> JSON:
        begun = [vault.begin(operation, member["name"]) for member in get_group(name)["members"]]
        return {"jobs": [vault.jobs[job] for job in begun]}

    @app.get("/v1/jobs")
    def jobs(
        request: Request,
        item: str | None = None,
        limit: int = 100,
        after: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> JSON:
        states, kinds = (request.query_params.getlist(name) for name in ("state", "kind"))
        chosen = [
            job
            for job in reversed(vault.jobs.values())
            if item in (None, job["item_name"])
            and (not states or job["state"] in states)
            and (not kinds or job["kind"] in kinds)
            and (since is None or datetime.fromisoformat(job["created"]) >= since)
            and (until is None or datetime.fromisoformat(job["created"]) < until)
        ]
        limit = min(limit, vault.page)
        following = str(after + limit) if len(chosen) > after + limit else None
        return {"jobs": chosen[after : after + limit], "next": following}

    @app.get("/v1/jobs/limits")
    def get_limits() -> JSON:
        return vault.limits

    @app.put("/v1/jobs/limits")
    def set_limits(body: JSON) -> JSON:
        vault.limits.update(body)
        return vault.limits

    @app.post("/v1/jobs/{name}/resume", status_code=202)
    def resume(name: str, body: JSON) -> JSON:
        one = job_of(name)
        told = {"comment": body["comment"], "at": START.isoformat(), "prompt": one["waiting"]["prompt"]}
        one.update(state="running", waiting=None, comments=[told])
        return {"job": one}

    @app.get("/v1/jobs/{name}")
    async def job(name: str, wait: float = 0, version: int = 0) -> JSON:
        one = job_of(name)
        if wait and one["state"] in ("running", "cancelling"):
            vault.waiting.set()
            end = time.monotonic() + wait
            while not vault.held.is_set() and time.monotonic() < end:
                await asyncio.sleep(0.02)
            if vault.held.is_set():
                vault.finish(name, "cancelled" if one["state"] == "cancelling" else vault.outcome)
        return one

    @app.post("/v1/jobs/{name}/cancel", status_code=202)
    def cancel(name: str) -> JSON:
        job_of(name)["state"] = "cancelling"
        return {"job": name}

    @app.post("/v1/jobs/{name}/restart", status_code=202)
    def restart(name: str) -> JSON:
        one = job_of(name)
        return {"job": vault.begin(one["kind"], one["item_name"])}

    return app


@contextmanager
def running(vault: FakeVault, state: Path, port: int = 0, *, killed: bool = False) -> Iterator[FakeVault]:
    """The vault on loopback, its address and token in the folder ``state``. ``killed``: at the end it breaks off what
    it is answering."""
    config = uvicorn.Config(
        application(vault),
        host="127.0.0.1",
        port=port,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=0 if killed else 5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline, "the fake vault didn't start"
            time.sleep(0.01)
        vault.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        state.mkdir(exist_ok=True)
        (state / "endpoint").write_text(vault.url + "\n")
        (state / "token").write_text(TOKEN + "\n")
        yield vault
    finally:
        if not killed:
            vault.held.set()
        server.should_exit = True
        thread.join(30)
