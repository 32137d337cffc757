"""The tools that Homeport is measured against, each driven as its manual says, and Homeport itself by its commands.

A `Backup` takes a first copy of a disk, then a delta, and restores the newest. Each encrypts and compresses with zstd,
keeps its files on the same file system, and flushes them: borg, restic and benji do so by themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.bench.images import Images, cache_folder
from tests.bench.measure import BenchError, Command, call, stored

ROOT = Path(__file__).resolve().parents[2]
HOMEPORT = ROOT / ".venv" / "bin" / "homeport"
PYTHON = ROOT / ".venv" / "bin" / "python"
PASSPHRASE = "correct horse battery staple"
MACHINE, DISK = "bench", "disk0"


class Backup(Protocol):
    """One tool with a store of its own."""

    name: str

    def first(self, images: Images) -> Command:
        """Copies day 1 into a store that is empty."""

    def delta(self, images: Images) -> Command:
        """Adds day 2: with the changed extents given where the tool can take them."""

    def restore(self, target: Path) -> Command:
        """Brings the newest back into the folder ``target``."""

    def restored(self, target: Path) -> Path:
        """Where the image lies then."""

    def stored(self) -> int:
        """Bytes in the store."""

    @property
    def files(self) -> Path:
        """What a restore reads."""


class _Peer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    @property
    def files(self) -> Path:
        return self.folder

    def stored(self) -> int:
        return stored(self.folder / "store")

    def _present(self, image: Path) -> None:
        """Shows the image under the one name that this tool backs up."""
        disk = self.folder / "source" / "disk.raw"
        disk.parent.mkdir(exist_ok=True)
        disk.unlink(missing_ok=True)
        try:
            os.link(image, disk)
        except OSError:  # another file system
            call(Command(["cp", "--sparse=auto", image, disk]))


class Homeport(_Peer):
    """`homeport store import` and `restore`. ``hints``: whether the delta is told what changed."""

    name = "homeport"

    def __init__(self, folder: Path, hints: bool = True) -> None:
        super().__init__(folder)
        self.hints = hints
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.passphrase.chmod(0o600)

    @property
    def files(self) -> Path:
        return self.folder / "store"

    @property
    def vault(self) -> Sequence[str | Path]:
        """The options that name the store."""
        return ("--store", (self.folder / "store").as_uri(), "--passphrase-file", self.passphrase)

    def first(self, images: Images) -> Command:
        return Command([HOMEPORT, "store", "import", "--machine", MACHINE, "--create", *self.vault, images.day1])

    def delta(self, images: Images) -> Command:
        hints: list[str | Path] = ["--changed", images.changed] if self.hints else []
        return Command([HOMEPORT, "store", "import", "--machine", MACHINE, *hints, *self.vault, images.day2])

    def restore(self, target: Path, point: str = "latest", *more: str | Path) -> Command:
        where: list[str | Path] = [
            "--machine",
            MACHINE,
            "--point",
            point,
            "--disk",
            DISK,
            "--to",
            self.restored(target),
        ]
        return Command([HOMEPORT, "store", "restore", *where, *more, *self.vault])

    def restored(self, target: Path) -> Path:
        return target / "disk.raw"

    def serve(self, socket: Path) -> Command:
        """An NBD server of the newest point, as it comes: decoded data in memory, nothing on the disk."""
        where: list[str | Path] = ["--machine", MACHINE, "--point", "latest", "--socket", socket]
        return Command([HOMEPORT, "store", "serve", *where, *self.vault])

    def points(self) -> list[str]:
        """Ids, oldest first."""
        asked = [HOMEPORT, "store", "points", "--json", *self.vault]
        answer = subprocess.run(asked, capture_output=True, check=True).stdout
        found = json.loads(answer)["machines"][0]
        return [point["id"] for timeline in found["timelines"] for point in timeline["points"]]

    def copy(self, folder: Path, hints: bool) -> Homeport:
        """Another store of the same contents."""
        other = Homeport(folder, hints)
        call(Command(["cp", "-a", self.folder / "store", folder / "store"]))
        return other


class Borg(_Peer):
    """Debian's borg: repokey encryption, zstd level 1, content-defined chunks as it comes."""

    name = "borg"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env = {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(folder / "base"),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        call(Command(["borg", "init", "-e", "repokey", folder / "store"], self.env))

    def first(self, images: Images) -> Command:
        return self._create("day1", images.day1)

    def delta(self, images: Images) -> Command:
        return self._create("day2", images.day2)

    def _create(self, archive: str, image: Path) -> Command:
        self._present(image)
        name = f"{self.folder / 'store'}::{archive}"
        return Command(["borg", "create", "-C", "zstd,1", name, "disk.raw"], self.env, self.folder / "source")

    def restore(self, target: Path) -> Command:
        return Command(["borg", "extract", "--sparse", f"{self.folder / 'store'}::day2"], self.env, target)

    def restored(self, target: Path) -> Path:
        return target / "disk.raw"


class Restic(_Peer):
    """Debian's restic: repository version 2, compression as it comes (zstd)."""

    name = "restic"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env = {
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_REPOSITORY": str(folder / "store"),
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }
        call(Command(["restic", "-q", "init", "--repository-version", "2"], self.env))

    def first(self, images: Images) -> Command:
        return self._backup(images.day1)

    def delta(self, images: Images) -> Command:
        return self._backup(images.day2)

    def _backup(self, image: Path) -> Command:
        self._present(image)
        return Command(["restic", "-q", "backup", "disk.raw"], self.env, self.folder / "source")

    def restore(self, target: Path) -> Command:
        return Command(["restic", "-q", "restore", "latest", "--target", target], self.env)

    def restored(self, target: Path) -> Path:
        found = list(target.rglob("disk.raw"))
        if len(found) != 1:
            raise BenchError(f"restic restored {found}")
        return found[0]


class Benji(_Peer):
    """PyPI's benji with zstd level 1, AES-256-GCM and blocks of 4 MiB; hints are the changed extents."""

    name = "benji"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "store").mkdir()
        config = {
            "configurationVersion": "1",
            "databaseEngine": f"sqlite:///{folder / 'benji.sqlite'}",
            "defaultStorage": "local",
            "blockSize": 4 << 20,
            "storages": [
                {
                    "name": "local",
                    "storageId": 1,
                    "module": "file",
                    "configuration": {"path": str(folder / "store"), "activeTransforms": ["zstd", "aes"]},
                }
            ],
            "transforms": [
                {"name": "zstd", "module": "zstd", "configuration": {"level": 1}},
                # A key of 32 bytes in base64: no time goes into deriving one.
                {"name": "aes", "module": "aes_256_gcm", "configuration": {"masterKey": "A" * 43 + "="}},
            ],
            "ios": [{"name": "file", "module": "file", "configuration": {}}],
        }
        (folder / "benji.yaml").write_text(json.dumps(config))  # JSON is YAML
        call(self._benji("database-init"))

    def _benji(self, *arguments: str | Path) -> Command:
        program = cache_folder() / "benji" / "bin" / "benji"
        return Command([program, "-c", self.folder / "benji.yaml", "--log-level", "WARNING", *arguments])

    def first(self, images: Images) -> Command:
        return self._benji("backup", "-u", "day1", f"file:{images.day1}", MACHINE)

    def delta(self, images: Images) -> Command:
        hints = self.folder / "hints.json"
        extents = [
            {"offset": offset, "length": length, "exists": "true"} for offset, length in images.changed_extents()
        ]
        hints.write_text(json.dumps(extents))
        return self._benji("backup", "-u", "day2", "-f", "day1", "-r", hints, f"file:{images.day2}", MACHINE)

    def restore(self, target: Path) -> Command:
        return self._benji("restore", "-s", "day2", f"file:{self.restored(target)}")

    def restored(self, target: Path) -> Path:
        return target / "disk.raw"


def nbdcopy(images: Images, target: Path, *, flush: bool) -> Command:
    """The whole disk from one NBD server to another, which writes it to the file ``target``."""
    with open(target, "wb") as file:
        file.truncate(images.day1.stat().st_size)
    source: list[str | Path] = ["[", "qemu-nbd", "-r", "-f", "raw", images.day1, "]"]
    sink: list[str | Path] = ["[", "nbdkit", "--exit-with-parent", "file", target, "]"]
    return Command(["nbdcopy", *(["--flush"] if flush else []), "--", *source, *sink])


def zstd(images: Images, target: Path) -> Command:
    return Command(["zstd", "-1", "-T2", "-q", "-f", images.day1, "-o", target])


def rsync(source: Path, target: Path, *, compare: bool) -> Command:
    """``compare``: by its rolling checksums; else the whole file is written, which is how it copies locally."""
    how = ["--no-whole-file"] if compare else ["--whole-file"]
    return Command(["rsync", "--inplace", "--ignore-times", *how, source, target])


def versions() -> dict[str, str]:
    """What each tool calls itself."""
    asked = {
        "borg": ["borg", "--version"],
        "restic": ["restic", "version"],
        "nbdkit": ["nbdkit", "--version"],
        "nbdcopy": ["nbdcopy", "--version"],
        "qemu-nbd": ["qemu-nbd", "--version"],
        "zstd": ["zstd", "--version"],
        "rsync": ["rsync", "--version"],
        "fio": ["fio", "--version"],
    }
    found = {
        name: subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
        for name, argv in asked.items()
    }
    return {**found, "benji": "benji 0.17.0"}
