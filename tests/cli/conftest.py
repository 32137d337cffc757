"""A fake vault, and the command line run against it in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homeport.cli import main
from homeport.language.languages import VARIABLES
from tests.cli.fake_vault import FakeVault, running


@dataclass(frozen=True)
class Answer:
    """Of one command: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Homeport = Callable[..., Answer]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def vault(state: Path) -> Iterator[FakeVault]:
    with running(FakeVault(), state) as fake:
        yield fake


@pytest.fixture
def homeport(state: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Homeport:
    """Runs `homeport ARGUMENTS` with the test's state folder; standard input is no terminal."""
    monkeypatch.setenv("HOMEPORT_STATE", str(state))
    monkeypatch.setenv("COLUMNS", "200")
    for variable in VARIABLES:  # English, whatever the machine's language
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("HOMEPORT_PASSPHRASE_FILE", raising=False)

    def run(*arguments: str) -> Answer:
        capfd.readouterr()
        status = main(arguments)
        out, err = capfd.readouterr()
        return Answer(status, out, err)

    return run
