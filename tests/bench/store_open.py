"""Opening the newest of 10 and of 1,000 points, on a disk of 1 TiB and of 64 TiB.

    python -m tests.bench.store_open

Maps are synthetic: a base of two million frames, then points of 200 scattered blocks each, and the layers that are
built in the background. A fresh process opens the newest point and says where one of its blocks lies: that is timed,
from the process's start. Then it does so for 16 more, far apart, which shows what touching a page costs. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB, TiB
from homeport.store import LocalObjects, MachineStore
from tests.store.stores import KEYS, T1

BAR_SECONDS = 1.0
BAR_RATIO = 2.0
BASE = 2_000_000
CHANGES = 200
TOUCHED = 16
CASES = [(points, size) for size in (TiB, 64 * TiB) for points in (10, 1000)]


def prepare(folder: Path, points: int, size: int, base: int = BASE) -> float:
    """Make a timeline; returns the seconds that its layers took."""
    from tests.store.synthetic import synthetic

    store = MachineStore(LocalObjects(folder), KEYS)
    synthetic(store, points, size, CHANGES, base)
    began = time.monotonic()
    while store.maintain(T1, limit=1000):
        pass
    return time.monotonic() - began


def open_newest(folder: Path, points: int) -> dict[str, Any]:
    """In this process: when it could answer (seconds since 1970), how long opening took and each page touched
    afterwards, and memory beyond what the imports took (bytes)."""
    before = _peak()
    began = time.monotonic()
    reader = MachineStore(LocalObjects(folder), KEYS).open(PointId(T1, points))
    reader.view.map.rows("disk0", 5)
    answered = time.time()
    opened = time.monotonic()
    at_open = _peak() - before
    blocks = np.random.default_rng(7).integers(0, reader.disks["disk0"] // BLOCK, TOUCHED).tolist()
    rows = sum(len(reader.view.map.rows("disk0", at)) for at in blocks)
    return {
        "answered": answered,
        "open_s": opened - began,
        "page_s": (time.monotonic() - opened) / TOUCHED,
        "links": len(reader.view.map.layers),
        "rows": rows,
        "memory": at_open,
        "page_memory": (_peak() - before - at_open) / TOUCHED,
    }


def _peak() -> int:
    """The most memory that this process had, in bytes (``ru_maxrss`` begins with its parent's)."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def measure(rounds: int) -> dict[tuple[int, int], dict[str, Any]]:
    """Medians of each case; the cases take turns, so that what else the machine does meets all of them."""
    with tempfile.TemporaryDirectory(prefix="hp-bench-open") as root:
        layers = {}
        for points, size in CASES:
            folder = Path(root) / f"{points}-{size}"
            folder.mkdir()
            layers[points, size] = prepare(folder, points, size)
        found: dict[tuple[int, int], list[dict[str, Any]]] = {case: [] for case in CASES}
        for _ in range(rounds):
            for points, size in CASES:
                command = [sys.executable, "-m", "tests.bench.store_open", "--open", f"{root}/{points}-{size}"]
                began = time.time()
                answer = subprocess.run([*command, str(points)], capture_output=True, check=True, text=True).stdout
                entry = json.loads(answer)
                found[points, size].append({**entry, "process_s": entry["answered"] - began})
        return {
            case: {name: statistics.median(entry[name] for entry in entries) for name in entries[0]}
            | {"layers_s": layers[case]}
            for case, entries in found.items()
        }


def rows(rounds: int) -> list[dict[str, Any]]:
    """For the table of all benches: ``name``, ``seconds`` (None where the row is a ratio), ``value``, ``bar`` (text),
    ``met``."""
    found = measure(rounds)
    result = []
    for (points, size), entry in found.items():
        name = f"open the newest of {points:,} points, {size // TiB} TiB"
        seconds = entry["process_s"]
        result.append(
            {"name": name, "seconds": seconds, "value": f"{seconds:.2f} s", "bar": f"< {BAR_SECONDS:.0f} s",
             "met": seconds < BAR_SECONDS, **entry}
        )  # fmt: skip
    times = [entry["process_s"] for entry in found.values()]
    ratio = max(times) / min(times)
    result.append(
        {"name": "slowest to fastest of these", "seconds": None, "value": f"{ratio:.2f} ×",
         "bar": f"≤ {BAR_RATIO:.0f} ×", "met": ratio <= BAR_RATIO}
    )  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open", nargs=2, metavar=("FOLDER", "POINTS"), help="what a fresh process does")
    options = parser.parse_args()
    if options.open:
        sys.stdout.write(json.dumps(open_newest(Path(options.open[0]), int(options.open[1]))))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Opening a point, medians of {options.rounds}", title_justify="left")
    for column in (
        "work",
        "process",
        "bar",
        "",
        "open alone",
        "links",
        "memory",
        "each page more",
        "its memory",
        "layers built in",
    ):
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in rows(options.rounds):
        details = [""] * 6
        if row["seconds"] is not None:
            details = [
                f"{row['open_s'] * 1000:.0f} ms", f"{row['links']:.0f}", f"{row['memory'] / MiB:.1f} MiB",
                f"{row['page_s'] * 1000:.1f} ms", f"{row['page_memory'] / MiB:.1f} MiB", f"{row['layers_s']:.1f} s",
            ]  # fmt: skip
        table.add_row(row["name"], row["value"], row["bar"], "met" if row["met"] else "NOT met", *details)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
