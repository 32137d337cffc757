"""What is in the benchmark's images, and parts of them.

python -m tests.bench.image_facts [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from tests.bench.images import BLOCK, STRIPE, Images, KiB, MiB, changed_pages, data_extents, differences, images


def packed_changes(of: Images, grain: int) -> int:
    """Bytes of day 2's changed blocks of ``grain`` bytes, one behind another, after `zstd -1`."""
    changed = changed_pages(of.day1, of.day2)
    padded = np.pad(changed, (0, -len(changed) % (grain // BLOCK))).reshape(-1, grain // BLOCK)
    packing = subprocess.Popen(["zstd", "-1", "-q", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with open(of.day2, "rb", buffering=0) as file:
        blocks = b"".join(os.pread(file.fileno(), grain, int(i) * grain) for i in np.flatnonzero(padded.any(axis=1)))
    return len(packing.communicate(blocks)[0])


def fullest(image: Path, length: int) -> int:
    """Offset of the window of ``length`` bytes that has the most data, in steps of STRIPE."""
    with open(image, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        data = np.zeros(size // STRIPE + 1, dtype=np.int64)
        for start, end in data_extents(file.fileno()):
            while start < end:
                stop = min(end, (start // STRIPE + 1) * STRIPE)
                data[start // STRIPE] += stop - start
                start = stop
    sums = np.convolve(data[: size // STRIPE], np.ones(length // STRIPE, dtype=np.int64), "valid")
    return int(sums.argmax()) * STRIPE


def cut(of: Images, length: int, folder: Path) -> Images:
    """The fullest ``length`` bytes of both days, as images in ``folder``."""
    found = Images(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    first = fullest(of.day2, length)
    for whole, part in ((of.day1, found.day1), (of.day2, found.day2)):
        with open(whole, "rb", buffering=0) as old, open(part, "wb", buffering=0) as new:
            new.truncate(length)
            for start, end in data_extents(old.fileno()):
                start, end = max(start, first), min(end, first + length)
                while start < end:
                    data = os.pread(old.fileno(), min(STRIPE, end - start), start)
                    start += os.pwrite(new.fileno(), data, start - first)
    found.changed.write_text(json.dumps(differences(found.day1, found.day2)))
    return found


def facts(of: Images) -> dict[str, float]:
    """What is in the images, in MiB; ``zstd_1`` is the ratio of the first day's allocated data."""
    changed = changed_pages(of.day1, of.day2)
    found: dict[str, float] = {
        "size_mib": of.day1.stat().st_size / MiB,
        "day1_allocated_mib": of.day1.stat().st_blocks * 512 / MiB,
        "day2_allocated_mib": of.day2.stat().st_blocks * 512 / MiB,
        "extents": len(of.changed_extents()),
    }
    for grain in (4, 16, 64, 256):
        padded = np.pad(changed, (0, -len(changed) % (grain // 4)))
        found[f"changed_at_{grain}_kib_mib"] = float(padded.reshape(-1, grain // 4).any(axis=1).sum() * grain / KiB)
        if grain <= 16:
            found[f"changed_at_{grain}_kib_zstd_1_mib"] = packed_changes(of, grain * KiB) / MiB
    packed = subprocess.Popen(["zstd", "-1", "-T2", "-q", "-c", str(of.day1)], stdout=subprocess.PIPE)
    assert packed.stdout is not None
    size = 0
    while piece := packed.stdout.read(MiB):
        size += len(piece)
    packed.wait()
    found["zstd_1_mib"] = size / MiB
    found["zstd_1_ratio"] = of.day1.stat().st_blocks * 512 / size
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the images lie; default: the cache")
    options = parser.parse_args()
    for name in ("slice", "whole"):
        print(name, json.dumps(facts(images(name, options.folder)), indent=2))


if __name__ == "__main__":
    main()
