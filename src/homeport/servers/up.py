"""All roles in one process: the vault with its REST API, and for every site its servers. Same code paths as apart."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from rich.console import Console

from homeport.domain.errors import HomeportError
from homeport.servers.discovery import Discovery
from homeport.servers.durable import write_durably
from homeport.servers.link import Link
from homeport.servers.logs import log_to
from homeport.servers.work import SiteWork
from homeport.servers.worker import Worker
from homeport.sites.qemu import QemuSite, host_id
from homeport.store.backends import open_objects
from homeport.store.keys import VaultKey, seal_vault, sealed_header
from homeport.store.memory import MemoryObjects
from homeport.vault.app import Vault, create_vault
from homeport.vault.engines import DatabaseUnreachable

log = structlog.get_logger(__name__)

SITE_FOLDER = ".homeport"
DEFAULT_PORT = 8480
GREET_EVERY = 60.0
"""Seconds after which a site's facts are told anew: how its servers are."""
LOCKS = ("servers.lock", "cache/process-server.lock", "retention/master-target.lock")
"""Of a site's servers, each its own part of their folder, as where they are processes of their own."""


class AlreadyUp(HomeportError):
    code = "up.already-running"
    remedy = "Use it, or stop it first; another state folder is another vault."


def run(state: Path, port: int | None = None, database: str | None = None, *, told: Callable[[str], str] = str) -> None:
    """Serve until SIGTERM or SIGINT. Machines and point servers go on when it ends. ``database``: address of a
    PostgreSQL database; without, SQLite in the state folder. ``told``: puts what is printed into the reader's
    language. Raises AlreadyUp, and what opening the vault raises."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _locked(state / "lock") is None:
        raise AlreadyUp(f"a vault is already up in {state}")
    log_to((state / "homeport.log").open("a", buffering=1))
    faulthandler.register(signal.SIGUSR1, file=(state / "stacks.txt").open("a"))  # what is every thread doing?
    listener = _listen(state, port)
    vault = create_vault(state, database=database, host=host_id())
    seal_header(vault)
    vault.start()
    server = uvicorn.Server(uvicorn.Config(vault.app, log_config=None, access_log=False, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="rest-api", daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    write_durably(state / "endpoint", url.encode())
    sites = _Sites(vault, url, state)
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    _greet(vault, url, state, told)
    while not stop.wait(0.2):
        if not thread.is_alive():
            raise HomeportError("the REST API has ended", code="up.api-ended", remedy=f"See {state / 'homeport.log'}.")
        try:
            sites.reconcile()
        except DatabaseUnreachable as error:
            # What replicates goes on without it; whoever asks the vault is told.
            log.error("the vault's database is away", error=error.cause)
    sites.stop()
    vault.core.signal.stop()  # long polls answer, so that the API can end
    server.should_exit = True
    thread.join(timeout=5)
    vault.stop()


def seal_header(vault: Vault) -> None:
    """The vault's key, sealed by the passphrase, is kept for stores that join when the passphrase is gone."""
    secrets = vault.core.secrets
    if vault.sealed() is None and secrets.passphrase is not None:
        objects = MemoryObjects()
        seal_vault(objects, VaultKey(secrets.vault_id, bytes.fromhex(secrets.vault_key)), secrets.passphrase)
        vault.keep_sealed(sealed_header(objects) or "")


class _Sites:
    """Every site that the vault knows has its servers here."""

    def __init__(self, vault: Vault, url: str, state: Path) -> None:
        self._vault = vault
        self._url = url
        self._state = state
        self._token = (state / "token").read_text().strip()
        self._servers: dict[str, Worker] = {}
        self._opened: dict[str, dict[str, Any]] = {}
        """As they were when they were opened, or refused."""
        self._refused: set[str] = set()
        self._locks: dict[str, list[int]] = {}

    def reconcile(self) -> None:
        sites = {site["name"]: site for site in self._vault.sites()}
        for name, opened in list(self._opened.items()):
            if sites.get(name) != opened:  # removed, or it has another store now
                self._refused.discard(name)
                del self._opened[name]
                if server := self._servers.pop(name, None):
                    server.stop()
                self._let_go(name)
        for name, site in sites.items():
            if name not in self._servers and name not in self._refused:
                self._open(site)

    def _open(self, site: dict[str, Any]) -> None:
        path = Path(site["path"])
        if not path.is_dir():
            return  # it may come back; the vault says that the site is silent
        folder = path / SITE_FOLDER
        try:
            (folder / "store").mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in LOCKS:
                (folder / name).parent.mkdir(exist_ok=True, mode=0o700)
                lock = _locked(folder / name)
                if lock is None:
                    self._let_go(site["name"])
                    return  # another instance of the vault looks after the site; when it ends, this one does
                self._locks.setdefault(site["name"], []).append(lock)
            self._opened[site["name"]] = site
            url = site["store"] or (folder / "store").as_uri()
            work = SiteWork(site["name"], QemuSite(path, name=site["name"]), folder, open_objects(url), url)
            discovery = Discovery(site["name"], work.discover)
            link = Link(self._url, self._token)
            server = Worker(site["name"], link, work, greet_every=GREET_EVERY, discovery=discovery)
            server.start()
        except (OSError, HomeportError) as error:
            log.error("site can't be opened", site=site["name"], error=str(error))
            self._opened[site["name"]] = site
            self._refused.add(site["name"])
            self._let_go(site["name"])
            return
        self._servers[site["name"]] = server

    def stop(self) -> None:
        threads = [threading.Thread(target=server.stop) for server in self._servers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in list(self._locks):
            self._let_go(name)

    def _let_go(self, site: str) -> None:
        """Another instance of the vault may look after the site."""
        for lock in self._locks.pop(site, []):
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The lock, held until it is closed or this process ends; None where another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _listen(state: Path, port: int | None) -> socket.socket:
    """The port asked for; else the one used before; else the default; else any."""
    endpoint = state / "endpoint"
    wanted = [port] if port is not None else []
    if port is None and endpoint.exists():
        wanted.append(int(endpoint.read_text().rsplit(":", 1)[1]))
    if port is None:
        wanted += [DEFAULT_PORT, 0]
    for candidate in wanted:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(128)
        except OSError:
            listener.close()
            continue
        return listener
    raise HomeportError(
        f"port {port} on loopback is taken",
        code="up.port-taken",
        remedy="Choose another with --port, or leave it out to take any free one.",
    )


def _greet(vault: Vault, url: str, state: Path, told: Callable[[str], str]) -> None:
    console = Console(file=sys.stdout, soft_wrap=True)
    console.print(told(f"Homeport is up: {url} (state in {state})"))
    passphrase = vault.first_passphrase
    if passphrase:
        console.print(
            told(
                "\nThis vault's recovery passphrase, shown this once:\n\n"
                f"    [bold]{passphrase}[/bold]\n\n"
                "With a site's recovery store it brings everything back, without this vault. Write it down, keep it\n"
                "apart from both sites, then confirm: homeport vault passphrase --confirm\n"
            )
        )
