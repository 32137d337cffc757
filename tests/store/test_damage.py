"""Damage is found, named, and hurts only what it touches."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.store import Corrupt, MachineKey, MachineStore, MemoryObjects, SpooledPoint, StoreError, Writer, names
from homeport.store.segment import FRAME_SIZE, HEADER_SIZE
from tests.store.stores import KEYS, MACHINE, T1, T2, VAULT, add_point, blocks, noise, read_all, spool_point, store

SIZES = {"disk0": 64 * BLOCK, "disk1": 8 * BLOCK}


@pytest.fixture
def bucket(tmp_path: Path) -> MemoryObjects:
    """Points 1 to 3: disk0 written whole, then one block, then disk1."""
    found = store()
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    point = add_point(writer, tmp_path, None, [("disk0", 0, blocks(1, 64))], SIZES)
    point = add_point(writer, tmp_path, point, [("disk0", 20 * BLOCK, noise(2, BLOCK))], SIZES)
    add_point(writer, tmp_path, point, [("disk1", 0, blocks(3, 8))], SIZES)
    assert isinstance(found.objects, MemoryObjects)
    return found.objects


def segment_keys(objects: MemoryObjects) -> list[str]:
    return [key for key, _ in objects.list(names.timeline(MACHINE, T1) + "segment/")]


def flip(objects: MemoryObjects, key: str, place: int) -> None:
    data = bytearray(objects.objects[key])
    data[place] ^= 0x40
    objects.objects[key] = bytes(data)


def test_any_damaged_byte_of_a_frame_is_detected_and_named(bucket: MemoryObjects) -> None:
    key = segment_keys(bucket)[1]  # one frame: disk0, block 20
    clean = dict(bucket.objects)
    before = read_all(store(bucket), PointId(T1, 1))
    length = FRAME_SIZE + BLOCK + 16
    places = [*range(HEADER_SIZE, HEADER_SIZE + FRAME_SIZE + 24), *range(HEADER_SIZE, HEADER_SIZE + length, 509)]
    for place in [*places, HEADER_SIZE + length - 1]:
        bucket.objects = dict(clean)
        flip(bucket, key, place)
        damaged = store(bucket)
        reader = damaged.open(PointId(T1, 2))
        with pytest.raises(Corrupt) as raised:
            reader.read("disk0", 20 * BLOCK, 1)
        error = raised.value
        assert error.code == "store.corrupt-frame"
        assert (error.details["object"], error.details["frame"]) == (key, 0)
        assert (error.details["disk"], error.details["first_block"]) == ("disk0", 20)
        # Others are fine: the rest of the disk, and the point below.
        assert reader.read("disk0", 0, 20 * BLOCK) == before["disk0"][: 20 * BLOCK]
        assert reader.read("disk0", 21 * BLOCK, 43 * BLOCK) == before["disk0"][21 * BLOCK :]
        assert read_all(damaged, PointId(T1, 1)) == before
    report = damaged.verify(deep=True)
    assert [(p.object, p.frame, p.disk, p.first_block, p.blocks) for p in report.problems] == [(key, 0, "disk0", 20, 1)]
    assert report.unusable == [PointId(T1, 2), PointId(T1, 3)]
    assert store(bucket).verify(PointId(T1, 1), deep=True).ok


def test_frames_swapped_within_a_segment_are_detected(bucket: MemoryObjects) -> None:
    """Two frames of the same length, each whole: only the binding to their place tells."""
    key = segment_keys(bucket)[0]
    reader = store(bucket).open(PointId(T1, 1))
    found = reader.with_map(lambda m: next(m.live_rows("disk0")))[1]
    (a, b), length = found["offset"][:2].tolist(), int(found["length"][0])
    assert found["length"][1] == length
    data = bytearray(bucket.objects[key])
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    bucket.objects[key] = bytes(data)
    for block in (0, 16):
        with pytest.raises(Corrupt, match="isn't there"):
            store(bucket).open(PointId(T1, 1)).read("disk0", block * BLOCK, BLOCK)
    # With forged headers (their checksum is no secret) the cipher still refuses.
    for place, other in ((a, b), (b, a)):
        original = bucket.objects[key]
        data[place : place + FRAME_SIZE] = original[other : other + FRAME_SIZE]
    bucket.objects[key] = bytes(data)
    with pytest.raises(Corrupt, match="moved here"):
        store(bucket).open(PointId(T1, 1)).read("disk0", 0, BLOCK)


def test_a_segment_or_record_in_anothers_place_is_detected(bucket: MemoryObjects) -> None:
    first, second, _ = segment_keys(bucket)
    clean = dict(bucket.objects)
    bucket.objects[second] = bucket.objects[first]
    with pytest.raises(Corrupt):
        store(bucket).open(PointId(T1, 2)).read("disk0", 20 * BLOCK, 1)
    assert any(problem.object == second for problem in store(bucket).verify().problems)
    bucket.objects = dict(clean)
    one, two = (names.point(MACHINE, PointId(T1, number)) for number in (1, 2))
    bucket.objects[two] = clean[one]
    with pytest.raises(Corrupt):
        store(bucket).open(PointId(T1, 2))
    assert store(bucket).verify().unusable == [PointId(T1, 2), PointId(T1, 3)]


def test_a_missing_segment_hurts_only_what_needs_it(bucket: MemoryObjects) -> None:
    key = segment_keys(bucket)[1]
    bucket.delete(key)
    report = store(bucket).verify()
    assert [problem.object for problem in report.problems] == [key]
    assert report.unusable == [PointId(T1, 2), PointId(T1, 3)]
    assert store(bucket).open(PointId(T1, 3)).read("disk1", 0, 8 * BLOCK) == blocks(3, 8)
    with pytest.raises(Corrupt) as raised:
        store(bucket).open(PointId(T1, 3)).read("disk0", 20 * BLOCK, BLOCK)
    assert raised.value.details["object"] == key


def test_a_cut_off_end_is_noticed_by_who_remembers_the_head(bucket: MemoryObjects) -> None:
    head = PointId(T1, 3)
    assert store(bucket).verify(expect_head=head).ok
    bucket.delete(names.point(MACHINE, head))
    assert store(bucket).verify().problems == []
    report = store(bucket).verify(expect_head=head)
    assert "cut off" in report.problems[0].cause


def test_a_replaced_record_breaks_the_chain(bucket: MemoryObjects, tmp_path: Path) -> None:
    """Even one that was sealed with the right key."""
    other = store()
    other.create_timeline(T1)
    writer = other.writer(T1, "one")
    add_point(writer, tmp_path / "other", None, [("disk0", 0, blocks(7, 64))], SIZES)
    key = names.point(MACHINE, PointId(T1, 1))
    bucket.objects[key] = other.objects.get(key)
    assert any("was made on another" in problem.cause for problem in store(bucket).verify().problems)


def test_an_object_of_no_known_kind_is_reported(bucket: MemoryObjects) -> None:
    bucket.put(f"machines/{MACHINE}/t/{T1}/notes.txt", b"hello")
    assert "no object of this format" in store(bucket).verify().problems[0].cause


def test_nothing_opens_with_another_machines_key(bucket: MemoryObjects) -> None:
    stranger = MachineStore(bucket, MachineKey(VAULT, MACHINE, bytes(32)))
    with pytest.raises(Corrupt):
        stranger.open(PointId(T1, 1))
    with pytest.raises(StoreError):
        stranger.timeline(T1)
    renamed = MachineKey(VAULT, "another-machine", KEYS.key)
    moved = MemoryObjects()
    for key, data in bucket.objects.items():
        moved.put(key.replace(MACHINE, "another-machine"), data)
    with pytest.raises(Corrupt):
        MachineStore(moved, renamed).open(PointId(T1, 1))


def spool_same(writer: Writer, folder: Path) -> SpooledPoint:
    return spool_point(writer, 1, folder, None, [("disk0", 0, blocks(1, 4))], SIZES)


def test_no_two_attempts_share_a_key_or_a_byte_of_ciphertext(tmp_path: Path) -> None:
    """The same content under the same number, epoch and segment number: rebuilt, all of it differs."""
    randoms, frames, records = set(), set(), set()
    for attempt in range(4):
        found = store()
        found.create_timeline(T1)
        spooled = spool_same(found.writer(T1, "one"), tmp_path / str(attempt))
        segment, _ = spooled.segments[0]
        assert (segment.epoch, segment.seq) == (1, 1)
        data = spooled.file(segment.file).read_bytes()
        randoms.add(data[12:44])
        frames.add(data[HEADER_SIZE + FRAME_SIZE : HEADER_SIZE + FRAME_SIZE + 64])
        records.add(spooled.record()[12:44])
    assert (len(randoms), len(frames), len(records)) == (4, 4, 4)


def test_the_content_shows_nowhere(tmp_path: Path) -> None:
    found = store()
    found.create_timeline(T1)
    found.create_timeline(T2)
    found.describe({"name": "a very secret name"})
    writer = found.writer(T1, "a very secret owner")
    text = b"a very secret text" * 3000
    add_point(writer, tmp_path, None, [("disk0", 0, text[:BLOCK] + noise(1, BLOCK) + text[:BLOCK])], SIZES,
              machine={"note": "a very secret note"})  # fmt: skip
    assert isinstance(found.objects, MemoryObjects)
    assert not any(b"very secret" in data or noise(1, 32) in data for data in found.objects.objects.values())
