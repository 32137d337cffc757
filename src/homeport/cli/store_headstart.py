"""`homeport store …` begins to derive the store's key while the rest of the program is being loaded.

Only a head start: what goes wrong here goes wrong again, and is reported, where the store is opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from homeport.cli.passphrase_file import VARIABLE, read_passphrase_file


def begin(arguments: Sequence[str]) -> None:
    """Looks for a store and a passphrase file among ``arguments``; without both, or with a key file, does nothing."""
    if list(arguments[:1]) != ["store"] or _value(arguments, "--key-file") is not None:
        return
    store = _value(arguments, "--store")
    file = _value(arguments, "--passphrase-file") or os.environ.get(VARIABLE)
    if not store or not file:
        return
    ready = threading.Event()
    threading.Thread(target=_derive, args=(store, file, ready), name="headstart", daemon=True).start()
    # What it loads is needed by all; two threads that load at once only slow each other down.
    ready.wait(1.0)


def _value(arguments: Sequence[str], option: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == option:
            return arguments[place + 1] if place + 1 < len(arguments) else None
        if argument.startswith(option + "="):
            return argument[len(option) + 1 :]
    return None


def _derive(store: str, file: str, ready: threading.Event) -> None:
    try:
        passphrase = read_passphrase_file(Path(file))
        from homeport.store.derivation import keep_for_others
        from homeport.store.keys import open_vault
        from homeport.store.objects import open_objects

        keep_for_others()
        ready.set()
        open_vault(open_objects(store if "://" in store else Path(store).absolute().as_uri()), passphrase)
    except Exception:  # whoever opens the store for good meets it again, and says so
        return
    finally:
        ready.set()
