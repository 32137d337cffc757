"""Copying a recovery point into a machine's own disks while it runs: one block-stream job per disk.

A stream job may run while the tracker of changes switches its copy-before-write nodes in and out under the raw filter
``diskN``, as long as those lie over ``diskN-format`` *by that name* (tried with QEMU 7.2: the job's own filter, which
it puts over ``diskN-format``, is then passed by; copying is serialised with the guest's writes in ``diskN-format``).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homeport.domain.machines import Disk
from homeport.qemu.qmp import Qmp, QmpError
from homeport.sites.errors import SiteError
from homeport.sites.interface import Hydration
from homeport.sites.qemu import launch
from homeport.sites.qemu.description import Description


def job_id(disk: str) -> str:
    return f"hydrate-{disk}"


def stream(qmp: Qmp, disks: tuple[Disk, ...], bytes_per_second: int) -> Hydration:
    """Begin, go on with or re-rate the jobs of all disks.

    ``bytes_per_second``: for all of them together; 0: no limit.
    """
    backed = _backed(qmp)
    speed = -(-bytes_per_second // max(len(backed & {disk.id for disk in disks}), 1))
    done = 0
    for disk in disks:
        if disk.id not in backed:
            done += disk.size
            continue
        job = _job(qmp, disk.id)
        if job is None:
            _start(qmp, disk.id, speed)
        else:
            if job["speed"] != speed:
                qmp.execute("block-job-set-speed", {"device": job_id(disk.id), "speed": speed})
            done += min(int(job["offset"]), disk.size)
    return Hydration(done, sum(disk.size for disk in disks), finished=not backed & {disk.id for disk in disks})


def _start(qmp: Qmp, disk: str, speed: int) -> None:
    try:
        qmp.execute(
            "block-stream",
            {"job-id": job_id(disk), "device": f"{disk}-format", "speed": speed, "filter-node-name": f"{disk}-hydrate"},
        )
    except QmpError as error:
        # another view of this machine may have begun it since we looked
        if _job(qmp, disk) is None and disk in _backed(qmp):
            raise SiteError(f"{disk} can't be copied out of its recovery point: {error.desc}") from error


def _job(qmp: Qmp, disk: str) -> dict[str, Any] | None:
    jobs: list[dict[str, Any]] = qmp.execute("query-block-jobs")
    return next((job for job in jobs if job["device"] == job_id(disk)), None)


def _backed(qmp: Qmp) -> set[str]:
    """Disks whose format node still has a backing."""
    nodes = qmp.execute("query-named-block-nodes", {"flat": True})
    suffix = "-format"
    return {
        str(node["node-name"]).removesuffix(suffix)
        for node in nodes
        if str(node["node-name"]).endswith(suffix) and node.get("backing_file")
    }


def settle(qmp: Qmp, run: Path, description: Description, write: Callable[[], None]) -> None:
    """All is copied: make it durable, ``write`` that down, and let go of the point's server.

    A job's end changes the image's header, but its tables may still be in the process's memory: only after a flush
    may a later start do without the point.
    """
    for disk in description.disks:
        if description.runner == "storage-daemon":
            _flush_export(qmp, run, disk.id)
        else:
            answer = qmp.execute("human-monitor-command", {"command-line": f'qemu-io {disk.id}-format "flush"'})
            if str(answer).strip():
                raise SiteError(f"{disk.id} could not be flushed after it was copied: {answer.strip()}")
    write()
    nodes = {node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True})}
    for disk in description.disks:
        if f"{disk.id}-point" in nodes:
            qmp.execute("blockdev-del", {"node-name": f"{disk.id}-point"})


def _flush_export(qmp: Qmp, run: Path, disk: str) -> None:
    """qemu-storage-daemon has no command that flushes: an NBD client of it can."""
    identity = f"{disk}-flush"
    qmp.execute(
        "block-export-add",
        {"type": "nbd", "id": identity, "node-name": f"{disk}-format", "name": identity, "writable": True},
    )
    try:
        done = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "flush", f"nbd+unix:///{identity}?socket={launch.DISKS}"],
            cwd=run,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise SiteError(f"{disk} could not be flushed after it was copied: {done.stderr.strip()}")
    finally:
        remove_export(qmp, identity)


def remove_export(qmp: Qmp, identity: str, timeout: float = 30.0) -> None:
    """Remove an export, its clients notwithstanding, and wait until it is gone. Absent: fine."""
    if identity not in {export["id"] for export in qmp.execute("query-block-exports")}:
        return
    qmp.execute("block-export-del", {"id": identity, "mode": "hard"})
    gone = qmp.wait_event("BLOCK_EXPORT_DELETED", timeout, where=lambda data: data.get("id") == identity)
    if gone is None:
        raise SiteError(f"export {identity} did not end within {timeout:g} s")
