"""A process of its own that lets held machines go on when nobody else does.

    python -m homeport.sources.hold_watchdog FD

FD: a socket (SOCK_SEQPACKET) to the process that holds machines. It says "ready", then answers

    guard KEY SECONDS   with the QMP connection's descriptor beside it: "guarded"
    done KEY            "done"; "late" where the machine was let go on already

A QMP socket takes one client at a time, so it is handed the very connection over which its parent stops the machine:
whether the parent is dead (the copy keeps the connection open) or alive and stuck (a new client would wait behind it),
"cont" reaches QEMU after the "stop". It is sent when the time is up, and for all that is guarded when the parent's end
closes; when QEMU has answered, this process ends.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass

from homeport.sources.waiting import readable, writable

NAME = b"homeport-hold-watchdog"
CONT = b'{"execute": "cont", "id": "' + NAME + b'"}\n'
_PATIENCE = 30.0
"""Seconds for which a connection that takes nothing, or answers nothing, is tried."""


@dataclass
class Guarded:
    """``due``: when it is let go (monotonic seconds); ``connection``: a descriptor; ``sent``: it was."""

    due: float
    connection: int
    sent: bool = False


class Watchdog:
    """``parent``: the socket to the process that holds machines."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._guarded: dict[str, Guarded] = {}

    def run(self) -> None:
        self._parent.send(b"ready")
        while True:
            due = min((each.due for each in self._guarded.values() if not each.sent), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            if readable(self._parent, wait) and not self._listen():
                break
            for each in self._guarded.values():
                if not each.sent and each.due <= time.monotonic():
                    _let_go(each)  # its answer is for the parent to read: it may be alive
        for each in self._guarded.values():
            if not each.sent:
                _let_go(each)
        for each in self._guarded.values():
            # QEMU forgets what it has not carried out yet when its client goes.
            _wait_for_answer(each)

    def _listen(self) -> bool:
        """False when the parent is gone."""
        try:
            data, ancillary, _, _ = self._parent.recvmsg(256, socket.CMSG_SPACE(4))
        except ConnectionError:
            return False
        if not data:
            return False
        received = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
        word, key, *more = data.decode().split()
        if word == "guard" and received:
            self._forget(key)
            self._guarded[key] = Guarded(time.monotonic() + float(more[0]), received[0])
            return self._answer(b"guarded")
        return self._answer(b"done" if self._forget(key) else b"late")

    def _answer(self, word: bytes) -> bool:
        try:
            self._parent.send(word)
        except OSError:
            return False
        return True

    def _forget(self, key: str) -> bool:
        """Whether it was held until now."""
        found = self._guarded.pop(key, None)
        if found is None:
            return False
        os.close(found.connection)
        return not found.sent


def _let_go(guarded: Guarded) -> None:
    guarded.sent = True
    left, deadline = CONT, time.monotonic() + _PATIENCE
    try:
        while left and time.monotonic() < deadline:
            if writable(guarded.connection, 1.0):
                left = left[os.write(guarded.connection, left) :]
    except OSError:
        return  # the machine's process is gone


def _wait_for_answer(guarded: Guarded) -> None:
    read, deadline = b"", time.monotonic() + _PATIENCE
    try:
        while NAME not in read and (left := deadline - time.monotonic()) > 0:
            if readable(guarded.connection, left):
                data = os.read(guarded.connection, 65536)
                if not data:
                    return
                read += data
    except OSError:
        return


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ending it early could leave machines standing still for ever; it ends by itself when its parent does.
        signal.signal(number, signal.SIG_IGN)
    Watchdog(socket.socket(fileno=int(sys.argv[1]))).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
