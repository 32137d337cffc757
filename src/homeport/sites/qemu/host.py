"""What a QEMU site's host has and lets us do: the facts that checks judge. Everything is tried, nothing assumed.

``limits.toml`` in the site's folder, where there is one, says what its running machines may take all together::

    memory = "64GiB"               # or a number of bytes
    cpus = 16
    machines = 20
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tomllib
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from homeport.sites.qemu.description import ISOLATED, parse_size

LIMITS = "limits.toml"
LIMITED = ("memory", "cpus", "machines")
NETWORKS = ("default", ISOLATED)
"""User-mode networks need not be made: one with a way out, one without."""

_SECONDS = 10.0
_DEVICE = Path("/dev/kvm")
_MACHINE_ID = Path("/etc/machine-id")


def host_facts(path: Path) -> dict[str, Any]:
    """``path``: the site's folder. Sizes in bytes; ``clock``: UTC; ``host``: equal for two sites on one host."""
    place = path
    while not place.exists():
        place = place.parent
    memory = _memory()
    return {
        "clock": datetime.now(UTC).isoformat(),
        "host": host_id(),
        "free_memory": memory.get("MemAvailable", 0),
        "total_memory": memory.get("MemTotal", 0) + memory.get("SwapTotal", 0),
        "cpus": os.cpu_count() or 1,
        "free_disk": shutil.disk_usage(place).free,
        "networks": list(NETWORKS),
        "quota": quota(path),
        "privileges": privileges(path),
    }


def quota(path: Path) -> dict[str, Any]:
    """What ``limits.toml`` allows; nothing where there is none. ``wrong``: why it, or a line of it, limits nothing."""
    try:
        said = tomllib.loads((path / LIMITS).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {"wrong": f"{LIMITS} can't be read: {error}"}
    found = {name: value for name in LIMITED if name in said and (value := parse_size(said[name])) is not None}
    wrong = sorted(set(said) - set(found))
    return {**found, "wrong": f"{LIMITS}: {', '.join(wrong)} can't be used"} if wrong else dict(found)


def privileges(path: Path) -> dict[str, dict[str, Any]]:
    """{name: {"held", "why"}}: each tried with the credentials of this process."""
    return {
        "write-folder": _tried(_write(path)),
        "open-kvm": _tried(_open(_DEVICE)),
        "run-qemu": _tried(_runs("qemu-system-x86_64", "--version")),
        "run-qemu-img": _tried(_runs("qemu-img", "--version")),
        "user-network": _tried(_has_user_network()),
    }


def _tried(trouble: str | None) -> dict[str, Any]:
    return {"held": trouble is None, "why": trouble or ""}


def _write(path: Path) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"


def _open(device: Path) -> str | None:
    if os.access(device, os.R_OK | os.W_OK):
        return None
    return f"{device} is {'not accessible' if device.exists() else 'not there'}"


def _runs(program: str, argument: str) -> str | None:
    trouble = _output(*_identity(program), argument)
    return trouble[0]


def _has_user_network() -> str | None:
    """QEMU may be built without it (libslirp)."""
    trouble, output = _output(*_identity("qemu-system-x86_64"), "-netdev", "help")
    return trouble or (None if "user" in output.split() else "this QEMU has no network backend user (libslirp)")


def _identity(program: str) -> tuple[str, str | None, int]:
    """A program as it is now: another one in its place is tried anew."""
    found = shutil.which(program)
    return program, found, os.stat(found).st_mtime_ns if found else 0


@lru_cache(maxsize=16)
def _output(program: str, found: str | None, changed: int, *arguments: str) -> tuple[str | None, str]:
    """(what is wrong, what it printed)."""
    if found is None:
        return f"{program} is not installed", ""
    try:
        done = subprocess.run(
            [found, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} does not run: {error}", ""
    wrong = None if done.returncode == 0 else f"{program} ended with status {done.returncode}"
    return wrong, done.stdout


def _memory() -> dict[str, int]:
    """Bytes, of /proc/meminfo (proc(5)), which counts in KiB. MemAvailable: what new processes can have."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    return found


def host_id() -> str:
    """Of the system that runs here (machine-id(5)); of this boot, where it has none."""
    for place in (_MACHINE_ID, Path("/proc/sys/kernel/random/boot_id")):
        try:
            if text := place.read_text().strip():
                return text
        except OSError:
            continue
    return os.uname().nodename
