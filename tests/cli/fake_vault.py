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
        "created": START.isoformat(),
        **more,
    }


@dataclass
class FakeVault:
    """``asked``: every request (method, path, body). ``outcome``: how jobs end. ``held``: jobs run until it is set."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    items: dict[str, JSON] = field(default_factory=lambda: {"web1": item()})
    jobs: dict[str, JSON] = field(default_factory=dict)
    points: list[JSON] = field(
        default_factory=lambda: [
            point(1),
            point(2, consistency="app-consistent", tags=["before [upgrade]"], offered_as=["latest-app-consistent"]),
            point(3, offered_as=["latest", "latest-processed"]),
        ]
    )
    confirmed: bool = False
    passphrase: str = "right horse"
    outcome: str = "succeeded"
    error: JSON | None = None
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
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            refusal = _Refusal(401, "api.unauthorized", "the token isn't right")
            return JSONResponse(refusal.body, 401, media_type="application/problem+json")
        body = await request.json() if request.method == "POST" and await request.body() else None
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

    @app.get("/v1/sites")
    def sites() -> JSON:
        return {"sites": [{"name": "home", "provider": "qemu", "path": "/srv/home"}]}

    @app.post("/v1/sites", status_code=201)
    def add_site(body: JSON) -> JSON:
        return body

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
            ]
        }

    @app.get("/v1/policies")
    def policies() -> JSON:
        return {"policies": [{"name": "gold", "rpo_threshold": 900, "retention": 86400, "app_consistent": 0}]}

    @app.post("/v1/policies", status_code=201)
    def create_policy(body: JSON) -> JSON:
        return {"interval": 15, **body}

    @app.get("/v1/items")
    def items() -> JSON:
        return {"items": list(vault.items.values())}

    @app.post("/v1/items", status_code=202)
    def protect(body: JSON) -> JSON:
        return {"job": vault.begin("protect", body["machine"])}

    @app.get("/v1/items/{name}")
    def get_item(name: str) -> JSON:
        return found(name)

    @app.get("/v1/items/{name}/points")
    def points(name: str) -> JSON:
        found(name)
        return {"points": vault.points}

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

    @app.get("/v1/jobs")
    def jobs(item: str | None = None, state: str | None = None) -> JSON:
        chosen = [job for job in vault.jobs.values() if state in (None, job["state"])]
        return {"jobs": [job for job in chosen if item in (None, job["item_name"])]}

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
