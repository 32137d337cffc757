"""Rows that need no image.

Each is a function of the number of rounds that gives lines of ``name``, ``value``, ``bar`` (words) and ``met`` (None:
reported only), and whatever else was found. What they measure is imported on use,
so that the process that times others stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COPIED, SPACE = 0.5, 1.7
"""At most so many bytes copied for one written, while the store takes at most so many for one that is live."""


def opening(rounds: int) -> list[dict[str, Any]]:
    """The newest of few and of many points, on a large and a huge disk."""
    from tests.bench import store_open

    return store_open.rows(rounds)


def retention(rounds: int) -> list[dict[str, Any]]:
    """The curve of cleaning cost against space, and whether one of its points is good enough. Nothing is timed."""
    from tests.bench import store_retention

    curve = store_retention.rows(rounds)
    lines = [
        {
            "name": f"segments are cleaned below {found['threshold']:.0%} live",
            "value": f"copies {found['cleaning']:.2f} × what is written, takes {found['space']:.2f} × what is live "
            f"(worst {found['space_worst']:.2f}); {_requests(found['requests_per_day'])}, "
            f"${found['dollars_per_month']:.2f} a month",
            "bar": "",
            "met": None,
            **found,
        }
        for found in curve
    ]
    good = [found for found in curve if found["cleaning"] <= COPIED and found["space"] <= SPACE]
    best = min(good or curve, key=lambda found: max(found["cleaning"] / COPIED, found["space"] / SPACE))
    lines.append(
        {
            "name": "the best of these",
            "value": f"{best['cleaning']:.2f} × written at {best['space']:.2f} × live",
            "bar": f"≤ {COPIED} × at ≤ {SPACE} ×",
            "met": bool(good),
        }
    )
    return lines


def _requests(by_kind: dict[str, int]) -> str:
    """Of one machine."""
    return ", ".join(f"{count:,} {name}" for name, count in by_kind.items()) + " a day"


SYNTHETIC: dict[str, Callable[[int], list[dict[str, Any]]]] = {"open": opening, "retention": retention}
