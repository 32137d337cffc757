"""Telling systemd how a service is (sd_notify(3)): a datagram, where there is somebody to tell."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """``READY=1``, ``STOPPING=1``, ``STATUS=…``. Answers whether there was somebody to tell."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.sendall(state.encode())
        except OSError:
            return False
    return True
