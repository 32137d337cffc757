"""`homeport store import`: the command, and its short cut past Typer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from homeport.cli import lean, store_import_work
from homeport.cli.store_headstart import begin
from homeport.domain.units import BLOCK, MiB
from homeport.store import derivation
from tests.cli.conftest import Homeport
from tests.store.stores import noise


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    secret = tmp_path / "secret"
    secret.write_text("a long passphrase\n")
    return ["--store", str(tmp_path / "store"), "--passphrase-file", str(secret)]


def test_a_store_is_made_filled_and_read_back(homeport: Homeport, options: list[str], tmp_path: Path) -> None:
    image = tmp_path / "web1.raw"
    content = bytearray(noise(1, MiB) + bytes(MiB))
    image.write_bytes(content)
    command = ["store", "import", *options, "--machine", "web1"]
    refused = homeport(*command, str(image), "--json")
    assert (refused.status, refused.json["error"]["code"]) == (1, "store.unavailable")

    made = homeport(*command, str(image), "--create", "--json")
    assert made.status == 0, made
    answer = made.json["imported"]
    assert (answer["store_created"], answer["machine_created"], answer["name"]) == (True, True, "web1")
    assert answer["disks"] == [
        {"disk": "disk0", "size": 2 * MiB, "found_by": "copy", "looked_at": 2 * MiB, "changed": MiB}
    ]
    # Made already: --create changes nothing, another passphrase opens nothing.
    other = tmp_path / "other"
    other.write_text("quite another passphrase")
    wrong = homeport(
        *command[:-4], "--passphrase-file", str(other), "--machine", "web1", str(image), "--create", "--json"
    )
    assert (wrong.status, wrong.json["error"]["code"]) == (1, "store.wrong-passphrase")

    content[: 2 * BLOCK] = noise(2, 2 * BLOCK)
    image.write_bytes(content)
    extents = tmp_path / "extents.json"
    extents.write_text(json.dumps([{"offset": 10, "length": BLOCK}]))
    at = ["--at", "2026-11-20T03:00:00+01:00", "--tag", "weekly", "--tag", "full", "--note", "before the upgrade"]
    delta = homeport(*command, f"disk0={image}", "--create", "--changed", str(extents), *at)
    assert delta.status == 0, delta
    assert "by the extents given, 32.0 KiB of 32.0 KiB read differed" in delta.out
    assert "Importing web1: 32.0 KiB" in delta.err
    listed = homeport("store", "points", *options, "--json").json["machines"]
    points = listed[0]["timelines"][0]["points"]
    assert (len(listed), len(points)) == (1, 2)
    assert (points[1]["time"], points[1]["tags"]) == ("2026-11-20T02:00:00+00:00", ["weekly", "full"])
    restored = tmp_path / "restored.raw"
    assert homeport("store", "restore", *options, "--disk", "disk0", "--to", str(restored)).status == 0
    assert restored.read_bytes() == content


def test_wrong_use_says_what_is_expected(homeport: Homeport, options: list[str], tmp_path: Path) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(BLOCK))
    fake = tmp_path / "b.raw"
    fake.write_bytes(b"QFI\xfb" + bytes(BLOCK))
    extents = tmp_path / "extents.json"
    command = ["store", "import", *options, "--machine", "web1", "--create", "--json"]
    for arguments, cause in (
        ([], "Missing argument"),
        ([str(image), "--at", "yesterday"], "is not an instant"),
        ([str(fake)], "begins as a qcow2 image does"),
        ([f"a={image}", f"a={image}"], "two disks are named a"),
        ([f"a b={image}"], "can't be a disk's id"),
        ([str(image), "--changed", str(tmp_path / "none.json")], "can't be read"),
        ([str(image), "--changd", str(extents)], "No such option"),
    ):
        answer = homeport(*command, *arguments)
        assert answer.status == 2, (arguments, answer)
        assert cause in answer.json["error"]["cause"]
    for text in (
        "",
        "{",
        "7",
        "[[1]]",
        "[[-1, 5]]",
        '[["a", 5]]',
        "[[1.5, 5]]",
        '{"disk0": 5}',
        "[[1, 99999999999999999999]]",
    ):
        extents.write_text(text)
        answer = homeport(*command, str(image), "--changed", str(extents))
        assert (answer.status, "no list of extents" in answer.json["error"]["cause"]) == (2, True), text
    extents.write_text("[[0, 1]]")
    assert (
        "whose extents"
        in homeport(*command, str(image), f"b={image}", "--changed", str(extents)).json["error"]["cause"]
    )
    assert not (tmp_path / "store").exists()


def test_the_short_cut_understands_what_typer_does(
    homeport: Homeport, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option that the command has, in both ways of writing it: the work is asked for the same by both."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(store_import_work, "import_disks", lambda session, **values: calls.append(values))
    short = lean.run
    for arguments in (
        ["a.raw", "--machine", "m"],
        ["x=a.raw", "b.raw", "--machine=m", "--create", "--format=raw"],
        ["--machine", "m", "--changed", "c.json", "a.raw", "--tag", "t", "--tag=u", "--note", "n = m", "--json"],
        ["--at", "2026-11-21", "a.raw", "--machine", "m"],
    ):
        took = []
        monkeypatch.setattr(lean, "run", lambda given, took=took: took.append(short(given)))
        calls.clear()
        assert homeport("store", "import", *options, *arguments).status == 0
        by_short_cut, by_typer = calls
        assert took == [0]
        given = {name: value for name, value in by_typer.items() if value not in (None, False, [], ())}
        assert {name: value for name, value in by_short_cut.items() if value} == given


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.raw"],
        ["--machine", "m"],
        ["a.raw", "--machine", "m", "--help"],
        ["a.raw", "--machine", "m", "-x"],
        ["a.raw", "--machine"],
        ["a.raw", "--machine", "m", "--machine", "n"],
        ["a.raw", "--machine", "m", "--key-file", "k"],
        ["a.raw", "--machine", "m", "--create=yes"],
        ["a.raw", "--machine", "--create"],
        ["a.raw", "--machine", "m", "--at", "soon"],
        ["--", "a.raw", "--machine", "m"],
    ],
)
def test_the_short_cut_leaves_to_typer_what_is_not_plain(arguments: list[str], options: list[str]) -> None:
    assert lean.parse(["store", "import", *options, *arguments]) is None


def test_the_key_is_derived_ahead_and_once(
    options: list[str], homeport: Homeport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.raw"
    image.write_bytes(noise(1, BLOCK))
    threads: list[str] = []
    real = derivation.Argon2id

    def counted(**parameters: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(**parameters)

    monkeypatch.setattr(derivation, "Argon2id", counted)
    arguments = ["store", "import", *options, "--machine", "m", str(image)]
    run = lean.run

    def later(arguments: Sequence[str]) -> int | None:
        _wait_for("headstart")
        return run(arguments)

    monkeypatch.setattr(lean, "run", later)
    _wait_for("headstart")  # of other tests
    derivation._kept.clear()
    derivation._salts.clear()
    for more in (["--create"], []):
        threads.clear()
        assert homeport(*arguments, *more).status == 0
        assert threads == ["headstart"]
        assert not derivation._kept
        assert not derivation._salts


def _wait_for(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


def test_a_head_start_that_fails_says_nothing(tmp_path: Path) -> None:
    begin(["store", "points", "--store", str(tmp_path / "none"), "--passphrase-file", str(tmp_path / "none")])
    begin(["store", "points", "--store"])
    _wait_for("headstart")


def test_an_import_loads_nothing_that_it_has_no_use_for(options: list[str], tmp_path: Path) -> None:
    """A small import is done in the time that some libraries take to load."""
    image = tmp_path / "a.raw"
    image.write_bytes(noise(1, BLOCK))
    code = "import sys; from homeport.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "store", "import", *options, "--machine", "m", "--create", str(image)],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "numpy" in loaded
    assert loaded.isdisjoint(
        {
            "typer",
            "rich",
            "pydantic",
            "structlog",
            "asyncio",
            "fastapi",
            "httpx",
            "dbos",
            "sqlalchemy",
            "obstore",
            "qemu",
        }
    )
