"""The demo's guest really boots from its own disks, and its data can be proven intact, or not."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.guest.boot import PlainGuest
from demo.guest.build import build_guest
from demo.guest.control import Control
from demo.guest.machine import GuestImages
from demo.guest.proof import Answer, NoAnswer, ask, check, check_disks, get, wait_for_answer
from demo.guest.settings import GuestSettings
from homeport.domain.units import GiB

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(300)]
BOOT = 120
"""Seconds within which the guest must answer on a busy machine."""


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.1)
    return result


def moves_on(url: str, after: int) -> Answer:
    """The first answer with at least five records after ``after``."""

    def look() -> Answer | None:
        answer = ask(url + "/")
        return answer if answer.last >= after + 5 else None

    answer = until(look)
    assert isinstance(answer, Answer)
    return answer


def agent_of(guest: PlainGuest) -> Control:
    def connect() -> Control | None:
        try:
            return Control(guest.agent, agent=True, timeout=3)
        except OSError:
            return None

    control = until(connect, 60)
    assert isinstance(control, Control)
    return control


def raw_of(image: Path, target: Path) -> Path:
    """A raw copy of an image that a stopped QEMU has open."""
    command = ["qemu-img", "convert", "-U", "-f", image.suffix[1:], "-O", "raw", str(image), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(scope="class")
def images(tmp_path_factory: pytest.TempPathFactory) -> GuestImages:
    return build_guest(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="class")
def guest(images: GuestImages) -> Iterator[PlainGuest]:
    with PlainGuest(images) as guest:
        wait_for_answer(guest.url + "/", BOOT)
        yield guest


class TestRunning:
    """One guest for all of these."""

    def test_it_answers_and_its_chain_grows_unbroken_over_both_disks(self, guest: PlainGuest) -> None:
        first = moves_on(guest.url, -1)
        later = moves_on(guest.url, first.last)
        verdict = check(ask(guest.url + "/verify", 30), not_older_than=later.last)
        assert verdict.good, verdict.text
        assert later.boot == first.boot

    def test_a_record_keeps_its_hash_and_one_that_is_not_there_has_none(self, guest: PlainGuest) -> None:
        last = ask(guest.url + "/").last
        record = get(f"{guest.url}/record/{last}")
        assert len(bytes.fromhex(record["hash"])) == 32
        moves_on(guest.url, last)
        assert get(f"{guest.url}/record/{last}") == record
        with pytest.raises(NoAnswer, match="404"):
            get(f"{guest.url}/record/{last + 10_000}")

    def test_a_paused_writer_writes_nothing_and_goes_on_when_told(self, guest: PlainGuest) -> None:
        paused = ask(guest.url + "/pause")
        assert paused.writer == "paused"
        time.sleep(0.3)
        assert ask(guest.url + "/").last == paused.last
        ask(guest.url + "/resume")
        moves_on(guest.url, paused.last)

    def test_it_writes_files_of_random_data_on_either_disk(self, guest: PlainGuest, images: GuestImages) -> None:
        before = images.disk0.stat().st_blocks
        assert get(f"{guest.url}/write?mb=2&disk=0", 60)["bytes"] == 2 << 20
        assert images.disk0.stat().st_blocks * 512 >= before * 512 + (2 << 20)
        assert get(f"{guest.url}/write?mb=1&disk=1&name=one", 60)["name"] == "one"

    def test_the_agent_freezes_both_file_systems_and_thaws_them(self, guest: PlainGuest) -> None:
        with agent_of(guest) as agent:
            agent.run("guest-ping")
            mounted = {system["mountpoint"] for system in agent.run("guest-get-fsinfo")}
            assert mounted == {"/", "/data"}
            assert agent.run("guest-fsfreeze-freeze") == 2
            try:
                assert agent.run("guest-fsfreeze-status") == "frozen"
                frozen = ask(guest.url + "/")
                time.sleep(0.5)
                still = ask(guest.url + "/")
                assert still.last == frozen.last
            finally:
                agent.run("guest-fsfreeze-thaw")
            moves_on(guest.url, still.last)
        assert check(ask(guest.url + "/verify", 30)).good

    def test_disks_of_one_instant_pass_and_disks_a_second_apart_fail(
        self, guest: PlainGuest, images: GuestImages, tmp_path: Path
    ) -> None:
        with Control(guest.qmp) as monitor:
            monitor.run("stop")
            disk0, disk1 = (
                raw_of(images.disk0, tmp_path / "now0.raw"),
                raw_of(images.disk1, tmp_path / "now1.raw"),
            )
            monitor.run("cont")
            same = check_disks(disk0, disk1)
            assert same.good, same.text
            before = ask(guest.url + "/").last
            time.sleep(1)
            moves_on(guest.url, before)
            monitor.run("stop")
            later1 = raw_of(images.disk1, tmp_path / "later1.raw")
            later0 = raw_of(images.disk0, tmp_path / "later0.raw")
            monitor.run("cont")
        assert check_disks(later0, later1).good
        apart = check_disks(disk0, later1)
        assert not apart.good
        assert "missing on disk0" in apart.text
        assert not check_disks(later0, disk1).good


def test_a_killed_guest_continues_its_chain_and_the_power_button_ends_it_cleanly(tmp_path: Path) -> None:
    images = build_guest(tmp_path)
    with PlainGuest(images) as guest:
        wait_for_answer(guest.url + "/", BOOT)
        seen = moves_on(guest.url, 10)
        guest.kill()
        cut = check_disks(images.disk0, raw_of(images.disk1, tmp_path / "cut1.raw"))
        assert cut.good, cut.text
    with PlainGuest(images) as guest:
        wait_for_answer(guest.url + "/", BOOT)
        again = ask(guest.url + "/verify", 60)
        assert check(again, not_older_than=seen.last).good, again
        assert again.boot != seen.boot
        assert again.verified_at_start is not None
        assert again.verified_at_start["last"] >= seen.last
        moves_on(guest.url, again.last)
        last = ask(guest.url + "/pause").last
        with Control(guest.qmp) as monitor:
            monitor.run("system_powerdown")
            guest.process.wait(15)
    disk1 = raw_of(images.disk1, tmp_path / "disk1.raw")
    verdict = check_disks(images.disk0, disk1, last=last)
    assert verdict.good, verdict.text
    for disk, offset in ((images.disk0, 1 << 20), (disk1, 0)):
        system = tmp_path / "file-system"
        with disk.open("rb") as source, system.open("wb") as target:
            source.seek(offset)
            shutil.copyfileobj(source, target, 1 << 20)
        # -n: nothing is repaired; it says so when the journal isn't empty or anything is wrong
        done = subprocess.run(["/usr/sbin/e2fsck", "-fn", str(system)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_agents_shutdown_ends_a_guest_with_a_disk_of_64_gib(tmp_path: Path) -> None:
    images = build_guest(tmp_path, GuestSettings(system_size=64 * GiB))
    assert images.disk0.stat().st_size == 64 * GiB
    assert images.disk0.stat().st_blocks * 512 < GiB // 4
    with PlainGuest(images) as guest:
        wait_for_answer(guest.url + "/", BOOT)
        moves_on(guest.url, -1)
        with agent_of(guest) as agent:
            agent.send("guest-shutdown", mode="powerdown")
            guest.process.wait(15)
    assert check_disks(images.disk0, raw_of(images.disk1, tmp_path / "disk1.raw")).good
