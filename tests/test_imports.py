"""Imports point one way: the arrows of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "src" / "homeport"

MAY_IMPORT = {
    "language": set[str](),
    "domain": set[str](),
    "trust": {"domain"},
    "disks": {"domain"},
    "qemu": {"domain", "disks"},
    "store": {"domain"},
    "bucket": {"domain", "disks", "store"},
    "sources": {"domain", "disks", "qemu"},
    "sites": {"domain", "disks", "qemu"},
    "mobility": {"domain", "disks", "store", "sources", "trust"},
    "servers": {"domain", "disks", "qemu", "store", "bucket", "sources", "sites", "trust", "mobility"},
    "vault": {"domain", "language", "trust"},
    "cli": {"domain", "language", "trust"},
}
EXCEPTIONS = {
    ("servers/up.py", "vault"),  # all roles in one process: something has to start the vault
    ("servers/serve/vault_server.py", "vault"),  # the same, where the vault is a process of its own
    ("servers/vault_restore.py", "vault"),  # what is found in stores becomes a vault
    ("cli/up.py", "servers"),
    ("cli/serve.py", "servers"),
    ("cli/joining.py", "servers"),  # a machine that joins has no vault to ask yet
    ("cli/vault_restore.py", "servers"),
    ("cli/store_serve.py", "disks"),
    ("cli/store_serve.py", "servers"),  # the point server's export
}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "homeport" and len(parts) > 1:
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = []
    for path in sorted((HOUSE / room).rglob("*.py")):
        place = path.relative_to(HOUSE).as_posix()
        for other in imported_rooms(path) - {room} - MAY_IMPORT[room]:
            alone = place.startswith("cli/store") and other in ("store", "bucket")  # a bucket alone, without a vault
            if not alone and (place, other) not in EXCEPTIONS:
                wrong.append(f"{place} imports homeport.{other}")
    assert not wrong


def test_every_room_is_named_in_the_rules() -> None:
    rooms = {path.name for path in HOUSE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms == set(MAY_IMPORT)
