"""Checks of the way home: the original and its disks, the master target, its retention drive (reference 6.3)."""

from __future__ import annotations

from homeport.domain.checks.check import Found, Severity, Unknown, check
from homeport.domain.checks.facts import Drive, Facts, size, span
from homeport.domain.checks.site import HEARTBEAT
from homeport.domain.health import SILENT
from homeport.domain.machines import Power
from homeport.domain.operations import Operation
from homeport.domain.units import GiB

WAY_HOME = (Operation.REPROTECT, Operation.FAILBACK)


def _away(facts: Facts) -> bool:
    """The machine runs at the recovery site: coming home is what is ahead."""
    return facts.active is facts.away


@check(
    code="78022",
    title="The master target's heartbeat",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("Homeport does not run at the machine's home site.", "The network between it and the vault is broken."),
    remedy="Start Homeport at the home site, or mend the network, then try again.",
)
def master_target_heartbeat(facts: Facts) -> Found | Unknown | None:
    if not _away(facts):
        return None
    home, limit = facts.home, HEARTBEAT if facts.operation is None else SILENT
    if home.silence is not None and home.silence <= limit:
        return None
    last = "never heard of" if home.silence is None else f"last heard of {span(home.silence)} ago"
    return Found(f"the master target of site {home.name!r} was {last}", f"a word within {span(limit)}")


@check(
    code="8061",
    title="The original's storage can be accessed",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("A disk of the original was removed, or its storage is not mounted.", "The folder is mounted read-only."),
    remedy="Mount the storage for reading and writing, put the disks back, then try again.",
)
def original_storage(facts: Facts) -> Found | Unknown | None:
    if not _away(facts):
        return None
    home = facts.home
    if home.folder is None or home.machines is None:
        return Unknown(f"whether the storage of site {home.name!r} can be accessed")
    if home.folder.writable is False:
        return Found(f"{home.folder.path or 'the folder'} of site {home.name!r} can't be written", "it can be written")
    original = home.machine(facts.original.name)
    names = tuple(f"{disk.id}:" for disk in facts.original.disks)
    wrong = [text for text in (original.obstacles if original else ()) if text.startswith(names)]
    if not wrong:
        return None
    return Found(f"{facts.original.name} at site {home.name!r}: {'; '.join(wrong)}", "all of its disks can be opened")


@check(
    code="check.original-missing",
    title="The original is at its site",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("The original was deleted or moved after the failover.",),
    remedy="Put its folder back. Coming home to another place is not in this version.",
)
def original_missing(facts: Facts) -> Found | Unknown | None:
    if not _away(facts):
        return None
    if facts.home.machines is None:
        return Unknown(
            f"which machines are at site {facts.home.name!r}; it was not asked since the item's last operation"
        )
    if facts.home.machine(facts.original.name) is not None:
        return None
    return Found(f"site {facts.home.name!r} has no machine {facts.original.name}", "the original, powered off")


@check(
    code="check.original-runs",
    title="Of the two machines only one runs",
    severity=Severity.ERROR,
    before=(Operation.REPROTECT,),
    refuses=(Operation.FAILBACK,),
    causes=("The failover was made without shutting the original down.", "Somebody started it by other means."),
    remedy="See which of them serves; shut the original down. A reprotect does, and undoes what it wrote since.",
)
def original_runs(facts: Facts) -> Found | Unknown | None:
    original = facts.home.machine(facts.original.name) if _away(facts) else None
    if original is None or original.power is not Power.RUNNING:
        return None
    return Found(
        f"{original.name} runs at site {facts.home.name!r} and at site {facts.away.name!r}", "it runs at one of them"
    )


def _retention(facts: Facts) -> Drive | Unknown | None:
    if not _away(facts):
        return None
    return facts.home.retention or Unknown(f"where the retention drive of site {facts.home.name!r} lies")


@check(
    code="check.retention-filesystem",
    title="The retention drive has a file system that holds large files",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("It is formatted with FAT.",),
    remedy="Move the retention folder to a drive with another file system (ext4, XFS).",
)
def retention_filesystem(facts: Facts) -> Found | Unknown | None:
    drive = _retention(facts)
    if not isinstance(drive, Drive):
        return drive
    if drive.filesystem is None:
        return Unknown(f"which file system the retention drive of site {facts.home.name!r} has")
    if drive.filesystem not in ("fat", "fat32", "vfat", "msdos", "exfat"):
        return None
    return Found(f"the retention drive of site {facts.home.name!r} has {drive.filesystem}", "not FAT")


@check(
    code="check.retention-capacity",
    title="Room on the retention drive",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("The drive is full, or not there.",),
    remedy="Free space there: a failback first keeps every byte that it is going to overwrite.",
)
def retention_capacity(facts: Facts) -> Found | Unknown | None:
    drive = _retention(facts)
    if not isinstance(drive, Drive):
        return drive
    if drive.free is None or drive.total is None:
        return Unknown(f"how large the retention drive of site {facts.home.name!r} is")
    if drive.total == 0 or drive.free == 0:
        return Found(f"{size(drive.free)} of {size(drive.total)} are free on the retention drive", "more than nothing")
    if drive.free >= GiB:
        return None
    return Found(
        f"{size(drive.free)} of {size(drive.total)} are free on the retention drive",
        f"{size(GiB)} at least",
        severity=Severity.WARNING,
    )


@check(
    code="check.retention-locked",
    title="The retention drive can be written",
    severity=Severity.WARNING,
    refuses=WAY_HOME,
    causes=("It is mounted read-only.", "Homeport's user may not write there."),
    remedy="Mount it for writing, or give Homeport's user the right to write.",
)
def retention_locked(facts: Facts) -> Found | Unknown | None:
    drive = _retention(facts)
    if not isinstance(drive, Drive):
        return drive
    if drive.writable is None:
        return Unknown(f"whether the retention drive of site {facts.home.name!r} can be written")
    return None if drive.writable else Found("the retention drive is locked against writing", "it can be written")


@check(
    code="check.retention-shared",
    title="The retention drive is one of its own",
    severity=Severity.INFO,
    before=WAY_HOME,
    causes=("Retention and cache lie in one folder, as Homeport makes them.",),
    remedy="Nothing, if there is room enough; else mount another drive at the retention folder.",
)
def retention_shared(facts: Facts) -> Found | Unknown | None:
    drive, cache = _retention(facts), facts.home.cache
    if not isinstance(drive, Drive):
        return drive
    if drive.device is None or cache is None or cache.device is None:
        return Unknown(f"whether retention and cache of site {facts.home.name!r} share a drive")
    if drive.device != cache.device:
        return None
    return Found("retention drive and process server's cache share a volume", "a volume for each")
