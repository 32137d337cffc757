"""Homeport's servers, each a process in a network namespace of its own: joined, started, killed, asked how they are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.namespaces import Namespace
from demo.networks import Networks

HOMEPORT = [sys.executable, "-m", "homeport.cli"]
VAULT = "vault"
ROLES = {VAULT: "vault", "cs": "configuration-server", "ps": "process-server", "mt": "master-target"}
"""The roles by what their namespaces are called; "ps2" is a second process server."""
API_PORT, DATA_PORT, HEALTH_PORT, LOCAL_PORT = 443, 9443, 9470, 8480
PATIENCE = 60.0


class ServerFailed(Exception):
    """A server ended, or didn't come up: what it said."""


@dataclass
class Servers:
    """``folder``: has a folder for each server's state, and one for each site. ``one_place``: all in the first
    namespace, on loopback addresses of their own, with no network between them."""

    folder: Path
    networks: Networks
    vault_at: str
    one_place: bool = False
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """By name: the site and the role, "oslo-cs"."""

    @property
    def vault(self) -> str:
        return f"{self.vault_at}-{VAULT}"

    def state(self, name: str) -> Path:
        return self.folder / "state" / name

    def site_folder(self, site: str) -> Path:
        return self.folder / site

    def cache(self, name: str) -> Path:
        """Of a second process server."""
        return self.folder / "cache" / name

    def namespace(self, name: str) -> Namespace:
        return self.networks[self.vault if self.one_place else name]

    def address(self, name: str) -> str:
        if not self.one_place:
            return self.networks[name].address
        return f"127.1.0.{1 + list(self.networks.namespaces).index(name)}"

    def said(self, name: str) -> str:
        """What a server wrote to its standard output and error."""
        return (self.folder / f"{name}.txt").read_text()

    # ── one after the other ─────────────────────────────────────────────────────────────────────────────────────

    def start_vault(self) -> str:
        """Returns the recovery passphrase. Raises ServerFailed."""
        url = f"https://{self.address(self.vault)}:{API_PORT}"
        self._configure(self.vault, listen=f"{self.address(self.vault)}:{API_PORT}", urls=[url],
                        local=f"127.0.0.1:{LOCAL_PORT}")  # fmt: skip
        self.start(self.vault)
        return (self.state(self.vault) / "passphrase").read_text().strip()

    def start_site(self, site: str, *, servers: Sequence[str] = ("ps", "mt"), restore: bool = False) -> None:
        """Join and start all three servers of a site. ``restore``: its configuration server is a lost one, which the
        vault has a backup of. Raises ServerFailed."""
        self.site_folder(site).mkdir(parents=True, exist_ok=True)
        cs = f"{site}-cs"
        key = self.folder / f"{site}.key"
        key.unlink(missing_ok=True)
        self.command(self.vault, "vault", "key", "new", "--site", site, "--out", str(key),
                     *(["--replace"] if restore else []))  # fmt: skip
        how = ["restore", "--from-vault"] if restore else ["join"]
        self.command(cs, "configuration-server", *how, "--key", str(key), *self._identity(cs))
        self._configure(cs, folder=str(self.site_folder(site)), listen=f"{self.address(cs)}:{API_PORT}")
        self.start(cs)
        for role in servers:
            self.add_server(f"{site}-{role}")

    def add_server(self, name: str) -> None:
        """Join and start a process server or master target. Raises ServerFailed."""
        site, _, short = name.partition("-")
        cs = f"{site}-cs"
        passphrase = self.folder / f"{site}.passphrase"
        passphrase.write_text(self.join_passphrase(site))
        self.command(name, self._role(name), "join", "--url", f"https://{self.address(cs)}:{API_PORT}",
                     "--passphrase-file", str(passphrase), *self._identity(name))  # fmt: skip
        more: dict[str, Any] = {"folder": str(self.site_folder(site))}
        if short.startswith("ps"):
            more |= {
                "listen": f"{self.address(name)}:{DATA_PORT}",
                "advertise": f"https://{self.address(name)}:{DATA_PORT}",
            }
        if short != "ps" and short.startswith("ps"):
            more["cache"] = str(self.cache(name))
        self._configure(name, **more)
        self.start(name)

    def join_passphrase(self, site: str) -> str:
        """Raises ServerFailed."""
        cs = f"{site}-cs"
        return self.command(cs, "configuration-server", "passphrase", "--state", str(self.state(cs)))

    def start(self, name: str) -> None:
        """Start a server that has joined, and wait until it is of use. Raises ServerFailed."""
        out = (self.folder / f"{name}.txt").open("ab")
        with out, self.namespace(name).inside():
            self.running[name] = subprocess.Popen(
                [*HOMEPORT, "serve", self._role(name), "--config", str(self._config(name))],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.until(lambda: self._is_of_use(name), name)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.running[name].kill()
        self.running[name].wait()

    def health(self, name: str) -> dict[str, Any] | None:
        """What GET /health answers; None: nobody answers."""
        try:
            with self.namespace(name).inside(), urllib.request.urlopen(self._health(name), timeout=5) as response:
                found: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        except OSError:
            return None
        return found

    def _is_of_use(self, name: str) -> bool:
        """Whether who gives it work has heard of it."""
        site, _, short = name.partition("-")
        asked, check = {VAULT: (name, "database"), "cs": (self.vault, f"site {site}")}.get(
            short, (f"{site}-cs", f"server {name}")
        )
        checks = (self.health(asked) or {}).get("checks", [])
        return any(found["name"] == check and found["ok"] for found in checks)

    def until(self, condition: Callable[[], object], name: str) -> None:
        """Wait for something that a server does. Raises ServerFailed."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.running[name].poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{name} didn't come up:\n{self.said(name)[-3000:]}")
            time.sleep(0.1)

    def command(self, name: str, *words: str) -> str:
        """Run `homeport` where a server is; what it printed. Raises ServerFailed."""
        with self.namespace(name).inside():
            done = subprocess.run(
                [*HOMEPORT, *words, *(["--state", str(self.state(name))] if name == self.vault else [])],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise ServerFailed(f"homeport {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _identity(self, name: str) -> list[str]:
        return ["--state", str(self.state(name)), "--name", name, "--host", self.address(name)]

    def _role(self, name: str) -> str:
        return ROLES[self._short(name)]

    def _short(self, name: str) -> str:
        return name.rpartition("-")[2].rstrip("0123456789")

    def _config(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def _health(self, name: str) -> str:
        host = self.address(name) if self.one_place else "127.0.0.1"
        return f"http://{host}:{HEALTH_PORT}/health"

    def _configure(self, name: str, **settings: object) -> None:
        self.state(name).mkdir(parents=True, exist_ok=True, mode=0o700)
        settings |= {"state": str(self.state(name)), "health": self._health(name).split("/")[2]}
        # JSON's texts and lists of texts are TOML's
        text = "".join(f"{setting} = {json.dumps(value)}\n" for setting, value in settings.items())
        self._config(name).write_text(text)
