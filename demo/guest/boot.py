"""Boots the guest with a plain QEMU, without Homeport: the yardstick for a failover's time, and for trying it out.

``python -m demo.guest.boot [FOLDER] [--system-size GIB]`` prints the seconds from QEMU's start to the first answer.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from demo.guest.build import build_guest
from demo.guest.machine import GuestImages
from demo.guest.proof import wait_for_answer
from demo.guest.settings import GuestSettings
from homeport.domain.units import GiB, MiB


class PlainGuest:
    """A QEMU process on the guest's own disks; ``url``: where it answers, ``qmp`` and ``agent``: unix sockets.

    ``accel``: "tcg" works everywhere; "kvm" only where a machine was really seen to boot with it.
    """

    def __init__(self, images: GuestImages, *, memory: int = 256 * MiB, port: int = 80, accel: str = "tcg") -> None:
        self._sockets = Path(tempfile.mkdtemp(prefix="hp"))
        self.qmp = self._sockets / "qmp"
        self.agent = self._sockets / "agent"
        self.console = self._sockets / "console"
        local = _free_port()
        self.url = f"http://127.0.0.1:{local}"
        channel = f"socket,path={self.agent},server=on,wait=off,id=agent"
        command = [
            *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "pc", "-accel", accel),
            *("-cpu", "max" if accel == "tcg" else "host", "-m", str(memory // MiB), "-no-reboot"),
            *("-serial", f"file:{self.console}", "-qmp", f"unix:{self.qmp},server=on,wait=off"),
            *("-drive", f"if=none,id=disk0,format=raw,file={images.disk0},cache=none,aio=threads"),
            *("-device", "virtio-blk-pci,drive=disk0,bootindex=0"),
            *("-drive", f"if=none,id=disk1,format=qcow2,file={images.disk1},cache=none,aio=threads"),
            *("-device", "virtio-blk-pci,drive=disk1"),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{local}-:{port}"),
            *("-device", "virtio-net-pci,netdev=net0,romfile="),
            *("-device", "virtio-serial-pci", "-chardev", channel),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL, as a crash of the host would end it."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> PlainGuest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._sockets)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="keep the disks there")
    parser.add_argument("--system-size", type=float, default=0.25, help="GiB")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hpguest"))
    try:
        images = build_guest(folder, GuestSettings(system_size=int(options.system_size * GiB)), report=print)
        with PlainGuest(images) as guest:
            answer, seconds = wait_for_answer(guest.url, 120)
            print(f"first answer after {seconds:.1f} s, {answer.uptime:.1f} s after the kernel's start: {answer}")
            print(f"console:\n{guest.console.read_text(errors='replace')[-2000:]}")
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
