"""Which process server of its site an item has: its configuration server knows; the vault can have it changed."""

from __future__ import annotations

import uuid
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.operations import OperationRunning
from homeport.vault import groups, inventory, items, server_health
from homeport.vault.core import Core
from homeport.vault.database import Json
from homeport.vault.work import Ask, ask
from homeport.vault.workflows import replication


class NothingReplicates(HomeportError):
    code = "item.nothing-replicates"
    remedy = "An item gets its process server when replication begins; switch it then."


class NoSuchProcessServer(HomeportError):
    code = "process-server.unknown"
    remedy = "`homeport site show SITE` lists the servers of a site; without --process-server the site chooses one."


class GroupHasOne(HomeportError):
    code = "process-server.of-the-group"
    remedy = "Leave --process-server out: the points of a group's members meet at one process server."


def require(core: Core, site: str, name: str, group: str | None = None) -> None:
    """Whether a new item at ``site``, and in ``group``, may begin with the process server ``name``. Raises
    :class:`NoSuchProcessServer`, :class:`GroupHasOne`, SiteUnreachable."""
    with core.database.read() as session:
        there = groups.members(session, group) if group is not None else []
    if there:
        raise GroupHasOne(f"The group {group} has its process server already.")
    known = _names(core, site)
    if name not in known:
        inventory.machines(core, site, fresh=True)  # it may have joined since the site was last heard of
        known = _names(core, site)
    if name not in known:
        raise NoSuchProcessServer(f"Site {site!r} has no process server {name!r}; it has {', '.join(known) or 'none'}.")


def _names(core: Core, site: str) -> list[str]:
    with core.database.read() as session:
        facts = inventory.site(session, site).facts
    return [vitals.name for vitals in server_health.process_servers(site, facts, None)]


def switch(core: Core, item: str, process_server: str) -> Json:
    """Have ``process_server`` replicate the item from now on; {"process_server", "before"}. Raises ItemNotFound,
    OperationRunning, :class:`NothingReplicates`, SiteUnreachable, and what the site says."""
    with core.database.read() as session:
        row = items.find(session, item)
        found = replication.replications(session, [row]) if row.replicate is not None else []
    if row.job is not None:
        raise OperationRunning(f"A job is at work on {row.name}.", job=row.job, operation=None)
    if not found or row.replicate is None:
        raise NothingReplicates(f"Nothing is replicated for {row.name} now.")
    params = {**found[0][1], "process_server": process_server}
    limit = core.timeouts.inventory
    key = f"switch:{uuid.uuid4().hex}"
    request = Ask(row.replicate["at"], "switch-process-server", params, key, item=row.id, silence=limit, limit=limit)
    try:
        switched = ask(core, request)
    except HomeportError as error:
        if error.details.get("process_server") == process_server:  # which has it, and doesn't replicate it yet
            _note(core, row.id, process_server=process_server, error=error.to_json())
        raise
    # The next report says it, too; until then the one before is free to go.
    _note(core, row.id, process_server=process_server)
    return switched


def _note(core: Core, item: str, **told: Any) -> None:
    """As if it had been reported: the next report takes its place."""
    with core.database.write() as session:
        row = items.find(session, item)
        row.replication = {**row.replication, **told}
