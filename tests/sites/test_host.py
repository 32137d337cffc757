"""What a QEMU site's host tells for checks: tried, not assumed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homeport.domain.units import GiB
from homeport.sites.qemu import host


@pytest.fixture(autouse=True)
def fresh() -> None:
    host._output.cache_clear()


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_host_tells_what_it_has(tmp_path: Path) -> None:
    facts = host.host_facts(tmp_path / "not" / "there" / "yet")
    assert 0 < facts["free_memory"] <= facts["total_memory"]
    assert facts["cpus"] == os.cpu_count()
    assert facts["free_disk"] > 0
    assert facts["networks"] == ["default", "isolated"]
    assert facts["quota"] == {}
    assert facts["host"]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(facts["clock"])).total_seconds()) < 60


def test_privileges_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "qemu-system-x86_64", 'if [ "$1" = -netdev ]; then echo socket; echo user; fi')
    program(tmp_path, "qemu-img", "exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    device = tmp_path / "kvm"
    monkeypatch.setattr(host, "_DEVICE", device)
    found = host.privileges(tmp_path)
    assert found["write-folder"] == found["run-qemu"] == found["user-network"] == {"held": True, "why": ""}
    assert found["run-qemu-img"] == {"held": False, "why": "qemu-img ended with status 3"}
    assert found["open-kvm"] == {"held": False, "why": f"{device} is not there"}
    assert [path.name for path in tmp_path.glob(".writable*")] == []


def test_a_program_that_is_not_there_or_was_replaced_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.privileges(tmp_path)["run-qemu"]["why"] == "qemu-system-x86_64 is not installed"
    program(tmp_path, "qemu-system-x86_64", "echo socket")
    found = host.privileges(tmp_path)
    assert found["run-qemu"]["held"]
    assert "libslirp" in found["user-network"]["why"]


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    found = host.privileges(tmp_path / "gone")["write-folder"]
    assert not found["held"]
    assert "gone" in found["why"]


def test_a_quota_is_read_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / host.LIMITS).write_text('memory = "64GiB"\ncpus = 16\nmachines = 20\n')
    assert host.quota(tmp_path) == {"memory": 64 * GiB, "cpus": 16, "machines": 20}


def test_a_quota_that_can_not_be_read_limits_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / host.LIMITS).write_text("memory = ")
    assert list(host.quota(tmp_path)) == ["wrong"]
    (tmp_path / host.LIMITS).write_text('memory = "much"\ncpus = true\nmachines = 2\ndiscs = 1\n')
    assert host.quota(tmp_path) == {"machines": 2, "wrong": "limits.toml: cpus, discs, memory can't be used"}
