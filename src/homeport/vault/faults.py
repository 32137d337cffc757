"""Fault points for the kill tests: the vault kills itself at a named moment of a named step, exactly once.

``HOMEPORT_FAULT=<workflow>.<step>:<before|after|recorded>`` (several with commas): before the step's effect, after the
effect but before its record, or after its record. A marker in the state folder makes each of them happen once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

Moment = Literal["before", "after", "recorded"]

MOMENTS: tuple[Moment, ...] = ("before", "after", "recorded")


def point(state: Path, workflow: str, step: str, moment: Moment) -> None:
    """Kills this process if the environment asks for it here and it has not happened yet."""
    name = f"{workflow}.{step}:{moment}"
    if name not in os.environ.get("HOMEPORT_FAULT", "").split(","):
        return
    marker = state / f"fault-{name.replace(':', '-')}"
    try:
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
