"""The guest's one program: the writer, and what it answers over HTTP.

GET /            the chain's last number and verdict (see ``Service._status``), at once, also while verifying
GET /verify      reads both files from the disks and verifies the whole chain now, then answers as / does
GET /record/N    the hash of record N as the disk holds it
GET /write?mb=N  writes a file of N MiB of random data, on stable storage when it answers; &disk=0 or 1 (1 when not
                 given), &name=X overwrites file X in place (a new file when not given)
/pause, /resume  the writer
"""

from __future__ import annotations

import os
import threading
import time

from demo.guest.inside.chain import Chain
from demo.guest.inside.kernel_log import KernelLog
from demo.guest.inside.web import serve
from demo.guest.inside.writer import Writer

FOLDERS = ("/srv", "/data")
"""A folder on each disk's file system."""
SETTINGS = "/etc/homeport-demo"

_INSECURE = 4  # GRND_INSECURE
_MIB = 1 << 20
_PIECE = 1 << 18


def read_settings(path: str = SETTINGS) -> dict[str, str]:
    """The ``key=value`` lines that the builder wrote: name, rate, capacity, port."""
    with open(path, encoding="ascii") as file:
        return dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)


class Service:
    def __init__(self, writer: Writer, log: KernelLog, name: str) -> None:
        self._writer = writer
        self._log = log
        self._name = name
        self._files_written = 0
        self._lock = threading.Lock()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self._boot = file.read().strip()

    def handle(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, object]]:
        """Raises OSError (a disk), ValueError (a wrong query)."""
        if path == "/":
            return 200, self._status()
        if path == "/verify":
            with self._lock:
                self._writer.verify()
            return 200, self._status()
        if path.startswith("/record/"):
            return self._record(int(path.removeprefix("/record/")))
        if path == "/write":
            with self._lock:
                return 200, self._write(int(query.get("mb", "1")), int(query.get("disk", "1")), query.get("name", ""))
        if path == "/pause":
            self._writer.pause()
            return 200, self._status()
        if path == "/resume":
            self._writer.resume()
            return 200, self._status()
        return 404, {"error": "there is /, /verify, /record/N, /write?mb=N, /pause and /resume"}

    def _status(self) -> dict[str, object]:
        last = self._writer.chain.last
        kernel_errors = self._log.look()
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        return {
            "name": self._name,
            "first": 0,
            "last": -1 if last is None else last.number,
            "last_time": None if last is None else last.time / 1e9,
            "records": 0 if last is None else last.number + 1,
            "chain": self._writer.verdict,
            "writer": self._writer.state,
            "verified_at_start": self._writer.at_start,
            "errors": self._writer.errors + kernel_errors,
            "kernel_error": self._log.newest,
            "boot": self._boot,
            "uptime": uptime,
            "time": time.time(),
        }

    def _record(self, number: int) -> tuple[int, dict[str, object]]:
        record = self._writer.chain.read(number) if number >= 0 else None
        if record is None:
            return 404, {"error": f"there is no record {number}"}
        return 200, {"number": number, "time": record.time / 1e9, "hash": record.digest.hex()}

    def _write(self, megabytes: int, disk: int, name: str) -> dict[str, object]:
        if megabytes < 0 or disk not in (0, 1) or "/" in name or name == "records":
            raise ValueError("mb must be a number, disk 0 or 1, name a file name")
        if not name:
            self._files_written += 1
            name = f"file-{self._boot[:8]}-{self._files_written}"
        begun = time.monotonic()
        file = os.open(f"{FOLDERS[disk]}/{name}", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            for _ in range(megabytes * _MIB // _PIECE):
                piece = memoryview(os.getrandom(_PIECE, _INSECURE))
                while piece:
                    piece = piece[os.write(file, piece) :]
            os.fsync(file)
        finally:
            os.close(file)
        return {
            "name": name,
            "disk": disk,
            "bytes": megabytes * _MIB,
            "seconds": round(time.monotonic() - begun, 3),
        }


def main() -> None:
    settings = read_settings()
    chain = Chain((f"{FOLDERS[0]}/records", f"{FOLDERS[1]}/records"))
    writer = Writer(chain, float(settings["rate"]), int(settings["capacity"]))
    service = Service(writer, KernelLog(), settings["name"])
    threading.Thread(target=writer.run, name="writer", daemon=True).start()
    serve(int(settings["port"]), service.handle, "/run/listening")
