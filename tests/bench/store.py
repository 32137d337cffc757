"""The recovery store against the tools that one would use instead: whole processes, side by side in one run.

    make bench BENCH=store                         five rounds on the slice, and what needs no image
    python -m tests.bench.store --whole            the 8 GiB image beside it
    python -m tests.bench.store --only first,delta --rounds 1 --peers borg

docs/benchmarks.md says what each row means. Exit status 1 where a bar isn't met or a tool failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.image_facts import packed_changes
from tests.bench.images import GiB, Images, KiB, MiB, cache_folder, images
from tests.bench.measure import PATIENCE
from tests.bench.peers import versions
from tests.bench.store_rounds import PEERS, Round
from tests.bench.store_rows import ROWS, TITLES, Claim, Kind, Results
from tests.bench.store_synthetic import SYNTHETIC

OTHERS = ["nbdcopy", "zstd", "rsync", "nbdkit"]
RAM = Path("/dev/shm")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stores and servers go, as after Ctrl-C
    console = Console(width=None if sys.stdout.isatty() else 170)
    answer: dict[str, Any] = {"machine": _machine(), "tools": versions() if options.peers else {}, "sizes": {}}
    met = True
    rows = [row for row in ROWS if row in options.only]
    sizes = [*([] if options.without_slice else ["slice"]), *(["whole"] if options.whole else [])]
    if rows:
        for name in sizes:
            results = _measure(name, images(name, options.images), rows, options, console)
            answer["sizes"][name] = results.to_json()
            met = _show(console, name, rows, results, options.rounds) and met
            _write(options.json, answer)
    for row in [row for row in SYNTHETIC if row in options.only]:
        found = _show_synthetic(console, row, options.rounds)
        answer[row] = found
        met = all(line["met"] is not False for line in found) and met
        _write(options.json, answer)
    sys.exit(0 if met else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*ROWS, *SYNTHETIC]
    everyone = [*PEERS, *OTHERS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(names), metavar="ROWS", help=f"of {', '.join(names)}")
    parser.add_argument("--peers", default=",".join(everyone), help=f"of {', '.join(everyone)}; or none")
    parser.add_argument("--whole", action="store_true", help="the 8 GiB image, too")
    parser.add_argument("--without-slice", action="store_true")
    parser.add_argument("--images", type=Path, help="folder of the images; default: the cache, made if not there")
    parser.add_argument("--stores", type=Path, help="folder for the stores; default: the cache")
    parser.add_argument("--targets", type=Path, help="folder for what is restored; default: memory, if there is room")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds to wait for a quiet moment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    options = parser.parse_args()
    options.only = options.only.split(",")
    options.peers = [] if options.peers == "none" else options.peers.split(",")
    if unknown := (set(options.only) - set(names)) | (set(options.peers) - set(everyone)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processors": os.cpu_count(),
        "memory_gib": round(memory / GiB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _measure(name: str, of: Images, rows: list[str], options: argparse.Namespace, console: Console) -> Results:
    results = Results()
    base = options.stores or cache_folder()
    base.mkdir(parents=True, exist_ok=True)
    room = options.targets or (RAM if _has_room(RAM, 2 * of.day1.stat().st_size) else base)
    for number in range(options.rounds):
        with (
            tempfile.TemporaryDirectory(dir=base, prefix="stores-") as stores,
            tempfile.TemporaryDirectory(dir=room, prefix="homeport-bench-") as targets,
        ):
            Round(
                number, of, Path(stores), Path(targets), results, console,
                rows=rows, peers=options.peers, patience=options.patience,
            ).run()  # fmt: skip
    if "delta" in rows:
        for grain in (4, 16):
            results.add("delta", f"zstd-1 of changed {grain} KiB bytes", packed_changes(of, grain * KiB))
    console.print(f"{name}: stores in {base}, restored to {room}", highlight=False)
    return results


def _has_room(folder: Path, size: int) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free > size


def _show(console: Console, name: str, rows: list[str], results: Results, rounds: int) -> bool:
    """Whether all bars are met, and nothing failed."""
    table = Table(title=f"Recovery store, {name}, medians of {rounds}", title_justify="left")
    for column in ("work", "homeport", "beside", "theirs", "ratio", "rounds", "CPU", "bar", ""):
        table.add_column(column, justify="left" if column in ("work", "beside", "") else "right")
    met, last = not results.failures, ""
    for claim, line in results.lines(rows):
        if line["ratio"] is None:
            continue
        if claim.row != last:
            table.add_section()
            table.add_row(TITLES[claim.row], style="bold")
            last = claim.row
        low, high = line["spread"]
        table.add_row(
            f"  {claim.ours}",
            _amount(claim, line["our_value"]),
            claim.theirs + _mark(results, claim),
            _amount(claim, line["their_value"]),
            f"{line['ratio']:.2f}",
            f"{low:.2f}–{high:.2f}",
            "" if line["cpu_ratio"] is None else f"{line['cpu_ratio']:.2f}",
            "" if claim.bar is None else f"{'≤' if claim.kind is Kind.SMALLER else '≥'} {claim.bar:g}",
            _verdict(claim, line["ratio"]),
        )
        met = met and line["met"] is not False
    console.print(table)
    console.print("ratio, CPU: theirs to ours, bytes and rates ours to theirs", highlight=False)
    console.print("*: others used the processors in so many of the rounds of either side", highlight=False)
    for failure in results.failures:
        console.print(f"failed: {failure}", style="red", markup=False, highlight=False)
    return met


def _amount(claim: Claim, value: float) -> str:
    if claim.kind is Kind.FASTER:
        return f"{value:.2f} s"
    if claim.kind is Kind.SMALLER:
        return f"{value / MiB:.1f} MiB"
    return f"{value:,.0f} /s" if "random" in claim.ours else f"{value / 1e6:,.0f} MB/s"


def _mark(results: Results, claim: Claim) -> str:
    count = results.disturbed(claim.row, claim.ours) + results.disturbed(claim.row, claim.theirs)
    return f" *{count}" if count else ""


def _verdict(claim: Claim, ratio: float) -> str:
    if claim.bar is None:
        return ""
    if claim.met(ratio):
        return "met"
    return f"NOT met: {abs(ratio - claim.bar) / claim.bar:.0%} {'over' if claim.kind is Kind.SMALLER else 'short'}"


def _show_synthetic(console: Console, row: str, rounds: int) -> list[dict[str, Any]]:
    found = SYNTHETIC[row](rounds)
    table = Table(title=f"Recovery store, {row}", title_justify="left")
    for column in ("work", "found", "bar", ""):
        table.add_column(column)
    for line in found:
        verdict = {True: "met", False: "NOT met", None: ""}[line["met"]]
        table.add_row(line["name"], line["value"], line["bar"], verdict)
    console.print(table)
    return found


def _write(path: Path | None, answer: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(answer, indent=2, default=str))


if __name__ == "__main__":
    main()
