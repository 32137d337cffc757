"""A process of its own that lets held machines go on when nobody else does.

    python -m homeport.sources.hold_watchdog FD

FD: a socket (SOCK_SEQPACKET) to the process that holds machines. It says "ready", then answers

    guard KEY SECONDS   with the QMP connection's descriptor beside it: "guarded"
    done KEY            "done"; "late" where the machine was let go on already

A QMP socket takes one client at a time, so it is handed the very connection over which its parent stops the machine:
whether the parent is dead (the copy keeps the connection open) or alive and stuck (a new client would wait behind it),
"cont" reaches QEMU after the "stop". It is sent when the time is up, and for all that is guarded when the parent's end
closes; then this process ends.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
import time

CONT = b'{"execute": "cont", "id": "homeport-hold-watchdog"}\n'
_PATIENCE = 60.0
"""Seconds for which a connection that takes nothing is tried."""


class Watchdog:
    """``parent``: the socket to the process that holds machines."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._guarded: dict[str, tuple[float, int]] = {}
        """When each is due, and its connection."""

    def run(self) -> None:
        self._parent.send(b"ready")
        while True:
            due = min((at for at, _ in self._guarded.values()), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            if select.select([self._parent], [], [], wait)[0] and not self._listen():
                break
            for key in [key for key, (at, _) in self._guarded.items() if at <= time.monotonic()]:
                self._let_go(key)
        for key in list(self._guarded):
            self._let_go(key)

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
            self._guarded[key] = (time.monotonic() + float(more[0]), received[0])
            return self._answer(b"guarded")
        return self._answer(b"done" if self._forget(key) else b"late")

    def _answer(self, word: bytes) -> bool:
        try:
            self._parent.send(word)
        except OSError:
            return False
        return True

    def _forget(self, key: str) -> bool:
        """Whether it was guarded until now."""
        found = self._guarded.pop(key, None)
        if found is None:
            return False
        os.close(found[1])
        return True

    def _let_go(self, key: str) -> None:
        _, descriptor = self._guarded[key]
        left = CONT
        deadline = time.monotonic() + _PATIENCE
        try:
            while left and time.monotonic() < deadline:
                if select.select([], [descriptor], [], 1.0)[1]:
                    left = left[os.write(descriptor, left) :]
        except OSError:
            pass  # the machine's process is gone, or its connection: then nobody can hold it over this one either
        self._forget(key)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ending it early could leave machines standing still for ever; it ends by itself when its parent does.
        signal.signal(number, signal.SIG_IGN)
    Watchdog(socket.socket(fileno=int(sys.argv[1]))).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
