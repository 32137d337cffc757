"""What sites' configuration servers call: they dial out to the vault, nothing dials in to them."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from sqlalchemy import select

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine
from homeport.domain.operations import after_report
from homeport.trust import tls
from homeport.trust.asgi import peer_in
from homeport.trust.identity import VERSION_HEADER
from homeport.vault import configuration_backups, inventory, items, servers, throttles, work
from homeport.vault.api.context import TheCore
from homeport.vault.core import Core
from homeport.vault.database import ItemRow, SettingRow, now
from homeport.vault.workflows import replication

router = APIRouter(prefix="/v1/agent/{site}", tags=["agents"])

Json = dict[str, Any]


class ReportInvalid(HomeportError):
    code = "request.invalid"
    remedy = "See docs/architecture.md for what a report holds."


class Gateway(BaseModel):
    """Where the site's store takes changes from other sites."""

    url: str
    token: str


class Hello(BaseModel):
    """``executor``: fresh for each start of the server. ``sealed``: the vault's key as sealed with the passphrase in
    the site's store, for sites that are added after the passphrase was confirmed."""

    executor: str
    gateway: Gateway | None = None
    facts: Json = {}
    sealed: str | None = None


class WorkUpdate(BaseModel):
    state: Literal["running", "done", "failed"]
    progress: Json | None = None
    result: Json | None = None
    error: Json | None = None


class Report(BaseModel):
    """How an item's replication is. ``points``: the whole list of the timeline's points, where it is told.
    ``rpo_from``: time of the newest complete point. ``crossed``: bytes over the wire between the sites for this
    item, {"out", "in"}, since this server began. ``found_by``: per disk how the newest point's changes were found.
    ``process_server``: who replicates, where the site has several. ``traffic``: what its disks change, and what of it
    is shipped; told now and then, and kept meanwhile.
    ``round``: of a member of a group: {"group", "at": the last instant that it shared, "trouble": why not this one}."""

    item: str
    timeline: str
    phase: Literal["seeding", "replicating", "resyncing", "stopped", "error"]
    progress: Json | None = None
    head: str | None = None
    points: list[Json] | None = None
    rpo_from: datetime | None = None
    error: Any = None
    crossed: Json | None = None
    found_by: Json | None = None
    round: Json | None = None
    process_server: str | None = None
    traffic: Json | None = None


@router.post("/hello")
def hello(core: TheCore, site: str, body: Hello) -> Json:
    """A server of the site began, or tells of itself anew. Work that an earlier one had in hand is handed out again.
    ``gone``: names of the site's servers that were removed or revoked; ``items``: those that have this site, each with
    its group."""
    with core.database.write() as session:
        row = inventory.site(session, site)
        row.executor, row.last_seen = body.executor, now()
        moved = body.gateway is not None and row.gateway != body.gateway.model_dump()
        if body.gateway is not None:
            row.gateway = body.gateway.model_dump()
        if body.facts:
            row.facts = {**row.facts, **body.facts, "received": now().isoformat()}
        sealed = session.get(SettingRow, "sealed")
        if sealed is None and body.sealed is not None:
            sealed = SettingRow(name="sealed", value={"text": body.sealed})
            session.add(sealed)
        told = {"throttles": throttles.of_site(session, site), "store": row.store}
        gone, there = servers.gone(session, site), inventory.items_of(session, site)
    work.hello(core, site, body.executor)
    if moved:
        _tell_gateway(core, site, body.executor)
    return {
        "vault": core.secrets.vault_id,
        "vault_key": core.secrets.vault_key,
        "passphrase": core.secrets.passphrase,
        "sealed": sealed.value["text"] if sealed is not None else None,
        **told,
        "gone": gone,
        "items": {item.id: item.group_name for item in there},
    }


def _tell_gateway(core: Core, site: str, executor: str) -> None:
    """Who replicates to ``site`` learns where its store takes changes now: a restored vault knew it of no site."""
    with core.database.read() as session:
        rows = session.scalars(select(ItemRow).where(ItemRow.removed.is_(None)))
        there = [item for item in rows if item.replicate is not None and item.replicate["store"] == site]
        wanted = [
            (item.id, item.replicate["at"], params)
            for item, params in replication.replications(session, there)
            if item.replicate is not None
        ]
    for item, at, params in wanted:
        work.post_if_idle(core, work.Ask(at, "replicate", params, key=f"gateway:{executor}:{item}", item=item))


class Discovered(BaseModel):
    """What the site's configuration server saw. ``age``: seconds since it began to look; ``interval``: seconds between
    two looks; ``error``: why it saw nothing."""

    age: Annotated[float, Field(ge=0)]
    interval: Annotated[float, Field(gt=0)]
    machines: list[Json] | None = None
    facts: Json = {}
    error: Json | None = None


@router.post("/inventory")
def discovered(core: TheCore, site: str, body: Discovered) -> Json:
    """The site was looked at without being asked. That is no sign of life: its folder may be away."""
    if body.error is not None or body.machines is None:
        inventory.failed(core, site, body.error or {}, body.interval)
        return {}
    try:
        for machine in body.machines:
            Machine.from_json(machine)
    except (KeyError, ValueError, TypeError) as error:
        raise ReportInvalid(f"A machine of the inventory is malformed: {error!r}.") from error
    inventory.take(core, site, {"machines": body.machines, "facts": body.facts}, body.age, body.interval)
    return {}


@router.get("/work")
async def take_work(
    request: Request,
    core: TheCore,
    site: str,
    wait: Annotated[float, Query(ge=0, le=60)] = 20,
    have: str | None = None,
    revocations: int | None = None,
) -> Json:
    """Long poll: answers when there is work, or after ``wait`` seconds. ``have``: ids in hand, with commas; work that
    was handed out in an answer that never arrived comes again. ``revocations``: number of the list of revoked
    certificates that the server has; once there is a newer one, the answer comes at once, with its number."""
    await run_in_threadpool(_known, core, site)
    ids = None if have is None else frozenset(filter(None, have.split(",")))
    deadline = time.monotonic() + wait
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        with core.liveness.poll(site):
            while True:
                seen = core.signal.version
                if not gone.done():
                    taken = await run_in_threadpool(work.take, core, site, ids)
                    newer = await run_in_threadpool(_newer, core, revocations)
                    if taken or newer:
                        return {"work": taken, **newer}
                left = deadline - time.monotonic()
                if left <= 0 or core.signal.stopped or gone.done():
                    break
                woken = asyncio.ensure_future(core.signal.wait_async(seen, left))
                await asyncio.wait((woken, gone), return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        if gone.done() and not core.signal.stopped:
            core.liveness.dropped(site)
        return {"work": []}
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Returns when the caller's connection is closed: a server that died should not be waited for."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _known(core: Core, site: str) -> None:
    with core.database.read() as session:
        inventory.site(session, site)


def _newer(core: Core, known: int | None) -> Json:
    if known is None:
        return {}
    number = servers.revocation_number(core)
    return {"revocations": number} if number > known else {}


class Certification(BaseModel):
    """``csr``: request, PEM. ``renews``: serial of the certificate that the server showed to the one who asks for it;
    null: it joins."""

    role: str
    name: str
    csr: str
    renews: str | None = None


class Renewal(BaseModel):
    csr: str


class Seen(BaseModel):
    """A server that the site's configuration server heard of. ``serial``: of the certificate that it showed."""

    name: str
    serial: str
    version: str | None = None


@router.post("/certificates")
def certify(core: TheCore, site: str, body: Certification) -> Json:
    """A certificate for a process server or master target that its configuration server vouches for."""
    return servers.certify(core, site, body.role, body.name, body.csr, body.renews)


@router.post("/renewal")
def renew(request: Request, core: TheCore, site: str, body: Renewal) -> Json:
    """A further certificate for the configuration server itself; it shows its present one."""
    peer = peer_in(request.scope)
    if peer is None:
        raise tls.PeerUnknown("Only a server with a certificate can renew it.")
    return servers.renew(core, peer, body.csr)


class ConfigurationBackup(BaseModel):
    """``content``: what the site's configuration server can't have anew; the rest: configuration_backups.Handed."""

    content: Json
    reason: Literal["scheduled", "changed", "asked"] | None = None
    every: Annotated[float, Field(ge=0)] | None = None


class Restoring(BaseModel):
    """``backup``: as the vault sealed it; null: the newest that the vault keeps."""

    backup: Json | None = None


@router.post("/configuration-backups", status_code=201)
def keep_configuration(request: Request, core: TheCore, site: str, body: ConfigurationBackup) -> Json:
    """Keep a backup of the site's configuration server; answers it, sealed."""
    peer, version = peer_in(request.scope), request.headers.get(VERSION_HEADER)
    handed = configuration_backups.Handed(body.content, version, body.reason, body.every)
    return {"backup": configuration_backups.keep(core, site, peer.who.name if peer is not None else site, handed)}


@router.post("/configuration-backups/restore")
def restore_configuration(core: TheCore, site: str, body: Restoring) -> Json:
    """What the site's new configuration server, which has joined in place of a lost one, begins with."""
    return configuration_backups.read(core, site, body.backup)


@router.post("/servers")
def seen(core: TheCore, site: str, body: Seen) -> Json:
    """A process server or master target of the site was heard of."""
    return servers.seen(core, site, body.name, body.serial, body.version)


@router.get("/revocations")
def revocations(core: TheCore, site: str) -> Json:
    """The list of revoked certificates that the authority signs, and its number."""
    return {"number": servers.revocation_number(core), "list": servers.revocations(core)}


@router.get("/self")
def self(request: Request, core: TheCore, site: str) -> Json:
    """Who asks, as the vault sees it: a server's first call, which ends its join."""
    peer = peer_in(request.scope)
    if peer is None:
        raise tls.PeerUnknown("The call shows no certificate.")
    return {
        "peer": peer.who.uri,
        "serial": peer.serial,
        "not_after": peer.not_after.isoformat(),
        "time": core.clock().isoformat(),
        "revocations": servers.revocation_number(core),
    }


@router.get("/store")
def store(core: TheCore, site: str) -> Json:
    """URL of the site's store, for a server that begins; null: in the site's own folder, or where its servers' settings
    say."""
    with core.database.read() as session:
        return {"store": inventory.site(session, site).store}


@router.post("/work/{work_id}")
def update_work(core: TheCore, site: str, work_id: str, body: WorkUpdate) -> Json:
    """How the work goes, or how it ended. 410: nobody waits for it any more."""
    work.update_work(core, site, work_id, body.state, progress=body.progress, result=body.result, error=body.error)
    return {}


@router.post("/report")
def report(core: TheCore, site: str, body: Report) -> Json:
    """A report of a timeline that the item left behind is not an error: it changes nothing."""
    core.liveness.heard(site)
    with core.database.write() as session:
        inventory.site(session, site).last_seen = now()
        item = items.find(session, body.item)
        if body.crossed is not None:
            item.crossed = items.count_crossed(item.crossed, site, body.crossed)
        if body.timeline != item.timeline or item.replicate is None or item.replicate["at"] != site:
            return {"current": False}
        fresh = body.model_dump(mode="json", exclude={"item", "timeline", "points", "crossed"})
        kept: Json = {name: item.replication[name] for name in ("rpo_from", "traffic") if name in item.replication}
        item.replication = {**kept, **{name: value for name, value in fresh.items() if value is not None}}
        if body.points is not None:
            try:
                items.remember_points(session, body.timeline, body.points)
            except (KeyError, ValueError, TypeError) as error:
                raise ReportInvalid(f"A point of the report is malformed: {error!r}.") from error
        item.state = after_report(item.state, item.direction, body.phase, running=item.job is not None)
    return {"current": True}


@router.get("/replications")
def replications(core: TheCore, site: str) -> Json:
    """The params of `replicate` for each item that should replicate from this site now: for a server that began."""
    core.liveness.heard(site)
    with core.database.read() as session:
        inventory.site(session, site)
        rows = session.scalars(select(ItemRow).where(ItemRow.removed.is_(None)))
        wanted = [item for item in rows if item.replicate is not None and item.replicate["at"] == site]
        return {
            "replications": [
                {**params, **work.item_params(core, item)} for item, params in replication.replications(session, wanted)
            ]
        }
