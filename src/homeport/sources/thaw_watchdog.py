"""A process of its own that thaws a guest's file systems when nobody else does.

    python -m homeport.sources.thaw_watchdog --agent PATH --socket FD --seconds N

It is started *before* the freeze, in its own session, and outlives whoever started it. The guest agent's socket takes
one client at a time, so it inherits the very connection over which its parent freezes (FD): whether the parent is dead
(the inherited copy keeps the connection open) or alive and stuck (a new client would wait behind it), the watchdog can
speak at once, and the thaw reaches the agent after the freeze. Only where that connection is dead it makes a new one.

It answers "ready" on stdout, then waits for the word "done" on stdin: exit 0. Without it, after N seconds or as soon as
the pipe's other end closes, it says "thawing" and thaws, again and again until the agent confirms it (exit 3). It gives
up (exit 4) after ten minutes, or when nothing listens at the socket any more: the machine's process ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time

from homeport.qemu.agent import GuestAgent
from homeport.qemu.errors import AgentError, AgentSilent
from homeport.sources.waiting import readable

THAWED = 3
GAVE_UP = 4
_PATIENCE = 600.0
_AGAIN = 1.0
_ANSWER = 5.0


def told(descriptor: int, seconds: float) -> bool:
    """Whether "done" comes over ``descriptor`` within ``seconds``; False at once where its other end closes."""
    deadline = time.monotonic() + seconds
    word = b""
    while (left := deadline - time.monotonic()) > 0:
        if not readable(descriptor, left):
            break
        data = os.read(descriptor, 64)
        if not data:
            break
        word += data
        if b"done" in word:
            return True
    return False


def thaw(path: str, inherited: socket.socket) -> bool:
    """Thaw until the agent confirms it. False after ten minutes, or when the machine's process is gone."""
    deadline = time.monotonic() + _PATIENCE
    connection: socket.socket | None = inherited
    while time.monotonic() < deadline:
        try:
            agent = GuestAgent.on(connection, _ANSWER) if connection else GuestAgent(path, _ANSWER)
            with agent:
                agent.thaw()
                if agent.freeze_status() == "thawed":
                    return True
        except (AgentSilent, AgentError) as error:
            if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                return False
        connection = None
        time.sleep(_AGAIN)
    return False


def main() -> int:
    options = argparse.ArgumentParser(prog="thaw_watchdog")
    options.add_argument("--agent", required=True, help="path of the guest agent's socket")
    options.add_argument("--socket", required=True, type=int, help="inherited descriptor of a connection to it")
    options.add_argument("--seconds", required=True, type=float, help="how long the file systems may stay frozen")
    given = options.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ending it early could leave a guest frozen for ever; it ends by itself soon enough.
        signal.signal(number, signal.SIG_IGN)
    inherited = socket.socket(fileno=given.socket)
    os.write(sys.stdout.fileno(), b"ready\n")
    if told(sys.stdin.fileno(), given.seconds):
        return 0
    # Said before the connection is used: from here on its other holder can't tell whose answers it reads.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), b"thawing\n")
    return THAWED if thaw(given.agent, inherited) else GAVE_UP


if __name__ == "__main__":
    sys.exit(main())
