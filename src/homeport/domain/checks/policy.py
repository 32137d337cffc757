"""Checks of the replication policy, and of what the vault itself needs to be of use in a disaster."""

from __future__ import annotations

from homeport.domain.checks.check import Found, Severity, Unknown, check
from homeport.domain.checks.facts import Facts, age, span
from homeport.domain.operations import Operation
from homeport.domain.policy import PolicyInvalid, validate
from homeport.domain.units import DAY


@check(
    code="78253",
    title="The policy is there and valid",
    severity=Severity.WARNING,
    refuses=(Operation.PROTECT,),
    causes=("It was made by another version, or for other limits.", "There is no policy of that name."),
    remedy="Create one with `homeport policy create`, or name one of `homeport policy list`.",
    also="`homeport protect` names a policy that isn't there.",
)
def policy_valid(facts: Facts) -> Found | Unknown | None:
    if facts.policy is None:
        return Found("there is no such policy", "a policy of the vault")
    if facts.policy.generated:
        return None  # made by us from a valid one
    try:
        validate(facts.policy)
    except PolicyInvalid as error:
        return Found(error.cause, "values in their ranges")
    return None


@check(
    code="check.rpo-below-interval",
    title="The RPO threshold can be kept",
    severity=Severity.WARNING,
    before=(Operation.PROTECT,),
    causes=("The policy takes points more seldom than its threshold needs.",),
    remedy="Raise the RPO threshold, or shorten the interval: else the item warns all the time.",
)
def rpo_below_interval(facts: Facts) -> Found | Unknown | None:
    policy = facts.policy
    if policy is None or policy.rpo_threshold >= 2 * policy.interval:
        return None
    return Found(
        f"an RPO threshold of {span(policy.rpo_threshold)} with a point every {span(policy.interval)}",
        "a threshold of two intervals at least",
    )


@check(
    code="check.passphrase-unconfirmed",
    title="The recovery passphrase is kept apart from the vault",
    severity=Severity.WARNING,
    causes=("It was never confirmed that somebody wrote it down.",),
    remedy="Write it down, keep it apart from both sites, then `homeport vault passphrase --confirm`.",
)
def passphrase_unconfirmed(facts: Facts) -> Found | Unknown | None:
    """A note on the first day, a warning from then on."""
    if facts.passphrase_confirmed:
        return None
    new = (age(facts.now, facts.item.created) or 0.0) <= DAY
    return Found(
        "it lies beside the vault only; if the vault is lost, so are the recovery points",
        "confirmed by an operator",
        severity=Severity.INFO if new else None,
    )
