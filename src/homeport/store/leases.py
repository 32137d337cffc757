"""Leases: who still needs a point. An unexpired lease keeps the point from being dropped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from homeport.domain.points import PointId
from homeport.store import names, sealed
from homeport.store.errors import Corrupt, NotFound
from homeport.store.keys import MachineKey
from homeport.store.objects import Objects


@dataclass(frozen=True)
class Lease:
    point: PointId
    owner: str
    expires: datetime


def put_lease(objects: Objects, keys: MachineKey, point: PointId, owner: str, seconds: float) -> None:
    """New, or renewed."""
    key = names.lease(keys.machine, point, owner)
    head = {"point": str(point), "owner": owner, "expires": time.time() + seconds}
    objects.put(key, sealed.seal(keys.key, keys.vault, key, sealed.LEASE, head), if_absent=False)


def delete_lease(objects: Objects, keys: MachineKey, point: PointId, owner: str) -> None:
    objects.delete(names.lease(keys.machine, point, owner))


def list_leases(objects: Objects, keys: MachineKey) -> list[Lease]:
    """Those that have not expired. One that can't be opened counts as held: unknown means keep."""
    result = []
    now = time.time()
    for key, _ in objects.list(names.leases(keys.machine)):
        point, owner = names.parse_lease(key)
        try:
            expires = float(sealed.open_object(objects, keys.key, keys.vault, key, sealed.LEASE).head["expires"])
        except NotFound:
            continue
        except Corrupt:
            expires = now + 86400
        if expires > now:
            result.append(Lease(point, owner, datetime.fromtimestamp(expires, UTC)))
    return result
