"""The rows of the store's table: what is compared with what, and which ratio it must reach."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tests.bench.measure import DISTURBED, Sample
from tests.bench.nbd_speed import Speed


class Kind(Enum):
    """What a ratio says."""

    FASTER = "times as fast"
    SMALLER = "times the bytes"
    RATE = "times the rate"


@dataclass(frozen=True)
class Claim:
    """One line of the table. ``bar`` None: reported only. Names are those under which results are recorded."""

    row: str
    ours: str
    theirs: str
    kind: Kind
    bar: float | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.kind is Kind.FASTER else ours / theirs

    def met(self, ratio: float) -> bool | None:
        if self.bar is None:
            return None
        return ratio <= self.bar if self.kind is Kind.SMALLER else ratio >= self.bar


def _faster(row: str, ours: str, **bars: float | None) -> list[Claim]:
    return [Claim(row, ours, name.replace("_", " "), Kind.FASTER, bar) for name, bar in bars.items()]


CLAIMS = [
    *_faster("first", "homeport", borg=3, benji=3, restic=3.5, nbdcopy=0.8, nbdcopy_flushed=None, zstd=1.6),
    Claim("first", "homeport bytes", "borg bytes", Kind.SMALLER, 1.05),
    Claim("first", "homeport bytes", "benji bytes", Kind.SMALLER),
    Claim("first", "homeport bytes", "restic bytes", Kind.SMALLER),
    Claim("first", "homeport bytes", "zstd bytes", Kind.SMALLER),
    *_faster("delta", "homeport", borg=12, benji=8, restic=12),
    Claim("delta", "homeport bytes", "restic bytes", Kind.SMALLER, 0.2),
    Claim("delta", "homeport bytes", "borg bytes", Kind.SMALLER),
    Claim("delta", "homeport bytes", "benji bytes", Kind.SMALLER),
    Claim("delta", "homeport bytes", "zstd-1 of changed 16 KiB bytes", Kind.SMALLER, 1.3),
    Claim("delta", "homeport bytes", "zstd-1 of changed 4 KiB bytes", Kind.SMALLER),
    *_faster("scan", "homeport", borg=6),
    Claim("scan", "homeport", "hashing alone", Kind.FASTER, 0.5),
    *_faster("restore", "homeport", borg=2.7, benji=2.7, restic=2.3),
    *_faster("bring", "by map", full_restore=3, rsync_whole=6, rsync_compare=6),
    *_faster("bring", "by digests", full_restore=1.7),
    *_faster("bring in memory", "by map", full_restore=None, rsync_whole=None, rsync_compare=None),
    *_faster("bring in memory", "by digests", full_restore=None),
    Claim("nbd", "warm nbdcopy", "nbdkit nbdcopy", Kind.RATE, 0.4),
    Claim("nbd", "warm sequential", "nbdkit sequential", Kind.RATE, 0.4),
    Claim("nbd", "warm random", "nbdkit random", Kind.RATE, 0.3),
    Claim("nbd", "cold nbdcopy", "nbdkit nbdcopy", Kind.RATE),
    Claim("nbd", "cold random", "nbdkit random", Kind.RATE),
]
TITLES = {
    "first": "first copy, compressed, encrypted, flushed",
    "delta": "delta of 3 %, changed extents given",
    "scan": "delta without hints (digest scan)",
    "restore": "full restore with verification",
    "bring": "bring a target that differs in 3 % to a point",
    "bring in memory": "the same, the target in memory",
    "nbd": "NBD of a point, working set 256 MiB",
}
ROWS = list(TITLES)


@dataclass
class Results:
    """All that was measured, by row and name: samples, bytes and rates, the part of the processors that
    others used; and what failed, in words."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    foreign: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)

    def add(self, row: str, name: str, found: Sample | Speed | float) -> None:
        match found:
            case Sample():
                self.samples[row, name].append(found)
                self.values[row, name].append(found.seconds)
                self.foreign[row, name].append(found.foreign)
            case Speed():
                self.values[row, name].append(found.rate)
                self.foreign[row, name].append(found.foreign)
            case _:
                self.values[row, name].append(float(found))

    def median(self, row: str, name: str) -> float | None:
        found = self.values.get((row, name))
        return statistics.median(found) if found else None

    def disturbed(self, row: str, name: str) -> int:
        return sum(part > DISTURBED for part in self.foreign.get((row, name), []))

    def cpu_ratio(self, claim: Claim) -> float | None:
        """Their CPU seconds to ours, medians: what a busy machine blurs least. None where it isn't known."""
        ours, theirs = (self.samples.get((claim.row, name)) for name in (claim.ours, claim.theirs))
        if not ours or not theirs:
            return None
        mine, other = (statistics.median(sample.cpu for sample in found) for found in (ours, theirs))
        return other / mine if mine else None

    def spread(self, claim: Claim) -> tuple[float, float] | None:
        """The least and the greatest ratio of one round."""
        pairs = zip(
            self.values.get((claim.row, claim.ours), []), self.values.get((claim.row, claim.theirs), []), strict=False
        )
        ratios = [claim.ratio(ours, theirs) for ours, theirs in pairs]
        return (min(ratios), max(ratios)) if ratios else None

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": {
                f"{row}/{name}": [one.to_json() for one in found] for (row, name), found in self.samples.items()
            },
            "values": {
                f"{row}/{name}": found for (row, name), found in self.values.items() if (row, name) not in self.samples
            },
            "foreign": {f"{row}/{name}": found for (row, name), found in self.foreign.items()},
            "rows": [self.line(claim) for claim in CLAIMS],
            "failures": self.failures,
        }

    def line(self, claim: Claim) -> dict[str, Any]:
        """A row of the table: medians, their ratio, the bar, and whether it is met (None: nothing to say)."""
        ours, theirs = self.median(claim.row, claim.ours), self.median(claim.row, claim.theirs)
        found: dict[str, Any] = {
            "row": claim.row,
            "ours": claim.ours,
            "our_value": ours,
            "theirs": claim.theirs,
            "their_value": theirs,
            "kind": claim.kind.value,
            "bar": claim.bar,
            "ratio": None,
            "met": None,
            "cpu_ratio": self.cpu_ratio(claim),
        }
        if ours and theirs:
            found["ratio"] = claim.ratio(ours, theirs)
            found["met"] = claim.met(found["ratio"])
            found["spread"] = self.spread(claim)
        return found

    def lines(self, rows: Iterable[str]) -> list[tuple[Claim, dict[str, Any]]]:
        """Of the rows that were measured."""
        wanted = set(rows)
        return [(claim, self.line(claim)) for claim in CLAIMS if claim.row in wanted]
