"""Replication policies. Each comes with the failback policy made from it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, StrictInt
from sqlalchemy import select

from homeport.domain.errors import HomeportError
from homeport.domain.policy import Policy, failback_policy, validate
from homeport.domain.units import DAY, HOUR
from homeport.vault import items
from homeport.vault.api.context import TheCore
from homeport.vault.database import PolicyRow

router = APIRouter(prefix="/v1/policies", tags=["policies"])


class PolicyExists(HomeportError):
    code = "policy.exists"
    remedy = "Choose another name; `homeport policy list` shows those taken."


class NewPolicy(BaseModel):
    """All in seconds. ``app_consistent`` 0: off."""

    name: str
    rpo_threshold: StrictInt = HOUR
    retention: StrictInt = DAY
    app_consistent: StrictInt = 0
    interval: StrictInt = 15


@router.get("")
def list_policies(core: TheCore) -> dict[str, Any]:
    with core.database.read() as session:
        names = list(session.scalars(select(PolicyRow.name).order_by(PolicyRow.name)))
        return {"policies": [items.policy_of(session, name).to_json() for name in names]}


@router.post("", status_code=201)
def add_policy(core: TheCore, body: NewPolicy) -> dict[str, Any]:
    policy = Policy(**body.model_dump())
    validate(policy)
    with core.database.write() as session:
        for each in (policy, failback_policy(policy)):
            if session.get(PolicyRow, each.name) is not None:
                raise PolicyExists(f"There is a policy {each.name!r} already.")
            session.add(PolicyRow(**each.to_json()))
    return policy.to_json()
