"""What can go wrong with a recovery store."""

from __future__ import annotations

from typing import Any

from homeport.domain.errors import HomeportError


class StoreError(HomeportError):
    code = "store.failed"
    remedy = "Nothing that was stored is lost. Look at the cause; `homeport store verify` shows what is there."


class NotFound(StoreError):
    """No object has this key."""

    code = "store.not-found"


class AlreadyExists(StoreError):
    """An object has this key already (create-if-absent)."""

    code = "store.already-exists"


class StoreUnavailable(StoreError):
    """The store can't be reached or is full (code ``store.full``): try again later, nothing is lost."""

    code = "store.unavailable"
    remedy = "Replication tries again by itself. Check that the store can be reached and has space."


class StoreUnsuitable(StoreError):
    """The object storage lacks what the format depends on (create-if-absent, ranged reads, ordered lists)."""

    code = "store.unsuitable"
    remedy = "Use a storage that refuses to overwrite on conditional creates, or a local folder."


class Fenced(StoreError):
    """Another writer has taken over, or the timeline has ended. What was to be stored must not be forgotten."""

    code = "store.fenced"
    remedy = "Another server writes this timeline now, or it ended; this one must stop writing to it."


class Corrupt(StoreError):
    """Stored bytes are not what was written. ``details`` names object, and where known frame, disk, first block and
    block count; what doesn't touch them is fine."""

    code = "store.corrupt"
    remedy = "Choose another recovery point; `homeport store verify --deep` lists what is damaged, and which points."

    def __init__(self, cause: str, *, object: str, **details: Any) -> None:
        super().__init__(cause, **{"object": object, **details})


class CorruptFrame(Corrupt):
    code = "store.corrupt-frame"


class WrongKey(StoreError):
    """The passphrase (or key) doesn't open this."""

    code = "store.wrong-passphrase"
    remedy = "Use the recovery passphrase that was shown when the vault was made."


class PointNotFound(StoreError):
    code = "store.point-not-found"
    remedy = "List the points that are there: `homeport points` or `homeport store points`."


class TimelineNotFound(StoreError):
    code = "store.timeline-not-found"
    remedy = "List the points that are there: `homeport points` or `homeport store points`."


class LayerGone(StoreError):
    """A record below a point was thinned away while the point was read: its map is made anew. Inside the store only."""

    code = "store.layer-gone"
