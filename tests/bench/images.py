"""The disks that the store's benchmarks work on: a realistic ext4 image ("day 1") and what it became ("day 2").

    python -m tests.bench.images              make both sizes, unless they are there
    python -m tests.bench.image_facts         and say what is in them

Day 1 of ``whole``, 8 GiB of which about 4.7 are allocated: files of this machine's /usr, a database of 8 KiB pages that
compress about 2.5 times, incompressible media, blocks of deleted files, and allocated blocks of zeroes. Day 2: pages of
the database rewritten around hot spots, small writes scattered over everything allocated, and new files. ``slice`` is
every fourth 8 MiB of ``whole``: the same mixture in 2 GiB.

They lie under ``$XDG_CACHE_HOME/homeport-bench/images`` (about 12 GiB) and are made once; the same seed gives the same
contents, as long as /usr is the same. ``dirty.json`` lists the extents in which day 2 differs, in pages of 4 KiB:
``[[offset, length], …]`` in bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
SEED = 20_240_229
PAGE = 8 * KiB
"""Bytes of a page of the database."""
BLOCK = 4 * KiB
"""Bytes of a block of the file system."""
STRIPE = 8 * MiB
"""Bytes that stay together in the slice."""
SLICE = 4
"""The slice takes one of so many stripes."""
SIZE = 8 * GiB

TREES = (("/usr/bin", 400), ("/usr/share", 600), ("/usr/include", 200), ("/usr/lib", 1500), ("/usr/local", 500))
"""What is taken of the machine's own files, with the most MiB of each; at most TREES_TOTAL together."""
TREES_TOTAL = 2355 * MiB
LARGEST_FILE = 400 * MiB
DATABASE = 1 * GiB
MEDIA_FILES, MEDIA_MIB = 60, (4, 16)
DELETED = 300 * MiB
ZEROED = 128 * MiB

REWRITTEN = 80 * MiB
HOT_SPOTS, HOT_SHARE, HOT_WIDTH = 60, 0.8, 150
"""Rewrites gather around so many places, this share of them, within so many pages (a standard deviation)."""
REWRITE_PAGES = (1, 1, 1, 1, 2, 2, 4, 8)
SCATTERED = 15 * MiB
SCATTER_BLOCKS = (1, 1, 1, 2, 4, 16)
ADDED = 35 * MiB

WORDS = (
    b"account balance branch carrier contact contract country credit currency customer debit delivery discount "
    b"district email invoice item ledger locale manager margin number order owner payment phone postcode price "
    b"quantity region shipment status street supplier total vendor warehouse "
)


@dataclass(frozen=True)
class Images:
    """One size of the two days."""

    folder: Path

    @property
    def day1(self) -> Path:
        return self.folder / "day1.raw"

    @property
    def day2(self) -> Path:
        return self.folder / "day2.raw"

    @property
    def changed(self) -> Path:
        """The extents that differ, as JSON."""
        return self.folder / "dirty.json"

    @property
    def there(self) -> bool:
        return all(path.exists() for path in (self.day1, self.day2, self.changed))

    def changed_extents(self) -> list[tuple[int, int]]:
        """``(offset, length)`` in bytes."""
        return [(offset, length) for offset, length in json.loads(self.changed.read_text())]


def cache_folder() -> Path:
    """Where benchmarks keep what they make once."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "homeport-bench"


def images(name: str, folder: Path | None = None) -> Images:
    """``name``: "slice" or "whole". They are made if they aren't there."""
    base = folder or cache_folder() / "images"
    found = Images(base / name)
    if not found.there:
        make(base)
    return found


def data_extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """``(start, end)`` of what is allocated, in bytes."""
    position = 0
    while True:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing behind
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def make(base: Path) -> None:
    """Both sizes, under ``base``. Minutes, most of them in mkfs."""
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix="making-") as name:
        making = Path(name)
        whole, part = Images(making / "whole"), Images(making / "slice")
        for one in (whole, part):
            one.folder.mkdir()
        _Maker(making / "stage").make(whole)
        for day in ("day1", "day2"):
            _copy_stripes(getattr(whole, day), getattr(part, day))
        for one in (whole, part):
            one.changed.write_text(json.dumps(differences(one.day1, one.day2)))
            shutil.rmtree(base / one.folder.name, ignore_errors=True)
            one.folder.rename(base / one.folder.name)


class _Maker:
    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.random = random.Random(SEED)
        self.numbers = np.random.default_rng(SEED)

    def make(self, to: Images) -> None:
        self._files_of_the_machine()
        database = self._file("var/db/main.db")
        with open(database, "wb") as file:
            for _ in range(DATABASE // (8 * MiB)):
                file.write(self._pages(8 * MiB // PAGE))
        for number in range(MEDIA_FILES):
            size = self.random.randint(*MEDIA_MIB) * MiB
            self._file(f"home/media/{number:03}.bin").write_bytes(self.numbers.bytes(size))
        deleted = self._files_to_delete()
        self._file("home/zeroes.bin").write_bytes(self.numbers.bytes(ZEROED))
        _truncate(to.day1, SIZE)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", "-d", str(self.stage), str(to.day1))
        shutil.rmtree(self.stage)
        zeroes = _blocks_of(to.day1, "/home/zeroes.bin")
        pages = _blocks_of(to.day1, "/var/db/main.db")
        _debugfs(to.day1, [f"rm /home/deleted/{number:04}" for number in range(deleted)])
        with open(to.day1, "r+b", buffering=0) as image:
            for block in zeroes:
                os.pwrite(image.fileno(), bytes(BLOCK), block * BLOCK)
        _run("cp", "--sparse=auto", str(to.day1), str(to.day2))
        self._add_files(to.day2)
        with open(to.day2, "r+b", buffering=0) as image:
            self._rewrite_pages(image.fileno(), pages)
            self._scatter(image.fileno())
            os.fsync(image.fileno())

    def _file(self, name: str) -> Path:
        path = self.stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _files_of_the_machine(self) -> None:
        total = 0
        for tree, most in TREES:
            taken = 0
            for path in sorted(Path(tree).rglob("*")):
                if path.is_symlink() or not path.is_file():
                    continue
                size = path.stat().st_size
                if size > LARGEST_FILE or taken + size > most * MiB or total + size > TREES_TOTAL:
                    continue
                target = self._file("root" + str(path))
                try:
                    os.link(path, target)
                except OSError:  # another file system, or not our file
                    shutil.copyfile(path, target)
                taken += size
                total += size

    def _files_to_delete(self) -> int:
        """Copies of libraries; how many."""
        candidates = [path for path in sorted((self.stage / "root/usr/lib").rglob("*")) if path.is_file()]
        candidates = [path for path in candidates if path.stat().st_size > 256 * KiB]
        self.random.shuffle(candidates)
        total = count = 0
        for path in candidates:
            if total > DELETED:
                break
            shutil.copyfile(path, self._file(f"home/deleted/{count:04}"))
            total += path.stat().st_size
            count += 1
        return count

    def _pages(self, count: int) -> bytes:
        """Pages of a database: a header, ascending keys, rows of text with some noise, and an empty rest."""
        numbers, header, keys = self.numbers, 24, 800
        page = np.zeros((count, PAGE), dtype=np.uint8)
        page[:, :header] = numbers.integers(0, 256, (count, header), dtype=np.uint8)
        steps = numbers.integers(1, 9, (count, keys // 4), dtype=np.uint32)
        page[:, header : header + keys] = np.cumsum(steps, axis=1, dtype=np.uint32).view(np.uint8)
        width = PAGE - header - keys
        letters = np.frombuffer(WORDS, dtype=np.uint8)
        begin = numbers.integers(0, len(letters), (count, 1))
        text = letters[(begin + np.arange(width)) % len(letters)]
        noise = numbers.random((count, width), dtype=np.float32) < 0.3
        text[noise] = numbers.integers(0, 256, int(noise.sum()), dtype=np.uint8)
        filled = numbers.integers(4000, 8000, (count, 1)) - header - keys
        page[:, header + keys :] = np.where(np.arange(width) < filled, text, 0)
        return page.tobytes()

    def _add_files(self, image: Path) -> None:
        with tempfile.TemporaryDirectory(dir=image.parent) as name:
            total = 0
            commands: list[str] = []
            while total < ADDED:
                size = self.random.randint(16 * KiB, 4 * MiB)
                pages = self.random.random() >= 0.4
                content = self._pages(max(1, size // PAGE)) if pages else self.numbers.bytes(size)
                path = Path(name) / f"{len(commands)}"
                path.write_bytes(content)
                commands.append(f"write {path} /home/new-{len(commands)}")
                total += len(content)
            _debugfs(image, commands)

    def _rewrite_pages(self, image: int, blocks: list[int]) -> None:
        pages, written = len(blocks) * BLOCK // PAGE, 0
        hot = [self.random.randrange(pages) for _ in range(HOT_SPOTS)]
        while written < REWRITTEN:
            centre = self.random.choice(hot) if self.random.random() < HOT_SHARE else self.random.randrange(pages)
            count = self.random.choice(REWRITE_PAGES)
            first = min(max(0, int(self.random.gauss(centre, HOT_WIDTH))), pages - count)
            content = memoryview(self._pages(count))
            for number in range(count * PAGE // BLOCK):
                place = blocks[first * PAGE // BLOCK + number]
                os.pwrite(image, content[number * BLOCK : (number + 1) * BLOCK], place * BLOCK)
            written += count * PAGE

    def _scatter(self, image: int) -> None:
        extents = list(data_extents(image))
        weights = [end - start for start, end in extents]
        written = 0
        while written < SCATTERED:
            start, end = self.random.choices(extents, weights)[0]
            offset = self.random.randrange(start, end) // BLOCK * BLOCK
            if offset < 64 * MiB:  # the file system's own tables
                continue
            half = self.random.choice(SCATTER_BLOCKS) * BLOCK // 2
            os.pwrite(image, self.numbers.bytes(half) + bytes(half), offset)
            written += 2 * half


def _run(*command: str, feed: str | None = None) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return subprocess.run(
        command, input=feed, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    ).stdout


def _debugfs(image: Path, commands: list[str]) -> None:
    _run("debugfs", "-w", "-f", "-", str(image), feed="\n".join(commands) + "\n")


def _blocks_of(image: Path, file: str) -> list[int]:
    """Where the file's blocks lie in the image."""
    return [int(text) for text in _run("debugfs", "-R", f"blocks {file}", str(image)).split()]


def _truncate(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def _copy_stripes(source: Path, target: Path) -> None:
    """One of SLICE stripes, one behind another; holes stay holes."""
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(-(-size // (STRIPE * SLICE)) * STRIPE)
        for start, end in data_extents(old.fileno()):
            while start < end:
                stripe = start // STRIPE
                stop = min(end, (stripe + 1) * STRIPE)
                if stripe % SLICE == 0:
                    place = stripe // SLICE * STRIPE + start % STRIPE
                    os.pwrite(new.fileno(), os.pread(old.fileno(), stop - start, start), place)
                start = stop
        os.fsync(new.fileno())


def changed_pages(one: Path, other: Path) -> npt.NDArray[np.bool_]:
    """Which pages of 4 KiB differ."""
    with open(one, "rb", buffering=0) as left, open(other, "rb", buffering=0) as right:
        size = os.fstat(left.fileno()).st_size
        changed = np.zeros(size // BLOCK, dtype=np.bool_)
        touched = {
            stripe
            for file in (left, right)
            for start, end in data_extents(file.fileno())
            for stripe in range(start // STRIPE, -(-end // STRIPE))
        }
        for stripe in sorted(touched):
            a, b = (
                np.frombuffer(os.pread(file.fileno(), STRIPE, stripe * STRIPE), np.uint64) for file in (left, right)
            )
            pages = (a != b).reshape(-1, BLOCK // 8).any(axis=1)
            changed[stripe * (STRIPE // BLOCK) : stripe * (STRIPE // BLOCK) + len(pages)] = pages
    return changed


def differences(one: Path, other: Path) -> list[list[int]]:
    """``[offset, length]`` in bytes, by pages of 4 KiB."""
    changed = np.concatenate(([False], changed_pages(one, other), [False]))
    edges = np.flatnonzero(changed[1:] != changed[:-1]) * BLOCK
    return [[int(start), int(end - start)] for start, end in edges.reshape(-1, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where they lie; default: the cache")
    options = parser.parse_args()
    for name in ("slice", "whole"):
        print(name, images(name, options.folder).folder)


if __name__ == "__main__":
    main()
