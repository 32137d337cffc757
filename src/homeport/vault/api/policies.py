"""Replication policies. Each comes with the failback policy made from it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from homeport.domain.limits import Profile
from homeport.domain.policy import Policy
from homeport.domain.units import DAY, HOUR
from homeport.vault import items, policies
from homeport.vault.api.context import TheCore
from homeport.vault.api.etags import IfMatch, require_match
from homeport.vault.api.paging import ThePage
from homeport.vault.api.schemas import PolicyList

router = APIRouter(prefix="/v1", tags=["policies"])


class NewPolicy(BaseModel):
    """All in seconds. ``app_consistent`` 0: off. ``rpo_critical`` null: twice the RPO threshold."""

    name: str
    rpo_threshold: StrictInt = HOUR
    retention: StrictInt = DAY
    app_consistent: StrictInt = 0
    interval: StrictInt = 15
    rpo_critical: StrictInt | None = None


class ChangedPolicy(BaseModel):
    """What is left out stays as it is. In seconds; ``rpo_critical`` null: twice the RPO threshold."""

    model_config = ConfigDict(extra="forbid")

    rpo_threshold: StrictInt = Field(default=HOUR)
    retention: StrictInt = Field(default=DAY)
    app_consistent: StrictInt = Field(default=0)
    interval: StrictInt = Field(default=15)
    rpo_critical: StrictInt | None = None


class ShownPolicy(BaseModel):
    """In seconds. ``generated``: made from another policy for the way home, not editable."""

    name: str
    rpo_threshold: int
    rpo_critical: int
    retention: int
    app_consistent: int
    interval: int
    generated: bool


class ShownProfile(BaseModel):
    """Whose limits policies are held to: "default", or those of the original system ("strict")."""

    profile: Profile


@router.get("/policies", response_model=PolicyList)
def list_policies(core: TheCore, page: ThePage, generated: bool | None = None) -> dict[str, Any]:
    """By name. ``generated``: only those made from another for the way home, or only the others."""
    key = page.key(1)
    with core.database.read() as session:
        found = policies.listed(session)
    if key is not None:
        found = [policy for policy in found if policy.name > key[0]]
    if generated is not None:
        found = [policy for policy in found if policy.generated is generated]
    shown, following = page.cut(found, lambda policy: (policy.name,))
    return {"policies": [policy.to_json() for policy in shown], "next": following}


@router.post("/policies", status_code=201, response_model=ShownPolicy)
def add_policy(core: TheCore, body: NewPolicy) -> dict[str, Any]:
    policy = Policy(**body.model_dump())
    with core.database.write() as session:
        policies.add(session, policy)
    return policy.to_json()


@router.get("/policies/{name}", response_model=ShownPolicy)
def get_policy(core: TheCore, name: str) -> dict[str, Any]:
    with core.database.read() as session:
        return items.policy_of(session, policies.find(session, name).name).to_json()


@router.patch("/policies/{name}", response_model=ShownPolicy)
def change_policy(core: TheCore, name: str, body: ChangedPolicy, if_match: IfMatch = None) -> dict[str, Any]:
    """Counts at once, also for the items that have the policy."""
    with core.database.write() as session:
        require_match(if_match, items.policy_of(session, policies.find(session, name).name).to_json())
        changed = policies.change(session, name, body.model_dump(exclude_unset=True))
    return changed.to_json()


@router.delete("/policies/{name}", response_model=ShownPolicy)
def delete_policy(core: TheCore, name: str, if_match: IfMatch = None) -> dict[str, Any]:
    """With the failback policy made from it; what it was. Refused while items refer to it."""
    with core.database.write() as session:
        shown = items.policy_of(session, policies.find(session, name).name).to_json()
        require_match(if_match, shown)
        policies.delete(session, name)
    return shown


@router.get("/profile", response_model=ShownProfile)
def get_profile(core: TheCore) -> dict[str, Any]:
    with core.database.read() as session:
        return {"profile": policies.profile(session)}


@router.put("/profile", response_model=ShownProfile)
def set_profile(core: TheCore, body: ShownProfile) -> dict[str, Any]:
    """Refused where a policy that is there is outside of the new limits."""
    with core.database.write() as session:
        policies.set_profile(session, body.profile)
    return {"profile": body.profile}
