"""What one would copy a disk to another site with instead: rsync and zstd over ssh, from one namespace to another."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.namespaces import Namespace
from tests.bench.images import MiB
from tests.bench.measure import BenchError, Command, Sample, cpu_of, run

PORT = 2222
_CONFIGURATION = """
Port {port}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
"""


@dataclass(frozen=True)
class Ssh:
    """An ssh server in a namespace, and how to reach it from another. ``words``: the client's command line."""

    server: subprocess.Popen[bytes]
    words: tuple[str, ...]

    def cpu(self) -> float:
        """CPU seconds of the server and of its sessions that ended."""
        return cpu_of(self.server.pid)


@contextlib.contextmanager
def ssh_server(there: Namespace, folder: Path) -> Iterator[Ssh]:
    """With keys of its own, for who runs the benchmark; gone at the end. Raises BenchError."""
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        run(Command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]))
    (folder / "sshd_config").write_text(_CONFIGURATION.format(port=PORT, address=there.address, folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its unprivileged half in
    with there.inside():
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")])
    words = (
        "ssh", "-F", "none", "-i", str(folder / "user"), "-p", str(PORT), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "Compression=no", there.address,
    )  # fmt: skip
    try:
        yield Ssh(server, words)
    finally:
        server.terminate()
        server.wait(10)


def wait_for_ssh(ssh: Ssh, here: Namespace) -> None:
    """Raises BenchError when it doesn't answer."""
    deadline = time.monotonic() + 20
    with here.inside():
        while subprocess.run([*ssh.words, "true"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or ssh.server.poll() is not None:
                raise BenchError("the ssh server doesn't answer")
            time.sleep(0.1)


def rsync(ssh: Ssh, here: Namespace, source: Path, target: Path) -> Sample:
    """``rsync -z --inplace``; with its checksums where ``target`` is there already. CPU of both ends."""
    shell = shlex.join(ssh.words[:-1])
    return _both_ends(ssh, here, ["rsync", "-z", "--inplace", "--no-whole-file", "-e", shell, source,
                                  f"{ssh.words[-1]}:{target}"])  # fmt: skip


def zstd(ssh: Ssh, here: Namespace, source: Path, target: Path) -> Sample:
    """``zstd -1 -T2 | ssh``, unpacked at the other end, zeroes left out there. CPU of both ends."""
    unpack = f"zstd -dq --sparse -f -o {shlex.quote(str(target))}"
    pipe = f"set -o pipefail; zstd -1 -T2 -c {shlex.quote(str(source))} | {shlex.join(ssh.words)} {shlex.quote(unpack)}"
    return _both_ends(ssh, here, ["bash", "-c", pipe])


def _both_ends(ssh: Ssh, here: Namespace, argv: list[str | Path]) -> Sample:
    before = ssh.cpu()
    with here.inside():
        sample = run(Command(argv))
    cpu = sample.cpu + ssh.cpu() - before
    return Sample(sample.seconds, cpu, None, 0.0, sample.said)


def link_limit(here: Namespace, there: Namespace, seconds: float = 5) -> float:
    """Bytes per second that one TCP connection carries, after it has found out how many it can."""
    with there.inside():
        listener = socket.create_server((there.address, 0))
    with listener, here.inside():
        sender = socket.create_connection(listener.getsockname()[:2], 10)
        receiver, _ = listener.accept()
    over = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                sender.sendall(bytes(MiB))

    thread = threading.Thread(target=send)
    with sender, receiver:
        thread.start()
        _received(receiver, 2)
        rate = _received(receiver, seconds)
        over.set()
        for end in (receiver, sender):
            with contextlib.suppress(OSError):  # the other's end has ended it
                end.shutdown(socket.SHUT_RDWR)
        thread.join()
    return rate


def _received(receiver: socket.socket, seconds: float) -> float:
    began = time.monotonic()
    count = 0
    while (passed := time.monotonic() - began) < seconds:
        count += len(receiver.recv(MiB))
    return count / passed


def part_of(image: Path, target: Path, size: int) -> Path:
    """The first ``size`` bytes of an image, holes kept, as an image of its own."""
    with open(image, "rb") as source, open(target, "wb") as made:
        os.truncate(made.fileno(), size)
        offset = 0
        while offset < size:
            try:
                start = os.lseek(source.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            end = min(os.lseek(source.fileno(), start, os.SEEK_HOLE), size)
            while start < end:
                data = os.pread(source.fileno(), min(4 * MiB, end - start), start)
                os.pwrite(made.fileno(), data, start)
                start += len(data)
            offset = end
    return target
