"""The vault as a process of its own: its API over TLS for sites and operators, on loopback for the command line."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import structlog
import uvicorn

from homeport.servers.durable import write_durably
from homeport.servers.serve.health import Check
from homeport.servers.serve.settings import Config
from homeport.servers.serve.web import Web, listen
from homeport.servers.up import seal_header
from homeport.sites.qemu import host_id
from homeport.trust.asgi import tls_server
from homeport.vault.app import Vault, create_vault

log = structlog.get_logger(__name__)


class VaultServer:
    def __init__(self, config: Config) -> None:
        self._config = config
        self.name = config.text("name") or socket.gethostname().split(".")[0]
        self._stack = ExitStack()
        self._vault: Vault | None = None
        self._webs: list[Web] = []

    def start(self) -> None:
        """Raises StateInUse, PortTaken, and what opening the vault raises."""
        config = self._config
        urls = config.texts("urls")
        with ExitStack() as stack:
            outside, local = listen(config.address("listen")), listen(config.address("local"))
            stack.callback(outside.close)
            stack.callback(local.close)
            vault = create_vault(config.state, database=config.text("database") or None, host=host_id())
            stack.callback(vault.close)
            seal_header(vault)
            hosts = [urlsplit(url).hostname or "" for url in urls]
            identity = vault.identity(self.name, urls, hosts)
            stack.pop_all()
        self._vault = vault
        self._stack.callback(vault.stop)
        vault.start()
        over_tls = tls_server(vault.app, identity, require_client=False, lifespan="off")
        plain = uvicorn.Server(
            uvicorn.Config(
                vault.app, log_config=None, access_log=False, timeout_graceful_shutdown=3, lifespan="off"
            )
        )  # fmt: skip
        self._webs = [Web(over_tls, outside, "rest-api-tls"), Web(plain, local, "rest-api-local")]
        for web in self._webs:
            self._stack.callback(web.stop)
            web.start()
        self._stack.callback(vault.core.signal.stop)  # long polls answer, so that the API can end
        host, port = config.address("local")
        write_durably(config.state / "endpoint", f"http://{host}:{port}".encode())
        if vault.first_passphrase:
            log.warning(
                "the recovery passphrase was made: write it down, then confirm it",
                file=str(config.state / "passphrase"),
            )

    def stop(self) -> None:
        self._stack.close()

    def reload(self, config: Config) -> None:
        """Nothing of it changes without a new start."""

    def failed(self) -> str | None:
        return None if all(web.alive for web in self._webs) else "the REST API has ended"

    def checks(self) -> list[Check]:
        if self._vault is None:
            return [Check("starts", False, "it is starting")]
        try:
            sites = self._vault.sites()
        except Exception as error:  # whatever the database's driver raises
            return [Check("database", False, f"it does not answer: {error}")]
        found = [Check("database", True, "it answers")]
        for site in sites:
            silence = self._vault.core.liveness.silence(site["name"])
            there = silence is not None and silence <= self._vault.core.timeouts.gone
            heard = "never heard of" if silence is None else f"heard of {silence:.0f} s ago"
            found.append(Check(f"site {site['name']}", there, heard))
        return found
