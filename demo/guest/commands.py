"""Running the system's tools, as root where they need it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class GuestBuildError(Exception):
    """The guest can't be built: what failed, and what the tool said."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, as_root: bool = False) -> str:
    """Runs to the end and returns what it wrote. ``as_root``: through sudo unless we are root already.

    Raises GuestBuildError when the tool is missing or fails.
    """
    words = [str(word) for word in command]
    if as_root and os.geteuid() != 0:
        words = ["sudo", *words]
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise GuestBuildError(f"{words[0]} is not installed: `make prepare` installs what the demo needs") from error
    if done.returncode != 0:
        raise GuestBuildError(f"`{' '.join(words)}` failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout
