"""Processes that outlive us: started detached, found again by pid *and* start time, ended by nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def process_identity(pid: int) -> dict[str, int]:
    """``pid`` with its start time (clock ticks since boot, proc(5) stat field 22): a recycled pid is another one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": pid, "started": int(fields[19])}


def is_running(identity: dict[str, int]) -> bool:
    try:
        stat = Path(f"/proc/{identity['pid']}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(stat[19]) == identity["started"] and stat[0] != "Z"


def end(identity: dict[str, int], timeout: float = 10.0) -> None:
    """SIGTERM, then SIGKILL after ``timeout`` seconds; returns when it is gone."""
    deadline = time.monotonic() + timeout
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if not is_running(identity):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity["pid"], sign)
        while is_running(identity) and time.monotonic() < deadline:
            time.sleep(0.02)
        deadline = time.monotonic() + timeout


def read_identity(path: Path) -> dict[str, int] | None:
    try:
        identity = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return {"pid": int(identity["pid"]), "started": int(identity["started"])}


def detach(serve: Callable[[], None], log: Path) -> int:
    """Run ``serve`` in a daemon (double fork, own session, output to ``log``); returns 0 in the caller at once.

    File descriptors (a lock) are inherited by the daemon; the caller exits without touching them.
    """
    if os.fork():
        return 0
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        serve()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
