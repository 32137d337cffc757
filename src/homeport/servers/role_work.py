"""What a process server or a master target does where it is a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from homeport import __version__
from homeport.servers.relay import RESUME
from homeport.servers.work.errors import UnknownKind
from homeport.servers.work.master_target_work import MasterTargetWork
from homeport.servers.work.process_server_work import ProcessServerWork
from homeport.servers.work.site_context import Fences, Params, Progress, Report, Result
from homeport.servers.work.site_work import folder_missing


class RoleWork:
    """The work of one role. ``state``: its own folder, where fences are remembered; ``folder``: the servers' at the
    site, which must be there. ``changed``: called when what its greeting tells has changed."""

    def __init__(self, role: ProcessServerWork | MasterTargetWork, folder: Path, state: Path) -> None:
        self._role = role
        self._folder = folder
        self._fences = Fences(state / "fences")
        self.heard: Callable[[dict[str, Any]], None] = lambda answer: None
        """Called with what is answered to a greeting."""
        self._superseded: list[str] = []
        """Of those told."""
        self.changed: Callable[[], None] = lambda: None

    def connect(self, report: Report) -> None:
        if isinstance(self._role, ProcessServerWork):
            self._role.connect(report)
            self._role.resume_own()

    def present(self) -> bool:
        return self._folder.is_dir()

    def greet(self, hello: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        told: dict[str, Any] = {"role": str(self._role.duty), "version": __version__, "facts": self._role.facts()}
        if isinstance(self._role, ProcessServerWork):
            told |= {"gateway": self._role.gateway(), "items": self._role.items()}
            self._superseded = self._role.superseded()
            told |= {"superseded": self._superseded, "dialled": self._role.elsewhere}
        self.heard(hello(told))

    def resume(self, replications: list[Params]) -> None:
        if isinstance(self._role, ProcessServerWork):
            self._role.resume(replications)

    def carry_out(self, kind: str, params: Params, progress: Progress, id: str = "") -> Result:
        """Raises UnknownKind, StaleWork, and whatever keeps the work from being done."""
        if not self.present():
            raise folder_missing(self._role.name)
        if kind == RESUME:
            self.resume(params["replications"])
            return {}
        if kind not in self._role.kinds:
            raise UnknownKind(f"unknown kind of work: {kind}")
        self._fences.check(params)
        return self._role.kinds[kind](params, progress)

    def tend(self) -> None:
        """Replication looks after itself; how busy the host is is averaged over many looks."""
        if isinstance(self._role, ProcessServerWork):
            self._role.tend()
            if self._role.superseded() != self._superseded:  # if that was wrong, points wait for it to be told
                self.changed()

    def stop(self) -> None:
        if isinstance(self._role, ProcessServerWork):
            self._role.stop()
