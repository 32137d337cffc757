"""What a mobility service does: it serves each machine of its host to the process server that has it.

It has no part in the vault's work. Its configuration server tells it who has which machine; it dials these.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from homeport import __version__
from homeport.mobility.sender import Assignment, Sender
from homeport.mobility.uplink import Uplink
from homeport.servers.durable import write_durably
from homeport.servers.relay import RESUME
from homeport.servers.work.errors import UnknownKind
from homeport.servers.work.kinds import Duty
from homeport.servers.work.site_context import Params, Progress, Report, Result
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

_KEPT = "sources.json"


def remembered(state: Path) -> list[Params]:
    """What the configuration server told last: {"vm", "process_server", "url", "fence"} of each machine."""
    path = state / _KEPT
    found: list[Params] = json.loads(path.read_bytes()) if path.exists() else []
    return found


class MobilityWork:
    """``folder``: the site's, which must be there; ``state``: where is kept who has which machine, so that it goes on
    while the configuration server is away."""

    duty = Duty.MOBILITY_SERVICE

    def __init__(self, identity: Identity, sender: Sender, folder: Path, state: Path) -> None:
        self._identity = identity
        self._sender = sender
        self._folder = folder
        self._state = state
        self._lock = threading.RLock()
        self._uplinks: dict[tuple[str, str], Uplink] = {}

    def connect(self, report: Report) -> None:
        self._serve(remembered(self._state))

    def present(self) -> bool:
        return self._folder.is_dir()

    def greet(self, hello: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        hello({"role": str(self.duty), "version": __version__, "facts": {}})

    def resume(self, replications: list[Params]) -> None:
        with self._lock:  # two words may come at once
            write_durably(self._state / _KEPT, json.dumps(replications).encode())
            self._serve(replications)

    def _serve(self, told: list[Params]) -> None:
        with self._lock:
            self._sender.name(
                {each["vm"]: Assignment(each["process_server"], each["url"], each["fence"]) for each in told}
            )
            wanted = {(one.process_server, one.url) for one in self._sender.named.values()}
            for key in set(self._uplinks) - wanted:
                self._uplinks.pop(key).stop()
            for uplink in self._uplinks.values():
                uplink.refresh()
            for server, url in sorted(wanted - set(self._uplinks)):
                log.info("dials a process server", server=server, url=url)
                uplink = self._uplinks[server, url] = Uplink(server, url, self._identity, self._sender)
                uplink.start()

    def carry_out(self, kind: str, params: Params, progress: Progress, id: str = "") -> Result:
        """Raises UnknownKind."""
        if kind != RESUME:
            raise UnknownKind(f"unknown kind of work: {kind}")
        self.resume(params["replications"])
        return {}

    def uplinks(self) -> list[Uplink]:
        with self._lock:
            return [uplink for _, uplink in sorted(self._uplinks.items())]

    def tend(self) -> None:
        self._sender.tend()

    def stop(self) -> None:
        for uplink in self.uplinks():
            uplink.stop()
        self._sender.close()
