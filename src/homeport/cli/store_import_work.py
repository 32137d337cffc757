"""What `homeport store import` does: apart from its options, so that scripted calls needn't load Typer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeport.cli.answers import Session
from homeport.cli.errors import WrongUse
from homeport.cli.formats import show_size

if TYPE_CHECKING:
    from homeport.bucket.opening import Bucket
    from homeport.domain.extents import Extents

_QCOW2 = b"QFI\xfb"


def import_disks(
    session: Session,
    *,
    disks: Sequence[str],
    store: str,
    machine: str,
    changed: Path | None = None,
    format: str | None = None,
    create: bool = False,
    tag: Sequence[str] | None = None,
    at: datetime | None = None,
    note: Sequence[str] | None = None,
    secret: Any,
) -> None:
    """``secret``: what unlocks the store, or will unlock it from now on."""
    paths = _paths(disks)
    from homeport.bucket.importing import Facts, opened_images, plan_import
    from homeport.cli.transfers import transfer

    with opened_images({disk: (path, _format(path, format)) for disk, path in paths.items()}) as images:
        extents = None if changed is None else _extents(changed, list(paths))
        bucket, made = _open(store, secret, create)
        facts = Facts(at, tuple(tag or ()), tuple(note or ()))
        job = plan_import(bucket, machine, images, extents, facts)
        for text in job.notes:
            session.note(text)
        with transfer(session, f"Importing {machine}", job.total) as advance:
            point = job.run(advance)
    data = {
        "store_created": made,
        "machine": job.target.machine.uuid,
        "name": job.target.machine.name,
        "machine_created": job.target.created,
        "point": point.to_json(),
        "disks": [disk.to_json() for disk in job.disks],
        "notes": job.notes,
    }
    session.tell({"imported": data}, _lines(data))


def _open(store: str, secret: Any, create: bool) -> tuple[Bucket, bool]:
    """And whether it was made just now."""
    from homeport.bucket.opening import Bucket, as_url
    from homeport.store.backends import open_objects
    from homeport.store.errors import NotFound

    if create:
        from homeport.store.keys import VaultKey, seal_vault
        from homeport.store.vaultfile import load

        objects = open_objects(as_url(store), create=True)
        try:
            load(objects)
        except NotFound:
            vault = VaultKey.create()
            seal_vault(objects, vault, secret)
            return Bucket(store, vault), True
    return Bucket(store, secret), False


def _paths(disks: Sequence[str]) -> dict[str, Path]:
    """By disk id: the one given, else disk0, disk1, … by place."""
    from homeport.store.names import name

    found: dict[str, Path] = {}
    for number, text in enumerate(disks):
        disk, path = f"disk{number}", Path(text)
        before, equals, after = text.partition("=")
        if equals and "/" not in before and not path.exists():
            disk, path = before, Path(after)
        try:
            name(disk)
        except ValueError:
            raise WrongUse(
                f"{disk!r} can't be a disk's id: letters, digits, dots, dashes and underscores make one"
            ) from None
        if disk in found:
            raise WrongUse(f"two disks are named {disk}")
        found[disk] = path
    return found


def _format(path: Path, wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    if path.suffix == ".qcow2":
        return "qcow2"
    # A guest can write what looks like qcow2 at the start of its raw disk, naming any file as its backing file.
    try:
        with path.open("rb", buffering=0) as file:
            odd = file.read(len(_QCOW2)) == _QCOW2
    except OSError:
        odd = False  # opening it as an image says what is wrong
    if odd:
        raise WrongUse(f"{path} begins as a qcow2 image does; say which it is with --format qcow2 or --format raw")
    return "raw"


def _extents(file: Path, disks: Sequence[str]) -> dict[str, Extents]:
    from homeport.domain.extents import Extents

    try:
        data: Any = json.loads(file.read_bytes())
        if isinstance(data, list):
            if len(disks) != 1:
                raise WrongUse(f'{file} must say whose extents they are: {{"disk0": [[offset, length], …], …}}')
            data = {disks[0]: data}
        return {str(disk): Extents.of([_pair(item) for item in listed]) for disk, listed in data.items()}
    except OSError as error:
        raise WrongUse(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise WrongUse(
            f"{file} is no list of extents: expected [[offset, length], …] in bytes, "
            'or [{"offset": …, "length": …}, …], or an object with such a list for each disk'
        ) from None


def _pair(item: Any) -> tuple[int, int]:
    offset, length = (item["offset"], item["length"]) if isinstance(item, dict) else item
    if type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
        raise ValueError(item)
    return offset, length


_FOUND_BY = {"copy": "a full copy", "extents": "by the extents given", "scan": "compared by digests"}


def _lines(imported: dict[str, Any]) -> list[str]:
    point = imported["point"]
    return [
        f"{point['id']} of {imported['name']} ({imported['machine']}): {show_size(point['logical_bytes'])} changed, "
        f"{show_size(point['stored_bytes'])} stored",
        *(
            f"  {disk['disk']}: {show_size(disk['size'])}, {_FOUND_BY[disk['found_by']]}, "
            f"{show_size(disk['changed'])} of {show_size(disk['looked_at'])} read differed"
            for disk in imported["disks"]
        ),
    ]
