"""The vault's REST API: one router per resource."""

from __future__ import annotations

from fastapi import FastAPI

from homeport import __version__
from homeport.vault.api import (
    agents,
    checks,
    errors,
    events,
    groups,
    items,
    jobs,
    operations,
    policies,
    process_servers,
    servers,
    sites,
    vault,
)
from homeport.vault.api.auth import Callers
from homeport.vault.api.etags import EntityTags
from homeport.vault.api.idempotency import IdempotencyKeys
from homeport.vault.api.language import Languages
from homeport.vault.core import Core


def create_api(core: Core) -> FastAPI:
    """The application; every path of it wants the token, or a server's certificate, the description at /openapi.json
    too; but for what auth.py names."""
    api = FastAPI(
        title="Homeport vault",
        version=__version__,
        summary="Site recovery: sites, policies, replicated items, their operations and jobs.",
        docs_url=None,
        redoc_url=None,
        responses={"default": errors.DESCRIBED},
    )
    api.state.core = core
    for part in (
        vault,
        sites,
        servers,
        policies,
        items,
        groups,
        process_servers,
        checks,
        operations,
        jobs,
        events,
        agents,
    ):
        api.include_router(part.router)
    errors.install(api)
    api.add_middleware(EntityTags)
    api.add_middleware(IdempotencyKeys, core=core)
    api.add_middleware(Callers, core=core)
    api.add_middleware(Languages)
    return api
