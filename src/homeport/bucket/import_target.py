"""Where an import goes: the machine and its timeline, found or made."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from homeport.bucket.opening import Bucket, MachineNotFound, StoredMachine
from homeport.domain.points import PointId, new_timeline
from homeport.store import layout, names, sealed
from homeport.store.errors import Fenced
from homeport.store.keys import machine_key
from homeport.store.timeline import MachineStore
from homeport.store.writer import Writer

_OWNER = "import"


@dataclass(frozen=True)
class Target:
    """``head``: the point that the new one stands on; ``created``: the machine is new."""

    machine: StoredMachine
    writer: Writer
    head: PointId | None
    created: bool


def find_target(bucket: Bucket, name: str) -> Target:
    """The machine of this name (or UUID), made where there is none, and its newest timeline, taken over for writing.
    Raises MachineNotFound (several have the name), Fenced (the timeline has ended, or a server writes it)."""
    there = bucket.machines()
    found = [machine for machine in there if machine.uuid == name] or [
        machine for machine in there if machine.name == name
    ]
    if len(found) > 1:
        uuids = [machine.uuid for machine in found]
        raise MachineNotFound(
            f"several machines are named {name!r}",
            remedy=f"Say which one with --machine UUID: {', '.join(uuids)}",
            machines=uuids,
        )
    machine = found[0] if found else _create(bucket, name)
    timeline = _timeline(machine.store)
    writer = machine.store.writer(timeline, f"{_OWNER} {socket.gethostname()[:60]} {os.getpid()}")
    return Target(machine, writer, machine.store.head(timeline), not found)


def _create(bucket: Bucket, name: str) -> StoredMachine:
    import uuid  # it loads much, and only a new machine needs it

    fresh = str(uuid.uuid4())
    store = MachineStore(bucket.objects, machine_key(bucket.objects, bucket.vault, fresh, create=True))
    store.describe({"name": name, "machine": {"uuid": fresh, "name": name}})
    return StoredMachine(fresh, store)


def _timeline(store: MachineStore) -> str:
    """The newest one, unless it is not an import's to write."""
    timelines = store.timelines()
    if not timelines:
        fresh = new_timeline()
        store.create_timeline(fresh)
        return fresh
    newest = timelines[-1]
    if newest.ended:
        raise Fenced(
            f"timeline {newest.id} of the machine has ended: it was failed over, or its protection was stopped",
            remedy="Import under another machine's name; the points that are there stay as they are.",
            timeline=newest.id,
        )
    epochs = layout.epochs(store.objects, store.machine, newest.id)
    if epochs:
        key = names.epoch(store.machine, newest.id, max(epochs))
        owner = str(store.open_sealed(key, sealed.EPOCH)["owner"])
        if owner.partition(" ")[0] != _OWNER:
            raise Fenced(
                f"timeline {newest.id} of the machine is written by {owner!r}: an import would cut it off",
                remedy="Let that server take the points, or import under another machine's name.",
                timeline=newest.id,
                owner=owner,
            )
    return newest.id
