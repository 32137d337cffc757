"""A recovery store opened with nothing but its URL and what unlocks it: its machines, timelines and points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from homeport.domain.choice import choose_point
from homeport.domain.errors import HomeportError
from homeport.domain.points import PointId, PointInfo
from homeport.store.backends import open_objects
from homeport.store.keys import Opener, VaultKey, machine_key, machines, open_vault
from homeport.store.objects import Objects
from homeport.store.timeline import MachineStore


class MachineNotFound(HomeportError):
    """No machine of the bucket has this name or UUID, or several have this name."""

    code = "store.machine-not-found"
    remedy = "List the machines that are there: `homeport store machines --store URL`."


@dataclass(frozen=True)
class StoredMachine:
    """One machine of a bucket."""

    uuid: str
    store: MachineStore

    @cached_property
    def name(self) -> str:
        """From the newest machine description that lies beside the data; the UUID where there is none."""
        description = self.store.description() or {}
        return _name_in(description) or self.uuid

    def points(self, *, hidden: bool = False) -> list[PointInfo]:
        """Of all timelines, in the order of the timelines' making."""
        return [point for timeline in self.store.timelines() for point in self.store.points(timeline.id, hidden=hidden)]

    def choose(self, wanted: str) -> PointId:
        """``wanted``: an id (hidden points too), or a kind such as latest. Raises PointNotAvailable."""
        try:
            return PointId.parse(wanted)
        except ValueError:
            return choose_point(self.points(), wanted).id


class Bucket:
    """Raises the store's errors: StoreUnavailable, WrongKey, NotFound (``store.no-vault``), …"""

    def __init__(self, url: str, secret: Opener) -> None:
        self.url = as_url(url)
        self.objects: Objects = open_objects(self.url)
        self.vault: VaultKey = open_vault(self.objects, secret)

    def machines(self) -> list[StoredMachine]:
        return [self._machine(uuid) for uuid in machines(self.objects)]

    def chosen(self, wanted: str | None) -> list[StoredMachine]:
        """One by name or UUID; None: all. Raises MachineNotFound."""
        return self.machines() if wanted is None else [self.machine(wanted)]

    def machine(self, wanted: str | None) -> StoredMachine:
        """By name or UUID; None: the only one. Raises MachineNotFound."""
        there = self.machines()
        found = there if wanted is None else [machine for machine in there if machine.uuid == wanted]
        if wanted is not None and not found:
            found = [machine for machine in there if machine.name == wanted]
        if len(found) == 1:
            return found[0]
        names = [f"{machine.name} ({machine.uuid})" for machine in there]
        if not found:
            cause = f"there is no machine {wanted!r} in this store" if wanted else "this store holds no machine"
            raise MachineNotFound(cause, machines=names)
        raise MachineNotFound(
            f"several machines are named {wanted!r}" if wanted else "this store holds several machines",
            remedy=f"Say which one with --machine UUID: {'; '.join(names)}",
            machines=names,
        )

    def _machine(self, uuid: str) -> StoredMachine:
        return StoredMachine(uuid, MachineStore(self.objects, machine_key(self.objects, self.vault, uuid)))


def as_url(store: str) -> str:
    """A plain path is a local folder's URL."""
    return store if "://" in store else Path(store).absolute().as_uri()


def _name_in(description: dict[str, Any]) -> str | None:
    """A description is a machine's, or holds one under "machine"."""
    inner = description.get("machine")
    name = (inner.get("name") if isinstance(inner, dict) else None) or description.get("name")
    return str(name) if name else None
