"""Policies in the database: kept, changed, deleted, and what running replications are told of a change."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.limits import LIMITS, Profile
from homeport.domain.policy import Policy, failback_policy, problems, validate
from homeport.vault import items, tagged
from homeport.vault.database import ItemRow, Json, PolicyRow, SettingRow, WorkRow, now

PROFILE = "profile"
"""The setting that chooses the limits: {"name": …}."""

_SHOWN = 10


class PolicyExists(HomeportError):
    code = "policy.exists"
    remedy = "Choose another name; `homeport policy list` shows those taken."


class PolicyNotFound(HomeportError):
    code = "policy.not-found"
    remedy = "See `homeport policy list`."


class PolicyGenerated(HomeportError):
    """A failback policy is made from its forward policy and nothing else (reference 4)."""

    code = "policy.generated"
    remedy = "Change or delete the policy that it was made from."


class PolicyInUse(HomeportError):
    """Items refer to it (reference 2.5, invariant 8). ``details.items``: their names."""

    code = "policy.in-use"
    remedy = "Give these items another policy, or end their protection, then delete it."


class ProfileRefused(HomeportError):
    """A policy that is there is outside of the profile's limits. ``details.problems``: by policy."""

    code = "policy.profile-refused"
    remedy = "Change or delete these policies first."


def find(session: Session, name: str) -> PolicyRow:
    """Raises :class:`PolicyNotFound`."""
    row = session.get(PolicyRow, name)
    if row is None or row.removed is not None:
        raise PolicyNotFound(f"There is no policy {name!r}.")
    return row


def listed(session: Session) -> list[Policy]:
    """All that are there, by name."""
    names = session.scalars(select(PolicyRow.name).where(PolicyRow.removed.is_(None)).order_by(PolicyRow.name))
    return [items.policy_of(session, name) for name in names]


def add(session: Session, policy: Policy) -> None:
    """With its failback policy. Raises PolicyInvalid and :class:`PolicyExists`."""
    validate(policy, profile(session))
    for each in (policy, failback_policy(policy)):
        row = session.get(PolicyRow, each.name)
        if row is not None and row.removed is None:
            raise PolicyExists(f"There is a policy {each.name!r} already.")
        _keep(session, row, each)


def change(session: Session, name: str, values: Json) -> Policy:
    """``values``: those that change. It counts at once, for the items that have it, too. Raises PolicyInvalid,
    :class:`PolicyNotFound` and :class:`PolicyGenerated`."""
    row = _editable(session, name)
    policy = replace(items.policy_of(session, name), **values)
    validate(policy, profile(session))
    _keep(session, row, policy)
    back = failback_policy(policy)
    _keep(session, session.get(PolicyRow, back.name), back)
    session.flush()
    renew(session, _users(session, name))
    return policy


def delete(session: Session, name: str) -> None:
    """With its failback policy. Raises :class:`PolicyInUse`, :class:`PolicyNotFound` and :class:`PolicyGenerated`."""
    row = _editable(session, name)
    used = [item.name for item in _users(session, name)]
    if used:
        shown = ", ".join(used[:_SHOWN]) + (f" and {len(used) - _SHOWN} more" if len(used) > _SHOWN else "")
        raise PolicyInUse(f"The policy {name!r} is used by {shown}.", items=used)
    row.removed = now()
    back = session.get(PolicyRow, failback_policy(items.policy_of(session, name)).name)
    if back is not None and back.generated:
        back.removed = now()


def profile(session: Session) -> Profile:
    row = session.get(SettingRow, PROFILE)
    return Profile.DEFAULT if row is None else Profile(row.value["name"])


def set_profile(session: Session, wanted: Profile) -> None:
    """Raises :class:`ProfileRefused`."""
    found = {
        policy.name: wrong
        for policy in listed(session)
        if not policy.generated and (wrong := problems(policy, LIMITS[wanted]))
    }
    if found:
        told = "; ".join(f"{name}: {', '.join(wrong)}" for name, wrong in found.items())
        raise ProfileRefused(f"The profile {wanted} does not allow what is there: {told}.", problems=found)
    session.merge(SettingRow(name=PROFILE, value={"name": str(wanted)}))


def for_replication(session: Session, item: ItemRow, at: str) -> Json:
    """What a replication that runs at the site ``at`` is told of the item's policy as it is now, in seconds."""
    own = items.policy_of(session, item.policy)
    policy = own if at == item.home else failback_policy(own)
    return {
        "interval": policy.interval,
        "app_consistent": policy.app_consistent,
        "retention": policy.retention,
        "rpo_threshold": policy.rpo_threshold,
        "untagged": sorted(tagged.untagged(item)),
        "policy_at": now().isoformat(),
    }


def renew(session: Session, rows: Sequence[ItemRow]) -> None:
    """After the policy of these items changed, or another became theirs: their replications go on by it. A site that
    isn't there now asks what to replicate when it returns."""
    for item in rows:
        if item.replicate is None:
            continue
        at, params = item.replicate["at"], item.replicate["params"]
        told = for_replication(session, item, at)
        item.replicate = {**item.replicate, "params": {**params, **told}}
        identity = uuid.uuid4().hex
        work = {"item": item.id, "timeline": params["timeline"], **told}
        session.add(WorkRow(id=identity, key=f"renew:{identity}", site=at, kind="renew-replication", params=work))


def _keep(session: Session, row: PolicyRow | None, policy: Policy) -> None:
    if row is None:
        row = PolicyRow(name=policy.name)
        session.add(row)
    row.rpo_threshold, row.rpo_critical = policy.rpo_threshold, policy.rpo_critical
    row.retention, row.app_consistent, row.interval = policy.retention, policy.app_consistent, policy.interval
    row.generated, row.removed = policy.generated, None


def _editable(session: Session, name: str) -> PolicyRow:
    row = find(session, name)
    if row.generated:
        raise PolicyGenerated(f"The policy {name!r} is made from another and can't be changed by itself.")
    return row


def _users(session: Session, name: str) -> list[ItemRow]:
    wanted = select(ItemRow).where(ItemRow.policy == name, ItemRow.removed.is_(None)).order_by(ItemRow.name)
    return list(session.scalars(wanted))
