"""Real object storages for the tests: moto's S3 server and Azurite, each started once, on loopback, when first needed.

``make prepare-tests`` puts them into ``~/.cache/homeport-tests``; HOMEPORT_MOTO_SERVER and HOMEPORT_AZURITE name
others. Where CI is set they must be there; elsewhere a test without them skips.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import itertools
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from homeport.store import Objects, open_objects
from tests.ports import free_port

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's, known to everyone."""

_numbers = itertools.count(1)


def _find(variable: str, place: str) -> str:
    """A server's command, ``place`` below the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get(variable) or cache / "homeport-tests" / place)
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"there is no {path}: `make prepare-tests` installs it")
        pytest.skip(f"there is no {path}: `make prepare-tests` installs it, or set {variable}")
    return str(path)


class Server:
    """A server's process; :attr:`port` answers."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "10"}  # lists have pages without many objects
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.1)
        self.close()
        pytest.fail(f"{command[0]} did not start")

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Moto(Server):
    def __init__(self) -> None:
        command = _find("HOMEPORT_MOTO_SERVER", "moto/bin/moto_server")
        port = free_port()
        serve = Path(__file__).parent / "moto" / "serve.py"
        super().__init__([str(Path(command).parent / "python"), str(serve), str(port)], port)

    def new_bucket(self, *, versions: bool = False, lock: bool = False) -> str:
        name = f"bucket-{next(_numbers)}"
        self.ask("PUT", f"/{name}", headers={"x-amz-bucket-object-lock-enabled": "true"} if lock else {})
        if versions:
            status = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
            self.ask("PUT", f"/{name}?versioning", status.encode())
        return name

    def ask(self, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """moto wants no signature."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(verb, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status < 300, (answer.status, content)
        return content


class Azurite(Server):
    def __init__(self, folder: Path) -> None:
        command = _find("HOMEPORT_AZURITE", "azurite/node_modules/.bin/azurite-blob")
        port = free_port()
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
        super().__init__([command, *options, "--skipApiVersionCheck", "--disableTelemetry", "--silent"], port)

    def new_container(self) -> str:
        name = f"container-{next(_numbers)}"
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        signed = "PUT" + "\n" * 12 + "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
        signed += f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", b"", headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status == 201, content
        return name


def s3_url(moto: Moto, credentials: Path, bucket: str, netloc: str = "", more: str = "") -> str:
    endpoint = f"http://{netloc or moto.netloc}"
    return f"s3://{bucket}/some/prefix?endpoint={endpoint}&region=us-east-1&credentials={credentials}{more}"


def open_s3(moto: Moto, credentials: Path) -> Objects:
    return open_objects(s3_url(moto, credentials, moto.new_bucket()))


def open_azure(azurite: Azurite, credentials: Path) -> Objects:
    endpoint = f"http://{azurite.netloc}/{ACCOUNT}"
    container = azurite.new_container()
    return open_objects(f"az://{ACCOUNT}/{container}/some/prefix?endpoint={endpoint}&credentials={credentials}")
