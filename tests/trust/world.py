"""A vault and configuration servers over real TLS on loopback, and somebody in between."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from homeport.domain.servers import Role, ServerName
from homeport.servers.join_passphrase import Guesses, JoinPassphrase
from homeport.servers.join_service import UNGUARDED, install_errors, join_routes
from homeport.servers.joining import join_configuration_server, join_vault
from homeport.trust import tls
from homeport.trust.asgi import PeerGuard, tls_server
from homeport.trust.certificates import Issuer, key_to_pem, make_request, make_root, new_key, read_request, to_pem
from homeport.trust.identity import Identity
from homeport.vault import registration, servers
from homeport.vault.app import Vault, create_vault
from homeport.vault.database import SiteRow


def listen() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(32)
    return listener


def url_of(listener: socket.socket) -> str:
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


class Served:
    """An application behind TLS, in a thread."""

    def __init__(self, app: Any, identity: Identity, *, require_client: bool, listener: socket.socket) -> None:
        self.server: uvicorn.Server = tls_server(
            app, identity, require_client=require_client, graceful=1, lifespan="off"
        )
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(10)


class TlsVault:
    """No operations run in it: only its API, its database and its authority."""

    def __init__(self, state: Path) -> None:
        self.vault: Vault = create_vault(state)
        self.core = self.vault.core
        self.later = timedelta()
        self.core.clock = lambda: datetime.now(UTC) + self.later
        self.state = state
        with self.core.database.write() as session:
            for name in ("home", "away"):
                session.merge(SiteRow(name=name, provider="qemu", path=f"/{name}"))
        listener = listen()
        self.url = url_of(listener)
        self.identity = self.vault.identity("vault-1", [self.url], ["127.0.0.1"])
        self.serving = Served(self.vault.app, self.identity, require_client=False, listener=listener)
        self.operator = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.vault.token}"},
            verify=tls.client_context(self.core.authority.pem),
            trust_env=False,
        )

    def key(self, site: str = "home", *, replace: bool = False, url: str | None = None) -> str:
        """The text of a registration key; ``url``: where it says that the vault is."""
        return registration.make(self.core, site, [url or self.url], replace=replace).to_text()

    def server(self, name: str) -> dict[str, Any]:
        return next(each for each in self.servers() if each["name"] == name)

    def servers(self) -> list[dict[str, Any]]:
        return list(servers.listed(self.core)["servers"])

    def stop(self) -> None:
        self.operator.close()
        self.core.signal.stop()
        self.serving.stop()
        self.vault.close()


class Site:
    """A site whose configuration server has joined and listens for others."""

    def __init__(self, vault: TlsVault, name: str, state: Path, server: str | None = None) -> None:
        self.vault = vault
        self.state = state
        self.identity = join_vault(vault.key(name), state, name=server or f"cs-{name}")
        self.client = self.identity.http_client(vault.url, Role.VAULT)
        self.passphrase = JoinPassphrase(state)
        self.now = 0.0
        self.guesses = Guesses(lambda: self.now)
        api = FastAPI()
        install_errors(api)
        api.include_router(join_routes(self.identity, self.passphrase, self.client, self.guesses))
        listener = listen()
        self.url = url_of(listener)
        guarded = PeerGuard(api, self.identity, site=name, unguarded=UNGUARDED)
        self._served = Served(guarded, self.identity, require_client=False, listener=listener)

    def join(self, state: Path, role: Role = Role.PROCESS_SERVER, **more: Any) -> Identity:
        given = {"name": "ps-1", "url": self.url, "passphrase": self.passphrase.text, **more}
        return join_configuration_server(given.pop("url"), given.pop("passphrase"), role, state, **given)

    def stop(self) -> None:
        self._served.stop()
        self.client.close()


class InBetween:
    """Takes connections with a certificate of its own, which bears the right name, and passes on what it reads."""

    def __init__(self, to: str, who: ServerName, folder: Path) -> None:
        key = new_key()
        root = make_root(who.vault, key, datetime.now(UTC))
        own = new_key()
        certificate = Issuer(root, key).issue(read_request(make_request(own, who.name)), who, datetime.now(UTC))
        chain = folder / "between.pem"
        chain.write_text(key_to_pem(own) + to_pem(certificate))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain)
        self._to = int(to.rsplit(":", 1)[1])
        self._listener = listen()
        self.url = url_of(self._listener)
        self.seen = bytearray()
        """What it could read."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(taken,), daemon=True).start()

    def _pass(self, taken: socket.socket) -> None:
        outside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outside.check_hostname, outside.verify_mode = False, ssl.CERT_NONE
        try:
            near = self.context.wrap_socket(taken, server_side=True)
            far = outside.wrap_socket(socket.create_connection(("127.0.0.1", self._to), 10))
        except OSError:
            taken.close()
            return

        def back() -> None:
            try:
                while text := far.recv(65536):
                    near.sendall(text)
            except OSError:
                pass
            finally:
                near.close()

        threading.Thread(target=back, daemon=True).start()
        try:
            while text := near.recv(65536):
                self.seen += text
                far.sendall(text)
        except OSError:
            pass
        finally:
            far.close()

    def stop(self) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
