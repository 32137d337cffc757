"""The Debian packages that the guest is made of: found by apt, downloaded and unpacked, never installed."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from demo.guest.commands import GuestBuildError, run

_KERNEL = "linux-image-cloud-amd64"
_LISTS = Path("/var/lib/apt/lists")


@dataclass(frozen=True)
class Package:
    """``file``: the name of the .deb, which holds its version."""

    name: str
    file: str


def find_packages(memory: Path) -> list[Package]:
    """The packages in the versions that apt would install now, remembered in the file ``memory`` until apt's lists
    change (asking takes seconds). Refreshes apt's lists where they are empty.

    Raises GuestBuildError when apt doesn't know them.
    """
    try:
        known = json.loads(memory.read_bytes())
        if known["lists"] == _lists():
            return [Package(name, file) for name, file in known["packages"]]
    except (FileNotFoundError, ValueError, KeyError):
        pass  # nothing remembered, or nothing that we understand: ask
    try:
        packages = _find()
    except GuestBuildError:
        update_lists()
        packages = _find()
    fresh = memory.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"lists": _lists(), "packages": [[one.name, one.file] for one in packages]}))
    fresh.replace(memory)
    return packages


def update_lists() -> None:
    run(["apt-get", "update", "-qq"], as_root=True)


def unpack(packages: list[Package], downloads: Path, into: Path) -> None:
    """Downloads what is missing in ``downloads`` and unpacks everything into ``into``. Raises GuestBuildError."""
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        _download(packages, downloads)
    except GuestBuildError:  # apt's lists are older than the mirror
        update_lists()
        _download(packages, downloads)
    into.mkdir(parents=True)
    for package in packages:
        run(["dpkg-deb", "-x", downloads / package.file, into])


def _lists() -> list[list[object]]:
    """Tells one state of apt's lists from another."""
    return [[file.name, file.stat().st_mtime_ns] for file in sorted(_LISTS.glob("*_*")) if file.is_file()]


def _find() -> list[Package]:
    kernel = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", run(["apt-cache", "depends", _KERNEL]))
    python = re.search(r"Depends: (python3\.\d+-minimal)", run(["apt-cache", "depends", "python3-minimal"]))
    if kernel is None or python is None:
        raise GuestBuildError(f"apt knows neither {_KERNEL} nor python3-minimal: the demo needs Debian on amd64")
    refused = ("pre-depends", "recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = [f"--no-{kind}" for kind in refused]
    closure = run(["apt-cache", "depends", "--recurse", *options, python[1], "qemu-guest-agent"])
    libraries = {line for line in closure.splitlines() if re.fullmatch(r"lib[a-z0-9.+-]+", line)}
    names = [kernel[1], "busybox-static", python[1], "qemu-guest-agent", "libc6", *sorted(libraries - {"libc6"})]
    uris = run(["apt-get", "download", "--print-uris", "-qq", *names])
    files = {name.split("_", 1)[0]: name for name in re.findall(r"^'[^']*' (\S+\.deb) ", uris, re.MULTILINE)}
    missing = [name for name in names if name not in files]
    if missing:
        raise GuestBuildError(f"apt can't download {', '.join(missing)}")
    return [Package(name, files[name]) for name in names]


def _download(packages: list[Package], downloads: Path) -> None:
    missing = [package.name for package in packages if not (downloads / package.file).exists()]
    if not missing:
        return
    scratch = downloads / f".part-{os.getpid()}"
    scratch.mkdir()
    try:
        as_self = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        run(["apt-get", "download", "-qq", *as_self, *missing], cwd=scratch)
        for file in scratch.iterdir():
            file.replace(downloads / file.name)
    finally:
        shutil.rmtree(scratch)
