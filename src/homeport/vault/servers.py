"""The vault's servers: who joined, with which certificates, and whose word is not taken any more.

key or passphrase ──▶ joining ──its certificate was shown──▶ joined ──▶ revoked | removed
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from homeport import __version__
from homeport.domain.errors import HomeportError
from homeport.domain.servers import (
    JOIN_BY_PASSPHRASE,
    Installed,
    Role,
    ServerName,
    check_name,
    expires_soon,
    upgrade_next,
    upgrade_step,
)
from homeport.trust import security, tls
from homeport.trust.certificates import (
    Peer,
    key_digest,
    make_request,
    new_key,
    peer_of,
    read_request,
    to_pem,
)
from homeport.trust.identity import Identity
from homeport.trust.private import write_private
from homeport.trust.security import Event
from homeport.vault import inventory
from homeport.vault.core import Core
from homeport.vault.database import CertificateRow, Json, RegistrationKeyRow, ServerRow, SettingRow

JOINING, JOINED, REVOKED = "joining", "joined", "revoked"
REVOCATIONS = "revocations"
"""Setting: {"number"}: of the newest list of revoked certificates."""
URLS = "urls"
"""Setting: {"urls"}: where servers reach this vault."""
_SEEN_EVERY = timedelta(seconds=10)


class ServerNotFound(HomeportError):
    code = "server.not-found"
    remedy = "See `homeport server list`."


class NameTaken(HomeportError):
    code = "server.name-taken"
    remedy = "Give this server another name; or, if it takes that one's place, `homeport server remove NAME` first."


class SiteTaken(HomeportError):
    code = "server.site-taken"
    remedy = "If that one is to be replaced, make the key with `homeport vault key new --site SITE --replace`."


class NotItsOwn(HomeportError):
    """A server asks for what only another may have."""

    code = "server.not-its-own"
    remedy = "A server acts for its own site, role and name. See docs/security.md, and the vault's log."


class ServerRevoked(HomeportError):
    code = "server.revoked"
    remedy = "An operator revoked it. `homeport server remove NAME` makes its name free; then join it anew."


class CertificateUnknown(HomeportError):
    code = "server.certificate-unknown"
    remedy = "Join this server anew: the vault keeps no record of its certificate."


# ── issuing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def find(session: Session, name: str) -> ServerRow:
    """Raises :class:`ServerNotFound`."""
    row = session.get(ServerRow, name)
    if row is None or row.removed is not None:
        raise ServerNotFound(f"There is no server {name!r}.")
    return row


def issue(core: Core, session: Session, who: ServerName, request: str, *, renews: str | None = None) -> CertificateRow:
    """A certificate for the request (PEM); the server's row must be there."""
    csr = read_request(request)
    certificate = core.authority.issuer.issue(csr, who, core.clock(), core.certificate_life)
    peer = peer_of(certificate)
    row = CertificateRow(
        serial=peer.serial,
        server=who.name,
        uri=who.uri,
        key=key_digest(csr),
        pem=to_pem(certificate),
        not_before=peer.not_before,
        not_after=peer.not_after,
    )
    session.add(row)
    if renews is not None:
        security.record(Event.RENEWED, peer=who.uri, before=renews, serial=peer.serial)
    return row


def take_place(core: Core, session: Session, who: ServerName, key: str) -> ServerRow:
    """A row for a server that begins to join with the public key ``key``."""
    row = session.get(ServerRow, who.name)
    if row is None:
        row = ServerRow(name=who.name)
        session.add(row)
    row.role, row.site, row.state, row.key = who.role, who.site, JOINING, key
    row.created, row.joined, row.last_seen, row.version, row.removed = core.clock(), None, None, None, None
    session.flush()
    security.record(Event.JOINING, peer=who.uri)
    return row


def certificate_of(session: Session, server: str, key: str) -> CertificateRow | None:
    """The newest one for that public key that is not revoked."""
    wanted = select(CertificateRow).where(
        CertificateRow.server == server, CertificateRow.key == key, CertificateRow.revoked.is_(None)
    )
    return session.scalars(wanted.order_by(CertificateRow.not_after.desc())).first()


def admitted(core: Core, certificate: CertificateRow, site: str) -> Json:
    """What a server gets that joined or renewed."""
    return {
        "certificate": certificate.pem,
        "authority": core.authority.pem,
        "vault": core.secrets.vault_id,
        "site": site,
        "name": certificate.server,
        "revocations": revocations(core),
    }


def certify(core: Core, site: str, role: str, name: str, request: str, renews: str | None = None) -> Json:
    """For a server that the configuration server of ``site`` vouches for. ``renews``: serial of the certificate that
    it showed there; None: it joins. Raises :class:`NotItsOwn`, :class:`NameTaken`, …"""
    if role not in JOIN_BY_PASSPHRASE:
        _claimed(site, role, name)
        raise NotItsOwn(f"The configuration server of site {site!r} vouches for no {role}.")
    who = ServerName(core.secrets.vault_id, Role(role), site, check_name(name))
    key = key_digest(read_request(request))
    with core.database.write() as session:
        inventory.site(session, site)
        row = session.get(ServerRow, name)
        there = row is not None and row.removed is None
        if row is not None and there and row.state == REVOKED:
            security.record(Event.REVOKED_REFUSED, peer=who.uri)
            raise ServerRevoked(f"The server {name!r} is revoked.")
        same = row is not None and there and (row.role, row.site) == (role, site)
        if renews is not None:
            shown = session.get(CertificateRow, renews)
            if not same or shown is None or shown.uri != who.uri:
                _claimed(site, role, name)
                raise NotItsOwn(f"The certificate {renews} is not that of {who.uri}.")
            _sound(core, shown)
            certificate = issue(core, session, who, request, renews=renews)
        else:
            if row is not None and there and not (same and (row.key == key or row.state == JOINING)):
                _claimed(site, role, name)
                raise NameTaken(f"There is a server {name!r} already: a {row.role} of site {row.site!r}.")
            again = certificate_of(session, name, key) if same else None
            if again is None:
                revoke_all(core, session, [name], "joined again before its first join ended")
                take_place(core, session, who, key)
                again = issue(core, session, who, request)
            certificate = again
    return admitted(core, certificate, site)


def _sound(core: Core, shown: CertificateRow) -> None:
    if shown.revoked is not None:
        security.record(Event.REVOKED_REFUSED, peer=shown.uri, serial=shown.serial)
        raise tls.CertificateRevoked(f"The certificate {shown.serial} of {shown.uri} is revoked.")
    if shown.not_after <= core.clock():
        raise tls.CertificateExpired(f"The certificate {shown.serial} of {shown.uri} expired {shown.not_after}.")


def _claimed(site: str, role: str, name: str) -> None:
    security.record(Event.IDENTITY_CLAIMED, by=f"configuration-server of {site}", claimed=f"{role} {name}")


def renew(core: Core, peer: Peer, request: str) -> Json:
    """A further certificate for the configuration server that asks with its present one."""
    with core.database.write() as session:
        find(session, peer.who.name)
        certificate = issue(core, session, peer.who, request, renews=peer.serial)
    return admitted(core, certificate, peer.who.site)


# ── at each request ─────────────────────────────────────────────────────────────────────────────────────────────────


def admit(core: Core, peer: Peer, site: str | None, version: str | None) -> None:
    """Whether the peer may act as the configuration server of ``site`` (None: it asks for what no server may), now.
    Its first word ends its join. Raises WrongPeer, CertificateRevoked, CertificateExpired, :class:`NotItsOwn`,
    :class:`CertificateUnknown`, :class:`ServerRevoked`; what is refused is logged."""
    who = peer.who
    try:
        tls.check(peer, vault=core.secrets.vault_id, at=core.clock())
        with core.database.read() as session:
            certificate, server = session.get(CertificateRow, peer.serial), session.get(ServerRow, who.name)
            restored = session.get(SettingRow, "restored")
        _known(peer, certificate, server)
        if certificate is None and not _of_before(peer, restored):
            raise CertificateUnknown(f"The vault has no record of the certificate {peer.serial} of {who.uri}.")
    except HomeportError as error:
        revoked = isinstance(error, (tls.CertificateRevoked, ServerRevoked))
        kind = Event.REVOKED_REFUSED if revoked else Event.PEER_REFUSED
        security.record(kind, peer=who.uri, serial=peer.serial, code=error.code)
        raise
    if site is None or (who.role, who.site) != (Role.CONFIGURATION_SERVER, site):
        claimed = "what is the operators'" if site is None else f"configuration-server of {site}"
        security.record(Event.IDENTITY_CLAIMED, by=who.uri, claimed=claimed)
        raise NotItsOwn(f"{who.uri} asks for {claimed}.", peer=who.uri)
    assert server is not None
    if certificate is None or _news(core, server, version):
        _heard(core, peer, version)


def _known(peer: Peer, certificate: CertificateRow | None, server: ServerRow | None) -> None:
    if certificate is not None and certificate.revoked is not None:
        raise tls.CertificateRevoked(f"The certificate {peer.serial} of {peer.who.uri} is revoked.")
    if server is None or server.removed is not None:
        raise CertificateUnknown(f"There is no server {peer.who.name!r} any more.")
    if server.state == REVOKED:
        raise ServerRevoked(f"The server {server.name!r} is revoked.")
    if (server.role, server.site) != (peer.who.role, peer.who.site):
        raise tls.WrongPeer(f"{server.name!r} is a {server.role} of site {server.site!r}, not {peer.who.uri}.")


def _of_before(peer: Peer, restored: SettingRow | None) -> bool:
    """Issued after the backup that the vault was restored from was made: no record of it can be there."""
    return restored is not None and peer.not_before < datetime.fromisoformat(restored.value["at"])


def _news(core: Core, server: ServerRow, version: str | None) -> bool:
    stale = server.last_seen is None or core.clock() - server.last_seen > _SEEN_EVERY
    return stale or server.state == JOINING or (version is not None and version != server.version)


def _heard(core: Core, peer: Peer, version: str | None) -> None:
    with core.database.write() as session:
        server = find(session, peer.who.name)
        certificate = session.get(CertificateRow, peer.serial)
        if certificate is None:  # of before a restore: recorded now, so that it can be revoked
            certificate = CertificateRow(
                serial=peer.serial,
                server=server.name,
                uri=peer.who.uri,
                key="",
                pem="",
                not_before=peer.not_before,
                not_after=peer.not_after,
            )
            session.add(certificate)
        hear(core, session, server, certificate, version)


def hear(core: Core, session: Session, server: ServerRow, certificate: CertificateRow, version: str | None) -> None:
    """A server was heard of with that certificate. Of one that joins, with the key that it joined with: it has
    joined; what it takes the place of is revoked, and its registration key is used up."""
    server.last_seen = core.clock()
    server.version = version or server.version
    if server.state != JOINING or certificate.key != server.key:
        return
    server.state, server.joined = JOINED, core.clock()
    used = session.scalars(
        select(RegistrationKeyRow).where(
            RegistrationKeyRow.server == server.name,
            RegistrationKeyRow.key == server.key,
            RegistrationKeyRow.used.is_(None),
        )
    ).first()
    revoke_all(core, session, [server.name], "another took its place", but=server.key)
    if used is not None:
        used.used = core.clock()
        for other in configuration_servers(session, server.site):
            if other.name != server.name:
                revoke_all(core, session, [other.name], f"{server.name} took its place")
                other.removed = core.clock()
    security.record(Event.JOINED, peer=certificate.uri, serial=certificate.serial)


def seen(core: Core, site: str, name: str, serial: str, version: str | None) -> Json:
    """The configuration server of ``site`` heard of one of its servers, by its certificate. Raises
    :class:`ServerNotFound`, CertificateRevoked, CertificateExpired."""
    with core.database.write() as session:
        server, certificate = find(session, name), session.get(CertificateRow, serial)
        if server.site != site or certificate is None or certificate.server != name:
            _claimed(site, server.role, name)
            raise NotItsOwn(f"The server {name!r} is not one of site {site!r}, or shows another's certificate.")
        _sound(core, certificate)
        hear(core, session, server, certificate, version)
        return {"name": name, "state": server.state}


def configuration_servers(session: Session, site: str) -> list[ServerRow]:
    wanted = select(ServerRow).where(
        ServerRow.site == site, ServerRow.role == Role.CONFIGURATION_SERVER, ServerRow.removed.is_(None)
    )
    return list(session.scalars(wanted.order_by(ServerRow.name)))


def free_for(core: Core, session: Session, who: ServerName, *, replace: bool) -> None:
    """Whether a configuration server may have that name and site. Raises :class:`NameTaken`, :class:`SiteTaken`."""
    row = session.get(ServerRow, who.name)
    if row is not None and row.removed is None:
        if (row.role, row.site) != (who.role, who.site):
            security.record(Event.IDENTITY_CLAIMED, by="a registration key", claimed=f"{row.role} {row.name}")
            raise NameTaken(f"There is a server {who.name!r} already: a {row.role} of site {row.site!r}.")
        if not replace and row.state != JOINING:
            raise SiteTaken(f"Site {who.site!r} has a configuration server {who.name!r} already.")
    others = [each.name for each in configuration_servers(session, who.site) if each.name != who.name]
    if others and not replace:
        raise SiteTaken(f"Site {who.site!r} has a configuration server already: {', '.join(others)}.")


# ── revoking ────────────────────────────────────────────────────────────────────────────────────────────────────────


def revocation_number(core: Core) -> int:
    """Grows with each revocation."""
    with core.database.read() as session:
        return _number(session)


def _number(session: Session) -> int:
    row = session.get(SettingRow, REVOCATIONS)
    return 0 if row is None else int(row.value["number"])


def revocations(core: Core) -> str:
    """The list of certificates that are revoked and would not have expired yet, signed: PEM."""
    at = core.clock()
    with core.database.read() as session:
        wanted = select(CertificateRow.serial, CertificateRow.revoked).where(
            CertificateRow.revoked.is_not(None), CertificateRow.not_after > at
        )
        serials = [(row.serial, row.revoked) for row in session.execute(wanted)]
        number = _number(session)
    return core.authority.issuer.revocations(serials, number, at)


def revoke(core: Core, name: str, serial: str | None = None, reason: str = "an operator revoked it") -> Json:
    """A whole server; or one certificate of it. Counts at once. Raises :class:`ServerNotFound`,
    :class:`CertificateUnknown`."""
    with core.database.write() as session:
        server = find(session, name)
        if serial is not None and not _certificates(session, [name], serial):
            raise CertificateUnknown(
                f"The server {name!r} has no certificate {serial}.", remedy="See `homeport server list --json`."
            )
        revoke_all(core, session, [name], reason, serial)
        if serial is None:
            server.state = REVOKED
        return server_json(core, session, server)


def _certificates(session: Session, names: Iterable[str], serial: str | None = None) -> list[CertificateRow]:
    wanted = select(CertificateRow).where(CertificateRow.server.in_(list(names)))
    if serial is not None:
        wanted = wanted.where(CertificateRow.serial == serial.lower())
    return list(session.scalars(wanted.order_by(CertificateRow.not_after)))


def revoke_all(
    core: Core,
    session: Session,
    names: Iterable[str],
    reason: str,
    serial: str | None = None,
    *,
    but: str | None = None,
) -> None:
    """``but``: certificates of that public key stay."""
    at, some = core.clock(), False
    for row in _certificates(session, names, serial):
        if row.revoked is None and (but is None or row.key != but):
            row.revoked, row.reason, some = at, reason, True
            security.record(Event.REVOKED, peer=row.uri, serial=row.serial, reason=reason)
    if some:
        number = max(_number(session) + 1, int(at.timestamp() * 1000))
        session.merge(SettingRow(name=REVOCATIONS, value={"number": number}))


def revoke_key(core: Core, session: Session, name: str, key: str) -> None:
    """What a server got for a public key with which its join never ended."""
    serials = [row.serial for row in _certificates(session, [name]) if row.key == key]
    for serial in serials:
        revoke_all(core, session, [name], "its join never ended, and another server used its registration key", serial)


def gone(session: Session, site: str) -> list[str]:
    """Names of the servers of a site that were removed or revoked: their configuration server forgets them."""
    wanted = select(ServerRow.name).where(
        ServerRow.site == site, or_(ServerRow.removed.is_not(None), ServerRow.state == REVOKED)
    )
    return sorted(session.scalars(wanted))


# ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def listed(core: Core) -> Json:
    """Every server, in the order of upgrades; ``upgrade``: who is to be brought up to the vault's version now."""
    with core.database.read() as session:
        rows = list(session.scalars(select(ServerRow).where(ServerRow.removed.is_(None))))
        rows.sort(key=lambda row: (upgrade_step(Role(row.role)), row.site, row.name))
        servers = [server_json(core, session, row) for row in rows]
    installed = [Installed(row.name, Role(row.role), row.site, row.version) for row in rows if row.state == JOINED]
    return {"servers": servers, "version": __version__, "upgrade": upgrade_next(installed, __version__)}


def server_json(core: Core, session: Session, row: ServerRow) -> Json:
    at = core.clock()
    certificates = [
        {
            "serial": each.serial,
            "not_after": each.not_after.isoformat(),
            "revoked": each.revoked.isoformat() if each.revoked else None,
            "reason": each.reason,
        }
        for each in _certificates(session, [row.name])
        if each.not_after > at - timedelta(days=30)
    ]
    in_force = [each for each in _certificates(session, [row.name]) if each.revoked is None]
    expires = max((each.not_after for each in in_force), default=None)
    return {
        "name": row.name,
        "role": row.role,
        "site": row.site or None,
        "state": row.state,
        "version": row.version,
        "upgrade_step": upgrade_step(Role(row.role)),
        "created": row.created.isoformat(),
        "joined": row.joined.isoformat() if row.joined else None,
        "last_contact": row.last_seen.isoformat() if row.last_seen else None,
        "certificate_expires": expires.isoformat() if expires else None,
        "warnings": _warnings(row, expires, at),
        "certificates": certificates,
    }


def _warnings(row: ServerRow, expires: datetime | None, at: datetime) -> list[str]:
    if row.state == REVOKED or expires is None:
        return []
    if expires <= at:
        return [f"Its certificate expired {expires.isoformat(timespec='minutes')}: join it anew."]
    if expires_soon(expires, at):
        return [f"Its certificate expires {expires.isoformat(timespec='minutes')}, and was not renewed."]
    return []


# ── the vault's own certificate ─────────────────────────────────────────────────────────────────────────────────────


def own_identity(core: Core, name: str, urls: list[str], hosts: list[str]) -> Identity:
    """Of this instance of the vault, in ``identity`` of its state folder; made, or made anew where it is of another
    authority or name. ``urls``: where servers reach the vault, for registration keys; ``hosts``: names and addresses
    in the certificate."""
    folder = core.state / "identity"
    who = ServerName(core.secrets.vault_id, Role.VAULT, "", check_name(name))
    if urls:
        with core.database.write() as session:
            session.merge(SettingRow(name=URLS, value={"urls": urls}))
    try:
        found = Identity.open(folder)
        if found.authority == core.authority.pem and found.who == who and not found.renewal_due():
            return found
    except HomeportError:
        pass
    key = new_key()
    certificate = certify_own(core, who, make_request(key, name, hosts))
    return Identity.create(folder, key, certificate, core.authority.pem)


def certify_own(core: Core, who: ServerName, request: str) -> str:
    """A certificate (PEM) for this instance: what :meth:`Identity.renew_if_due` calls in the vault's own process."""
    with core.database.write() as session:
        row = session.get(ServerRow, who.name)
        if row is not None and row.removed is None and row.role != Role.VAULT:
            raise NameTaken(f"There is a server {who.name!r} already: a {row.role} of site {row.site!r}.")
        if row is None or row.removed is not None:
            row = take_place(core, session, who, key_digest(read_request(request)))
        row.state, row.version, row.last_seen = JOINED, __version__, core.clock()
        row.joined = row.joined or core.clock()
        return issue(core, session, who, request).pem


def write_authority(core: Core) -> None:
    """``authority.pem`` in the state folder: what the command line on this machine knows the vault by."""
    write_private(core.state / "authority.pem", core.authority.pem)


def known_urls(core: Core) -> list[str]:
    with core.database.read() as session:
        row = session.get(SettingRow, URLS)
    return [] if row is None else list(row.value["urls"])
