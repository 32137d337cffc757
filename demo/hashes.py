"""SHA-256 of whole disks: of an image as its machine would read it, and of a recovery point out of the bucket alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from homeport.disks.images import open_image
from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.store.backends import open_objects
from homeport.store.keys import machine_key, open_vault
from homeport.store.timeline import MachineStore


def hash_image(path: Path, format: str) -> str:
    """The disk of a powered-off machine."""
    digest = hashlib.sha256()
    with open_image(path, format) as image:
        for offset in range(0, image.size, MiB):
            buffer = memoryview(bytearray(min(MiB, image.size - offset)))
            image.read_into(offset, buffer)
            digest.update(buffer)
    return digest.hexdigest()


def hash_point(site: Path, passphrase: str, machine: str, point: str) -> dict[str, str]:
    """Every disk of a point, read from a site's store with nothing but the passphrase."""
    objects = open_objects((site / ".homeport" / "store").as_uri())
    keys = machine_key(objects, open_vault(objects, passphrase), machine)
    reader = MachineStore(objects, keys).open(PointId.parse(point))
    hashes = {}
    for disk, size in reader.disks.items():
        digest = hashlib.sha256()
        for offset in range(0, size, MiB):
            digest.update(reader.read(disk, offset, min(MiB, size - offset)))
        hashes[disk] = digest.hexdigest()
    return hashes
