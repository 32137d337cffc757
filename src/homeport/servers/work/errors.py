"""Why a piece of work is refused, whatever its role."""

from __future__ import annotations

from homeport.domain.errors import HomeportError


class StaleWork(HomeportError):
    code = "work.superseded"
    remedy = "A newer operation on this item has begun; look at its job."


class NotReplicating(HomeportError):
    code = "replication.not-running"
    remedy = "See `homeport status ITEM` for what keeps replication from running."


class UnknownKind(HomeportError):
    code = "work.unknown-kind"
    remedy = "Upgrade this site."
