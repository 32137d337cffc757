"""The proof that the guest's data is intact: asked from the running machine, or read from its disks.

The running machine says what its last record is and whether the chain through all records is unbroken; ``check`` turns
that into a verdict. ``check_disks`` needs no machine: it finds the records on raw images of the two disks themselves.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.guest.inside.records import NOTHING, disk_of
from demo.guest.scan import FoundRecords, find_records

_AGAIN = 0.1


class NoAnswer(Exception):
    """The guest didn't answer: why."""


@dataclass(frozen=True)
class Answer:
    """What the guest said. ``last``: number of its newest record (-1: no record yet); ``last_time`` and ``time``:
    seconds since the epoch by the guest's clock; ``chain``: "unbroken", "verifying" or what is broken; ``errors``:
    I/O errors that the guest saw since its boot; ``boot``: differs for each boot; ``uptime`` in seconds."""

    name: str
    last: int
    last_time: float | None
    records: int
    chain: str
    writer: str
    errors: int
    kernel_error: str
    boot: str
    uptime: float
    time: float
    verified_at_start: dict[str, Any] | None


@dataclass(frozen=True)
class Verdict:
    """``text``: what was found, for people."""

    good: bool
    text: str


def get(url: str, timeout: float = 5) -> dict[str, Any]:
    """The guest's JSON answer at ``url``. Raises NoAnswer."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"{url}: {error}") from error
    if not isinstance(answer, dict):
        raise NoAnswer(f"{url}: not the guest's answer: {answer}")
    return answer


def ask(url: str, timeout: float = 5) -> Answer:
    """What the guest says at ``url``: http://HOST:PORT/ at once; …/verify after it has read the whole chain from its
    disks again; …/pause when its writer has stopped between two records; …/resume. Raises NoAnswer."""
    answer = get(url, timeout)
    try:
        return Answer(**{name: answer[name] for name in Answer.__dataclass_fields__})
    except KeyError as error:
        raise NoAnswer(f"{url}: not the guest's answer, no {error}: {answer}") from error


def wait_for_answer(url: str, timeout: float) -> tuple[Answer, float]:
    """The first answer, and after how many seconds it came. Raises NoAnswer when none came within ``timeout``."""
    begun = time.monotonic()
    while True:
        try:
            # QEMU's user networking takes the connection before the guest listens and is slow to try again by itself:
            # a short wait, then another try; a longer one where the guest seems to be slow.
            return ask(url, 1 + (time.monotonic() - begun) / 20), time.monotonic() - begun
        except NoAnswer as error:
            if time.monotonic() - begun >= timeout:
                raise NoAnswer(f"no answer within {timeout:.0f} s; at last: {error}") from error
            time.sleep(_AGAIN)


def check(answer: Answer, *, not_older_than: int | None = None, exactly: int | None = None) -> Verdict:
    """Is the running machine's data whole? ``not_older_than``: a record that must be there, e.g. the last one seen
    before the recovery point; ``exactly``: the record that was the last one verified when the guest booted (the writer
    goes on after it), e.g. the last one before a planned shutdown."""
    if answer.chain == "verifying":
        return Verdict(False, "the guest is still verifying its chain: ask for /verify")
    if answer.chain != "unbroken":
        return Verdict(False, f"the chain is {answer.chain}")
    if answer.errors:
        return Verdict(False, f"the guest saw {answer.errors} I/O errors: {answer.kernel_error or answer.writer}")
    if answer.writer.startswith("stopped"):
        return Verdict(False, f"the guest's writer {answer.writer}")
    if answer.last < 0:
        return Verdict(False, "the guest has no records")
    if not_older_than is not None and answer.last < not_older_than:
        return Verdict(False, f"record {not_older_than} is missing, the last one is {answer.last}")
    if exactly is None:
        return Verdict(True, f"chain unbroken over {answer.records} records, the last one is {answer.last}")
    found = (answer.verified_at_start or {}).get("last", -1)
    if found != exactly:
        return Verdict(False, f"the guest came up with record {found} as its last one, not with record {exactly}")
    return Verdict(True, f"chain unbroken over {answer.records} records; it came up with exactly record {exactly}")


def check_disks(disk0: Path, disk1: Path, *, last: int | None = None) -> Verdict:
    """Do these two raw images show the guest's disks as of one instant? Read-only, and without their file systems.

    In a consistent cut every record up to the last one found on either disk is there, each naming the one before on
    the other disk, and nothing lies beyond. (A record is on stable storage before the next is begun; so the newest may
    be the one that was just being written, but nothing can be missing before it.) ``last``: this must be the last one.

    Raises OSError.
    """
    disks = (find_records(disk0), find_records(disk1))
    return judge(disks, last=last)


def judge(disks: tuple[FoundRecords, FoundRecords], *, last: int | None = None) -> Verdict:
    """``check_disks`` for records that were found already."""
    newest = max((max(disk, default=-1) for disk in disks), default=-1)
    if newest < 0:
        return Verdict(False, "no records were found")
    for index, disk in enumerate(disks):
        strays = [number for number in disk if disk_of(number) != index]
        if strays:
            return Verdict(False, f"disk{index} holds record {min(strays)}, which belongs on the other disk")
    # More than one record of a number can be found: a block that a crash left behind, freed but not overwritten.
    reached = {NOTHING}
    for number in range(newest + 1):
        candidates = disks[disk_of(number)].get(number, [])
        following = {digest for previous, digest in candidates if previous in reached}
        if not following:
            ends = ", ".join(f"disk{index} ends with {max(disk, default=None)}" for index, disk in enumerate(disks))
            why = "doesn't continue the chain" if candidates else f"is missing on disk{disk_of(number)}"
            return Verdict(False, f"not one instant: record {number} {why}, yet there is record {newest} ({ends})")
        reached = following
    if last is not None and newest != last:
        return Verdict(False, f"the last record is {newest}, not {last}")
    return Verdict(True, f"one instant: {newest + 1} records in one chain over both disks, the last one is {newest}")
