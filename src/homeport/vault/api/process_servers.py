"""Which process server an item has."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from homeport.vault import process_servers
from homeport.vault.api.context import TheCore
from homeport.vault.api.schemas import Shown

router = APIRouter(prefix="/v1/items", tags=["items"])


class ProcessServer(BaseModel):
    """``name``: of a process server of the site where the machine runs."""

    model_config = ConfigDict(extra="forbid")

    name: str


class Switched(Shown):
    """``before``: null: none was known."""

    process_server: str
    before: str | None = None


@router.put("/{item}/process-server", response_model=Switched)
def switch_process_server(core: TheCore, item: str, body: ProcessServer) -> dict[str, Any]:
    """Another process server of its site replicates it from now on."""
    return process_servers.switch(core, item, body.name)
