"""Which process server an item has, which it should have, and how fast a process server may ship."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from homeport.domain.bandwidth import Schedule, parse_rate, parse_window
from homeport.vault import balance, process_servers, throttles
from homeport.vault.api.context import TheCore
from homeport.vault.api.schemas import Shown

router = APIRouter(prefix="/v1", tags=["process servers"])

Json = dict[str, Any]


class ProcessServer(BaseModel):
    """``name``: of a process server of the site where the machine runs."""

    model_config = ConfigDict(extra="forbid")

    name: str


class Switched(Shown):
    """``before``: null: none was known."""

    process_server: str
    before: str | None = None


class SuggestedMove(Shown):
    """``from_load``, ``to_load``: before and after it, as shares of what one process server can do."""

    item: str
    item_name: str
    source: str = Field(alias="from")
    to: str
    why: str
    from_load: list[float]
    to_load: list[float]


class Suggestion(Shown):
    """``add``: why the site needs another process server; empty: it does not."""

    site: str
    moves: list[SuggestedMove]
    add: list[str]


class Suggestions(Shown):
    suggestions: list[Suggestion]


class NewThrottle(BaseModel):
    """``limit``: bits per second where no window holds: "40M", "512k", "none"; ``schedule``: windows, the first that
    holds counts: "mon-fri 08:00-18:00=10M"; ``time_zone``: whose hours they are, by its IANA name; null: the server's
    own local time."""

    model_config = ConfigDict(extra="forbid")

    limit: str = "none"
    schedule: Annotated[list[str], Field(max_length=100)] = []
    time_zone: str | None = None


class Throttle(Shown):
    """``vault``: what the vault says, null: nothing; ``effective``: what rules at the server as it told last, null: it
    has told nothing; ``applied``: whether that is what the vault says."""

    server: str
    site: str
    vault: Json | None
    effective: Json | None
    applied: bool
    error: Json | None = None


@router.put("/items/{item}/process-server", response_model=Switched)
def switch_process_server(core: TheCore, item: str, body: ProcessServer) -> dict[str, Any]:
    """Another process server of its site replicates it from now on."""
    return process_servers.switch(core, item, body.name)


@router.get("/process-servers/suggestions", response_model=Suggestions)
def suggestions(core: TheCore, site: Annotated[str | None, Query()] = None) -> dict[str, Any]:
    """Which items another process server of their site should have, and which site needs one more: of one site, or of
    all. Nothing is done."""
    return {"suggestions": balance.suggestions(core, site)}


@router.get("/process-servers/{name}/throttle", response_model=Throttle)
def show_throttle(core: TheCore, name: str) -> Json:
    """How fast it may ship: what the vault says, and what rules there now."""
    return throttles.shown(core, name)


@router.put("/process-servers/{name}/throttle", response_model=Throttle)
def throttle(core: TheCore, name: str, body: NewThrottle) -> Json:
    """The vault's word rules in place of the server's own configuration, within seconds where it is there. ``error``:
    why the server has not taken it on."""
    windows = tuple(map(parse_window, body.schedule))
    return throttles.put(core, name, Schedule(parse_rate(body.limit), windows, body.time_zone))


@router.delete("/process-servers/{name}/throttle", response_model=Throttle)
def unthrottle(core: TheCore, name: str) -> Json:
    """The vault says nothing any more: the server's own configuration rules."""
    return throttles.put(core, name, None)
