"""What the vault says of a process server's bandwidth, in place of the server's own configuration.

Kept as a setting of each site; carried to the site by its work channel at once, and with each greeting.
"""

from __future__ import annotations

import uuid
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from homeport.domain.bandwidth import Schedule, ScheduleInvalid
from homeport.domain.errors import HomeportError
from homeport.vault import inventory, server_health
from homeport.vault.core import Core
from homeport.vault.database import Json, SettingRow, SiteRow
from homeport.vault.servers import ServerNotFound
from homeport.vault.work import Ask, ask

PATIENCE = 15.0
"""Seconds that a change waits for its server; it is told later, too."""


class NoProcessServer(ServerNotFound):
    """No site tells of a process server of this name."""


def of_site(session: Session, site: str) -> Json:
    """By process server what the vault says: as Schedule.to_json."""
    row = session.get(SettingRow, _name(site))
    return {} if row is None else dict(row.value)


def _name(site: str) -> str:
    return f"throttles:{site}"


def shown(core: Core, name: str) -> Json:
    """{"server", "site", "vault": what the vault says (null: nothing), "effective": what rules at the server as it told
    last, with "rules" and "now" (null: not known), "applied": whether that is so there already}. Raises
    :class:`NoProcessServer`."""
    with core.database.read() as session:
        site = _site_of(session, name)
        wanted, effective = of_site(session, site.name).get(name), _effective(site, name)
    return {
        "server": name,
        "site": site.name,
        "vault": wanted,
        "effective": effective,
        "applied": _applied(wanted, effective),
    }


def _site_of(session: Session, name: str) -> SiteRow:
    found = server_health.site_of(session, name)
    if found is None:
        raise NoProcessServer(f"No site has a process server {name!r}.")
    return found


def _effective(site: SiteRow, name: str) -> Json | None:
    told = server_health.told_of(site.facts, name).get("throttle")
    return told if isinstance(told, dict) else None


def _applied(wanted: Json | None, effective: Json | None) -> bool:
    if effective is None:
        return False
    if wanted is None or effective.get("rules") != "vault":
        return wanted is None and effective.get("rules") != "vault"
    return all(effective.get(key) == value for key, value in wanted.items())


def put(core: Core, name: str, schedule: Schedule | None) -> Json:
    """From now on the vault says this of the process server's bandwidth; None: nothing, its own configuration rules.
    As :func:`shown`, and "error": why the server has not taken it on, null: it has, or is away and is told when it is
    back. Raises :class:`NoProcessServer`, ScheduleInvalid."""
    if schedule is not None and schedule.zone is not None:
        _check_zone(schedule.zone)
    with core.database.write() as session:
        site = _site_of(session, name).name
        said = {each: told for each, told in of_site(session, site).items() if each != name}
        if schedule is not None:
            said[name] = schedule.to_json()
        session.merge(SettingRow(name=_name(site), value=said))
    error = None
    if not core.liveness.gone(site, core.timeouts.gone):
        error = _tell(core, site, said)
    return {**shown(core, name), "error": error}


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ScheduleInvalid(f"There is no time zone {name!r}; one is Europe/Berlin, or UTC.") from error


def _tell(core: Core, site: str, said: Json) -> Json | None:
    request = Ask(
        site, "throttle", {"servers": said}, key=f"throttle:{uuid.uuid4().hex}", silence=PATIENCE, limit=PATIENCE
    )
    try:
        told = ask(core, request).get("told") or {}
    except HomeportError as error:
        return error.to_json()
    with core.database.write() as session:
        row = inventory.site(session, site)
        row.facts = server_health.with_told(row.facts, {name: {"throttle": rules} for name, rules in told.items()})
    return None
