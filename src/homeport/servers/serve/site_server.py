"""The servers of a site as processes of their own."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import structlog
from fastapi import FastAPI

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.cache_room import CacheRoom
from homeport.servers.configuration_backup import EVERY, LOOK_EVERY, Schedule, take_up
from homeport.servers.discovery import Discovery
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.join_service import UNGUARDED, install_errors, join_routes
from homeport.servers.joining import IDENTITY
from homeport.servers.link import Link
from homeport.servers.next_url import REPEATABLE
from homeport.servers.relay import Relay
from homeport.servers.remote_source import RemoteMachines
from homeport.servers.role_work import RoleWork
from homeport.servers.serve.health import Check
from homeport.servers.serve.process import Lock
from homeport.servers.serve.settings import Config
from homeport.servers.serve.store_choice import StoreChoice
from homeport.servers.serve.web import Web, listen
from homeport.servers.shipping import Shipping
from homeport.servers.site_facts import drive
from homeport.servers.site_service import who_asks_over_tls, work_routes
from homeport.servers.source_exchange import SourceExchange
from homeport.servers.throttle import Throttle
from homeport.servers.work.master_target_work import MasterTargetWork
from homeport.servers.work.process_server_work import Door, ProcessServerWork
from homeport.servers.work.site_context import SiteContext
from homeport.servers.work.site_work import SiteWork
from homeport.servers.worker import Work, Worker
from homeport.sites.qemu import QemuSite
from homeport.store.backends import open_objects
from homeport.trust.asgi import PeerGuard, tls_server
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)

SILENT_AFTER = 60.0
"""Seconds without an answer from who is dialled after which it counts as away."""
GREET_EVERY = 60.0
TELL_EVERY = 30.0
_OF_A_BACKUP = ("folder", "store", "vault", "listen")
"""Settings that a backup names."""


class WrongRole(HomeportError):
    code = "serve.wrong-role"
    remedy = "Name the state folder of the server that joined in this role, or join this one."


class FolderMissing(HomeportError):
    code = "serve.folder-missing"
    remedy = "Mount it, or set `folder` to the site's folder."


class SiteServer:
    """What the three have in common: an identity, the site's folder, and a worker."""

    role: Role
    uses: str

    def __init__(self, config: Config) -> None:
        """Raises IdentityMissing, IdentityDamaged, :class:`WrongRole`."""
        self.config = config
        self.identity = Identity.open(config.state / IDENTITY)
        if self.identity.role is not self.role:
            raise WrongRole(f"In {config.state} lies the identity of {self.identity.who.uri}, no {self.role}.")
        self.name = self.identity.name
        self.folder = config.path("cache") if config.machines_elsewhere else config.servers_folder
        self.stack = ExitStack()
        self.worker: Worker | None = None
        self.store = StoreChoice(config)

    def begin(self, link: Link, place: str) -> SiteContext:
        """The site as this server sees it. ``link``: to who tells it what to do, where it is known as ``place``.
        Raises :class:`FolderMissing`, RunsAlready, StoreContradicts, and what opening its store raises."""
        if self.config.machines_elsewhere:
            self.stack.enter_context(Lock(self.config.state / "lock"))
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            url = self._choose_store(link, place)
            return SiteContext(self.identity.site, None, self.folder, open_objects(url), url)
        path = self.config.path("folder")
        if not path.is_dir():
            raise FolderMissing(f"The site's folder {path} is not there.")
        self.stack.enter_context(Lock(self.config.state / "lock"))
        self.folder.mkdir(exist_ok=True, mode=0o700)
        url = self._choose_store(link, place)
        if self.store.named() is None:
            (self.folder / "store").mkdir(exist_ok=True, mode=0o700)
        site = QemuSite(path, name=self.identity.site)
        return SiteContext(self.identity.site, site, self.folder, open_objects(url), url)

    def _choose_store(self, link: Link, place: str) -> str:
        with link.client(httpx.Timeout(5.0)) as client:
            self.store.ask(client, place)
        return self.store.open()

    def stop(self) -> None:
        self.stack.close()

    def failed(self) -> str | None:
        return self.store.otherwise()

    def reload(self, config: Config) -> None:
        """Take on what of a changed configuration can be taken on without a new start."""

    def checks(self) -> list[Check]:
        there = self.folder.is_dir()
        silence = self.worker.silence() if self.worker is not None else None
        told = "never answered" if silence is None else f"answered {silence:.0f} s ago"
        soon = self.identity.expires_soon()
        return [
            Check("folder", there, f"{self.folder} is {'there' if there else 'not there'}"),
            Check(self.uses, silence is not None and silence < SILENT_AFTER, told),
            Check("certificate", not soon, f"valid until {self.identity.not_after.isoformat()}"),
        ]

    def upstream(self, setting: str) -> list[str]:
        """Where who is dialled may be: as configured, else as it was told at the join."""
        configured = self.config.values[setting]
        urls = [configured] if isinstance(configured, str) and configured else list(configured or self.identity.urls)
        if not urls:
            raise WrongRole(f"It is not known where the {setting.replace('_', ' ')} is: set {setting}.")
        return urls


class ConfigurationServer(SiteServer):
    """Takes the vault's work, and hands on what is for the other servers of its site."""

    role = Role.CONFIGURATION_SERVER
    uses = "vault"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.relay = Relay(config.state)
        self._work: SiteWork | None = None
        self._web: Web | None = None
        self._backups: Schedule | None = None
        self._discovery: Discovery | None = None
        self._ending = threading.Event()

    def start(self) -> None:
        listener = listen(self.config.address("listen"))
        self.stack.callback(listener.close)
        first, *others = self.upstream("vault")
        link = Link(first, identity=self.identity, role=Role.VAULT, others=tuple(others))
        context = self.begin(link, self.identity.site)
        self.stack.enter_context(Lock(self.folder / "servers.lock"))
        take_up(self.config.state, self.folder, {name: self.config.values[name] for name in _OF_A_BACKUP})
        work = self._work = SiteWork(
            context.name, context.site, self.folder, context.objects, context.objects_url, self.relay
        )
        work.heard = self._hear
        self._hear({})
        vault = link.client(httpx.Timeout(10.0))
        self.stack.callback(vault.close)
        discovery = self._discovery = Discovery(self.identity.site, work.discover, self.config.discovery)
        worker = self.worker = Worker(self.identity.site, link, work, greet_every=GREET_EVERY, discovery=discovery)
        self.relay.changed = worker.refresh
        api = FastAPI(title="Homeport configuration server", openapi_url=None)
        install_errors(api)
        api.include_router(join_routes(self.identity, JoinPassphrase(self.config.state), vault))
        api.include_router(work_routes(self.relay, who_asks_over_tls, lambda: self.identity.revocations))
        guarded = PeerGuard(api, self.identity, site=self.identity.site, unguarded=UNGUARDED)
        self._web = Web(
            tls_server(guarded, self.identity, require_client=False, lifespan="off"), listener, "site-service"
        )
        self.stack.callback(self._web.stop)
        self._web.start()
        self.stack.callback(worker.stop)
        worker.start()
        self._backups = Schedule(self.config.state, self.identity.site, vault)
        keeper = threading.Thread(target=self._back_up, args=(self._backups,), name="backups", daemon=True)
        keeper.start()
        teller = threading.Thread(target=self._tell_servers, args=(vault,), name="tell-servers", daemon=True)
        self.stack.callback(self._ending.set)
        teller.start()

    def _hear(self, answer: dict[str, Any]) -> None:
        self.store.hear(answer)
        self.relay.store, self.relay.store_known = self.store.named(), self.store.known

    def _tell_servers(self, vault: httpx.Client) -> None:
        """The vault keeps of each server when it was last heard of, by which certificate."""
        while not self._ending.wait(TELL_EVERY):
            for told in self.relay.certificates():
                try:
                    path = f"/v1/agent/{self.identity.site}/servers"
                    vault.post(path, json=told, extensions=REPEATABLE).raise_for_status()
                except (httpx.HTTPError, RuntimeError) as error:
                    log.info("server not told to the vault", server=told["name"], error=str(error))

    def _back_up(self, backups: Schedule) -> None:
        while not self._ending.wait(LOOK_EVERY):
            try:
                backups.tend()
            except Exception:
                log.exception("backing up failed")

    def reload(self, config: Config) -> None:
        """How often the site is discovered."""
        if self._discovery is not None:
            self._discovery.interval = config.discovery

    def failed(self) -> str | None:
        ended = "the service for this site's servers has ended" if self._web and not self._web.alive else None
        return ended or super().failed()

    def checks(self) -> list[Check]:
        found = super().checks()
        if self._work is not None:
            store = self._work.store.facts()["store"]
            found.append(Check("store", store["reachable"], store["why"] or "it answers"))
        if self._backups is not None:
            at = self._backups.last()
            late = at is None or datetime.now(UTC) - at > 2 * EVERY
            told = "the vault has none" if at is None else f"the vault has one of {at}"
            found.append(Check("backup", not late, told))
        for server in self.relay.servers():
            text = f"{server['role']}, {server['state']}, last contact {server['last_contact'] or 'never'}"
            found.append(Check(f"server {server['name']}", server["state"] == "connected", text))
        return found


class ProcessServer(SiteServer):
    """Replicates what runs at its site, and is the door to its store for the others."""

    role = Role.PROCESS_SERVER
    uses = "configuration server"
    _shipping: Shipping | None = None
    _exchange: SourceExchange | None = None

    def start(self) -> None:
        link = _to_configuration_server(self)
        context = self.begin(link, self.name)
        if self.config.text("cache"):
            context.cache_at = self.config.path("cache")
        context.caches.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.stack.enter_context(Lock(context.caches / "process-server.lock"))
        host, port = self.config.address("listen")
        door = Door(host, port, self.config.text("advertise"), self.identity, self.config.state)
        room = CacheRoom(context.caches, self.config.cache_quota())
        self._shipping = Shipping(room, Throttle(self.config.schedule()), self.config.threads)
        if self.config.machines_elsewhere:
            self._exchange = SourceExchange()
        elsewhere = RemoteMachines(self._exchange) if self._exchange is not None else None
        role = ProcessServerWork(context, door, self._shipping, elsewhere)
        begin_work(self, RoleWork(role, self.folder, self.config.state), link)

    def reload(self, config: Config) -> None:
        """Rates at once, threads from an item's next session on."""
        if self._shipping is not None:
            self._shipping.throttle.own, self._shipping.threads = config.schedule(), config.threads

    def checks(self) -> list[Check]:
        found = super().checks()
        if self._shipping is not None:
            room = self._shipping.room.look()
            found.append(Check("cache", not room.throttled, f"{room.share:.0%} of it are free"))
        if self._exchange is not None:
            for service in self._exchange.services():
                told = f"{'is there' if service['there'] else 'is away'}; machines: {', '.join(service['machines'])}"
                found.append(Check(f"mobility service {service['name']}", service["there"], told))
        return found


class MasterTarget(SiteServer):
    """Takes powered-off disks as a base, and writes them at a failback."""

    role = Role.MASTER_TARGET
    uses = "configuration server"

    def start(self) -> None:
        link = _to_configuration_server(self)
        context = self.begin(link, self.name)
        if self.config.text("retention"):
            context.retention_at = self.config.path("retention")
        context.retention.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.stack.enter_context(Lock(context.retention / "master-target.lock"))
        begin_work(self, RoleWork(MasterTargetWork(context), self.folder, self.config.state), link)

    def checks(self) -> list[Check]:
        place = Path(self.config.text("retention") or self.folder / "retention")
        return [*super().checks(), _room("retention drive", place)]


def _to_configuration_server(server: SiteServer) -> Link:
    return Link(
        server.upstream("configuration_server")[0],
        identity=server.identity,
        role=Role.CONFIGURATION_SERVER,
        site=server.identity.site,
    )


def begin_work(server: SiteServer, work: Work, link: Link | None = None) -> None:
    """Take work from the site's configuration server. ``link``: to it, where there is one already."""
    link = link or _to_configuration_server(server)
    server.worker = Worker(server.name, link, work, greet_every=GREET_EVERY)
    if isinstance(work, RoleWork):
        work.heard = server.store.hear
        work.changed = server.worker.refresh
    server.stack.callback(server.worker.stop)
    server.worker.start()


FULL_BELOW = 0.2
"""Of a drive (reference: below this replication is slowed down)."""


def _room(name: str, folder: Path) -> Check:
    found = drive(folder)
    if "free" not in found:
        return Check(name, False, f"nothing can be told of {folder}")
    share = found["free"] / found["total"]
    return Check(name, share >= FULL_BELOW, f"{share:.0%} of it are free")
