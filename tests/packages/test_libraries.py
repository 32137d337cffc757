"""What goes into the Debian package beside Homeport: what it needs, as the lock has it, unaltered."""

from __future__ import annotations

from importlib.metadata import Distribution, version
from pathlib import Path

import pytest

from packages import libraries
from packages.libraries import LibraryDiffers, copy_libraries, locked, needed
from packages.source import ROOT


def test_what_a_library_needs_comes_along_and_what_only_developers_need_does_not() -> None:
    names = needed(["fastapi>=0", "psycopg[binary]>=3", "rich"])
    assert {"fastapi", "starlette", "pydantic-core", "psycopg", "psycopg-binary", "rich", "pygments"} <= set(names)
    assert "psycopg-binary" not in needed(["psycopg"])
    assert "pytest" not in names


def test_everything_needed_is_in_the_lock_in_the_version_that_is_installed() -> None:
    pins = locked()
    assert {name: pins[name] for name in needed(["numpy", "dbos"])} == {
        name: version(name) for name in needed(["numpy", "dbos"])
    }


def test_a_version_that_the_lock_does_not_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "locked", lambda: {"click": "0.0.1"})
    with pytest.raises(LibraryDiffers, match=r"click .* is installed, the lock names 0\.0\.1"):
        copy_libraries(["click"], tmp_path)


def test_a_file_that_was_altered_after_its_installation_is_refused(tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copy_libraries(["click"], copied)
    library = Distribution.at(next(copied.glob("click-*.dist-info")))
    libraries._copy(library, tmp_path / "again")
    (copied / "click/core.py").write_text("import os\n")
    with pytest.raises(LibraryDiffers, match=r"core\.py isn't what was installed"):
        libraries._copy(library, tmp_path / "never")


def test_the_version_stands_in_one_place() -> None:
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
