"""Credentials of a cloud storage: from a file that only its owner can read, else from the environment.

The file is TOML with a table for each kind of storage, its fields named as obstore names them:

    [s3]
    access_key_id = "…"
    secret_access_key = "…"      # session_token, too, where there is one
    [az]
    account_key = "…"            # or sas_key, or client_id, client_secret and tenant_id
    [gs]
    service_account = "/path/of/the/key.json"
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

from homeport.store.address import Address
from homeport.store.errors import StoreError

VARIABLE = "HOMEPORT_STORE_CREDENTIALS"
KNOWN = {
    "s3": {"access_key_id", "secret_access_key", "session_token"},
    "az": {"account_key", "sas_key", "client_id", "client_secret", "tenant_id"},
    "gs": {"service_account"},
}


def read_credentials(address: Address) -> dict[str, str]:
    """The table for this kind of storage; empty without a file (the environment's own variables then count).
    Raises StoreError (``store.credentials``): unreadable, open to others, or not as expected; never says a value."""
    name = address.options.get("credentials") or os.environ.get(VARIABLE)
    if not name:
        return {}
    path = Path(name)
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid()):
                raise _bad(f"others can read or change {path}", f"chmod 600 {path}, and make it your own.")
            table = tomllib.load(file).get(address.scheme)
    except OSError as error:
        raise _bad(f"can't read {path}: {error.strerror}", "Check the path and its owner.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise _bad(f"{path} is not TOML", "See the store's backends in the documentation.") from None
    known = KNOWN[address.scheme]
    if not isinstance(table, dict) or not table or not all(isinstance(value, str) for value in table.values()):
        raise _bad(f"{path} has no table [{address.scheme}] of texts", f"It may have {', '.join(sorted(known))}.")
    if others := sorted(set(table) - known):
        raise _bad(f"{path} has {', '.join(others)} in [{address.scheme}]", f"Known are {', '.join(sorted(known))}.")
    return dict(table)


def _bad(cause: str, remedy: str) -> StoreError:
    return StoreError(cause, code="store.credentials", remedy=remedy)
