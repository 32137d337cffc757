"""What can go wrong between an NBD client and its server."""

from __future__ import annotations

import errno as codes
from typing import Any

from homeport.disks.errors import DiskError


class NbdError(DiskError):
    """The server refused one request; ``errno`` and ``name`` say why. The connection goes on."""

    code = "disk.nbd-error"

    def __init__(self, cause: str, *, errno: int = codes.EIO, **details: Any) -> None:
        self.errno = errno
        self.name = codes.errorcode.get(errno, str(errno))
        super().__init__(cause, errno=self.name, **details)


class NbdRefused(NbdError):
    """The server doesn't offer what was asked for (the export, a metadata context, a feature)."""

    code = "disk.nbd-refused"
    remedy = "Check the export's name and that the server is one that Homeport started."

    def __init__(self, cause: str, *, errno: int = codes.ENOTSUP, **details: Any) -> None:
        super().__init__(cause, errno=errno, **details)


class NbdClosed(NbdError):
    """The connection is gone: the server ended, did not answer in time or broke the protocol. Connect again."""

    code = "disk.nbd-closed"
    remedy = "Check that the process that serves this disk is alive; a new connection is made at the next try."

    def __init__(self, cause: str, *, errno: int = codes.ESHUTDOWN, **details: Any) -> None:
        super().__init__(cause, errno=errno, **details)
