"""The vault itself."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from homeport import __version__
from homeport.vault import backup
from homeport.vault.api.context import TheCore
from homeport.vault.database import ItemRow, SiteRow

router = APIRouter(prefix="/v1/vault", tags=["vault"])


class Passphrase(BaseModel):
    passphrase: str


class NewBackup(BaseModel):
    """``sites``: to whose stores it goes; none named: to all. ``keep``: how many each store keeps from now on."""

    sites: list[str] | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] | None = None


@router.get("")
def get_vault(core: TheCore) -> dict[str, Any]:
    """The vault: its id, whether its passphrase is confirmed, how many sites and items it has."""
    with core.database.read() as session:
        sites = session.scalar(select(func.count()).select_from(SiteRow))
        items = session.scalar(select(func.count()).select_from(ItemRow).where(ItemRow.removed.is_(None)))
    return {
        "id": core.secrets.vault_id,
        "version": __version__,
        "passphrase_confirmed": core.secrets.passphrase_confirmed,
        "sites": sites,
        "items": items,
    }


@router.post("/passphrase/confirm")
def confirm_passphrase(core: TheCore, body: Passphrase) -> dict[str, Any]:
    """The operator keeps the recovery passphrase elsewhere: the vault deletes its copy."""
    core.secrets.confirm_passphrase(body.passphrase)
    return get_vault(core)


@router.get("/backups")
def list_backups(core: TheCore) -> dict[str, Any]:
    """The vault's backups, oldest first, as the sites' stores hold them; asked of the sites now."""
    return backup.listed(core)


@router.post("/backups", status_code=201)
def back_up(core: TheCore, body: NewBackup) -> dict[str, Any]:
    """Back the vault up now. Answers per site what came of it; an error only where no site took it."""
    return {"backup": backup.back_up(core, body.sites, body.keep)}
