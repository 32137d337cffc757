"""Real peers of the NBD protocol, for the tests in this folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*command: str | Path) -> str:
    """Run a tool to its end; its output. Raises CalledProcessError."""
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path fits into a socket's address, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process has ended afterwards, whatever happens."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def qemu_nbd(folder: Path, *arguments: str | Path) -> Iterator[str]:
    """A qemu-nbd for several clients; the path of its socket."""
    address = str(folder / "qemu-nbd")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(8)
        process = subprocess.Popen(
            [
                *("sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null', "sh"),
                *("qemu-nbd", "--persistent", "--shared=8", *(str(argument) for argument in arguments)),
            ],
            stdin=listener.fileno(),
        )
    with ended(process):
        yield address
