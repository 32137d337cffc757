"""Does an object storage keep what the format depends on? Asked once, before writing to it."""

from __future__ import annotations

import secrets

from homeport.store.errors import AlreadyExists, StoreUnsuitable
from homeport.store.objects import Objects


def probe(objects: Objects) -> None:
    """Try create-if-absent, reading back, a ranged read and the order of a list, with small objects that are deleted
    again. Raises StoreUnsuitable, StoreUnavailable."""
    prefix = f"probe/{secrets.token_hex(8)}/"
    content = {f"{prefix}{name}": f"homeport probe {name}".encode() for name in ("b", "a", "c")}
    try:
        for key, data in content.items():
            objects.put(key, data)
        first = f"{prefix}a"
        try:
            objects.put(first, b"overwritten")
        except AlreadyExists:
            pass
        else:
            raise StoreUnsuitable("the storage overwrites an object although asked to create it only if it is absent")
        if objects.get(first) != content[first]:
            raise StoreUnsuitable("the storage doesn't give back what was put")
        if objects.get_range(first, 9, 5) != b"probe" or objects.size(first) != len(content[first]):
            raise StoreUnsuitable("the storage doesn't answer ranged reads with the range")
        expected = sorted((key, len(data)) for key, data in content.items())
        if list(objects.list(prefix)) != expected:
            raise StoreUnsuitable("the storage doesn't list all keys in order right after they were put")
    finally:
        for key in content:
            objects.delete(key)
