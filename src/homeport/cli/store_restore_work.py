"""What `homeport store restore` does: apart from its options, so that scripted calls needn't load Typer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeport.cli.answers import Session
from homeport.cli.errors import WrongUse
from homeport.cli.formats import show_size
from homeport.domain.errors import HomeportError

if TYPE_CHECKING:
    from homeport.store.reader import PointReader


def restore_disks(
    session: Session,
    *,
    store: str,
    to: Path,
    machine: str | None = None,
    point: str = "latest",
    disk: str | None = None,
    all: bool = False,
    format: str | None = None,
    differences: bool = False,
    overwrite: bool = False,
    check: bool = False,
    secret: Any,
) -> None:
    """``secret``: what unlocks the store."""
    if disk is not None and all:
        raise WrongUse("say either --disk ID or --all")
    if differences and overwrite:
        raise WrongUse("say either --differences or --overwrite")
    from homeport.bucket.opening import Bucket
    from homeport.bucket.restoring import restore
    from homeport.cli.transfers import transfer

    stored = Bucket(store, secret).machine(machine)
    chosen = stored.choose(point)
    reader = stored.store.open(chosen)
    files = []
    for name, target in _targets(reader, disk, all, format or "", to).items():
        restored = restore(
            stored.store,
            reader,
            name,
            target,
            format=format or "",
            differences=differences,
            overwrite=overwrite,
            check=check,
            progress=lambda stage, total, name=name: transfer(  # type: ignore[misc]
                session, f"{stored.name} {name}: {stage}", total
            ),
        )
        for note in restored.notes:
            session.note(note)
        files.append(restored.to_json())
    data = {"machine": stored.uuid, "name": stored.name, "point": str(chosen), "files": files}
    session.tell({"restored": data}, _lines(data))


def _targets(reader: PointReader, disk: str | None, all: bool, format: str, to: Path) -> dict[str, Path]:
    """What is to be written, by disk."""
    if disk is None and not all:
        if len(reader.disks) != 1:
            raise WrongUse(f"say --disk ID or --all: the point has {', '.join(sorted(reader.disks))}")
        (disk,) = reader.disks
    if disk is not None and disk not in reader.disks:
        raise HomeportError(
            f"the point {reader.point} has no disk {disk!r}",
            code="store.disk-not-found",
            remedy=f"It has: {', '.join(sorted(reader.disks))}.",
            disks=sorted(reader.disks),
        )
    if disk is not None:
        return {disk: to}
    from homeport.bucket.restore_formats import by_name

    suffix = by_name(format, Path()).suffix
    to.mkdir(parents=True, exist_ok=True)
    return {name: to / f"{name}{suffix}" for name in sorted(reader.disks)}


def _lines(restored: dict[str, Any]) -> list[str]:
    lines = []
    for file in restored["files"]:
        lines += [
            f"{file['disk']} of {restored['name']} at {restored['point']}: {file['path']} "
            f"({show_size(file['size'])}, of which {show_size(file['data_bytes'])} data)",
            f"  {_told(file)}",
        ]
    return lines


def _told(file: dict[str, Any]) -> str:
    ways = {
        "full": "restored as a whole",
        "resumed": "an interrupted restore went on",
        "map": "only what changed between the two points",
        "digests": "only what differs, found by digests",
    }
    words = [ways[file["way"]] + (f" ({file['why']})" if file["why"] else "")]
    words.append(f"{show_size(file['fetched_bytes'])} read from the store")
    if file["compared_bytes"]:
        words.append(f"{show_size(file['compared_bytes'])} compared")
    words.append(f"{show_size(file['written_bytes'])} written")
    if file["zeroed_bytes"]:
        words.append(f"{show_size(file['zeroed_bytes'])} zeroed")
    if file["skipped_bytes"]:
        words.append(f"{show_size(file['skipped_bytes'])} left as it was")
    if file["checked"]:
        words.append("read back and compared")
    return ", ".join(words)
