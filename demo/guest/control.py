"""Talking to a plain guest's QEMU (QMP) and to the agent inside it: JSON lines over a unix socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any


class ControlError(Exception):
    """The other side refused a command, or is gone."""


class Control:
    """A connection; ``agent``: to the guest agent, which needs a synchronisation first (QEMU Guest Agent reference,
    guest-sync-delimited). Raises OSError when nobody listens or answers in time."""

    def __init__(self, path: Path, *, agent: bool = False, timeout: float = 30) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        if agent:
            self._synchronise()
        else:
            self._lines.readline()  # QMP's greeting
            self.run("qmp_capabilities")

    def run(self, command: str, **arguments: Any) -> Any:
        """The command's result. Raises ControlError, OSError."""
        self._send(command, arguments)
        while True:
            line = self._lines.readline()
            if not line:
                raise ControlError(f"{command}: the other side is gone")
            answer = json.loads(line)
            if "error" in answer:
                raise ControlError(f"{command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def send(self, command: str, **arguments: Any) -> None:
        """For a command that nobody will answer, e.g. guest-shutdown."""
        self._send(command, arguments)

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    def _synchronise(self) -> None:
        # 0xFF resets the agent's parser; whatever it answers up to its own 0xFF is somebody else's.
        self._socket.sendall(b"\xff")
        self._send("guest-sync-delimited", {"id": 7})
        while True:
            line = self._lines.readline()
            if not line:
                raise ControlError("the guest agent is gone")
            if b"\xff" in line and json.loads(line.rpartition(b"\xff")[2]) == {"return": 7}:
                return
