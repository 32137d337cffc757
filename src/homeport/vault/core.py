"""What every part of the vault works with: its folder, database, secrets, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.vault.database import Database
from homeport.vault.liveness import Liveness
from homeport.vault.secrets import Secrets
from homeport.vault.signal import Signal


@dataclass(frozen=True)
class Timeouts:
    """Seconds. ``silence``: how long a site's server may be silent before what it was asked counts as failed;
    ``gone``: before a best-effort step does not even ask; the others bound single steps."""

    silence: float = 60
    gone: float = 10
    shut_down: float = 120
    planned_stop: float = 1800
    take_point: float = 30
    stop_replication: float = 5
    inventory: float = 30
    forget: float = 60
    resumed: float = 60


@dataclass
class Core:
    state: Path
    database: Database
    secrets: Secrets
    signal: Signal
    timeouts: Timeouts
    liveness: Liveness = field(default_factory=Liveness)
    site_listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)


class NotRunning(HomeportError):
    code = "vault.not-running"
    remedy = "Start it with `homeport up`."


_current: Core | None = None


def current() -> Core:
    """The vault of this process: durable workflows are module-level functions and find it here."""
    if _current is None:
        raise NotRunning("The vault is not running in this process.")
    return _current


def enter(core: Core | None) -> None:
    """Make ``core`` the vault of this process; None when it stops."""
    global _current
    if core is not None and _current is not None:
        raise NotRunning(f"A vault runs in this process already, in {_current.state}.")
    _current = core
