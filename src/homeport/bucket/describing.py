"""What a bucket is, as far as it can be told without unlocking it: `homeport store info`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from homeport.bucket import inventory
from homeport.store import vaultfile
from homeport.store.errors import StoreError
from homeport.store.objects import Objects, versioned
from homeport.store.vaultfile import VaultFile

_SHOWN = ("id", "kind", "label", "created", "generation")


def ways(found: VaultFile) -> list[dict[str, Any]]:
    """What unlocks the store: id, kind, label, created, generation; never a secret."""
    return [{name: way.get(name) for name in _SHOWN} for way in found.unlock]


def describe(url: str, objects: Objects) -> dict[str, Any]:
    """Format, vault, ways to unlock, amounts, facts of the storage, and what wants a look. Raises NotFound
    (``store.no-vault``), Corrupt, StoreUnavailable."""
    found = vaultfile.load(objects)
    held = inventory.take(objects)
    try:
        keeps = versioned(objects)
    except StoreError:
        keeps = None  # it may take a small put to find out, which a reader may not do
    return {
        "url": url,
        "format": 1,
        "vault": found.vault,
        "revision": found.revision,
        "generation": found.generation,
        "rotating": found.pending is not None,
        "unlock": ways(found),
        "machines": len(held.machines) - len(held.keyless),
        **held.all.to_json(),
        "backend": {"scheme": urlsplit(url).scheme, "kind": type(objects).__name__, "versioned": keeps},
        "warnings": _warnings(found, held, keeps),
    }


def _warnings(found: VaultFile, held: inventory.Inventory, keeps: bool | None) -> list[str]:
    result = []
    if found.pending is not None:
        result.append("A key rotation was interrupted or runs now: complete it with `homeport store key rotate`.")
    if len(found.ways()) == 1:
        result.append("Only one way unlocks this store: if it is lost, so are all points. Add a key file.")
    for machine in sorted(held.keyless):
        result.append(f"Machine {machine} has no key: it was shredded, and its objects are not all deleted yet.")
    if keeps:
        result.append("The storage keeps what is deleted: a purge frees no space, and shredding protects nothing.")
    unknown = held.all.kinds.get("unknown")
    if unknown:
        result.append(f"{unknown.objects} objects are none of this format.")
    garbage = [held.all.kinds[kind].objects for kind in ("probe", "staging") if kind in held.all.kinds]
    if garbage:
        result.append(f"{sum(garbage)} objects were left by a probe or a put that died: garbage.")
    return result
