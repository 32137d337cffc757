"""Does an object storage keep what the format depends on? Asked once, before writing to it."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor

from homeport.store.errors import AlreadyExists, StoreUnsuitable
from homeport.store.objects import Objects

_NAMES = ("d/x", "b", "d-x", "a", "d0", "c", "d.x")
"""Some of them are in another order for a storage that takes ``/`` for the border of a folder."""
_AT_ONCE = 4


def probe(objects: Objects) -> None:
    """Try create-if-absent, alone and of several at once, reading back, a ranged read and the order of a list, with
    small objects that are deleted again. Raises StoreUnsuitable, StoreUnavailable.

    A server that knows no conditional put may take the header and overwrite (s3rver and ``rclone serve s3`` do): so
    it is tried, not asked."""
    prefix = f"probe/{secrets.token_hex(8)}/"
    content = {f"{prefix}{name}": f"homeport probe {name}".encode() for name in _NAMES}
    raced = f"{prefix}raced"
    try:
        for key, data in content.items():
            objects.put(key, data)
        first = f"{prefix}a"
        if _creates(objects, first, b"overwritten"):
            raise StoreUnsuitable("the storage overwrites an object although asked to create it only if it is absent")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rivals = [secrets.token_bytes(16) for _ in range(_AT_ONCE)]
            won = list(pool.map(lambda data: _creates(objects, raced, data), rivals))
        content[raced] = objects.get(raced)
        if [data for data, mine in zip(rivals, won, strict=True) if mine] != [content[raced]]:
            raise StoreUnsuitable("of several that create an object at once, the storage doesn't refuse all but one")
        if objects.get(first) != content[first]:
            raise StoreUnsuitable("the storage doesn't give back what was put")
        if objects.get_range(first, 9, 5) != b"probe" or objects.size(first) != len(content[first]):
            raise StoreUnsuitable("the storage doesn't answer ranged reads with the range")
        expected = sorted((key, len(data)) for key, data in content.items())
        if list(objects.list(prefix)) != expected:
            raise StoreUnsuitable("the storage doesn't list all keys in order right after they were put")
        objects.delete(first)
        if first in dict(objects.list(prefix)):
            raise StoreUnsuitable("the storage lists an object that was deleted")
    finally:
        for key in (*content, raced):
            objects.delete(key)


def _creates(objects: Objects, key: str, data: bytes) -> bool:
    try:
        objects.put(key, data)
    except AlreadyExists:
        return False
    return True
