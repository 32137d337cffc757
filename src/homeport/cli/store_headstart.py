"""`homeport store …` begins to derive the store's key while the rest of the program is being loaded.

Only a head start: what goes wrong here goes wrong again, and is reported, where the store is opened. Of a store in a
local folder so little is looked at that the derivation runs beside all other loading.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence

from homeport.cli.passphrase_file import VARIABLE, read_passphrase_file

Work = Callable[[], None]


def begin(arguments: Sequence[str]) -> None:
    """Looks for a store and a passphrase file among ``arguments``; without both, or with a key file, does nothing."""
    if list(arguments[:1]) != ["store"] or _value(arguments, "--key-file") is not None:
        return
    store = _value(arguments, "--store")
    file = _value(arguments, "--passphrase-file") or os.environ.get(VARIABLE)
    if not store or not file:
        return
    with contextlib.suppress(Exception):
        # What deriving needs is loaded in this thread: two that load at once only slow each other down.
        passphrase = read_passphrase_file(file)
        scheme, separator, rest = store.partition("://")
        if separator and scheme != "file":
            work = _of_bucket(store, passphrase)
        else:
            work = _of_folder(rest or store, passphrase, "--create" in arguments)
        threading.Thread(target=_quietly, args=(work,), name="headstart", daemon=True).start()


def _value(arguments: Sequence[str], option: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == option:
            return arguments[place + 1] if place + 1 < len(arguments) else None
        if argument.startswith(option + "="):
            return argument[len(option) + 1 :]
    return None


def _quietly(work: Work) -> None:
    with contextlib.suppress(Exception):
        work()


def _of_folder(folder: str, passphrase: str, create: bool) -> Work:
    from homeport.store import derivation

    secret = passphrase.encode()
    ways = list(_ways(folder))

    def work() -> None:
        for salt, memory, passes, lanes in ways:
            if derivation.refusal(memory, passes, lanes) is None:
                derivation.derive_ahead(secret, salt, memory, passes, lanes)
        if create and not ways:  # the vault is about to be made
            derivation.prepare(secret)

    return work


def _ways(folder: str) -> Iterator[tuple[bytes, int, int, int]]:
    """Salt, memory, passes and lanes of the ways by passphrase, as the vault's newest file says (its format:
    homeport.store.vaultfile)."""
    vault = os.path.join(folder, "vault")
    with contextlib.suppress(FileNotFoundError), open(os.path.join(vault, max(os.listdir(vault)))) as file:
        for way in json.load(file)["unlock"]:
            if way["kind"] == "passphrase":
                kdf = way["kdf"]
                yield bytes.fromhex(way["salt"]), int(kdf["memory_kib"]), int(kdf["passes"]), int(kdf["lanes"])


def _of_bucket(url: str, passphrase: str) -> Work:
    from homeport.store import derivation, unlock, vaultfile
    from homeport.store.backends import open_objects

    def work() -> None:
        found = vaultfile.load(open_objects(url))
        for way in found.ways():
            if way["kind"] == unlock.PASSPHRASE:
                derivation.derive_ahead(passphrase.encode(), bytes.fromhex(way["salt"]), *unlock.costs(way))

    return work
