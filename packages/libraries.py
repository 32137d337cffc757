"""The libraries that run with Homeport, as the lock pins them: which they are, and a copy of them as installed."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packages.source import ROOT

_OWN_TESTS = re.compile(r"(^|/)tests/")
"""A third of what some libraries install."""


class LibraryDiffers(Exception):
    """What is installed isn't what the lock names."""


def locked() -> dict[str, str]:
    """Versions by canonical name, of everything in requirements.lock, development tools included."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def needed(requirements: list[str]) -> list[str]:
    """Canonical names of these requirements and of all that they need here, sorted. Raises PackageNotFoundError."""
    found: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        if extras <= found.get(name, set()):
            continue
        found.setdefault(name, set()).update(extras)
        for text in distribution(name).requires or []:
            further = Requirement(text)
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(further)
    return sorted(found)


def copy_libraries(names: list[str], target: Path) -> None:
    """Copy these, as they are installed where we run, into ``target``, a folder like site-packages.

    Raises LibraryDiffers where a version isn't the lock's or a file isn't what was installed.
    """
    pins = locked()
    for name in names:
        library = distribution(name)
        if pins.get(name) != library.version:
            raise LibraryDiffers(
                f"{name} {library.version} is installed, the lock names {pins.get(name)}: make prepare"
            )
        _copy(library, target)


def _copy(library: Distribution, target: Path) -> None:
    for file in library.files or []:
        name = file.as_posix()
        if name.startswith("..") or "__pycache__" in name or _OWN_TESTS.search(name):
            continue  # commands of libraries; byte code names the place where it was made
        source = Path(str(library.locate_file(file)))
        if file.hash is not None:
            digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, source.read_bytes()).digest())
            if digest.rstrip(b"=").decode() != file.hash.value:
                raise LibraryDiffers(f"{source} isn't what was installed: remove .venv, then make prepare")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / name)
