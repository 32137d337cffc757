"""Registration keys: made by an operator, used up by the one server that joins with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets as random
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from homeport.domain.errors import HomeportError
from homeport.domain.servers import REGISTRATION_KEY_LIFE, Role, ServerName, check_name
from homeport.trust import security
from homeport.trust.certificates import key_digest, read_request
from homeport.trust.clocks import ClockSkew, compare_clocks
from homeport.trust.registration import KeyTampered, RegistrationKey
from homeport.trust.security import Event
from homeport.vault import configuration_backups, inventory, servers
from homeport.vault.core import Core
from homeport.vault.database import Json, RegistrationKeyRow, ServerRow


class KeyExpired(HomeportError):
    code = "registration.expired"
    remedy = "Make another with `homeport vault key new`."


class KeyOfOtherVault(HomeportError):
    code = "registration.other-vault"
    remedy = "Make one at this vault with `homeport vault key new`; or join that vault, at its own address."


class KeyUnknown(HomeportError):
    """Its record is gone: the vault was restored since."""

    code = "registration.unknown"
    remedy = "Make another with `homeport vault key new`."


class KeyUsed(HomeportError):
    code = "registration.used"
    remedy = (
        "Each server needs a key of its own: `homeport vault key new`. If you did not use this one before, somebody "
        "else did: `homeport server list`, then `homeport server revoke NAME`."
    )


class StillThere(HomeportError):
    """Two configuration servers with one identity would both act for the site."""

    code = "configuration-server.still-there"
    remedy = (
        "Stop it, and run the restore again some seconds later. Where it can't be stopped, `homeport server revoke "
        "NAME` at the vault first: then nobody takes its word any more."
    )


class NoAddress(HomeportError):
    code = "registration.no-address"
    remedy = "Say how servers reach the vault: `homeport vault key new --site SITE --url https://HOST:PORT`."


def make(
    core: Core, site: str, urls: list[str], *, replace: bool = False, life: timedelta = REGISTRATION_KEY_LIFE
) -> RegistrationKey:
    """``urls``: where the server will reach the vault; none: as the vault knows it. Raises SiteNotFound,
    :class:`NoAddress`."""
    addresses = urls or servers.known_urls(core)
    if not addresses:
        raise NoAddress("The vault doesn't know under which address servers reach it.")
    at = core.clock()
    secret = random.token_hex(32)
    key = RegistrationKey.make(
        core.authority.issuer,
        id=random.token_hex(8),
        vault=core.secrets.vault_id,
        site=site,
        urls=tuple(addresses),
        authority=core.authority.pem,
        expires=at + life,
        secret=secret,
        replace=replace,
    )
    with core.database.write() as session:
        inventory.site(session, site)
        session.add(
            RegistrationKeyRow(
                id=key.id, site=site, secret=_digest(secret), replace=replace, created=at, expires=key.expires
            )
        )
    security.record(Event.KEY_MADE, key=key.id, site=site, expires=key.expires.isoformat(), replace=replace)
    return key


def join(core: Core, text: str, name: str, request: str, their_time: datetime, restores: str | None = None) -> Json:
    """A configuration server joins with a key's ``text``. ``their_time``: what its clock shows. The same server may
    ask again until it has its certificate; the key is used up when that is first shown (servers.hear). ``restores``:
    it is a lost one that is restored, from the "vault" or a "file"; without a name it has the lost one's. Raises
    :class:`ClockSkew`, :class:`StillThere`, NoBackup, and what is wrong with the key; all of it is logged."""
    try:
        compare_clocks("the vault", core.clock(), "the server", their_time)
        key = _checked(core, text)
        if restores is not None:
            name = _restored(core, key.site, name, from_vault=restores == "vault")
        return _join(core, key, name, request)
    except ClockSkew as error:
        security.record(Event.CLOCK_REFUSED, name=name, reason=error.cause)
        raise
    except KeyUsed as error:
        security.record(Event.KEY_REPLAYED, name=name, reason=error.cause)
        raise
    except HomeportError as error:
        security.record(Event.KEY_REFUSED, name=name, code=error.code, reason=error.cause)
        raise


def _restored(core: Core, site: str, name: str, *, from_vault: bool) -> str:
    """The name of a configuration server that may be restored now."""
    with core.database.read() as session:
        inventory.site(session, site)
        before = servers.configuration_servers(session, site)
        backup = configuration_backups.newest(session, site)
    if from_vault and backup is None:
        raise configuration_backups.NoBackup(f"The vault keeps no backup of a configuration server of site {site!r}.")
    revoked = bool(before) and all(row.state == servers.REVOKED for row in before)
    if not revoked and not core.liveness.gone(site, core.timeouts.gone):
        raise StillThere(f"The configuration server of site {site!r} is still there, or was a moment ago.")
    lost = before[0].name if before else backup["server"] if backup is not None else ""
    return name or lost


def _checked(core: Core, text: str) -> RegistrationKey:
    key = RegistrationKey.parse(text)
    if key.vault != core.secrets.vault_id:
        raise KeyOfOtherVault(f"The registration key is of vault {key.vault}; this is {core.secrets.vault_id}.")
    key.verify(core.authority.pem)
    if key.expires <= core.clock():
        raise KeyExpired(f"The registration key {key.id} expired {key.expires.isoformat(timespec='minutes')}.")
    return key


def _join(core: Core, key: RegistrationKey, name: str, request: str) -> Json:
    who = ServerName(core.secrets.vault_id, Role.CONFIGURATION_SERVER, key.site, check_name(name))
    public = key_digest(read_request(request))
    with core.database.write() as session:
        row = session.get(RegistrationKeyRow, key.id)
        if row is None:
            raise KeyUnknown(f"The vault has no record of the registration key {key.id}.")
        if not hmac.compare_digest(row.secret, _digest(key.secret)):
            raise KeyTampered(f"The secret of the registration key {key.id} is not the one that was given out.")
        mine = row.key == public and row.server == name
        again = servers.certificate_of(session, name, public) if mine else None
        if row.used is not None and again is None:
            raise KeyUsed(f"{row.server!r} joined with the registration key {key.id} at {row.used.isoformat()}.")
        if again is None:
            inventory.site(session, key.site)
            _let_go(core, session, row, name)
            servers.free_for(core, session, who, replace=row.replace)
            servers.take_place(core, session, who, public)
            row.server, row.key = name, public
            again = servers.issue(core, session, who, request)
    return servers.admitted(core, again, key.site)


def _let_go(core: Core, session: Session, row: RegistrationKeyRow, name: str) -> None:
    """Another server began with this key, and its join never ended: what it got counts for nothing now."""
    if row.key is None or row.server is None:
        return
    before = session.get(ServerRow, row.server)
    security.record(Event.KEY_REBOUND, key=row.id, before=row.server, now=name)
    servers.revoke_key(core, session, row.server, row.key)
    if before is not None and before.state == servers.JOINING and before.key == row.key and row.server != name:
        before.removed = core.clock()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
