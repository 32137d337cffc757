"""`homeport store serve` over TCP, with its caches."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homeport.cli.formats import parse_size
from homeport.cli.store_serve import url
from homeport.disks.nbd.client import NbdClient
from homeport.domain.units import GiB, KiB, MiB, TiB
from homeport.store.disk_cache import FOLDER
from homeport.store.keys import VaultKey, machine_key, seal_vault
from homeport.store.local import LocalObjects
from homeport.store.timeline import MachineStore
from tests.cli.conftest import Homeport

TIMELINE = "5f0c2d9a7b31e846"


def test_a_point_is_served_over_tcp_with_caches(tmp_path: Path) -> None:
    bucket, passphrase = tmp_path / "bucket", tmp_path / "passphrase"
    passphrase.write_text("right horse\n")
    bucket.mkdir()
    objects = LocalObjects(bucket)
    vault = VaultKey.create()
    seal_vault(objects, vault, "right horse")
    store = MachineStore(objects, machine_key(objects, vault, "11111111-2222-3333-4444-555555555555", create=True))
    store.create_timeline(TIMELINE)
    writer = store.writer(TIMELINE, "test")
    content = secrets.token_bytes(MiB)
    builder = writer.builder(1, tmp_path / "spool", None)
    builder.write("disk0", 0, content)
    writer.publish(builder.finish(instant=datetime.now(UTC), disks={"disk0": MiB}))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "homeport.cli", "store", "serve", "--store", str(bucket), "--port", "0"),
            *("--passphrase-file", str(passphrase), "--cache", "1M"),
            *("--cache-dir", str(tmp_path / "cache"), "--cache-dir-size", "8M", "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        shown = ""
        while not shown.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, shown
            shown += line
        serving = json.loads(shown)["serving"]
        assert serving["host"] == "127.0.0.1"
        assert serving["exports"] == [{"disk": "disk0", "size": MiB, "url": f"nbd://127.0.0.1:{serving['port']}/disk0"}]
        with NbdClient((serving["host"], serving["port"]), "disk0") as client:
            assert client.read(0, MiB) == content
        kept = [path for path in (tmp_path / "cache" / FOLDER).rglob("*") if path.is_file() and path.stat().st_size]
        assert len(kept) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--socket", "nbd", "--port", "10809"),
        ("--port", "10809", "--bind", "0.0.0.0"),
        ("--port", "10809", "--bind", "::"),
        ("--port", "10809", "--bind", "backup.example.com"),
        ("--port", "10809", "--cache", "much"),
        ("--port", "65536"),
    ],
)
def test_nothing_is_served_to_others_by_mistake(
    homeport: Homeport, tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = homeport("store", "serve", "--store", str(tmp_path), *arguments)
    assert answer.status == 2
    if "--bind" in arguments:
        assert "--insecure-bind" in answer.err


def test_who_insists_gets_further(homeport: Homeport, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    options = ("--store", str(tmp_path), "--passphrase-file", str(tmp_path / "secret"))
    answer = homeport("store", "serve", *options, "--port", "0", "--bind", "0.0.0.0", "--insecure-bind")
    assert answer.status == 1
    assert "store.no-vault" in answer.err


@pytest.mark.parametrize(("text", "size"), [("512M", 512 * MiB), ("10 GiB", 10 * GiB), ("1t", TiB), ("64kb", 64 * KiB)])
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "10", "ten", "1.5G", "-1M", "1E"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_size(text)


def test_urls_of_ipv6_addresses_have_brackets() -> None:
    assert url({"host": "::1", "port": 7}, "disk0") == "nbd://[::1]:7/disk0"
