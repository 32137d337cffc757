"""A process that reads many disks has more than 1024 descriptors open: what waits for one of those must still wait."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from homeport.servers.source_door import _gone
from homeport.sources.freeze import _start_watchdog
from homeport.sources.hold import Guard
from homeport.sources.hold_watchdog import CONT
from homeport.sources.waiting import readable, writable

FIRST = 1100


@pytest.fixture(autouse=True)
def crowded() -> Iterator[None]:
    """What is opened from now on has a number that select(2) does not know."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FIRST + 100:
        if hard != resource.RLIM_INFINITY and hard < FIRST + 100:
            pytest.skip("this process may not open that many")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FIRST + 100, hard))
    taken = [os.open("/dev/null", os.O_RDONLY)]
    try:
        while taken[-1] < FIRST:
            taken.append(os.dup(taken[0]))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_can_be_read_and_written() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert here.fileno() > 1024
        assert not readable(here, 0)
        assert not readable(here, -1), "too late is no time at all"
        assert not readable(here.fileno(), 0.01)
        assert writable(here, 0)
        there.send(b"x")
        assert readable(here, 5)
        here.recv(1)
        there.close()
        assert readable(here, None), "the end is something to read"


def test_a_process_server_sees_that_a_mobility_service_went() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert not _gone(here)
        there.close()
        assert _gone(here)


def test_a_held_machine_is_let_go() -> None:
    guard = Guard()
    qmp, machine = socket.socketpair()
    with qmp, machine:
        guard.warm_up()
        guard.begin(qmp.fileno(), 0.05)
        machine.settimeout(20)
        assert machine.recv(1000) == CONT
        machine.close()
        assert guard.end(qmp.fileno()), "it acted"
    guard.close()


def test_the_thaw_watchdog_starts() -> None:
    here, there = socket.socketpair()
    with here, there:
        watchdog = _start_watchdog("/nowhere", here.fileno(), 20.0)
        assert watchdog.stdin is not None
        assert watchdog.stdout is not None
        with watchdog.stdin, watchdog.stdout:
            assert not readable(watchdog.stdout, 0)
            watchdog.stdin.write(b"done\n")
            assert watchdog.wait(20) == 0
