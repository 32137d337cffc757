"""Two sites, a vault and machines made of qemu-storage-daemon (disks, no CPU): all of Homeport without a guest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from homeport.disks.images import open_image
from homeport.disks.nbd.client import NbdClient
from homeport.domain.machines import Machine, Power
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.servers.process import end, read_identity
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from homeport.store.backends import open_objects
from homeport.store.keys import machine_key, open_vault
from homeport.store.timeline import MachineStore
from tests.ports import free_port

VM = "disks"


class World:
    """A folder with the sites ``a`` and ``b`` and a state folder; ended by :meth:`close` whatever happened."""

    name = VM

    def __init__(self, *, size: int = 24 * MiB, interval: int = 900, policy: dict[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hpw", dir="/tmp"))
        self.a, self.b, self.state = self.folder / "a", self.folder / "b", self.folder / "state"
        self.size = size
        self.policy = {
            "name": "p", "rpo_threshold": 900, "retention": 86400, "app_consistent": 0, "interval": interval,
            **(policy or {}),
        }  # fmt: skip
        for path in (self.a, self.b, self.state):
            path.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.passphrase = ""
        self.uuid = str(uuid.uuid4())
        self.port = free_port()  # of our own: worlds may live side by side

    # ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────

    def make_machine(self, site: str = "a") -> None:
        folder: Path = getattr(self, site) / VM
        folder.mkdir()
        subprocess.run(["truncate", "-s", str(self.size), folder / "disk0.raw"], check=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk1.qcow2", str(self.size)], check=True)
        (folder / "machine.toml").write_text(
            f'uuid = "{self.uuid}"\nmemory = "64MiB"\nrunner = "storage-daemon"\n'
            '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
            '[[disk]]\nid = "disk1"\npath = "disk1.qcow2"\nformat = "qcow2"\n'
        )
        self.site(site).start(VM, StartOptions())

    def site(self, name: str) -> QemuSite:
        return QemuSite(getattr(self, name), name=name)

    def kill_machine(self, site: str, name: str = VM) -> None:
        """SIGKILL of a machine's process: a power cut."""
        pid = int((getattr(self, site) / name / "run" / "qemu.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: self.machine(site, name).power is Power.OFF, 10, "the machine to be off")

    def machine(self, site: str, name: str = VM) -> Machine:
        return self.site(site).machine(name)

    def write(self, site: str, disk: str, offset: int, data: bytes, name: str = VM) -> None:
        """As the guest: through the machine's own (writable) export, flushed."""
        with contextlib.closing(self._export(site, disk, name)) as client:
            client.write(offset, data)
            client.flush()

    def scribble(self, site: str, blocks: int, name: str = VM, seed: int | None = None) -> None:
        """Incompressible data into ``blocks`` random 16 KiB blocks of each disk."""
        choice = random.Random(seed)
        for disk in ("disk0", "disk1"):
            with contextlib.closing(self._export(site, disk, name)) as client:
                for number in choice.sample(range(self.size // BLOCK), blocks):
                    client.write(number * BLOCK, secrets.token_bytes(BLOCK))
                client.flush()

    def read(self, site: str, disk: str, name: str = VM) -> bytes:
        """The whole disk of a running machine."""
        with contextlib.closing(self._export(site, disk, name)) as client:
            return client.read(0, client.size)

    def _export(self, site: str, disk: str, name: str) -> NbdClient:
        return NbdClient(str(getattr(self, site) / name / "run" / "disks.sock"), disk)

    def hashes(self, site: str, name: str = VM) -> dict[str, str]:
        return {disk: hashlib.sha256(self.read(site, disk, name)).hexdigest() for disk in ("disk0", "disk1")}

    def image_hashes(self, site: str, name: str = VM) -> dict[str, str]:
        """Of a powered-off machine."""
        result = {}
        for disk in self.machine(site, name).disks:
            with open_image(getattr(self, site) / name / disk.path, disk.format) as image:
                buffer = memoryview(bytearray(image.size))
                image.read_into(0, buffer)
                result[disk.id] = hashlib.sha256(buffer).hexdigest()
        return result

    def read_image(self, site: str, disk: str, name: str = VM) -> bytes:
        found = next(known for known in self.machine(site, name).disks if known.id == disk)
        with open_image(getattr(self, site) / name / found.path, found.format) as image:
            buffer = memoryview(bytearray(image.size))
            image.read_into(0, buffer)
            return bytes(buffer)

    def write_image(self, site: str, disk: str, offset: int, data: bytes, name: str = VM) -> None:
        found = next(known for known in self.machine(site, name).disks if known.id == disk)
        with open_image(getattr(self, site) / name / found.path, found.format, writable=True) as image:
            image.write(offset, data)
            image.flush()

    def crossed(self) -> int:
        """Bytes that crossed between the sites for the item so far, both ways."""
        return sum(self.item()["replication"]["crossed"].values())

    def try_point(self) -> str | None:
        try:
            job = self.start("point")
        except Refused:
            return None
        deadline = time.monotonic() + 60
        while job["state"] not in ("succeeded", "failed", "cancelled") and time.monotonic() < deadline:
            job = self.api("GET", f"/v1/jobs/{job['id']}?wait=5&version={job.get('version', 0)}")
        return job["result"]["point"] if job["state"] == "succeeded" else None

    def store(self, site: str) -> MachineStore:
        objects = open_objects((getattr(self, site) / ".homeport" / "store").as_uri())
        return MachineStore(objects, machine_key(objects, open_vault(objects, self.passphrase), self.uuid))

    def point_hashes(self, site: str, point: str) -> dict[str, str]:
        reader = self.store(site).open(PointId.parse(point))
        return {disk: hashlib.sha256(reader.read(disk, 0, size)).hexdigest() for disk, size in reader.disks.items()}

    # ── Homeport ────────────────────────────────────────────────────────────────────────────────────────────────

    def up(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "up", "--state", str(self.state), "--port", str(self.port)],
            stdout=(self.folder / "up.txt").open("ab"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self.until(self._answers, 60, "Homeport to be up")
        self.learn_passphrase()

    def learn_passphrase(self) -> None:
        """The first start shows it, once."""
        if not self.passphrase:
            for line in (self.folder / "up.txt").read_text().splitlines():
                if line.startswith("    "):
                    self.passphrase = line.strip()
                    break

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError("homeport up ended:\n" + (self.folder / "up.txt").read_text()[-4000:])
        try:
            self.api("GET", "/v1/vault")
        except (httpx.TransportError, FileNotFoundError):
            return False
        return True

    def stop_up(self) -> None:
        """End Homeport in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL of everything that is Homeport's; machines and point servers go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def died(self, timeout: float = 60) -> None:
        """Wait until Homeport has been killed by its own fault point."""
        assert self.process is not None
        assert self.process.wait(timeout) == -signal.SIGKILL

    def api(self, method: str, path: str, body: Any = None, timeout: float = 60, key: str | None = None) -> Any:
        """``key``: with it, a request that got no answer may be repeated."""
        endpoint = (self.state / "endpoint").read_text().strip()
        token = (self.state / "token").read_text().strip()
        response = httpx.request(
            method,
            endpoint + path,
            json=body,
            headers={"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {}),
            timeout=timeout,
            verify=False,  # spares the reading of certificates, which costs more than the request
        )
        if response.status_code >= 400:
            raise Refused(response.status_code, response.json())
        return response.json()

    def set_up(self) -> None:
        """Machine, Homeport, sites, policy."""
        self.make_machine()
        self.up()
        for name in ("a", "b"):
            self.api("POST", "/v1/sites", {"name": name, "provider": "qemu", "path": str(getattr(self, name))})
        self.api("POST", "/v1/policies", self.policy)

    def protect(self, **more: Any) -> None:
        body = {"machine": self.name, "from": "a", "to": "b", "policy": "p", **more}
        self.wait(self.api("POST", "/v1/items", body)["job"])

    def start(self, operation: str, key: str | None = None, **body: Any) -> dict[str, Any]:
        path = f"/v1/items/{self.name}/operations/{operation}"
        job: dict[str, Any] = self.api("POST", path, body, key=key)["job"]
        return job

    def do(self, operation: str, **body: Any) -> dict[str, Any]:
        return self.wait(self.start(operation, **body))

    def wait(self, job: dict[str, Any], timeout: float = 120, *, state: str = "succeeded") -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            job = self.api("GET", f"/v1/jobs/{job['id']}?wait=5&version={job.get('version', 0)}")
            if job["state"] in ("succeeded", "failed", "cancelled"):
                break
            assert time.monotonic() < deadline, f"the job does not end: {job}"
        assert job["state"] == state, (job, self.log_tail())
        return job

    def log_tail(self) -> str:
        path = self.state / "homeport.log"
        return path.read_text()[-6000:] if path.exists() else ""

    def item(self) -> dict[str, Any]:
        item: dict[str, Any] = self.api("GET", f"/v1/items/{self.name}")
        return item

    def points(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = self.api("GET", f"/v1/items/{self.name}/points")["points"]
        return points

    def take_point(self) -> str:
        point: str = self.do("point")["result"]["point"]
        return point

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds:.0f} s for {what}\n{self.log_tail()}")

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for name in ("a", "b"):
            for path in (getattr(self, name), self.folder / f"{name}.lost"):
                if not path.is_dir():
                    continue
                site = QemuSite(path, name=name)
                for machine in site.machines():
                    site.delete(machine.name)
                for file in (path / ".homeport" / "points").glob("*/point.pid"):
                    identity = read_identity(file)
                    if identity:
                        end(identity)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Refused(AssertionError):
    """The API said no."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status}: {problem}")
        self.status = status
        self.problem = problem
