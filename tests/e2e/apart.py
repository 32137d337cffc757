"""The world of world.py with every role a process of its own, over TLS on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from homeport.domain.servers import Role
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.joining import join_configuration_server, join_vault
from tests.e2e.world import World
from tests.ports import free_port

SITES = ("a", "b")


class Apart(World):
    """``servers``: by name: ``vault``, ``cs-a``, ``ps-a``, ``mt-a``, ``cs-b``, …"""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        self.roles: dict[str, Role] = {"vault": Role.VAULT}
        self.urls: dict[str, str] = {}
        self.health: dict[str, str] = {}
        self._configure("vault", urls=[self._url("vault")], local=f"127.0.0.1:{self.port}", state=str(self.state))

    def _url(self, name: str) -> str:
        return self.urls.setdefault(name, f"https://127.0.0.1:{free_port()}")

    def config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def own(self, name: str) -> Path:
        """The state folder of a server."""
        return self.state if name == "vault" else self.folder / "servers" / name

    def _configure(self, name: str, /, **values: Any) -> None:
        values = {"state": str(self.own(name)), "log": str(self.folder / f"{name}.log"), "health": "", **values}
        if name in self.urls:
            values["listen"] = self.urls[name].removeprefix("https://")
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config(name).write_text("\n".join(lines) + "\n")

    def start_server(self, name: str) -> None:
        self.servers[name] = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "serve", self.roles[name], "--config", str(self.config(name))],
            stdout=(self.folder / f"{name}.txt").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if name == "vault":
            self.process = self.servers[name]

    def kill_server(self, name: str) -> None:
        """SIGKILL: everything else goes on."""
        process = self.servers[name]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)

    def replace_server(self, name: str) -> None:
        self.kill_server(name)
        self.start_server(name)

    def up(self, **environment: str) -> None:
        self.start_server("vault")
        self.until(self._answers, 60, "the vault to be up")
        self.passphrase = (self.state / "passphrase").read_text().strip()
        for site in SITES:
            self.api("POST", "/v1/sites", {"name": site, "provider": "qemu", "path": str(getattr(self, site))})
        for site in SITES:
            self._join_site(site)
        self.until(self.all_connected, 60, "all servers to be connected")

    def _join_site(self, site: str) -> None:
        folder = str(getattr(self, site))
        key = self.api("POST", "/v1/registration-keys", {"site": site})["key"]
        cs, ps, mt = f"cs-{site}", f"ps-{site}", f"mt-{site}"
        self.roles |= {cs: Role.CONFIGURATION_SERVER, ps: Role.PROCESS_SERVER, mt: Role.MASTER_TARGET}
        join_vault(key, self.own(cs), name=cs)
        self._url(cs)
        self._configure(cs, folder=folder)
        self.start_server(cs)
        self.until(lambda: self._listens(cs), 60, f"{cs} to listen")
        passphrase = JoinPassphrase(self.own(cs)).text
        for name in (ps, mt):
            join_configuration_server(self.urls[cs], passphrase, self.roles[name], self.own(name), name=name)
        self.health[ps] = f"127.0.0.1:{free_port()}"
        self._configure(ps, folder=folder, advertise=self._url(ps), health=self.health[ps])
        self._configure(mt, folder=folder)
        for name in (ps, mt):
            self.start_server(name)

    def _listens(self, name: str) -> bool:
        assert self.servers[name].poll() is None, (self.folder / f"{name}.txt").read_text()[-3000:]
        try:
            httpx.get(self.urls[name] + "/v1/join", verify=False, timeout=5)
        except httpx.TransportError:
            return False
        return True

    def states(self, site: str) -> dict[str, str]:
        facts = self.api("GET", f"/v1/sites/{site}")["facts"]
        return {server["name"]: server["state"] for server in facts.get("servers", [])}

    def all_connected(self) -> bool:
        for name, process in self.servers.items():
            assert process.poll() is None, name + ":\n" + (self.folder / f"{name}.txt").read_text()[-3000:]
        wanted = {site: {f"ps-{site}": "connected", f"mt-{site}": "connected"} for site in SITES}
        return all(self.states(site) == wanted[site] for site in SITES)

    def log_tail(self) -> str:
        return "\n".join(
            f"── {path.name}\n{path.read_text()[-2500:]}" for path in sorted(self.folder.glob("*.log")) if path.exists()
        )

    def set_up(self) -> None:
        self.make_machine()
        self.up()
        self.api("POST", "/v1/policies", self.policy)

    def healthy(self, name: str) -> dict[str, bool]:
        """What a process server says of itself: by check whether it is well."""
        told = httpx.get(f"http://{self.health[name]}/health", timeout=20).json()
        assert (told["role"], told["name"]) == (self.roles[name], name)
        return {check["name"]: check["ok"] for check in told["checks"]}

    def check_ways(self, name: str) -> tuple[int, dict[str, Any]]:
        """Exit status and answer of ``--check``."""
        command = ["serve", self.roles[name], "--config", str(self.config(name)), "--check", "--json"]
        found = subprocess.run([sys.executable, "-m", "homeport.cli", *command], capture_output=True, check=False)
        return found.returncode, {way["peer"]: way for way in json.loads(found.stdout)["ways"]}

    def end_servers(self) -> dict[str, int]:
        """In order, all at once; exit statuses by name."""
        for process in self.servers.values():
            process.terminate()
        return {name: process.wait(30) for name, process in self.servers.items()}

    def close(self) -> None:
        for process in self.servers.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        super().close()
