"""How a machine is made to stand still follows from its description alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from homeport.servers.local_machine import LocalMachine
from homeport.sites.qemu import QemuSite
from homeport.sources import hold as holds
from homeport.sources.hold import NothingRuns, QemuHold


class Untouched:
    """A connection that nobody speaks over."""


@pytest.mark.parametrize(("runner", "wanted"), [("qemu", QemuHold), ("storage-daemon", NothingRuns)])
def test_a_machine_without_a_processor_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, wanted: type
) -> None:
    monkeypatch.setattr(holds.GUARD, "warm_up", lambda: None)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "machine.toml").write_text(
        f'uuid = "5b0c2a52-0000-4000-8000-000000000001"\nmemory = "64MiB"\nrunner = "{runner}"\n'
        '[[disk]]\nid = "disk0"\npath = "disk0.raw"\nformat = "raw"\n'
    )
    site = QemuSite(tmp_path, name="a")
    source = LocalMachine(site, "vm", tmp_path / "scratch").source()

    def asked(*_: Any) -> Any:
        raise AssertionError("the machine was asked, over the connection that is in use")

    monkeypatch.setattr(site, "machine", asked)
    assert isinstance(source._hold(cast(Any, Untouched())), wanted)
