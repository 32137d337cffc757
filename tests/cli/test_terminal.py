"""The command line as a process of its own: at a terminal, interrupted, with a vault that goes and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.cli.conftest import Answer, Homeport
from tests.cli.fake_vault import TIMELINE, FakeVault, item, running

COMMAND = [sys.executable, "-m", "homeport.cli"]


def environment(state: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HOMEPORT_STATE": str(state), "COLUMNS": "120", "TERM": "xterm-256color", **more}


class Terminal:
    """A process at a pseudo-terminal."""

    def __init__(self, state: Path, *arguments: str, **variables: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(state, **variables),
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str | None, seconds: float = 60) -> str:
        """Read until ``text`` was printed; None: until the process closed its terminal."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.seen:
            assert select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            try:
                read = os.read(self._master, 65536)
            except OSError:
                read = b""
            if not read:
                assert text is None, self.seen
                break
            self.seen += read.decode(errors="replace")
        return self.seen

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        self.until(None)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def terminal(state: Path, *arguments: str, **variables: str) -> Iterator[Terminal]:
    made = Terminal(state, *arguments, **variables)
    try:
        yield made
    finally:
        made.close()


def test_a_failover_says_what_is_lost_and_asks(vault: FakeVault, state: Path) -> None:
    with terminal(state, "failover", "web1", "--point", "latest-app-consistent", "--no-shutdown") as at:
        at.until("Go on? [y/N]")
        told = " ".join(at.seen.split())
        for expected in (f"{TIMELINE}/2", "at away", "not shut down", "RPO now 12 s", "15 s older than the newest"):
            assert expected in told
        assert vault.operations == []
        at.type("y\n")
        assert at.end() == 0
        assert "web1 is failed over" in at.seen
    assert vault.operations == [("failover", {"point": "latest-app-consistent", "shutdown": False})]


def test_no_is_an_answer(vault: FakeVault, state: Path) -> None:
    with terminal(state, "disable", "web1") as at:
        at.until("Go on? [y/N]")
        at.type("\n")
        assert at.end() == 1
        assert "Nothing was done." in at.seen
    assert vault.operations == []


def test_what_the_vault_would_refuse_is_not_asked_about(vault: FakeVault, state: Path) -> None:
    with terminal(state, "failback", "web1") as at:
        assert at.end() == 1
        assert "item.wrong-direction" in at.seen
        assert "Go on?" not in at.seen
    assert vault.operations == []


def test_commit_tells_the_way_out_from_the_way_home(vault: FakeVault, state: Path) -> None:
    vault.items["web1"] = item(
        state="FailbackCommitPending",
        active_site="home",
        direction="reverse",
        recovery_machine="web1-away",
        allowed_operations=["commit"],
    )
    with terminal(state, "commit", "web1") as at:
        at.until("Go on? [y/N]")
        told = " ".join(at.seen.split())
        assert (
            "Commit the failback of web1: it stays at home. The recovery machine web1-away at away is removed" in told
        )
        at.type("n\n")
        assert at.end() == 1


def test_at_a_terminal_progress_is_a_bar_and_no_color_is_respected(vault: FakeVault, state: Path) -> None:
    with terminal(state, "resync", "web1") as at:
        assert at.end() == 0
        assert "\x1b[3" in at.seen
        assert "Send the last changes" in at.seen
    with terminal(state, "status", NO_COLOR="1") as plain:
        assert plain.end() == 0
        assert "normal" in plain.seen
        assert "\x1b[3" not in plain.seen


def test_ctrl_c_while_waiting_leaves_the_job_running(vault: FakeVault, state: Path) -> None:
    vault.held.clear()
    process = subprocess.Popen(
        [*COMMAND, "resync", "web1", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(state),
    )
    try:
        assert vault.waiting.wait(60)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    error = json.loads(out)["error"]
    assert error["code"] == "cli.interrupted"
    assert "homeport job show job1" in error["remedy"]
    assert vault.jobs["job1"]["state"] == "running"
    assert not any(path.endswith("/cancel") for _, path, _ in vault.asked)


def test_watching_refreshes_until_ctrl_c_and_ends_well(vault: FakeVault, state: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "status", "web1", "--watch", "--json"], stdout=subprocess.PIPE, text=True, env=environment(state)
    )
    try:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["item"]["name"] == "web1"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_watching_at_a_terminal_shows_the_table(vault: FakeVault, state: Path) -> None:
    with terminal(state, "status", "--watch") as at:
        at.until("home → away")
        at.process.send_signal(signal.SIGINT)
        assert at.end() == 0


def test_a_vault_that_comes_back_is_waited_for(homeport: Homeport, state: Path) -> None:
    """The vault is restarted while a job is waited for: the wait goes on with the one that comes back."""
    first = FakeVault()
    first.held.clear()
    answers: list[Answer] = []
    with running(first, state, killed=True):
        port = urlsplit(first.url).port
        assert port
        waiter = threading.Thread(target=lambda: answers.append(homeport("resync", "web1")))
        waiter.start()
        assert first.waiting.wait(60)
    second = FakeVault(jobs=first.jobs)
    with running(second, state, port=port):
        waiter.join(120)
    assert not waiter.is_alive()
    assert answers[0].status == 0
    assert "waiting for it" in answers[0].err
    assert second.jobs["job1"]["state"] == "succeeded"


def test_a_reader_that_goes_away_is_no_crash(vault: FakeVault, state: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "points", "web1", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(state),
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
