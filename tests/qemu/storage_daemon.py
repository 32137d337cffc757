"""A machine without a guest: a qemu-storage-daemon with two disks, named as homeport.qemu.graph says."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

from homeport.disks.nbd.client import NbdClient
from homeport.qemu.qmp import Qmp

MiB = 1 << 20


class StorageDaemon:
    """disk0 is raw, disk1 qcow2; each is exported writable over NBD under its name. Short paths, for sockets."""

    def __init__(self, folder: Path, size: int = 8 * MiB) -> None:
        self.folder = folder
        self.size = size
        self.qmp = folder / "qmp"
        self.nbd = folder / "nbd"
        self.images = {"disk0": folder / "disk0.raw", "disk1": folder / "disk1.qcow2"}
        self.process: subprocess.Popen[bytes] | None = None
        for disk, form in (("disk0", "raw"), ("disk1", "qcow2")):
            create = ["qemu-img", "create", "-q", "-f", form, str(self.images[disk]), str(size)]
            subprocess.run(create, check=True)

    def start(self, *, filters: bool = True, server: bool = True) -> None:
        command = ["qemu-storage-daemon", "--chardev", f"socket,path={self.qmp},server=on,wait=off,id=qmp"]
        command += ["--monitor", "chardev=qmp"]
        for disk, form in (("disk0", "raw"), ("disk1", "qcow2")):
            path = self.images[disk]
            command += ["--blockdev", f"driver=file,node-name={disk}-file,filename={path},discard=unmap"]
            command += ["--blockdev", f"driver={form},node-name={disk}-format,file={disk}-file,discard=unmap"]
            if filters:
                command += ["--blockdev", f"driver=raw,node-name={disk},file={disk}-format,discard=unmap"]
        if server:
            command += ["--nbd-server", f"addr.type=unix,addr.path={self.nbd}"]
            for disk in self.images:
                node = disk if filters else f"{disk}-format"
                command += ["--export", f"type=nbd,id=guest-{disk},node-name={node},name={disk},writable=on"]
        for path in (self.qmp, self.nbd):
            path.unlink(missing_ok=True)
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while not (answers(self.qmp) and (answers(self.nbd) or not server)):
            assert self.process.poll() is None, "the storage daemon did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def disk(self, disk: str) -> NbdClient:
        """A connection to write to a disk, as the guest would."""
        return NbdClient(self.nbd, disk)

    def resize(self, disk: str, size: int) -> None:
        """As an operator makes a disk of a running machine larger, whose guest uses it on."""
        with Qmp.connect(self.qmp) as qmp:
            qmp.execute("block-export-del", {"id": f"guest-{disk}", "mode": "hard"})
            assert qmp.wait_event("BLOCK_EXPORT_DELETED", 10, lambda data: data["id"] == f"guest-{disk}")
            qmp.execute("block_resize", {"node-name": disk, "size": size})
            export = {"type": "nbd", "id": f"guest-{disk}", "node-name": disk, "name": disk, "writable": True}
            qmp.execute("block-export-add", export)

    def kill(self) -> None:
        """As a crash or a power cut would."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Cleanly."""
        assert self.process
        self.process.terminate()
        self.process.wait(20)


def answers(path: Path) -> bool:
    """Whether somebody listens: a socket has its name a moment before that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(path)) == 0


@contextmanager
def storage_daemon(size: int = 8 * MiB, **options: bool) -> Iterator[StorageDaemon]:
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    daemon = StorageDaemon(folder, size)
    try:
        daemon.start(**options)
        yield daemon
    finally:
        if daemon.process and daemon.process.poll() is None:
            daemon.kill()
        rmtree(folder, ignore_errors=True)
