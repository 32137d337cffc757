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


class StoreUnreachable(StoreUnavailable):
    """No answer, or the storage's own fault (5xx, a connection that broke): another try may succeed."""

    code = "store.unreachable"
    remedy = "Check the address, the network and the storage's state. Replication tries again by itself."


class StoreThrottled(StoreUnavailable):
    """The storage asks for fewer requests; they were repeated for as long as a call may take."""

    code = "store.throttled"
    remedy = (
        "It passes by itself. If it stays, limit this site with `?requests=N` in the store's URL, or raise the quota."
    )


class StoreDenied(StoreUnavailable):
    """The storage refuses our credentials, or what they may do."""

    code = "store.denied"
    remedy = "Check the store's credentials, their rights (read, write, list, delete) and this machine's clock."


class Locked(StoreUnavailable):
    """The storage keeps this object for a time (object lock, retention, legal hold): it can't be deleted yet.
    Whoever clears up goes on with the rest and deletes it another time."""

    code = "store.locked"
    remedy = "Nothing: it is deleted once its retention is over."


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


class BrokenChain(Corrupt):
    """A record stands on another that isn't there, or that isn't the one it was made on."""

    code = "store.broken-chain"


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
