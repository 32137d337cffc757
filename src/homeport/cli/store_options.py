"""What the commands of `homeport store` share: options, and opening the store they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.passphrases import PassphraseFileOption, read_passphrase

if TYPE_CHECKING:
    from homeport.bucket.opening import Bucket
    from homeport.store.keys import Opener, VaultKey
    from homeport.store.unlock import KeyFile

__all__ = [
    "EachMachineOption",
    "HeadOption",
    "KeyFileOption",
    "MachineOption",
    "OnePointOption",
    "PassphraseFileOption",
    "PointOption",
    "StoreOption",
    "open_bucket",
    "read_key_file",
    "read_secret",
]

StoreOption = Annotated[
    str, typer.Option("--store", metavar="URL", help="The store: a path, file:///…, s3://…, az://…, gs://…")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="A key file of the store, instead of the passphrase."),
]
MachineOption = Annotated[
    str | None, typer.Option("--machine", metavar="NAME", help="Its name or UUID. Default: the only one.")
]
EachMachineOption = Annotated[
    str | None, typer.Option("--machine", metavar="NAME", help="Only this one. Default: all.")
]
_POINT = re.compile(r"[0-9a-f]{16}/\d{1,16}")


def _known_point(text: str) -> str:
    if text not in ("latest", "latest-app-consistent") and not _POINT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not a point: expected latest, latest-app-consistent, or an id as `store points` lists it"
        )
    return text


def _point_id(text: str) -> str:
    if not _POINT.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a point's id (<timeline>/<number>)")
    return text


PointOption = Annotated[
    str,
    typer.Option("--point", metavar="POINT", parser=_known_point, help="latest, latest-app-consistent, or an id."),
]
OnePointOption = Annotated[
    str | None, typer.Option("--point", metavar="ID", parser=_point_id, help="Only this point. Default: all.")
]
HeadOption = Annotated[
    str | None,
    typer.Option("--expect-head", metavar="ID", parser=_point_id, help="The newest point that must be there."),
]


def read_secret(passphrase_file: Path | None, key_file: Path | None) -> Opener:
    """What unlocks a store: the key file if one is named, else the passphrase. Raises WrongUse, StoreError
    (``store.key-file-damaged``)."""
    if key_file is None:
        return read_passphrase(passphrase_file)
    if passphrase_file is not None:
        raise WrongUse("say either --passphrase-file or --key-file")
    return _vault_key(key_file) or read_key_file(key_file)


def read_key_file(path: Path) -> KeyFile:
    """Raises WrongUse (unreadable), StoreError (``store.key-file-damaged``)."""
    from homeport.store.unlock import KeyFile

    try:
        return KeyFile.read(path)
    except OSError as error:
        raise WrongUse(f"the key file {path} can't be read: {error.strerror}") from error


def _vault_key(path: Path) -> VaultKey | None:
    """The vault's own key, if the file is vault-key.json of a vault's state folder: it helps where the passphrase is
    lost."""
    import json

    from homeport.store.keys import VaultKey

    try:
        data = json.loads(path.read_bytes()[:4096])
        return VaultKey(str(data["id"]), bytes.fromhex(data["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_bucket(store: str, passphrase_file: Path | None, key_file: Path | None = None) -> Bucket:
    """The store at ``store`` (a URL or a path), unlocked with the passphrase or the key file. Raises WrongUse (neither
    is to be had), WrongKey, NotFound (``store.no-vault``), StoreUnavailable."""
    secret = read_secret(passphrase_file, key_file)
    from homeport.bucket.opening import Bucket

    return Bucket(store, secret)
