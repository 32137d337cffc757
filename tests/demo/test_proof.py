"""The verdicts on the guest's data: from what the guest says, and from its disks alone."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.guest.inside.jsontext import to_json
from demo.guest.inside.records import NOTHING, PAYLOAD, SLOT, disk_of, encode
from demo.guest.proof import Answer, NoAnswer, ask, check, check_disks, wait_for_answer

ANSWER = Answer(
    name="demo",
    last=99,
    last_time=1.0,
    records=100,
    chain="unbroken",
    writer="writing",
    errors=0,
    kernel_error="",
    boot="b",
    uptime=5.0,
    time=2.0,
    verified_at_start={"records": 81, "last": 80, "torn": None, "seconds": 0.1},
)


def chain(count: int, fill: bytes = b"x") -> list[bytes]:
    slots: list[bytes] = []
    for number in range(count):
        slots.append(encode(number, number, slots[-1][-32:] if slots else NOTHING, fill * PAYLOAD))
    return slots


def disks(
    folder: Path, slots: list[bytes], upto: tuple[int, int], *, stray: dict[int, bytes] | None = None
) -> tuple[Path, Path]:
    """Two sparse images; disk N holds its records below ``upto[N]``, among other data."""
    paths = (folder / "disk0.raw", folder / "disk1.raw")
    for index, path in enumerate(paths):
        with path.open("wb") as file:
            file.truncate(64 << 20)
            file.seek(1 << 20)
            file.write(b"something else" * 1000)
            for number, slot in enumerate(slots):
                if disk_of(number) == index and number < upto[index]:
                    # scattered, as a file system may place a file's blocks
                    file.seek((2 << 20) + (number * 37 % 4096) * SLOT)
                    file.write(slot)
            for place, slot in (stray or {}).items():
                if place % 2 == index:
                    file.seek((50 << 20) + place * SLOT)
                    file.write(slot)
    return paths


def test_disks_of_one_instant_pass(tmp_path: Path) -> None:
    verdict = check_disks(*disks(tmp_path, chain(101), (101, 101)), last=100)
    assert verdict.good, verdict.text


@pytest.mark.parametrize("upto", [(101, 100), (99, 100), (100, 100)])
def test_the_newest_record_may_lie_on_either_disk(tmp_path: Path, upto: tuple[int, int]) -> None:
    verdict = check_disks(*disks(tmp_path, chain(101), upto))
    assert verdict.good, verdict.text


@pytest.mark.parametrize("upto", [(101, 98), (97, 100), (40, 101), (101, 0)])
def test_a_disk_later_than_the_other_fails(tmp_path: Path, upto: tuple[int, int]) -> None:
    verdict = check_disks(*disks(tmp_path, chain(101), upto))
    assert not verdict.good
    assert "missing" in verdict.text


def test_a_last_record_that_was_promised_and_is_not_there_fails(tmp_path: Path) -> None:
    assert not check_disks(*disks(tmp_path, chain(101), (101, 101)), last=101).good
    assert not check_disks(*disks(tmp_path, chain(101), (101, 101)), last=99).good


def test_swapped_disks_fail(tmp_path: Path) -> None:
    disk0, disk1 = disks(tmp_path, chain(20), (20, 20))
    assert not check_disks(disk1, disk0).good


def test_disks_without_records_fail(tmp_path: Path) -> None:
    assert not check_disks(*disks(tmp_path, [], (0, 0))).good


def test_a_damaged_record_in_the_middle_fails(tmp_path: Path) -> None:
    slots = chain(50)
    slots[20] = slots[20][:200] + b"?" + slots[20][201:]
    verdict = check_disks(*disks(tmp_path, slots, (50, 50)))
    assert not verdict.good
    assert "record 20" in verdict.text


def test_disks_of_two_histories_fail(tmp_path: Path) -> None:
    one, other = chain(50), chain(50, b"y")
    mixed = [one[number] if disk_of(number) == 0 else other[number] for number in range(50)]
    verdict = check_disks(*disks(tmp_path, mixed, (50, 50)))
    assert not verdict.good
    assert "continue" in verdict.text


def test_a_block_that_a_crash_left_behind_does_no_harm(tmp_path: Path) -> None:
    slots = chain(50)
    left = encode(30, 7, slots[29][-32:], b"z" * PAYLOAD)
    verdict = check_disks(*disks(tmp_path, slots, (50, 50), stray={0: left}))
    assert verdict.good, verdict.text


def test_the_scan_reads_nothing_of_the_holes_of_a_large_disk(tmp_path: Path) -> None:
    paths = disks(tmp_path, chain(10), (10, 10))
    for path in paths:
        with path.open("r+b") as file:
            file.truncate(64 << 30)
    assert check_disks(*paths).good


def test_an_answer_with_an_unbroken_chain_is_good() -> None:
    assert check(ANSWER).good
    assert check(ANSWER, not_older_than=99).good
    assert check(ANSWER, exactly=80).good


@pytest.mark.parametrize(
    "change",
    [
        {"chain": "verifying"},
        {"chain": "broken at 5: no whole record there"},
        {"chain": "unreadable: [Errno 5] Input/output error"},
        {"errors": 1},
        {"writer": "stopped: [Errno 28] No space left on device"},
        {"last": -1, "records": 0},
    ],
)
def test_an_answer_with_anything_wrong_is_not_good(change: dict[str, object]) -> None:
    assert not check(dataclasses.replace(ANSWER, **change)).good  # type: ignore[arg-type]


def test_a_lost_record_is_noticed() -> None:
    assert not check(ANSWER, not_older_than=100).good
    assert not check(ANSWER, exactly=81).good
    assert not check(ANSWER, exactly=79).good
    assert not check(dataclasses.replace(ANSWER, verified_at_start=None), exactly=80).good


@pytest.fixture
def stranger() -> Iterator[str]:
    """An HTTP server that is no guest of ours: everything is 404."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer):
        wait_for_answer("http://127.0.0.1:1/", 0.2)


def test_somebody_else_there_is_no_answer(stranger: str) -> None:
    with pytest.raises(NoAnswer):
        ask(stranger)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(VALUES)
def test_the_guest_writes_json_that_others_read(value: object) -> None:
    assert json.loads(to_json(value)) == value
