"""Errors as application/problem+json (RFC 9457), made from the project's own error tree."""

from __future__ import annotations

import json
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from homeport.domain.checks.catalogue import CATALOGUE
from homeport.domain.errors import HomeportError

log = structlog.get_logger(__name__)

_STATUS = {
    **{check.code: 409 for check in CATALOGUE},
    "vault.passphrase-wrong": 403,
    "tls.wrong-peer": 403,
    "tls.peer-unknown": 401,
    "tls.certificate-revoked": 403,
    "tls.certificate-expired": 403,
    "server.not-its-own": 403,
    "server.certificate-unknown": 403,
    "server.revoked": 403,
    "server.not-found": 404,
    "server.name-invalid": 422,
    "server.name-taken": 409,
    "server.site-taken": 409,
    "server.has-dependents": 409,
    "server.in-use": 409,
    "server.this-vault": 409,
    "process-server.in-use": 409,
    "process-server.only-one": 409,
    "master-target.in-use": 409,
    "certificate.request-invalid": 422,
    "registration.invalid": 422,
    "registration.tampered": 403,
    "registration.expired": 403,
    "registration.other-vault": 403,
    "registration.unknown": 403,
    "registration.used": 409,
    "registration.no-address": 409,
    "join.clock-skew": 409,
    "process-server.unknown": 409,
    "process-server.of-the-group": 409,
    "process-server.schedule-invalid": 422,
    "configuration-server.still-there": 409,
    "configuration-server.no-backup": 404,
    "configuration-server.backup-unreadable": 422,
    "item.not-found": 404,
    "job.not-found": 404,
    "site.not-found": 404,
    "machine.not-found": 404,
    "policy.not-found": 404,
    "group.not-found": 404,
    "group.name-invalid": 422,
    "group.full": 409,
    "group.not-joinable": 409,
    "group.member-alone": 409,
    "group.not-together": 409,
    "group.no-common-point": 409,
    "group.one-policy": 409,
    "work.unknown": 410,
    "item.operation-not-allowed": 409,
    "item.operation-running": 409,
    "item.test-cleanup-pending": 409,
    "item.commit-pending": 409,
    "item.paused": 409,
    "item.not-reprotected": 409,
    "item.last-operation-failed": 409,
    "item.wrong-direction": 409,
    "item.no-points": 409,
    "item.migrated": 409,
    "item.protection-refused": 409,
    "item.exists": 409,
    "site.exists": 409,
    "site.path-overlaps": 409,
    "policy.exists": 409,
    "policy.in-use": 409,
    "policy.generated": 409,
    "policy.profile-refused": 409,
    "machine.not-protectable": 409,
    "point.not-available": 409,
    "point.not-tagged": 404,
    "job.not-cancellable": 409,
    "job.past-no-return": 409,
    "job.not-restartable": 409,
    "job.not-waiting": 409,
    "request.idempotency-mismatch": 409,
    "request.in-progress": 409,
    "request.precondition-failed": 412,
    "request.cursor-invalid": 422,
    "request.event-id-invalid": 422,
    "vault.limits-invalid": 422,
    "agent.superseded": 409,
    "policy.invalid": 422,
    "site.invalid": 422,
    "request.invalid": 422,
    "78253": 409,
    "site.unreachable": 503,
    "vault.database-unreachable": 503,
    "item.target-invalid": 422,
    "item.name-fixed": 409,
    "item.not-deleted": 409,
    "item.not-restorable": 409,
    "protect.disk-unknown": 422,
    "protect.boot-disk-excluded": 422,
    "protect.name-taken": 409,
    "seed.path-invalid": 422,
    "seed.disk-missing": 422,
    "seed.format": 422,
    "seed.not-found": 409,
    "seed.wrong-size": 409,
    "disk.in-use": 409,
    "70038": 409,
    "site.in-use": 409,
    "site.has-servers": 409,
    "site.store-in-use": 409,
}


class Problem(BaseModel):
    """``code``: stable; ``cause``: what was found; ``remedy``: what to do; ``details``: for programs."""

    type: str
    title: str
    status: int
    code: str
    cause: str
    remedy: str
    details: dict[str, Any] = {}


DESCRIBED: dict[str, Any] = {
    "description": "What went wrong",
    "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
}
"""Of all routes, in the API's description."""


def problem(error: HomeportError, status: int | None = None) -> JSONResponse:
    """``status``: what the code says unless given; 502 for what a site answered, which only it can mend."""
    data = error.to_json()
    found = status or _STATUS.get(error.code, 502)
    body = {"type": f"urn:homeport:error:{error.code}", "title": error.cause, "status": found, **data}
    return JSONResponse(
        json.loads(json.dumps(body, default=str)), status_code=found, media_type="application/problem+json"
    )


def install(api: FastAPI) -> None:
    @api.exception_handler(HomeportError)
    async def known(request: Request, error: HomeportError) -> JSONResponse:
        return problem(error)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors()]
        return problem(
            HomeportError(
                f"The request is not valid: {'; '.join(found)}.",
                code="request.invalid",
                remedy="See /openapi.json for what this path takes.",
                problems=found,
            )
        )

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        cause = f"{request.method} {request.url.path}: {error.detail}."
        return problem(
            HomeportError(cause, code=f"http.{error.status_code}", remedy="See /openapi.json for the paths."),
            error.status_code,
        )

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed unexpectedly", path=request.url.path, exc_info=error)
        cause = f"{type(error).__name__}: {error}"
        return problem(
            HomeportError(cause, code="internal", remedy="This is a fault of Homeport's own: see the vault's log."), 500
        )
