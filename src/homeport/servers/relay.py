"""What a configuration server hands on to the process servers and master targets of its site.

Nothing of it is kept over a restart but which servers there are and which process server an item and its machine have:
the vault hands out again what was under way, under the same id, and the server that has it in hand already goes on.

    vault ──work──▶ configuration server ──part of it──▶ process server | master target
          ◀─answer─                      ◀───answer────
                                         ──which process server has which machine──▶ mobility service
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.process_servers import Grade, judge, vitals_of
from homeport.servers.durable import write_durably
from homeport.servers.machine_owners import MachineOwners
from homeport.servers.relay_errors import (
    GroupTogether,
    NoServer,
    NotAsked,
    ProcessServerCritical,
    ServerAway,
    ServerRemoved,
    SwitchFailed,
)
from homeport.servers.relay_servers import Piece, RelayServer, throttle_of
from homeport.servers.work.kinds import SWITCH, THROTTLE, Duty, Part
from homeport.servers.work.site_context import Params, Progress, Report, Result

log = structlog.get_logger(__name__)

ASSIGNMENTS, SERVERS, SOURCES = "assignments.json", "servers.json", "sources.json"
THROTTLES = "throttles.json"
"""Files in its folder."""
LOOK_EVERY = 0.5
TELL_EVERY = 5.0
SWITCH_PATIENCE = 5.0
"""Seconds that a switch waits for a process server that is away."""
SWITCH_LIMIT = 8.0
"""Seconds that each of its two ends may take in all: the vault waits for 30."""
_GROUP = "group:"
"""What a group's name stands behind among the items that have a process server."""
_STOP, _FORGET = "stop-replication", "forget-replication"
RESUME = "resume"
"""Kind of work between these servers: what a process server should replicate."""


class Relay:
    """The servers of one site, wherever they are. ``folder``: where is kept which there are; ``changed``: called when
    something that the vault should be told has changed: a server that came or went, a gateway that moved."""

    def __init__(self, folder: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self.changed = changed
        self._lock = threading.Condition()
        self._servers: dict[str, RelayServer] = {}
        self._pieces: dict[str, Piece] = {}
        self._assigned: dict[str, str] = _read(folder / ASSIGNMENTS)
        self._throttles: dict[str, Any] = _read(folder / THROTTLES)
        self._owners = MachineOwners(folder / SOURCES)
        self._replications: list[Params] | None = None
        self._report: Report = lambda report: None
        self._stopped = False
        self.store: str | None = None
        """URL of the site's store, where it isn't in the site's own folder."""
        self.store_known = False
        """Whether that was told."""
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._told: list[tuple[str, str]] = []
        for name, kept in _read(folder / SERVERS).items():
            self._servers[name] = RelayServer(
                name, Duty(kept["role"]), kept["gateway"], bool(kept.get("dialled")), kept["version"],
                last_contact=kept["last_contact"],
            )  # fmt: skip

    # ── towards the vault ───────────────────────────────────────────────────────────────────────────────────────

    def connect(self, report: Report) -> None:
        self._report = report

    def gateway(self) -> dict[str, str] | None:
        """The door to this site's store: at a process server that is there, else where it was last."""
        with self._lock:
            doors = [server for _, server in sorted(self._servers.items()) if server.gateway]
        return next((server.gateway for server in doors if server.there), doors[0].gateway if doors else None)

    def facts(self) -> dict[str, Any]:
        with self._lock:
            servers = [server for _, server in sorted(self._servers.items(), reverse=True)]
        found: dict[str, Any] = {}
        for server in servers:  # the first by name wins, as for the gateway
            found |= server.facts
        found.pop("process_server", None)  # of each, with the servers
        return {**found, "servers": self.servers()}

    def servers(self) -> list[dict[str, Any]]:
        """{"name", "role", "state", "version", "last_contact", "items", "process_server"} of each; state: joining,
        connected, away; the last: what a process server told of itself."""
        with self._lock:
            return [
                {
                    "name": server.name,
                    "role": str(server.duty),
                    "state": server.state,
                    "version": server.version,
                    "last_contact": server.last_contact,
                    "items": sorted(self._items_of(server.name)),
                    "process_server": server.facts.get("process_server"),
                }
                for _, server in sorted(self._servers.items())
            ]

    def _items_of(self, name: str) -> list[str]:
        return [each for each, server in self._assigned.items() if server == name and not each.startswith(_GROUP)]

    def known(self) -> frozenset[str]:
        """The items and groups that have a process server here; see :meth:`settle`."""
        with self._lock:
            return frozenset(self._assigned)

    def settle(self, known: frozenset[str], told: Mapping[str, Any]) -> None:
        """Forget what the vault no longer has. ``told``: its answer to a greeting: ``gone``: names of servers that were
        removed or revoked; ``items``: those of this site, each with its group. ``known``: what :meth:`known` was before
        it was asked: what came since is not in the answer, and stays."""
        self.forget(told.get("gone") or ())
        items = told.get("items")
        if not isinstance(items, Mapping):  # a vault of an earlier version
            return
        there = {*items, *(f"{_GROUP}{group}" for group in items.values() if group)}
        with self._lock:
            left = {each: server for each, server in self._assigned.items() if each in there or each not in known}
            if left != self._assigned:
                self._assign(left)
            for item in self._owners.items() - there:
                if item in known:
                    self._disown(item)

    def forget(self, names: Collection[str]) -> None:
        """Servers that were removed or revoked: what they had in hand fails, and their items go to others."""
        with self._lock:
            gone = [server for name in names if (server := self._servers.pop(name, None)) is not None]
            for server in gone:
                log.warning("server forgotten: the vault removed or revoked it", server=server.name, role=server.duty)
                for piece in list(self._pieces.values()):
                    if piece.server != server.name:
                        continue
                    piece.error = ServerRemoved(f"the {server.duty} {server.name} was removed from the vault")
                    if piece.progress is None:
                        del self._pieces[piece.id]
            if not gone:
                return
            self._keep(SERVERS, {known.name: known.kept() for known in self._servers.values()})
            orphans = {each: name for each, name in self._assigned.items() if name in names}
            if orphans:
                self._assign({each: name for each, name in self._assigned.items() if each not in orphans})
                for server in self._servers.values():
                    if self._replications is not None and server.duty is Duty.PROCESS_SERVER and server.there:
                        self._resume_at(server)
        self._wake()
        self.changed()

    def _assign(self, assigned: dict[str, str]) -> None:
        self._assigned = assigned
        self._keep(ASSIGNMENTS, assigned)
        self.changed()

    def certificates(self) -> list[dict[str, Any]]:
        """{"name", "serial", "version"} of each server that is there and has a certificate."""
        with self._lock:
            return [
                {"name": server.name, "serial": server.serial, "version": server.version}
                for server in self._servers.values()
                if server.there and server.serial
            ]

    def resume(self, replications: list[Params]) -> None:
        """What should replicate from this site, as the vault says now."""
        with self._lock:
            self._replications = replications
            # A restored one may not know; the mobility services ask before the process servers do, perhaps.
            news = False
            for params in replications:
                name = self._assigned.get(params["item"])
                if name is not None and params.get("vm"):
                    news = self._owners.give(params["vm"], params["item"], name) or news
            if news:
                self._tell_of_sources()
            for server in self._servers.values():
                if server.duty is Duty.PROCESS_SERVER and server.there:
                    self._resume_at(server)
        self._wake()

    def _resume_at(self, server: RelayServer) -> None:
        name = server.name
        self._tell(name, RESUME, lambda: {"replications": self.replications(name)})

    def _tell(self, server: str, kind: str, params: Callable[[], Params], about: str = "") -> None:
        """Work that nobody waits for; in place of what waits to be taken of that ``kind``, ``about`` the same."""
        about = f"{kind}.{about or server}."
        for piece in list(self._pieces.values()):
            if piece.server == server and piece.id.startswith(about) and not piece.executor:
                del self._pieces[piece.id]
        id = f"{about}{time.monotonic_ns()}"
        self._pieces[id] = Piece(id, server, kind, params, None)

    def _take_up_again(self, server: RelayServer, items: Collection[str]) -> None:
        """``items``: in which another process server took the place of this one. Where that was wrong (it was away when
        it was replaced, and went on by itself when it was back), it is told to stop, and this one goes on."""
        name, wanted = server.name, frozenset(items)

        def mine() -> list[Params]:
            return [
                params
                for params in self._replications or ()
                if params["item"] in wanted and self._assigned.get(params["item"]) == name
            ]

        if mine():
            self._tell(name, RESUME, lambda: {"replications": mine()}, f"again-{time.monotonic_ns()}")

    def carry_out(self, part: Part, params: Params, progress: Progress, id: str) -> Result:
        """Have a server do ``part``; its answer. Raises NoServer, ServerAway, and what that server raised."""
        if part.kind == SWITCH:
            return self._switch(params, progress, id)
        if part.kind == THROTTLE:
            return self._throttle(params, progress, id)
        if part.kind != "planned-stop":
            self._note(part, params)
        result = self._have_done(part, params, progress, id)
        if part.kind == "planned-stop":
            self._note(part, params)
        if part.kind == _FORGET:  # not before: asked again, it must go to the same server
            with self._lock:
                self._disown(str(params["item"]))
                if params.get("item") in self._assigned:
                    self._assign({each: name for each, name in self._assigned.items() if each != params["item"]})
        return result

    def _note(self, part: Part, params: Params) -> None:
        """What should replicate has changed since the vault told it as a whole: a process server that begins anew must
        not take up what was stopped meanwhile, nor ship to where the store's door was. Noted when it is asked for: by
        the time that it is done something newer may have been noted."""
        with self._lock:
            if self._replications is None or part.duty is not Duty.PROCESS_SERVER:
                return
            before = next((each for each in self._replications if each["item"] == params["item"]), None)
            others = [each for each in self._replications if each["item"] != params["item"]]
            if part.kind == "replicate":
                self._replications = [*others, {**params}]
            elif part.kind in (_STOP, "planned-stop", _FORGET):
                self._replications = others
            elif part.kind == "renew-replication" and before and before.get("timeline") == params.get("timeline"):
                older = str(params.get("policy_at") or "") < str(before.get("policy_at") or "")
                self._replications = [*others, {**before, **({} if older else params)}]

    def _as_of_now(self, kind: str, params: Params) -> Params:
        """Params of a beginning, with what was noted since it was asked for: to renew what hasn't begun has no
        effect."""
        if kind == "replicate":
            for noted in self._replications or ():
                if (noted["item"], noted.get("timeline")) == (params["item"], params.get("timeline")):
                    return {**params, **noted}
        return params

    # ── whose a machine is, for the mobility services ───────────────────────────────────────────────────────────

    def sources(self) -> list[Params]:
        """{"vm", "process_server", "url", "fence"} of each machine whose process server a mobility service dials."""
        with self._lock:
            found = []
            for vm, owner in self._owners.each():
                server = self._servers.get(owner.process_server)
                if server is not None and server.dialled and server.gateway is not None:
                    told = {"process_server": server.name, "fence": owner.fence}
                    found.append({"vm": vm, "url": server.gateway["url"], **told})
            return found

    def _disown(self, item: str) -> None:
        if self._owners.drop(item):
            self._tell_of_sources()

    def _tell_of_sources(self) -> None:
        services = [each for each in self._servers.values() if each.duty is Duty.MOBILITY_SERVICE and each.there]
        for server in services:
            self._tell(server.name, RESUME, lambda: {"replications": self.sources()})
        self._wake()

    def _switch(self, params: Params, progress: Progress, id: str) -> Result:
        """Another process server has the item from now on. The one before is asked to stop; where it is away, or takes
        too long, the new one's writing fences it, and it is told when it comes back. Raises NoServer, ServerAway,
        ProcessServerCritical: nothing was done; SwitchFailed."""
        item, wanted = params["item"], params["process_server"]
        if params.get("group"):
            raise GroupTogether(f"the item is a member of group {params['group']}, whose points meet at one server")
        with self._lock:
            new, before = self._servers.get(wanted), self._assigned.get(item)
            if new is None or new.duty is not Duty.PROCESS_SERVER:
                raise NoServer(f"this site has no process server {wanted!r}")
            if not new.there:
                raise ServerAway(f"the process server {wanted} is away")
            if before == wanted:
                return {"process_server": wanted, "before": before}
            self._refuse_critical([new])
            old = self._servers.get(before or "")
        if old is not None:
            stop = Part(Duty.PROCESS_SERVER, _STOP, patience=SWITCH_PATIENCE, limit=SWITCH_LIMIT, needed=False)
            self._have_done(stop, params, progress, f"{id}.stop", old)
        begin = Part(Duty.PROCESS_SERVER, "replicate", patience=SWITCH_PATIENCE, limit=SWITCH_LIMIT)
        with self._lock:
            if (has := self._assigned.get(item)) != before:
                raise SwitchFailed(
                    f"meanwhile the item got the process server {has or 'not chosen'}", process_server=has
                )
            self._note(begin, params)
            self._give(new, params)
        try:
            self._have_done(begin, params, progress, f"{id}.go", new)
        except HomeportError as error:
            if self._stopped:  # the vault asks again
                raise
            has = self._give_back(old, new, params)
            raise SwitchFailed(
                f"{error.cause}; the item's process server is {has or 'not chosen'} now",
                process_server=has,
                reason=error.code,
            ) from error
        return {"process_server": wanted, "before": before}

    def _give_back(self, old: RelayServer | None, new: RelayServer, params: Params) -> str | None:
        """``new`` did not take the item: ``old`` goes on with it, if it is there, else ``new`` when it is back. The
        name of the one that has it now; None: whichever takes it up."""
        item = params["item"]
        with self._lock:
            if old is not None and old.there and self._assigned.get(item, new.name) == new.name:
                self._give(old, params)
                self._have_stopped(new.name, item)
                self._take_up_again(old, [item])
            has = self._assigned.get(item)
        self._wake()
        return has

    def _give(self, server: RelayServer, params: Params) -> None:
        """The item of ``params`` is that process server's, and its machine."""
        group = {f"{_GROUP}{params['group']}": server.name} if params.get("group") else {}
        if params.get("vm") and self._owners.give(params["vm"], str(params["item"]), server.name):
            self._tell_of_sources()
        assigned = self._assigned | {str(params["item"]): server.name, **group}
        if assigned != self._assigned:
            self._assign(assigned)

    def _have_stopped(self, name: str, item: str) -> None:
        self._tell(name, _STOP, lambda: {"item": item}, item)

    def throttle(self, told: Params) -> None:
        """What the vault says of the bandwidth of this site's process servers, by name. Who is not there, or says
        otherwise, is told when it greets."""
        with self._lock:
            if told != self._throttles:
                self._throttles = told
                self._keep(THROTTLES, told)
            for server in self._servers.values():
                self._have_throttled(server)
        self._wake()

    def _have_throttled(self, server: RelayServer) -> None:
        if self._throttles_otherwise(server):
            name = server.name
            self._tell(name, THROTTLE, lambda: {"throttle": self._throttles.get(name)})

    def _throttles_otherwise(self, server: RelayServer) -> bool:
        """It is there, and goes by something else than what the vault says."""
        if not server.there or (told := throttle_of(server)) is None:
            return False
        wanted = self._throttles.get(server.name)
        return wanted != ({name: told.get(name) for name in wanted or ()} if told.get("rules") == "vault" else None)

    def _throttle(self, params: Params, progress: Progress, id: str) -> Result:
        """{"told": by the names of those process servers that are there now, the throttle that rules at each}."""
        with self._lock:
            self._throttles = dict(params["servers"])
            self._keep(THROTTLES, self._throttles)
            others = [server for server in self._servers.values() if self._throttles_otherwise(server)]
        part = Part(Duty.PROCESS_SERVER, THROTTLE, patience=SWITCH_PATIENCE, needed=False)
        for server in others:
            wanted = {"throttle": self._throttles.get(server.name)}
            result = self._have_done(part, wanted, progress, f"{id}.{server.name}", server)
            if "throttle" in result:
                with self._lock:
                    vitals = {**(server.facts.get("process_server") or {}), "throttle": result["throttle"]}
                    server.facts = {**server.facts, "process_server": vitals}
        with self._lock:
            told = {server.name: throttle_of(server) for server in self._servers.values() if server.there}
        return {"told": {name: throttle for name, throttle in told.items() if throttle is not None}}

    def _have_done(
        self, part: Part, params: Params, progress: Progress, id: str, server: RelayServer | None = None
    ) -> Result:
        """``server``: that must do it; None: whose part it is."""
        with self._lock:
            server = server or self._server_for(part, params)
            if server is None:
                if not part.needed:
                    return {}
                raise NoServer(f"this site has no {part.duty}, and {part.kind} is its work")
            piece = Piece(id, server.name, part.kind, lambda: self._as_of_now(part.kind, params), progress)
            self._pieces[id] = piece
        self._wake()
        try:
            return self._outcome(piece, server, part)
        finally:
            with self._lock:
                self._pieces.pop(id, None)

    def _outcome(self, piece: Piece, server: RelayServer, part: Part) -> Result:
        begun, told = time.monotonic(), 0.0
        while True:
            with self._lock:
                self._lock.wait_for(
                    lambda: piece.result is not None or piece.error is not None or self._stopped, LOOK_EVERY
                )
                if isinstance(piece.error, ServerRemoved) and not part.needed:
                    return {}
                if piece.error is not None:
                    raise piece.error
                if piece.result is not None:
                    return piece.result
                if self._stopped:
                    raise HomeportError("the configuration server stops", code="site.unreachable")
                away = not server.there
                since = time.monotonic() - max(begun, server.heard)
            late = part.limit is not None and time.monotonic() - begun > part.limit
            if not (away or late):
                continue
            if late or (part.patience is not None and since > part.patience):
                if not part.needed:
                    log.warning("goes on without", server=server.name, kind=part.kind)
                    return {}
                if not away:
                    raise ServerAway(f"the {part.duty} {server.name} did not finish {part.kind} in {part.limit:.0f} s")
                raise ServerAway(f"the {part.duty} {server.name} has been away for {since:.0f} s")
            if piece.progress is not None and time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                piece.progress(0, 0, f"waits for the {part.duty} {server.name}, which is away")

    def _server_for(self, part: Part, params: Params, *, resumes: bool = False) -> RelayServer | None:
        """An item stays with its process server, be that away or not; a new one goes to the one named, else to that of
        its group, whose members' points meet there, else to the one that has the fewest and isn't critical.
        ``resumes``: it is no new one, only nobody knows here whose it was. Raises NoServer; ProcessServerCritical where
        that one was named."""
        able = [server for _, server in sorted(self._servers.items()) if server.duty is part.duty]
        if part.duty is not Duty.PROCESS_SERVER or not able:
            return next((server for server in able if server.there), able[0] if able else None)
        item, begins = str(params.get("item")), part.kind == "replicate"
        group = f"{_GROUP}{params['group']}" if params.get("group") else None
        wanted = params.get("process_server") if begins else None
        if wanted is not None and wanted != self._assigned.get(item):
            self._refuse_critical([server for server in able if server.name == wanted])
        if wanted is not None and all(server.name != wanted for server in able):
            raise NoServer(f"this site has no process server {wanted!r}")
        name = wanted or self._assigned.get(item) or (self._assigned.get(group) if group else None)
        found = next((server for server in able if server.name == name), None)
        if found is None:
            load = [name for each, name in self._assigned.items() if not each.startswith(_GROUP)]
            if begins and not resumes:
                # Where all are critical one of them takes it: the vault refuses to protect then, but a machine that has
                # to come home does so.
                able = [server for server in able if self._grade(server)[0] is not Grade.CRITICAL] or able
            found = min(able, key=lambda server: (not server.there, load.count(server.name), server.name))
        if begins:
            self._give(found, params)
        return found

    @staticmethod
    def _grade(server: RelayServer) -> tuple[Grade, list[str]]:
        """As it told of itself; whether it is away is another matter."""
        told = server.facts.get("process_server")
        return judge(replace(vitals_of(server.name, told or {}), silence=0.0))

    def _refuse_critical(self, servers: list[RelayServer]) -> None:
        """A process server that is in a bad way gets no more to do. Raises ProcessServerCritical where all are."""
        grades = [(server.name, *self._grade(server)) for server in servers]
        if grades and all(grade is Grade.CRITICAL for _, grade, _ in grades):
            raise ProcessServerCritical("; ".join(f"{name}: {', '.join(why)}" for name, _, why in grades))

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        self._wake()

    # ── towards the servers ─────────────────────────────────────────────────────────────────────────────────────

    def hello(self, name: str, duty: Duty, body: dict[str, Any]) -> None:
        """A server began, or tells of itself anew: what an earlier process of it had in hand is handed out again."""
        with self._lock:
            server = self._servers.get(name)
            if server is None or server.duty is not duty:
                server = self._servers[name] = RelayServer(name, duty)
            before = (server.gateway, server.dialled, server.there)
            server.executor = body["executor"]
            server.gateway, server.facts = body.get("gateway"), body.get("facts") or {}
            server.dialled = bool(body.get("dialled"))
            server.version, server.serial = str(body.get("version") or ""), body.get("serial")
            self._hear(server)
            for piece in self._pieces.values():
                if piece.server == name and piece.executor not in ("", server.executor):
                    piece.executor = ""
            for item in body.get("items") or ():
                if self._assigned.get(item, name) != name:  # it was away when another took its place
                    self._have_stopped(name, item)
            self._take_up_again(server, body.get("superseded") or ())
            self._have_throttled(server)
            self._keep(SERVERS, {known.name: known.kept() for known in self._servers.values()})
            news = before != (server.gateway, server.dialled, True)
            if news and duty is Duty.PROCESS_SERVER:
                self._tell_of_sources()
        self._wake()
        if news:
            self.changed()

    def replications(self, name: str) -> list[Params]:
        """What the process server ``name`` should replicate; a mobility service: what it should serve. Raises
        ServerAway: the vault has not told yet."""
        with self._lock:
            if self._known(name).duty is Duty.MOBILITY_SERVICE:
                if self._replications is None and not self._owners:  # "nobody" would end what goes on
                    raise ServerAway("the vault has not told yet what replicates from this site")
                return self.sources()
            if self._replications is None:
                raise ServerAway("the vault has not told yet what replicates from this site")
            mine = []
            for params in self._replications:
                part = Part(Duty.PROCESS_SERVER, "replicate")
                told = {each: params.get(each) for each in ("item", "group", "vm")}
                server = self._server_for(part, told, resumes=True)
                if server is not None and server.name == name:
                    mine.append(params)
            return mine

    def take(self, name: str, have: frozenset[str]) -> list[dict[str, Any]]:
        """What waits for the server ``name``; from now on it has it in hand. ``have``: ids that it has."""
        taken = []
        with self._lock:
            server = self._known(name)
            if not server.executor:
                raise NotAsked(f"{name} has not greeted this configuration server")
            self._hear(server)
            for piece in list(self._pieces.values()):
                if piece.server != name or piece.id in have or piece.result is not None or piece.error is not None:
                    continue
                nobody_waits, params = piece.progress is None, piece.params()
                if nobody_waits and piece.kind == _STOP and self._assigned.get(params["item"]) == name:
                    del self._pieces[piece.id]  # it got the item back meanwhile
                    continue
                piece.executor = server.executor
                taken.append({"id": piece.id, "kind": piece.kind, "params": params, "attempt": 1})
                if nobody_waits:
                    del self._pieces[piece.id]
        return taken

    def answer(self, name: str, id: str, body: dict[str, Any]) -> None:
        """A word on a piece of work. Raises NotAsked."""
        with self._lock:
            self._hear(self._known(name))
            piece = self._pieces.get(id)
            if piece is None or piece.server != name:
                raise NotAsked(f"nobody waits for {id} of {name}")
            progress = piece.progress
            if body["state"] == "done":
                piece.result = body.get("result") or {}
            elif body["state"] == "failed":
                piece.error = HomeportError.from_json(body.get("error") or {})
            self._lock.notify_all()
        told = body.get("progress")
        if body["state"] == "running" and told and progress is not None:
            progress(told["done"], told["total"], told.get("text", ""), told.get("unit", "bytes"))

    def report(self, name: str, body: dict[str, Any]) -> None:
        """How an item's replication is: goes to the vault, if the item is that server's."""
        with self._lock:
            self._hear(self._known(name))
            mine = self._assigned.get(body["item"], name) == name
        if mine:
            self._report({**body, "process_server": name})
        else:
            log.warning("report of an item that another process server has", server=name, item=body["item"])

    @contextmanager
    def polling(self, name: str) -> Iterator[None]:
        """While a server waits for work it is there."""
        with self._lock:
            server = self._known(name)
            server.polls += 1
            self._hear(server)
        try:
            yield
        finally:
            with self._lock:
                server.polls -= 1

    def dropped(self, name: str) -> None:
        """The connection of a server that waited for work was closed: it has ended."""
        with self._lock:
            self._servers[name].heard = 0.0

    def tend(self) -> None:
        """Notice who came and who went since the last look."""
        with self._lock:
            now = [(server.name, server.state) for _, server in sorted(self._servers.items())]
            news, self._told = now != self._told, now
        if news:
            log.info("servers of this site", servers=dict(now))
            self.changed()

    async def sleep(self, seconds: float) -> None:
        """Until something changes for some server, or ``seconds`` have passed."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._sleepers.add(sleeper)
        try:
            await asyncio.wait_for(sleeper[1].wait(), seconds)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._sleepers.discard(sleeper)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def _known(self, name: str) -> RelayServer:
        server = self._servers.get(name)
        if server is None:
            raise NotAsked(f"{name} has not greeted this configuration server")
        return server

    def _hear(self, server: RelayServer) -> None:
        server.heard = time.monotonic()
        server.last_contact = datetime.now(UTC).isoformat(timespec="seconds")

    def _wake(self) -> None:
        with self._lock:
            self._lock.notify_all()
            for loop, event in self._sleepers:
                loop.call_soon_threadsafe(event.set)

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        write_durably(self._folder / name, json.dumps(content).encode())


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found
