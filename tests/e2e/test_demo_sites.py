"""`make demo-sites`, as a user runs it: a machine under load, a WAN that is cut, a lost site, and home again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.namespaces import FOLDER
from demo.networks import PREFIX, Networks, NetworksUnavailable

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "Two sites and a WAN",
    "Protect across the WAN",
    "The WAN is cut",
    "Oslo's process server is killed",
    "Oslo is lost",
    "Oslo's configuration server is restored",
    "Reprotect",
    "Failback",
    "Reprotect forward",
]


@pytest.fixture
def namespaces() -> None:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    try:
        with Networks({"a": ("server",), "b": ("server",)}):
            pass
    except (NetworksUnavailable, OSError) as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("namespaces")
def test_the_machines_data_is_proven_after_each_step(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    command = [sys.executable, "-m", "demo.sites", "--cut", "20", "--json", str(table)]
    with (
        (tmp_path / "said.txt").open("wb") as said,
        subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True) as demo,
    ):
        try:
            status = demo.wait(1400)
        finally:
            if demo.poll() is None:
                demo.terminate()  # it cleans up
    text = (tmp_path / "said.txt").read_text()
    assert status == 0, text[-6000:]
    rows = json.loads(table.read_text())
    assert {row["step"]: row["verdict"] for row in rows} == dict.fromkeys(STEPS, "proven"), text[-6000:]
    assert not list(FOLDER.glob(f"{PREFIX}{demo.pid}-*")), "it leaves namespaces"
