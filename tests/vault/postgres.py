"""A PostgreSQL server of the tests' own: a cluster in a temporary folder, on loopback, gone when they end."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from dbos import DBOS

from homeport.vault import engines, migrations
from tests.ports import free_port


def _program(name: str) -> str:
    """Debian keeps the server's programs out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    assert found, f"{name} is missing: run scripts/prepare-tests"
    return str(found[-1])


def _as_server() -> tuple[str | int | None, Callable[[Path], None]]:
    """PostgreSQL refuses to run as root: the user to run as, and how it is given a folder."""
    if os.getuid() != 0:
        return None, lambda folder: None
    user = pwd.getpwnam("postgres")
    return user.pw_uid, lambda folder: os.chown(folder, user.pw_uid, user.pw_gid)


class Postgres:
    """A server; each of :meth:`database` is a new empty database on it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="homeport-postgres-"))
        self._user, give = _as_server()
        give(self.folder)
        self.port = free_port()
        self._numbers = itertools.count(1)
        self._prepared = False
        self._process: subprocess.Popen[bytes] | None = None
        self._run([_program("initdb"), "-D", str(self.folder / "data"), "-U", "homeport", "-A", "trust", "-E", "UTF8"])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, cwd=self.folder, user=self._user, group=None, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        # No fsync: its durability is not what is tested. Anything else is as Debian has it.
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 200,
        }
        command = [_program("postgres"), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(command, cwd=self.folder, user=self._user, stdout=out, stderr=out)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL does not answer"
                threading.Event().wait(0.05)

    def url(self, database: str) -> str:
        return f"postgresql://homeport@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The address of a new, empty database."""
        return self._create(f"vault{next(self._numbers)}", "template1")

    def prepared(self) -> str:
        """The same with all tables in it, which are made only once: a start of a vault then costs as little as it
        does on a database that it used before."""
        if not self._prepared:
            address = self._create("prepared", "template1")
            migrations.upgrade(engines.address_of(address))
            DBOS.migrate(address)
            self._prepared = True
        return self._create(f"vault{next(self._numbers)}", "prepared")

    def _create(self, name: str, template: str) -> str:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def stop(self) -> None:
        """Ends it at once, sessions and all; it may be started again."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: immediate shutdown
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
