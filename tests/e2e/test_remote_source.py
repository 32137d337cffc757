"""A process server that is not at the host of its machines, and never looks into their folder: a mobility service at
the host brings it what they write. Whichever of the two is killed, no point is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeport.domain.servers import Role
from homeport.servers.join_passphrase import JoinPassphrase
from homeport.servers.joining import join_configuration_server, join_vault
from homeport.store.backends import open_objects
from homeport.store.keys import machine_key, open_vault
from homeport.store.timeline import MachineStore
from tests.e2e.apart import SITES, Apart
from tests.e2e.world import VM
from tests.ports import free_port

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

WATCHED = """
import os, sys
forbidden, told = os.environ["FORBIDDEN"], os.environ["TOLD"]
report = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(report, b"watches\\n")
def hook(event, arguments):
    if event.partition(".")[0] in ("open", "os", "socket", "subprocess", "shutil"):
        text = repr(arguments)
        if forbidden + "/" in text or forbidden + "'" in text:
            os.write(report, f"{event} {text}\\n".encode())
sys.addaudithook(hook)
"""
"""Tells of whatever in a process of Python has to do with a folder."""


class Elsewhere(Apart):
    """Site ``a``: ``ps-a`` and ``p2-a`` stand elsewhere, ``ms-a`` at the host. The store is a share that all see."""

    def _join_site(self, site: str) -> None:
        if site != "a":
            super()._join_site(site)
            return
        key = self.api("POST", "/v1/registration-keys", {"site": site})["key"]
        share = self.folder / "share"
        share.mkdir()
        store, folder = share.as_uri(), str(self.a)
        self.roles |= {
            "cs-a": Role.CONFIGURATION_SERVER,
            "ps-a": Role.PROCESS_SERVER,
            "p2-a": Role.PROCESS_SERVER,
            "mt-a": Role.MASTER_TARGET,
            "ms-a": Role.MOBILITY_SERVICE,
        }
        join_vault(key, self.own("cs-a"), name="cs-a")
        self._url("cs-a")
        self._configure("cs-a", folder=folder, store=store)
        self.start_server("cs-a")
        self.until(lambda: self._listens("cs-a"), 60, "cs-a to listen")
        passphrase = JoinPassphrase(self.own("cs-a")).text
        for name in ("ps-a", "p2-a", "mt-a", "ms-a"):
            join_configuration_server(self.urls["cs-a"], passphrase, self.roles[name], self.own(name), name=name)
        self.health |= {name: f"127.0.0.1:{free_port()}" for name in ("ps-a", "ms-a")}
        for name in ("ps-a", "p2-a"):
            cache = str(self.folder / f"cache-of-{name}")
            self._configure(
                name, source="mobility-service", store=store, cache=cache, advertise=self._url(name),
                health=self.health.get(name, ""),
            )  # fmt: skip
        self._configure("mt-a", folder=folder, store=store)
        self._configure("ms-a", folder=folder, health=self.health["ms-a"])
        for name in ("ps-a", "p2-a", "mt-a", "ms-a"):
            self.start_server(name)

    @property
    def told(self) -> Path:
        return self.folder / "opened-by-process-servers.txt"

    def start_server(self, name: str) -> None:
        if name not in ("ps-a", "p2-a"):
            super().start_server(name)
            return
        hook = self.folder / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(WATCHED)
        path = os.pathsep.join(filter(None, (str(hook), os.environ.get("PYTHONPATH"))))
        self.servers[name] = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "serve", self.roles[name], "--config", str(self.config(name))],
            stdout=(self.folder / f"{name}.txt").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "FORBIDDEN": str(self.a), "TOLD": str(self.told)},
        )

    def all_connected(self) -> bool:
        for name, process in self.servers.items():
            assert process.poll() is None, name + ":\n" + (self.folder / f"{name}.txt").read_text()[-3000:]
        return all(
            self.states(site) == {name: "connected" for name in self.roles if name[:2] != "cs" and name[3:] == site}
            for site in SITES
        )

    def store(self, site: str) -> MachineStore:
        if site != "a":
            return super().store(site)
        objects = open_objects((self.folder / "share").as_uri())
        return MachineStore(objects, machine_key(objects, open_vault(objects, self.passphrase), self.uuid))

    def switch(self, to: str) -> str:
        """The process server that it had before."""
        before: str = self.api("PUT", f"/v1/items/{self.name}/process-server", {"name": to})["before"]
        return before

    def trouble(self) -> str | None:
        """The code of what keeps replication from going on."""
        error: dict[str, Any] | None = self.item()["replication"]["error"]
        return error["code"] if error else None


@pytest.fixture
def world() -> Iterator[Elsewhere]:
    with Elsewhere(interval=2) as world:
        world.set_up()
        yield world


def test_there_and_back_with_a_process_server_that_never_sees_the_machines_folder(world: Elsewhere) -> None:
    world.scribble("a", 200)
    world.protect(process_server="ps-a")
    first = world.take_point()
    assert world.point_hashes("b", first) == world.hashes("a")

    assert world.healthy("ps-a")["mobility service ms-a"]
    assert world.healthy("ms-a") == {
        "folder": True, "configuration server": True, "certificate": True, "process server ps-a": True,
    }  # fmt: skip
    status, ways = world.check_ways("ms-a")
    assert (status, {peer: way["blocked"] for peer, way in ways.items()}) == (
        0, {"configuration server": None, "process server ps-a": None},
    )  # fmt: skip

    for name in ("ms-a", "ps-a", "ms-a"):
        world.scribble("a", 400)
        world.start("point")
        world.replace_server(name)  # in the middle of that point, or of one that was due by itself
        world.scribble("a", 5)
        point = world.until(world.try_point, 90, f"a point after {name} was killed")
        assert world.point_hashes("b", point) == world.hashes("a"), name

    world.kill_server("ms-a")
    world.until(lambda: world.trouble() == "source.service-away", 60, "the trouble to be told")
    world.scribble("a", 5)
    world.start_server("ms-a")
    point = world.until(world.try_point, 90, "a point when it is back")
    assert world.point_hashes("b", point) == world.hashes("a")

    world.kill_server("ps-a")
    world.scribble("a", 20)
    assert world.switch("p2-a") == "ps-a"
    point = world.until(world.try_point, 90, "a point by the other process server")
    assert world.point_hashes("b", point) == world.hashes("a")
    world.start_server("ps-a")
    world.until(world.all_connected, 60, "the one that was replaced to be back")
    world.scribble("a", 5)
    point = world.until(world.try_point, 90, "a point beside the one that was replaced")
    assert world.point_hashes("b", point) == world.hashes("a")
    assert world.item()["replication"]["process_server"] == "p2-a"

    before = world.hashes("a")
    world.do("failover")
    assert world.hashes("b") == before, "a planned failover loses nothing"
    world.do("commit", erase_points=True)
    world.scribble("b", 25)
    world.do("reprotect")
    last = world.hashes("b")
    world.do("failback")
    assert world.hashes("a") == last, "a planned failback loses nothing"
    world.do("commit")
    assert not (world.b / VM).exists()
    world.scribble("a", 10)
    world.do("reprotect")
    point = world.take_point()
    assert world.point_hashes("b", point) == world.hashes("a")

    assert set(world.end_servers().values()) == {0}
    assert set(world.told.read_text().splitlines()) == {"watches"}, "it opened what is the host's"
