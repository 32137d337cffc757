"""The keys of a bucket, made and read in one place. Numbers are padded, so that keys sort as numbers do."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from homeport.domain.points import PointId

VAULT = "vault/"
VAULT_BACKUPS = "vault-backups/"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
_TIMELINE = re.compile(r"^[0-9a-f]{16}$")


def name(text: str) -> str:
    """Checked: a machine's or disk's id as it stands in a key. Raises ValueError."""
    if not _NAME.match(text):
        raise ValueError(f"not usable as a name in the store: {text!r}")
    return text


def timeline_id(text: str) -> str:
    """Checked. Raises ValueError."""
    if not _TIMELINE.match(text):
        raise ValueError(f"not a timeline: {text!r} (expected sixteen hex digits)")
    return text


def machine(machine: str) -> str:
    return f"machines/{name(machine)}/"


def vault(revision: int) -> str:
    return f"{VAULT}{revision:010d}.json"


def vault_backup(id: str) -> str:
    return f"{VAULT_BACKUPS}{name(id)}"


def machine_keys(machine_id: str) -> str:
    return machine(machine_id) + "key/"


def machine_key(machine_id: str, generation: int) -> str:
    """The machine's key, wrapped by the vault's key of this generation."""
    return f"{machine_keys(machine_id)}{generation:010d}"


def descriptions(machine_id: str) -> str:
    return machine(machine_id) + "description/"


def description(machine_id: str, number: int) -> str:
    return f"{descriptions(machine_id)}{number:010d}"


def timelines(machine_id: str) -> str:
    return machine(machine_id) + "t/"


def timeline(machine_id: str, timeline: str) -> str:
    return f"{timelines(machine_id)}{timeline_id(timeline)}/"


def leases(machine_id: str) -> str:
    return machine(machine_id) + "lease/"


def lease(machine_id: str, point: PointId, owner: str) -> str:
    if not owner or len(owner) > 128:
        raise ValueError(f"not usable as a lease's owner: {owner!r}")
    # "%" is written "=": object storages and their clients disagree on "%" in keys; "=" itself is always quoted.
    quoted = quote(owner, safe="").replace("%", "=").replace("~", "=7E").replace(".", "=2E")
    return f"{leases(machine_id)}{point.timeline}-{point.number:016d}/{quoted}"


def parse_lease(key: str) -> tuple[PointId, str]:
    """Raises ValueError."""
    match = re.search(r"/lease/([0-9a-f]{16})-(\d{16})/([^/]+)$", key)
    if not match:
        raise ValueError(key)
    return PointId(match[1], int(match[2])), unquote(match[3].replace("=", "%"))


class Segment(NamedTuple):
    """A segment's place: which timeline, which writer (epoch), which of its segments."""

    timeline: str
    epoch: int
    seq: int

    def key(self, machine_id: str) -> str:
        return f"{timeline(machine_id, self.timeline)}segment/{self.file}"

    @property
    def file(self) -> str:
        return f"{self.epoch:010d}-{self.seq:010d}"


def point(machine_id: str, point: PointId) -> str:
    return f"{timeline(machine_id, point.timeline)}point/{point.number:016d}"


def part(machine_id: str, timeline_id: str, number: int) -> str:
    return f"{timeline(machine_id, timeline_id)}part/{number:016d}"


def thin(machine_id: str, timeline_id: str, first: int, last: int, revision: int = 0) -> str:
    suffix = f"-{revision:010d}" if revision else ""
    return f"{timeline(machine_id, timeline_id)}thin/{first:016d}-{last:016d}{suffix}"


def layer(machine_id: str, timeline_id: str, first: int, last: int) -> str:
    return f"{timeline(machine_id, timeline_id)}layer/{first:016d}-{last:016d}"


def epoch(machine_id: str, timeline_id: str, number: int) -> str:
    return f"{timeline(machine_id, timeline_id)}epoch/{number:010d}"


def folds(machine_id: str, timeline_id: str) -> str:
    return f"{timeline(machine_id, timeline_id)}fold/"


def fold(machine_id: str, timeline_id: str, number: int) -> str:
    return f"{folds(machine_id, timeline_id)}{number:010d}"


FOLD_EPOCHS = 1_000_000_000
"""Segments that a fold writes have this and its number as their epoch: no writer's can be the same."""


def hide(machine_id: str, timeline_id: str, upto: int) -> str:
    return f"{timeline(machine_id, timeline_id)}hide/{upto:016d}"


def boundary(machine_id: str, timeline_id: str, number: int) -> str:
    return f"{timeline(machine_id, timeline_id)}boundary/{number:016d}"


def digests(machine_id: str, point: PointId, disk: str) -> str:
    return f"{timeline(machine_id, point.timeline)}digests/{point.number:016d}/{name(disk)}"
