"""The chain of records, as the guest writes it and verifies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.guest.inside.chain import Chain
from demo.guest.inside.records import NOTHING, PAYLOAD, SLOT, BrokenChain, decode, disk_of, encode, offset_of


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    return (str(tmp_path / "records0"), str(tmp_path / "records1"))


def written(paths: tuple[str, str], count: int) -> Chain:
    chain = Chain(paths)
    for number in range(count):
        chain.append(1_000 + number, bytes([number % 256]) * PAYLOAD)
    return chain


def opened(paths: tuple[str, str]) -> Chain:
    chain = Chain(paths)
    chain.find_end()
    return chain


def damage(paths: tuple[str, str], number: int, data: bytes, at: int = 100) -> None:
    with open(paths[disk_of(number)], "r+b") as file:
        file.seek(offset_of(number) + at)
        file.write(data)


def test_a_record_is_read_as_it_was_written() -> None:
    slot = encode(7, 123, bytes(range(32)), b"x" * PAYLOAD)
    record = decode(slot)
    assert len(slot) == SLOT
    assert record is not None
    assert (record.number, record.time, record.previous) == (7, 123, bytes(range(32)))
    assert record.digest == slot[-32:]


@pytest.mark.parametrize("at", [0, 16, 24, 32, 64, 4000, 4095])
def test_a_changed_byte_anywhere_makes_a_slot_no_record(at: int) -> None:
    slot = bytearray(encode(7, 123, NOTHING, b"x" * PAYLOAD))
    slot[at] ^= 1
    assert decode(bytes(slot)) is None


def test_records_alternate_over_both_files_and_name_their_predecessor_on_the_other(paths: tuple[str, str]) -> None:
    chain = written(paths, 5)
    records = [chain.read(number) for number in range(5)]
    assert Path(paths[0]).stat().st_size == 3 * SLOT
    assert Path(paths[1]).stat().st_size == 2 * SLOT
    assert all(record is not None for record in records)
    digests = [record.digest for record in records if record is not None]
    assert [record.previous for record in records if record is not None] == [NOTHING, *digests[:-1]]


@pytest.mark.parametrize("count", [0, 1, 2, 127, 128, 129, 300])
def test_an_intact_chain_is_verified_and_continued(paths: tuple[str, str], count: int) -> None:
    written(paths, count)
    chain = opened(paths)
    assert chain.verify() == count
    assert chain.torn is None
    chain.append(5, bytes(PAYLOAD))
    assert opened(paths).verify() == count + 1


@pytest.mark.parametrize("left", [1, 512, SLOT - 1])
def test_a_torn_last_record_is_taken_away_and_reported(paths: tuple[str, str], left: int) -> None:
    written(paths, 10)
    with open(paths[1], "r+b") as file:
        file.truncate(offset_of(9) + left)
    chain = opened(paths)
    assert chain.torn == 9
    assert chain.verify() == 9
    chain.append(5, bytes(PAYLOAD))
    assert opened(paths).verify() == 10


def test_a_torn_record_before_the_last_one_breaks_the_chain(paths: tuple[str, str]) -> None:
    written(paths, 10)
    damage(paths, 8, b"?")
    with pytest.raises(BrokenChain) as broken:
        opened(paths).verify()
    assert broken.value.number == 8


def test_a_torn_last_record_whose_predecessor_is_damaged_too_breaks_the_chain(paths: tuple[str, str]) -> None:
    written(paths, 10)
    damage(paths, 8, b"?")
    damage(paths, 9, b"?")
    with pytest.raises(BrokenChain) as broken:
        opened(paths)
    assert broken.value.number == 8


@pytest.mark.parametrize(("disk", "missing"), [(0, 1), (0, 3), (1, 2), (1, 5)])
def test_a_disk_that_is_older_than_the_other_breaks_the_chain(paths: tuple[str, str], disk: int, missing: int) -> None:
    written(paths, 40)
    with open(paths[disk], "r+b") as file:
        file.truncate((20 - missing) * SLOT)
    with pytest.raises(BrokenChain):
        opened(paths)


def test_a_record_of_another_chain_in_the_middle_breaks_it(paths: tuple[str, str]) -> None:
    chain = written(paths, 10)
    previous = chain.read(3)
    assert previous is not None
    damage(paths, 4, encode(4, 1, previous.digest, b"z" * PAYLOAD), at=0)
    with pytest.raises(BrokenChain) as broken:
        opened(paths).verify()
    assert broken.value.number == 5
    assert "record 4" in broken.value.why


def test_a_record_that_moved_to_another_slot_breaks_the_chain(paths: tuple[str, str]) -> None:
    written(paths, 10)
    with open(paths[0], "r+b") as file:
        slots = file.read()
        file.seek(offset_of(2))
        file.write(slots[offset_of(4) : offset_of(4) + SLOT])
    with pytest.raises(BrokenChain) as broken:
        opened(paths).verify()
    assert broken.value.number == 2


def test_a_chain_that_was_replaced_under_a_running_writer_is_noticed(paths: tuple[str, str]) -> None:
    chain = written(paths, 4)
    before = chain.read(2)
    assert before is not None
    damage(paths, 3, encode(3, 99, before.digest, b"z" * PAYLOAD), at=0)
    with pytest.raises(BrokenChain) as broken:
        chain.verify()
    assert broken.value.number == 3
