"""KVM or software emulation? Decided by booting something, never by the existence of /dev/kvm.

There are hosts whose /dev/kvm opens, and on which no ordinary guest boots (nested or paravirtual flavours of KVM);
QEMU's own ``-accel kvm:tcg`` can't notice. The answer is kept per kernel release, boot and QEMU version.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from homeport.domain.errors import HomeportError
from homeport.sites.qemu import bootsector, locks
from homeport.sites.qemu.durable import write_durably

log = structlog.get_logger(__name__)

OVERRIDE = "HOMEPORT_ACCELERATOR"
KERNEL = "HOMEPORT_PROBE_KERNEL"
"""Names a Linux kernel to boot for the probe."""

PROBE_SECONDS = 15.0
_DEVICE = Path("/dev/kvm")
_NO_ROOT = ("Unable to mount root fs", "Cannot open root device", "No working init found")


@dataclass(frozen=True)
class Accelerator:
    """``kind``: kvm or tcg; ``why``: how that was found, for people."""

    kind: str
    why: str


def choose(cache: Path, kernel: Path | None = None) -> Accelerator:
    """The accelerator for machines that leave it open. ``cache``: a folder for the answer; ``kernel``: to probe with.

    Never raises for what the host can't do (that means tcg); raises HomeportError for a wrong override.
    """
    forced = os.environ.get(OVERRIDE)
    if forced:
        if forced not in ("kvm", "tcg"):
            raise HomeportError(
                f"{OVERRIDE}={forced}",
                code="site.accelerator-unknown",
                remedy=f"Set {OVERRIDE} to kvm or tcg, or not at all.",
            )
        return Accelerator(forced, f"set by {OVERRIDE}")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_DEVICE} is {'not accessible' if _DEVICE.exists() else 'not there'}")
    kernel = kernel or _kernel()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / "accelerator.json"
    with locks.exclusive(cache / "accelerator.lock"):
        key = _key(kernel)
        known = _recall(place, key)
        if known is None:
            known = probe("kvm", "host", kernel)
            write_durably(place, json.dumps({"key": key, **asdict(known)}) + "\n")
            log.info("accelerator probed", kind=known.kind, why=known.why)
    return known


def default_cache() -> Path:
    """Where the answer is kept: per user, for all sites of this host."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homeport"


def probe(kind: str, cpu: str, kernel: Path | None, seconds: float = PROBE_SECONDS) -> Accelerator:
    """Boot under ``kind``: a Linux kernel until it misses its root file system, else the boot sector."""
    with tempfile.TemporaryDirectory(prefix="hp-probe-") as folder:
        command = ["qemu-system-x86_64", "-accel", kind, "-cpu", cpu, "-no-user-config", "-nodefaults"]
        command += ["-display", "none", "-no-reboot", "-serial", "stdio"]
        if kernel is not None:
            command += ["-m", "256", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
            what = f"{kernel.name} booted"
        else:
            image = Path(folder) / "boot.img"
            image.write_bytes(bootsector.boot_sector())
            command += ["-m", "16", "-device", "isa-debug-exit"]
            command += ["-drive", f"file={image},format=raw,if=ide,snapshot=on"]
            what = "a boot sector reached 64-bit mode"
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Accelerator("tcg", f"a guest did not boot under {kind} within {seconds:g} s")
        except OSError as error:
            return Accelerator("tcg", f"qemu-system-x86_64 could not be run: {error.strerror}")
    output = done.stdout.decode(errors="replace")
    passed = any(text in output for text in _NO_ROOT) if kernel is not None else done.returncode == bootsector.PASSED
    if passed:
        return Accelerator(kind, f"{what} under {kind}")
    last = [line.strip() for line in output.splitlines() if line.strip()][-1:] or ["without a word"]
    return Accelerator("tcg", f"a guest does not boot under {kind} (status {done.returncode}): {last[0][:200]}")


def _kernel() -> Path | None:
    """A Linux kernel to boot: the one named by the environment, else the newest readable of the host's own."""
    named = os.environ.get(KERNEL)
    if named:
        return Path(named)
    found = [path for path in Path("/boot").glob("vmlinuz-*") if os.access(path, os.R_OK)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _key(kernel: Path | None) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        version = subprocess.run(
            ["qemu-system-x86_64", "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        version = str(error)
    return hashlib.sha256("\n".join((os.uname().release, boot, version, str(kernel))).encode()).hexdigest()


def _recall(place: Path, key: str) -> Accelerator | None:
    try:
        kept = json.loads(place.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Accelerator(kept["kind"], kept["why"]) if kept.get("key") == key else None
