"""What every part of the vault works with: its folder, database, secrets, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.servers import CERTIFICATE_LIFE
from homeport.trust.identity import Identity
from homeport.vault.authority import Authority
from homeport.vault.database import Database, now
from homeport.vault.liveness import Liveness
from homeport.vault.secrets import Secrets
from homeport.vault.signal import Signal


@dataclass(frozen=True)
class Timeouts:
    """Seconds. ``silence``: how long a site's server may be silent before what it was asked counts as failed;
    ``gone``: before a best-effort step does not even ask; ``beat``: between two renewals of an instance's lease;
    ``lease``: how long an instance may be silent before the others take its work over; ``timers``: between two looks at
    what is due, ``timer_retry``: until what failed then is tried again; the rest bound single steps.
    """

    silence: float = 60
    gone: float = 10
    shut_down: float = 120
    planned_stop: float = 1800
    take_point: float = 30
    stop_replication: float = 5
    inventory: float = 30
    probe_store: float = 120
    forget: float = 60
    resumed: float = 60
    timers: float = 5
    timer_retry: float = 300
    beat: float = 5
    lease: float = 30


@dataclass
class Core:
    """``clock``: the present instant, for what is valid for a time; ``certificate_life``: of what the authority
    issues from now on."""

    state: Path
    database: Database
    secrets: Secrets
    authority: Authority
    signal: Signal
    timeouts: Timeouts
    liveness: Liveness = field(default_factory=Liveness)
    site_listeners: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    clock: Callable[[], datetime] = now
    certificate_life: timedelta = CERTIFICATE_LIFE
    own: Identity | None = None
    """Of this instance, where it is served over TLS."""
    host: str | None = None
    """That the vault lives on, as sites name theirs; None: not known, or on no single one."""


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
