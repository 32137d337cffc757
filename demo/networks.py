"""Sites in network namespaces of their own: every role has its own address, and what joins the sites is a WAN alone.

Each site is a bridge in a router's namespace, with a namespace per role plugged into it. The routers are joined by the
WAN (``demo/wan.py``); nothing else is, and nothing leads out of here. The auditor's namespace is plugged into every
site, forwards nothing, and belongs to who asks how the sites are while the WAN is cut.

Making namespaces needs root.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from demo.namespaces import FOLDER, Namespace, kill
from demo.wan import MTU, Wan, WanQuality
from homeport.servers.process import is_running, process_identity

PREFIX = "homeport-demo-"
AUDITOR = "auditor"
_count = itertools.count()


class NetworksUnavailable(Exception):
    """Network namespaces can't be made here: why."""


@dataclass
class Networks:
    """Two sites and a WAN, from ``with`` to its end. ``sites``: names of the sites' roles.

    Raises NetworksUnavailable where namespaces can't be made. What an earlier run left behind when it was killed is
    removed first; what this one makes is removed at its end, processes in it included, however it ends.
    """

    sites: Mapping[str, Sequence[str]]
    quality: WanQuality = field(default_factory=WanQuality)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    """By site and role, "a-vault"; the routers "a" and "b"; "auditor"."""
    _wan: Wan | None = None

    def __post_init__(self) -> None:
        if len(self.sites) != 2:
            raise ValueError("a WAN joins two sites")

    @property
    def wan(self) -> Wan:
        if self._wan is None:
            raise RuntimeError("the networks aren't up")
        return self._wan

    def __getitem__(self, name: str) -> Namespace:
        return self.namespaces[name]

    def of_site(self, site: str) -> list[Namespace]:
        """Of its roles, without the router."""
        return [namespace for name, namespace in self.namespaces.items() if name.startswith(f"{site}-")]

    def __enter__(self) -> Networks:
        sweep()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def _make(self) -> None:
        own = process_identity(os.getpid())
        run = f"{PREFIX}{own['pid']}-{own['started']}-{next(_count)}-"
        auditor = self._add(run, AUDITOR)
        for number, (site, roles) in enumerate(self.sites.items(), 1):
            router = self._add(run, site, f"10.77.{number}.1")
            _ip(
                router,
                f"link add lan mtu {MTU} type bridge",
                f"addr add {router.address}/24 dev lan",
                "link set lan up",
            )
            plugs = {AUDITOR: (auditor, f"10.77.{number}.9", f"site-{site}")}
            for host, role in enumerate(roles, 10):
                address = f"10.77.{number}.{host}"
                plugs[role] = (self._add(run, f"{site}-{role}", address), address, "eth0")
            for plug, (namespace, address, link) in plugs.items():
                _ip(
                    namespace,
                    f"link add {link} mtu {MTU} type veth peer name {plug} mtu {MTU} netns {router.name}",
                    f"addr add {address}/24 dev {link}",
                    f"link set {link} up",
                    *([] if namespace is auditor else [f"route add default via {router.address}"]),
                )
                _ip(router, f"link set {plug} master lan up")
        first, second = self.sites
        self._wan = Wan(self[first], self[second], self.quality)
        self._wan.start()
        for here, there in ((first, second), (second, first)):
            network = self[there].address.rpartition(".")[0] + ".0/24"
            _ip(self[here], f"route add {network} dev wan")

    def _add(self, run: str, name: str, address: str = "") -> Namespace:
        namespace = Namespace(run + name, address)
        done = subprocess.run(["ip", "netns", "add", namespace.name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NetworksUnavailable(f"no network namespace can be made: {done.stderr.strip()}")
        self.namespaces[name] = namespace
        _ip(namespace, "link set lo up")
        with namespace.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1" if name in self.sites else "0")
        return namespace

    def _remove(self) -> None:
        if self._wan is not None:
            self._wan.stop()
            self._wan = None
        _remove(list(self.namespaces.values()))
        self.namespaces.clear()


def sweep() -> None:
    """Remove what runs that are no longer alive left behind. Doing it again does no harm."""
    dead = []
    for path in FOLDER.glob(f"{PREFIX}*"):
        pid, started, _ = path.name.removeprefix(PREFIX).split("-", 2)
        if not is_running({"pid": int(pid), "started": int(started)}):
            dead.append(Namespace(path.name))
    _remove(dead)


def _remove(namespaces: Sequence[Namespace]) -> None:
    kill(namespaces)
    for namespace in namespaces:
        subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True, check=False)


def _ip(namespace: Namespace, *commands: str) -> None:
    """ip(8) in a namespace. Raises NetworksUnavailable with what it said."""
    done = subprocess.run(
        ["ip", "-n", namespace.name, "-batch", "-"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NetworksUnavailable(f"{namespace.name}: {'; '.join(commands)}: {done.stderr.strip()}")
