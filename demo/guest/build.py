"""Builds the demo's guest from Debian's own packages, in seconds; a second time it only copies two sparse files.

``python -m demo.guest.build FOLDER`` puts the two disks into FOLDER.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from demo.guest.commands import run
from demo.guest.images import data_disk, system_disk
from demo.guest.machine import GuestImages, write_machine
from demo.guest.packages import Package, find_packages, unpack
from demo.guest.rootfs import stage
from demo.guest.settings import GuestSettings

__all__ = ["GuestImages", "build_guest", "cache_folder", "write_machine"]

_TEMPLATES_KEPT = 4


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/homeport, or ~/.cache/homeport."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeport"


def build_guest(
    folder: Path,
    settings: GuestSettings | None = None,
    *,
    cache: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> GuestImages:
    """Fresh disks in ``folder`` (disk0.raw, disk1.qcow2), built where no template of the same packages and settings is
    in ``cache``, else copied from it. ``report`` is told what takes long.

    Raises GuestBuildError; OSError when the disk is full.
    """
    settings = settings or GuestSettings()
    cache = cache or cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        packages = find_packages(cache / "packages.json")
        template = cache / f"guest-{_key(packages, settings)}"
        if not template.exists():
            report("building the guest from Debian's packages")
            _build(template, packages, settings, cache)
        os.utime(template)
        _drop_old_templates(cache)
        images = GuestImages(folder / "disk0.raw", folder / "disk1.qcow2", folder / "vmlinuz")
        for name, target in (("system.raw", images.disk0), ("data.qcow2", images.disk1), ("vmlinuz", images.kernel)):
            run(["cp", "--sparse=auto", "--reflink=auto", template / name, target])
    return images


def _build(template: Path, packages: list[Package], settings: GuestSettings, cache: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as name:
        work = Path(name)
        unpack(packages, cache / "debs", work / "packages")
        stage(work / "packages", work / "root", settings)
        (work / "data").mkdir()
        (work / "data/records").touch()
        result = work / "result"
        result.mkdir()
        system_disk(result / "system.raw", work / "root", settings.system_size)
        data_disk(result / "data.qcow2", work / "data", settings.data_size, work)
        shutil.copyfile(work / "root/boot/vmlinuz", result / "vmlinuz")
        result.rename(template)


def _key(packages: list[Package], settings: GuestSettings) -> str:
    """The same for the same packages, settings and builder."""
    digest = hashlib.sha256(repr((astuple(settings), [package.file for package in packages])).encode())
    here = Path(__file__).parent
    for file in sorted([*here.glob("*.py"), *(file for file in (here / "inside").iterdir() if file.is_file())]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _drop_old_templates(cache: Path) -> None:
    templates = sorted(cache.glob("guest-*"), key=lambda template: template.stat().st_mtime, reverse=True)
    for template in templates[_TEMPLATES_KEPT:]:
        shutil.rmtree(template)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(build_guest(Path(sys.argv[1]), report=print))
