"""Which process server has which machine of a site: one alone may ask for its changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from homeport.servers.durable import write_durably


@dataclass(frozen=True)
class Owner:
    """``item``: whose machine it is; ``fence``: greater with each change of its process server."""

    item: str
    process_server: str
    fence: int


class MachineOwners:
    """Kept in the file ``path``. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = json.loads(path.read_bytes()) if path.exists() else {}
        self._owners = {vm: Owner(**owner) for vm, owner in kept.items()}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def each(self) -> Iterator[tuple[str, Owner]]:
        """By the machine's name."""
        yield from sorted(self._owners.items())

    def items(self) -> set[str]:
        return {owner.item for owner in self._owners.values()}

    def give(self, vm: str, item: str, server: str) -> bool:
        """``server`` alone may ask for the machine's changes from now on; whether that is new. Its number is greater
        than any before, also than those of a configuration server that this one was restored from."""
        known = self._owners.get(vm)
        if known is not None and (known.item, known.process_server) == (item, server):
            return False
        fence = max(int(time.time() * 1000), known.fence + 1 if known is not None else 0)
        self._keep({**self._owners, vm: Owner(item, server, fence)})
        return True

    def drop(self, item: str) -> bool:
        """The item's machine is nobody's; whether it was somebody's."""
        left = {vm: owner for vm, owner in self._owners.items() if owner.item != item}
        if left == self._owners:
            return False
        self._keep(left)
        return True

    def renumber(self) -> None:
        """After a restore: what is told from now on counts, though something else was told since the backup."""
        first = int(time.time() * 1000)
        self._keep({vm: replace(owner, fence=max(first, owner.fence + 1)) for vm, owner in self._owners.items()})

    def _keep(self, owners: dict[str, Owner]) -> None:
        """What can't be written isn't so."""
        write_durably(self._path, json.dumps({vm: asdict(owner) for vm, owner in owners.items()}).encode())
        self._owners = owners
