"""The vault itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import func, select

from homeport import __version__
from homeport.vault.api.context import TheCore
from homeport.vault.database import ItemRow, SiteRow

router = APIRouter(prefix="/v1/vault", tags=["vault"])


class Passphrase(BaseModel):
    passphrase: str


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
