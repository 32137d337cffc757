"""A QEMU site in a short temporary folder; every process that a test starts there is ended, also when it fails."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.disks.nbd.client import NbdClient
from homeport.domain.machines import Machine
from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.sites.interface import PointService
from homeport.sites.qemu import QemuSite
from homeport.sites.qemu.process import MachineProcess

POINT = PointId("00112233aabbccdd", 7)
SIZE = 8 * MiB


class Bench:
    """The site ``site`` under ``folder``, machines in it, and a point's server made of qemu-storage-daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "s"
        self.site = QemuSite(self.path, name="here", cache=folder / "cache")
        self.content = {f"disk{number}": secrets.token_bytes(SIZE) for number in range(2)}
        self._server_pid = folder / "point.pid"

    def make(self, name: str = "vm", *, runner: str = "qemu", extra: str = "", identity: str | None = None) -> Path:
        """A machine with an empty raw and an empty qcow2 disk."""
        folder = self.path / name
        folder.mkdir(parents=True)
        with (folder / "disk0.raw").open("wb") as image:
            image.truncate(SIZE)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "disk1.qcow2", str(SIZE)], check=True)
        (folder / "machine.toml").write_text(
            f'uuid = "{identity or uuid.uuid4()}"\nmemory = "32MiB"\nrunner = "{runner}"\n{extra}\n'
            '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
            '[[disk]]\nid = "disk1"\npath = "disk1.qcow2"\nformat = "qcow2"\n'
            '[[nic]]\nmac = "52:54:00:00:00:01"\n'
        )
        return folder

    def like(self, runner: str) -> Machine:
        """A machine of another site, described."""
        self.make("pattern", runner=runner)
        machine = self.site.machine("pattern")
        self.site.delete("pattern")
        return machine

    def service(self) -> PointService:
        """A server of ``content``, not started: that is the site's work."""
        command = ["qemu-storage-daemon", "--daemonize", "--pidfile", str(self._server_pid)]
        for disk, content in self.content.items():
            image = self.folder / f"{disk}.point"
            image.write_bytes(content)
            command += ["--blockdev", f"driver=file,node-name={disk}-f,filename={image},read-only=on"]
            command += ["--blockdev", f"driver=raw,node-name={disk},file={disk}-f,read-only=on"]
        socket = self.folder / "point.sock"
        command += ["--nbd-server", f"addr.type=unix,addr.path={socket}"]
        for disk in self.content:
            command += ["--export", f"type=nbd,id={disk}-e,node-name={disk},name={disk}"]
        return PointService(str(socket), {disk: disk for disk in self.content}, tuple(command))

    def kill_server(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            handle = os.pidfd_open(int(self._server_pid.read_text()))
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [])  # readable when it has ended
            os.close(handle)
            self._server_pid.unlink()

    def process(self, name: str = "vm") -> MachineProcess:
        return MachineProcess(self.path / name)

    def disk(self, disk: str, name: str = "vm", timeout: float = 60.0) -> NbdClient:
        return NbdClient(self.site.disks_socket(name), disk, timeout=timeout)

    def close(self) -> None:
        for folder in self.path.iterdir() if self.path.exists() else ():
            if (folder / "run").exists():
                MachineProcess(folder).end()
        self.kill_server()
        shutil.rmtree(self.folder)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("HOMEPORT_ACCELERATOR", "tcg")
    bench = Bench(Path(tempfile.mkdtemp(prefix="hp", dir="/tmp")))
    try:
        yield bench
    finally:
        bench.close()
