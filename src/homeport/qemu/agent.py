"""The guest agent's client: JSON lines over the unix socket of a virtio-serial port.

Like QMP's, the socket takes one client at a time. A client that went away in the middle of a command leaves junk
behind, so each connection begins with 0xFF (resets the agent's parser) and ``guest-sync-delimited`` (QEMU's
documentation of the guest agent protocol), and reads past everything before that command's answer.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from homeport.disks import unixpath
from homeport.qemu.errors import AgentError, AgentSilent

__all__ = ["AgentError", "AgentSilent", "GuestAgent"]

_DELIMITER = b"\xff"
_LONGEST_ANSWER = 16 << 20


class GuestAgent:
    """A connection to the agent, in step with it. ``timeout`` in seconds, for each command unless said otherwise.

    Raises :class:`AgentSilent` where nobody answers, :class:`AgentError` where the agent refuses. Not thread-safe.
    """

    def __init__(self, path: str | Path, timeout: float = 5.0) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            unixpath.connect(sock, path)
        except OSError as error:
            sock.close()
            raise AgentSilent(f"{path}: {error or 'nobody accepts the connection'}") from error
        self._begin(sock, str(path), timeout)

    @classmethod
    def on(cls, sock: socket.socket, timeout: float = 5.0) -> GuestAgent:
        """Over a socket that is connected already (inherited from another process, say)."""
        agent = cls.__new__(cls)
        agent._begin(sock, "the inherited socket", timeout)
        return agent

    def _begin(self, sock: socket.socket, name: str, timeout: float) -> None:
        self.socket = sock
        self._name = name
        self._timeout = timeout
        self._read = b""
        try:
            self.synchronize()
        except BaseException:
            sock.close()
            raise

    def synchronize(self, timeout: float | None = None) -> None:
        """Get in step: whatever was asked before is answered into the void."""
        number = secrets.randbelow(1 << 31)
        question = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        deadline = self._deadline(timeout)
        self._send(_DELIMITER + json.dumps(question).encode() + b"\n", deadline)
        while True:
            self._read_past(_DELIMITER, deadline)
            try:
                answer = json.loads(self._line(deadline))
            except ValueError:
                continue  # the rest of something older
            if isinstance(answer, dict) and answer.get("return") == number:
                return

    def command(self, name: str, arguments: dict[str, Any] | None = None, timeout: float | None = None) -> Any:
        """The command's return value."""
        self._ask(name, arguments, timeout)
        try:
            answer = json.loads(self._line(self._deadline(timeout)))
        except ValueError as error:
            raise AgentSilent(f"{self._name}: {name}: the answer is no JSON") from error
        if "error" in answer:
            reason = answer["error"]
            raise AgentError(str(reason.get("class", "")), str(reason.get("desc", "")), name)
        return answer.get("return")

    def ping(self) -> None:
        """Return when the agent answers."""
        self.command("guest-ping")

    def freeze(self, timeout: float | None = None) -> int:
        """Freeze the guest's file systems; how many. They stay frozen until :meth:`thaw`, whoever dies."""
        return self._count("guest-fsfreeze-freeze", timeout)

    def thaw(self, timeout: float | None = None) -> int:
        """Thaw them; how many were frozen."""
        return self._count("guest-fsfreeze-thaw", timeout)

    def _count(self, name: str, timeout: float | None) -> int:
        answer = self.command(name, timeout=timeout)
        if not isinstance(answer, int):
            raise AgentSilent(f"{self._name}: {name}: the answer is another command's: {answer!r}")
        return answer

    def freeze_status(self) -> str:
        """ "thawed" or "frozen"."""
        return str(self.command("guest-fsfreeze-status"))

    def shutdown(self) -> None:
        """Ask the guest to power down. There is no answer when it works."""
        self._ask("guest-shutdown", {"mode": "powerdown"}, None)

    def close(self) -> None:
        """Twice does no harm."""
        self.socket.close()

    def __enter__(self) -> GuestAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _ask(self, name: str, arguments: dict[str, Any] | None, timeout: float | None) -> None:
        question = {"execute": name, **({"arguments": arguments} if arguments else {})}
        self._send(json.dumps(question).encode() + b"\n", self._deadline(timeout))

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.01))
            self.socket.sendall(data)
        except OSError as error:
            raise AgentSilent(f"{self._name}: {error}") from error

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._read:
            self._more(deadline)
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _read_past(self, mark: bytes, deadline: float) -> None:
        while mark not in self._read:
            self._read = b""
            self._more(deadline)
        self._read = self._read.split(mark, 1)[1]

    def _more(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise AgentSilent(f"{self._name}: the guest agent did not answer in time")
        try:
            self.socket.settimeout(left)
            data = self.socket.recv(65536)
        except TimeoutError as error:
            raise AgentSilent(f"{self._name}: the guest agent did not answer in time") from error
        except OSError as error:
            raise AgentSilent(f"{self._name}: {error}") from error
        if not data:
            raise AgentSilent(f"{self._name}: the connection ended")
        if len(self._read) > _LONGEST_ANSWER:
            raise AgentSilent(f"{self._name}: an answer without end")
        self._read += data
