"""The servers of a vault: their roles, how each is named, when a certificate is renewed, who is upgraded first."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from homeport.domain.errors import HomeportError

CLOCK_SKEW = timedelta(minutes=5)
"""Clocks that differ by more are refused at a join (reference 1.3)."""
CERTIFICATE_LIFE = timedelta(days=90)
EXPIRY_WARNING = timedelta(days=30)
REGISTRATION_KEY_LIFE = timedelta(days=5)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NO_SITE = "-"
"""In a URI, of a vault's own server: no site can have this name."""


class Role(enum.StrEnum):
    VAULT = "vault"
    CONFIGURATION_SERVER = "configuration-server"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"
    MOBILITY_SERVICE = "mobility-service"


JOIN_BY_PASSPHRASE = frozenset({Role.PROCESS_SERVER, Role.MASTER_TARGET, Role.MOBILITY_SERVICE})
"""They join their configuration server; that joins the vault by registration key."""


class ServerNameInvalid(HomeportError):
    code = "server.name-invalid"
    remedy = "Use letters, digits, dots, dashes and underscores, at most 63."


@dataclass(frozen=True)
class ServerName:
    """Whom a certificate is for. ``vault``: its id; ``site``: empty for a vault's own server."""

    vault: str
    role: Role
    site: str
    name: str

    @property
    def uri(self) -> str:
        """``homeport://<vault>/<role>/<site>/<name>``: the identity, whatever addresses and host names change."""
        return f"homeport://{self.vault}/{self.role}/{self.site or _NO_SITE}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> ServerName:
        """Raises :class:`ServerNameInvalid`."""
        scheme, _, rest = uri.partition("://")
        parts = rest.split("/")
        if scheme != "homeport" or len(parts) != 4 or not parts[0] or parts[1] not in set(Role):
            raise ServerNameInvalid(f"{uri!r} names no server of a vault.")
        vault, role, site, name = parts
        if site != _NO_SITE:
            check_name(site)
        return cls(vault, Role(role), "" if site == _NO_SITE else site, check_name(name))


def check_name(name: str) -> str:
    """Raises :class:`ServerNameInvalid`."""
    if not _NAME.fullmatch(name):
        raise ServerNameInvalid(f"{name!r} can't name a server.")
    return name


def renewal_due(not_before: datetime, not_after: datetime, at: datetime) -> bool:
    """Whether less than a third of a certificate's life is left."""
    return not_after - at < (not_after - not_before) / 3


def expires_soon(not_after: datetime, at: datetime) -> bool:
    """Whether to warn: renewal should have happened long ago."""
    return not_after - at < EXPIRY_WARNING


def skewed(one: datetime, other: datetime) -> bool:
    return abs(one - other) > CLOCK_SKEW


UPGRADE_ORDER: tuple[frozenset[Role], ...] = (
    frozenset({Role.VAULT}),
    frozenset({Role.CONFIGURATION_SERVER}),
    frozenset({Role.PROCESS_SERVER, Role.MASTER_TARGET}),
    frozenset({Role.MOBILITY_SERVICE}),
)
"""Reference F22: nobody is newer than who tells it what to do."""


@dataclass(frozen=True)
class Installed:
    """``version``: None while a server has not told it."""

    name: str
    role: Role
    site: str
    version: str | None


def upgrade_step(role: Role) -> int:
    """1 is upgraded first."""
    return next(number for number, roles in enumerate(UPGRADE_ORDER, start=1) if role in roles)


def upgrade_next(servers: Iterable[Installed], newest: str) -> list[str]:
    """Names of those to upgrade now to ``newest``: behind it, with nobody before them in the order who is (of their
    own site, or of none). Another site need not be waited for."""
    behind = [server for server in servers if server.version != newest]
    return sorted(
        server.name
        for server in behind
        if not any(
            upgrade_step(other.role) < upgrade_step(server.role) and other.site in ("", server.site) for other in behind
        )
    )
