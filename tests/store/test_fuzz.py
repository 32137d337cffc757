"""Every parser of stored bytes, given bytes that no Homeport wrote: a clear error (or the same answer as ever), never a
crash, a hang, or more memory than the bytes are worth.

Two kinds: *blind*, bytes changed without a key, as disks and strangers do; and *sealed anew*, content that is wrong but
properly compressed and sealed, as a newer or a broken writer would leave it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeport.bucket import restore_journal, restore_stamp
from homeport.domain.extents import Extents
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK, MiB
from homeport.store import (
    Corrupt,
    MachineStore,
    MemoryObjects,
    StoreError,
    VaultKey,
    block_digests,
    keys,
    leases,
    names,
    sealed,
    spool,
    unlock,
    vaultfile,
)
from homeport.store.compression import compress
from homeport.store.digests import DigestMap
from homeport.store.disk_cache import DiskCache
from homeport.store.errors import CorruptFrame
from homeport.store.index import FRAME_BLOCKS
from homeport.store.manifest import Manifest
from homeport.store.records import Record
from homeport.store.segment import (
    COMPRESSED,
    FOOTER_SIZE,
    FRAME,
    FRAME_MAGIC,
    FRAME_SIZE,
    HEADER_SIZE,
    SegmentCipher,
    open_frame,
    parse_footer,
    parse_header,
    read_directory,
)
from homeport.store.unlock import KeyFile
from homeport.store.verify import _KINDS
from tests.store.stores import KEYS, MACHINE, T1, T2, VAULT, add_point, blocks, noise, spool_point, store

SIZES = {"disk0": 64 * BLOCK, "disk1": 8 * BLOCK + 512}
VAULT_KEY = VaultKey(VAULT, bytes(range(32, 64)))
SECRET = KeyFile(bytes(range(64, 96)))
DISK = "disk0"


def fuzz(examples: int) -> settings:
    """The same examples each time."""
    return settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


KINDS = {**_KINDS, "machine key": sealed.MACHINE_KEY}
"""By a word in the key."""


# -- a bucket with something of each kind ------------------------------------------------------------------------------


class Bucket(dict[str, bytes]):
    """Said in a word where a test fails."""

    def __repr__(self) -> str:
        return f"<{len(self)} objects>"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    found = store()
    assert isinstance(found.objects, MemoryObjects)
    vaultfile.save(
        found.objects,
        vaultfile.VaultFile(VAULT, 1, 1, {1: VAULT_KEY.key_id}, [unlock.wrap(VAULT, 1, VAULT_KEY.key, SECRET)]),
    )
    keys.machine_key(found.objects, VAULT_KEY, MACHINE, create=KEYS)
    found.create_timeline(T1)
    writer = found.writer(T1, "one")
    part = spool_point(writer, 0, folder, None, [("disk0", 0, blocks(1, 20))], SIZES)
    writer.publish_part(part)
    kept = {key: data for key, data in found.objects.objects.items() if "/part/" in key}
    content = {name: np.frombuffer(bytearray(size), np.uint8) for name, size in SIZES.items()}
    point = None
    for number in range(1, 25):
        maps = {name: block_digests(KEYS, data.tobytes()) for name, data in content.items()} if number == 20 else None
        writes = [("disk0", (number * 5 % 60) * BLOCK, blocks(number, 3)), ("disk1", 0, bytes(BLOCK))]
        point = add_point(writer, folder, point, writes, SIZES, digest_maps=maps)
        if number == 8:
            found.expire(T1, [5, 6])
    assert point is not None
    found.maintain(T1)
    found.create_timeline(T2, parent=point)
    found.hide(T1, 1)
    found.lease(PointId(T1, 10), "a reader", 10_000)
    found.describe({"name": "web", "disks": [1, 2]})
    result = Bucket({**found.objects.objects, **kept})
    assert {kind_of(key) for key in result} >= {*KINDS, "segment", "vault"}
    return result


def kind_of(key: str) -> str:
    parts = key.split("/")
    if parts[0] == "vault":
        return "vault"
    if parts[2] != "t":
        return "machine key" if parts[2] == "key" else parts[2]
    return parts[4]


def one(bucket: dict[str, bytes], kind: str) -> str:
    """The newest object of a kind."""
    return max(key for key in bucket if kind_of(key) == kind)


def secret_of(kind: str) -> bytes:
    return VAULT_KEY.key if kind == "machine key" else KEYS.key


class Untouched(MemoryObjects):
    """Of a bucket, one object changed."""

    def __init__(self, bucket: dict[str, bytes], key: str, data: bytes) -> None:
        super().__init__()
        self.objects = {**bucket, key: data}


def answers(objects: MemoryObjects, key: str) -> Any:
    """All that can be asked of the object under a key, as comparable values. Raises what its readers raise."""
    kind = kind_of(key)
    fresh = MachineStore(objects, KEYS)
    if kind == "vault":
        return keys.open_vault(objects, SECRET)
    if kind == "machine key":
        return keys.machine_key(objects, VAULT_KEY, MACHINE)
    if kind == "segment":
        return segment_answers(fresh, key)
    if kind == "lease":
        return leases.list_leases(objects, KEYS)
    if kind == "description":
        return fresh.description()
    opened = sealed.open_object(objects, KEYS.key, VAULT, key, KINDS[kind], first_read=100)
    if kind == "digests":
        found = DigestMap(opened)
        return [found.size, found.regions.tolist(), *(found.blocks(n).tolist() for n in range(len(found.regions)))]
    if kind == "timeline":
        return fresh.timeline(key.split("/")[3])
    if kind not in ("point", "thin", "layer", "part"):
        return opened.head
    record = Record(opened)
    told: list[Any] = [record.disks, record.floor, record.parent, list(record.segments)]
    for disk in record.index_disks():
        told += [record.data(disk, *record.shards(disk)).tolist(), record.zeros(disk).tolist()]
        told += [record.packed(disk, shard).tolist() for shard in record.shards(disk)]
    if kind == "point":
        reader = fresh.open(PointId(T1, int(key[-16:])))
        told.append(reader.info)
        for disk, size in reader.disks.items():
            told += [reader.read(disk, 0, min(size, MiB)), reader.digests(disk).blocks(0).tolist()]
    return told


def segment_answers(found: MachineStore, key: str) -> Any:
    """By way of the record that names it."""
    objects = found.objects
    parse_header(key, objects.get_range(key, 0, HEADER_SIZE))  # its random: the record's counts, sealed
    size = objects.size(key)
    told: list[Any] = [parse_footer(key, objects.get_range(key, max(size - FOOTER_SIZE, 0), FOOTER_SIZE))]
    point = PointId(T1, 24)
    info = next(info for info in found.layer(names.point(MACHINE, point)).segments if key.endswith(info.segment.file))
    directory = read_directory(objects, KEYS, info)
    if directory.manifest is not None:
        told.append(Manifest.parse(key, directory.manifest).head)
    told.append([getattr(directory, name).tolist() for name in ("first", "count", "starts", "digests")])
    told.append(found.open(point).read(DISK, 0, SIZES[DISK]))
    return told


@contextlib.contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def ask(objects: MemoryObjects, key: str, expected: Any) -> None:
    """An error of the store's own, or the answer that was right before."""
    try:
        found = answers(objects, key)
    except StoreError:
        return
    if kind_of(key) == "lease" and found:
        return  # one that can't be opened counts as held
    assert found == expected


# -- blind -------------------------------------------------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Something that happens to bytes."""
    what = draw(st.sampled_from(["flip", "cut", "longer", "huge", "noise", "swap", "none", "zero"]))
    place, other = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    early = draw(st.integers(0, 80)) if draw(st.booleans()) else None
    width, some = draw(st.sampled_from([1, 2, 4, 8])), draw(st.binary(min_size=1, max_size=40))

    def change(data: bytes) -> bytes:
        at = min(early if early is not None else int(place * len(data)), max(len(data) - 1, 0))
        to = int(other * len(data))
        if what == "none" or not data:
            return b""
        if what == "flip":
            return data[:at] + bytes([data[at] ^ (1 << to % 8)]) + data[at + 1 :]
        if what == "cut":
            return data[:at]
        if what == "longer":
            return data + some
        if what == "huge":
            return data[:at] + b"\xff" * width + data[at + width :]
        if what == "zero":
            return data[:at] + bytes(width) + data[at + width :]
        if what == "noise":
            return data[:at] + some + data[at + len(some) :]
        low, high = sorted((at, to))
        return data[high:] + data[low:high] + data[:low]

    return change


def checksummed(data: bytes) -> bytes:
    """With the checksums made right again, which are no secret: of a sealed object or a segment."""
    fixed = bytearray(data)
    if data[:8] == b"HP-SEGMT" and len(data) > HEADER_SIZE + FOOTER_SIZE:
        struct.pack_into("<I", fixed, 44, zlib.crc32(fixed[:44]))
        struct.pack_into("<I", fixed, len(fixed) - 4, zlib.crc32(fixed[-FOOTER_SIZE:-4]))
    elif data[:3] == b"HP-" and len(data) > 64:
        struct.pack_into("<I", fixed, 56, zlib.crc32(fixed[:56]))
        struct.pack_into("<I", fixed, len(fixed) - 4, zlib.crc32(fixed[:-4]))
    return bytes(fixed)


@fuzz(400)
@given(kind=st.sampled_from([*KINDS, "segment", "vault"]), change=changes(), right=st.booleans())
def test_damaged_objects(bucket: dict[str, bytes], kind: str, change: Callable[[bytes], bytes], right: bool) -> None:
    key = one(bucket, kind)
    expected = _expected(bucket, key)
    data = change(bucket[key])
    ask(Untouched(bucket, key, checksummed(data) if right else data), key, expected)


_known: dict[str, Any] = {}


def _expected(bucket: dict[str, bytes], key: str) -> Any:
    if key not in _known:
        objects = MemoryObjects()
        objects.objects = bucket
        _known[key] = answers(objects, key)
    return _known[key]


@pytest.fixture(scope="module")
def frame(bucket: dict[str, bytes]) -> tuple[Callable[[bytes], bytes], bytes]:
    """What opens a frame of the newest point, and its bytes."""
    objects = MemoryObjects()
    objects.objects = bucket
    reader = MachineStore(objects, KEYS).open(PointId(T1, 24))
    info, rows = reader.with_map(lambda found: list(found.live_rows(DISK)))[0]
    row = rows[0]
    start, number, first = int(row["offset"]), int(row["frame"]), int(row["first"] - row["skip"])
    data = objects.get_range(info.segment.key(MACHINE), start, int(row["length"]))
    cipher = SegmentCipher(KEYS, info.segment, info.random)

    def opens(data: bytes) -> bytes:
        return bytes(open_frame(KEYS, cipher, info.segment, DISK, number, first, memoryview(data)))

    return opens, data


@fuzz(150)
@given(change=changes(), right=st.booleans())
def test_damaged_frames(
    frame: tuple[Callable[[bytes], bytes], bytes], change: Callable[[bytes], bytes], right: bool
) -> None:
    opens, data = frame
    changed = bytearray(change(data))
    if right and len(changed) >= FRAME_SIZE:
        struct.pack_into("<I", changed, FRAME.size, zlib.crc32(changed[: FRAME.size]))
    try:
        found = opens(bytes(changed))
    except CorruptFrame:
        return
    assert found == opens(data)


# -- sealed anew -------------------------------------------------------------------------------------------------------

odd: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**40, 1.5, float("nan"), float("inf"), "", "x", "\ud800",
     "0" * 70_000,
     "../..", f"{T1}/1", f"{T1}/24", f"{T2}/1", "2026-11-21T04:00:00", [], [[]], [1], [[1, 2, 3]], [[None] * 3],
     [["disk0", 0, 2**31]], [["disk0", -1, 2**31]], [["disk0", 2**40]], {}, {"a": []}]
)  # fmt: skip


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield so_far
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        yield from paths(inner, (*so_far, name))


def altered(value: Any, path: tuple[Any, ...], new: Any, drop: bool) -> Any:
    """A copy, with something else (or nothing) at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if drop and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = altered(value[path[0]], path[1:], new, drop)
    return copy


def resealed(kind: str, key: str, text: bytes, sections: list[bytes], *, packed: bool = False) -> bytes:
    """As ``sealed.seal`` does it, of anything. ``packed``: the sections are compressed already."""
    what, salt = KINDS[kind], noise(1, 32)
    cipher = AESGCM(sealed.derive(secret_of(kind), salt, what.info))

    def close(number: int, data: bytes) -> bytes:
        return cipher.encrypt(sealed.nonce(number), data, sealed._associated(what, VAULT, key, number))

    first = close(0, text if packed else compress(text))
    rest = b"".join(close(number, part if packed else compress(part)) for number, part in enumerate(sections, 1))
    header = struct.pack("<8sHH32sIQ", what.magic, 1, 0, salt, len(first), 64 + len(first) + len(rest))
    body = header + struct.pack("<I", zlib.crc32(header)) + first + rest
    return body + struct.pack("<I", zlib.crc32(body))


def opened(bucket: dict[str, bytes], kind: str, key: str) -> tuple[dict[str, Any], list[bytes]]:
    found = sealed.open_bytes(secret_of(kind), VAULT, key, KINDS[kind], bucket[key])
    count = len(found.head["sections"])
    return found.head, [found.section(number) for number in range(1, count + 1)]


def sealed_lengths(sections: list[bytes]) -> list[int]:
    return [len(compress(section)) + sealed.TAG for section in sections]


def ask_wrong(objects: MemoryObjects, key: str) -> None:
    """An error of the store's own, or any answer."""
    with contextlib.suppress(StoreError):
        answers(objects, key)


@fuzz(400)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data(), new=odd, drop=st.booleans())
def test_heads_of_another_shape(bucket: dict[str, bytes], kind: str, data: st.DataObject, new: Any, drop: bool) -> None:
    key = one(bucket, kind)
    head, sections = opened(bucket, kind, key)
    every = list(paths(head))
    path = every[data.draw(st.integers(0, len(every) - 1))]
    text = json.dumps(altered(head, path, new, drop)).encode()
    ask_wrong(Untouched(bucket, key, resealed(kind, key, text, sections)), key)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 200_000, b'{"sections":[' + b"[" * 100_000, b'{"a":1}']
)
def test_heads_that_are_none(bucket: dict[str, bytes], kind: str, text: bytes) -> None:
    key = one(bucket, kind)
    with pytest.raises(Corrupt):
        sealed.open_bytes(secret_of(kind), VAULT, key, KINDS[kind], resealed(kind, key, text, []))
    ask_wrong(Untouched(bucket, key, resealed(kind, key, text, [])), key)


@fuzz(200)
@given(kind=st.sampled_from(["point", "part", "thin", "layer", "digests"]), data=st.data(), change=changes())
def test_sections_of_other_content(
    bucket: dict[str, bytes], kind: str, data: st.DataObject, change: Callable[[bytes], bytes]
) -> None:
    key = one(bucket, kind)
    head, sections = opened(bucket, kind, key)
    place = data.draw(st.integers(0, len(sections) - 1))
    sections[place] = change(sections[place])
    if data.draw(st.booleans()):
        sections.reverse()
    text = json.dumps({**head, "sections": sealed_lengths(sections)}).encode()
    ask_wrong(Untouched(bucket, key, resealed(kind, key, text, sections)), key)


def bomb(size: int) -> bytes:
    """A frame of ``size`` zero bytes, in a few hundred times less."""
    return compress(bytes(size))


@pytest.mark.parametrize("kind", ["point", "part", "thin", "layer", "digests"])
def test_bombs_in_sections(bucket: dict[str, bytes], kind: str) -> None:
    """A section of more than the head says, also where the frame says less than it holds, or holds another behind."""
    key = one(bucket, kind)
    head, sections = opened(bucket, kind, key)
    large = bomb(64 * MiB)
    liar = bytearray(large)
    assert int.from_bytes(liar[6:10], "little") == 64 * MiB  # magic, descriptor, window, the size of the content
    liar[6:10] = (200).to_bytes(4, "little")
    for frame in (large, bytes(liar), compress(b"x" * 4) + large, b"\x28\xb5\x2f\xfd\x00\x58" + large[10:]):
        for place in range(len(sections)):
            packed = [compress(section) for section in sections]
            packed[place] = frame
            lengths = [len(part) + sealed.TAG for part in packed]
            text = compress(json.dumps({**head, "sections": lengths}).encode())
            wrong = Untouched(bucket, key, resealed(kind, key, text, packed, packed=True))
            with memory_below(16 * MiB), pytest.raises(Corrupt):
                answers(wrong, key)


def test_a_head_of_gigabytes_is_refused_before_it_is_unpacked(bucket: dict[str, bytes]) -> None:
    key = one(bucket, "point")
    frame = bytearray(bomb(64 * MiB))
    frame[6:10] = (2**32 - 1).to_bytes(4, "little")
    with memory_below(8 * MiB), pytest.raises(Corrupt):
        sealed.open_bytes(KEYS.key, VAULT, key, sealed.POINT, resealed("point", key, bytes(frame), [], packed=True))


def test_lengths_of_terabytes_in_headers_are_refused(bucket: dict[str, bytes]) -> None:
    key = one(bucket, "point")
    data = bytearray(bucket[key])
    struct.pack_into("<IQ", data, 44, 2**32 - 1, 2**63)
    with memory_below(8 * MiB), pytest.raises(Corrupt):
        answers(Untouched(bucket, key, checksummed(bytes(data))), key)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ({"parent": f"{T1}/24"}, {}),
        ({"parent": f"{T2}/1"}, {}),
        ({"disks": [["disk0", 2**62]]}, {}),
        ({"kind": "thin"}, {}),
        ({"kind": "end"}, {}),
    ],
)
def test_records_that_lead_astray(bucket: dict[str, bytes], first: dict[str, Any], more: dict[str, Any]) -> None:
    """A chain that goes in circles, a disk as large as the moon."""
    key = one(bucket, "point")
    head, sections = opened(bucket, "point", key)
    text = json.dumps({**head, **first, **more}).encode()
    with pytest.raises(StoreError):
        answers(Untouched(bucket, key, resealed("point", key, text, sections)), key)


# -- segments ----------------------------------------------------------------------------------------------------------


def with_frame(payload: bytes, count: int, flags: int) -> tuple[Any, bytes]:
    """A frame, properly sealed: what opens it, and its bytes."""
    segment = names.Segment(T1, 1, 1)
    cipher = SegmentCipher(KEYS, segment, bytes(32))
    header = FRAME.pack(FRAME_MAGIC, 0, 0, 0, count, flags, len(payload) + sealed.TAG)
    data = header + struct.pack("<I", zlib.crc32(header))
    data += cipher.frames.encrypt(sealed.nonce(0), payload, cipher.frame_data(DISK, 0, 0, count, flags))
    return (cipher, segment), data


@pytest.mark.parametrize("count", [0, 1, 16, 17, 255])
@pytest.mark.parametrize("flags", [0, COMPRESSED, 255])
def test_frames_of_other_content(count: int, flags: int) -> None:
    for payload in (b"", b"x", noise(1, 100), bytes(17 * BLOCK), bomb(64 * MiB), compress(bytes(17 * BLOCK))):
        (cipher, segment), data = with_frame(payload, count, flags)
        with memory_below(8 * MiB), contextlib.suppress(CorruptFrame):
            found = open_frame(KEYS, cipher, segment, DISK, 0, 0, memoryview(data))
            assert -(-len(found) // BLOCK) == count <= FRAME_BLOCKS


def with_directory(bucket: dict[str, bytes], key: str, packed: Callable[[bytes], bytes]) -> MemoryObjects:
    """A segment's directory changed and sealed anew, in a bucket whose record knows its size."""
    found = MachineStore(Untouched(bucket, key, bucket[key]), KEYS)
    point = names.point(MACHINE, PointId(T1, 24))
    info = next(info for info in found.layer(point).segments if key.endswith(info.segment.file))
    cipher = SegmentCipher(KEYS, info.segment, info.random)
    data = bucket[key]
    plain = _plain(
        cipher.directory.decrypt(sealed.nonce(0), data[info.directory : -FOOTER_SIZE], cipher.directory_data)
    )
    directory = cipher.directory.encrypt(sealed.nonce(0), packed(plain), cipher.directory_data)
    footer = bytearray(data[-FOOTER_SIZE:])
    struct.pack_into("<I", footer, 20, len(directory))
    body = checksummed(data[: info.directory] + directory + bytes(footer))
    head, sections = opened(bucket, "point", point)
    table = bytearray(sections[0])
    columns = found.layer(point).segments
    place = list(columns).index(info)
    columns.rows["size"][place] = len(body)
    _, pages = columns.pack()
    assert len(pages[0]) == len(table)
    sections[0] = pages[0]
    text = json.dumps({**head, "sections": sealed_lengths(sections)}).encode()
    return Untouched({**bucket, point: resealed("point", point, text, sections)}, key, body)


def _plain(data: bytes) -> bytes:
    from homeport.store.compression import decompress

    return decompress(data, 64 * MiB)


@fuzz(120)
@given(change=changes(), to_head=st.booleans())
def test_directories_of_other_content(
    bucket: dict[str, bytes], change: Callable[[bytes], bytes], to_head: bool
) -> None:
    def packed(plain: bytes) -> bytes:
        (length,) = struct.unpack_from("<I", plain)
        if not to_head:
            return compress(change(plain))
        head = change(plain[4 : 4 + length])
        return compress(struct.pack("<I", len(head)) + head + plain[4 + length :])

    key = one(bucket, "segment")
    ask_wrong(with_directory(bucket, key, packed), key)


@fuzz(120)
@given(data=st.data(), new=odd, drop=st.booleans())
def test_directories_with_heads_of_another_shape(
    bucket: dict[str, bytes], data: st.DataObject, new: Any, drop: bool
) -> None:
    def packed(plain: bytes) -> bytes:
        (length,) = struct.unpack_from("<I", plain)
        told = json.loads(plain[4 : 4 + length])
        every = list(paths(told))
        path = every[data.draw(st.integers(0, len(every) - 1))]
        head = json.dumps(altered(told, path, new, drop)).encode()
        return compress(struct.pack("<I", len(head)) + head + plain[4 + length :])

    key = one(bucket, "segment")
    ask_wrong(with_directory(bucket, key, packed), key)


def test_a_directory_that_claims_gigabytes_is_refused_before_it_is_unpacked(bucket: dict[str, bytes]) -> None:
    def packed(_: bytes) -> bytes:
        frame = bytearray(bomb(64 * MiB))
        frame[6:10] = (2**32 - 1).to_bytes(4, "little")
        return bytes(frame)

    key = one(bucket, "segment")
    objects = with_directory(bucket, key, packed)
    with memory_below(16 * MiB), pytest.raises(Corrupt):
        answers(objects, key)


def test_a_directory_with_fewer_frames_than_its_record_names(bucket: dict[str, bytes]) -> None:
    def packed(plain: bytes) -> bytes:
        head = json.dumps({"disks": [DISK], "frames": 0}).encode()
        return compress(struct.pack("<I", len(head)) + head)

    key = one(bucket, "segment")
    objects = with_directory(bucket, key, packed)
    with pytest.raises(Corrupt, match="lacks frames"):
        MachineStore(objects, KEYS).open(PointId(T1, 24)).digests(DISK).blocks(0)
    assert not MachineStore(objects, KEYS).verify(deep=True).ok


# -- the vault's file --------------------------------------------------------------------------------------------------


@fuzz(200)
@given(data=st.data(), new=odd, drop=st.booleans())
def test_vault_files_of_another_shape(bucket: dict[str, bytes], data: st.DataObject, new: Any, drop: bool) -> None:
    key = one(bucket, "vault")
    told = json.loads(bucket[key])
    del told["check"]
    every = list(paths(told))
    path = every[data.draw(st.integers(0, len(every) - 1))]
    told = altered(told, path, new, drop)
    if isinstance(told, dict):
        told["check"] = vaultfile._check(told)
    objects = Untouched(bucket, key, json.dumps(told).encode())
    with contextlib.suppress(StoreError):
        keys.open_vault(objects, SECRET)
    with contextlib.suppress(StoreError):
        keys.open_vault(objects, "a passphrase")


@fuzz(200)
@given(new=odd, field=st.sampled_from(["salt", "nonce", "wrapped", "kdf", "memory_kib", "passes", "lanes", "name"]))
def test_passphrase_ways_of_another_shape(new: Any, field: str) -> None:
    """None of them is derived: whatever passes, the derivation is stopped."""
    way: dict[str, Any] = {
        "id": "passphrase", "kind": "passphrase", "generation": 1, "cipher": "AES-256-GCM", "salt": "00" * 16,
        "kdf": {"name": "argon2id", "memory_kib": 65536, "passes": 3, "lanes": 4}, "nonce": "00" * 12,
        "wrapped": "00" * 48,
    }  # fmt: skip
    if field in way:
        way[field] = new
    else:
        way["kdf"] = {**way["kdf"], field: new}

    def derive(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
        assert 65536 <= memory_kib <= 4 << 20
        assert 3 <= passes <= 64
        assert 1 <= lanes <= 64
        return bytes(32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlock.derivation, "argon2id", derive)
        with pytest.raises(StoreError):
            unlock.unwrap(VAULT, way, "a passphrase")


def test_a_vault_file_nested_without_end(bucket: dict[str, bytes]) -> None:
    key = one(bucket, "vault")
    for raw in (b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xff", b"0" * (2 << 20), b"9" * 10_000):
        with pytest.raises(Corrupt):
            keys.open_vault(Untouched(bucket, key, raw), SECRET)


@fuzz(150)
@given(change=changes())
def test_damaged_key_files(change: Callable[[bytes], bytes]) -> None:
    text = change(SECRET.to_text().encode()).decode("ascii", "replace")
    with contextlib.suppress(StoreError):
        assert KeyFile.parse(text) == SECRET


# -- files beside the store --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spooled(tmp_path_factory: pytest.TempPathFactory) -> spool.SpooledPoint:
    found = store()
    found.create_timeline(T1)
    folder = tmp_path_factory.mktemp("spool")
    return spool_point(found.writer(T1, "one"), 1, folder, None, [("disk0", 0, blocks(1, 20))], SIZES)


@fuzz(100)
@given(change=changes(), file=st.sampled_from([spool.COMPLETE, spool.CHANGED, spool.RECORD]))
def test_damaged_spooled_points(spooled: spool.SpooledPoint, change: Callable[[bytes], bytes], file: str) -> None:
    path = spooled.path / file
    data = path.read_bytes()
    try:
        path.write_bytes(change(data))
        with contextlib.suppress(ValueError):
            spool.SpooledPoint(spooled.path).changed_digests()
    finally:
        path.write_bytes(data)


@fuzz(120)
@given(data=st.data(), new=odd, drop=st.booleans())
def test_spooled_points_with_facts_of_another_shape(
    spooled: spool.SpooledPoint, data: st.DataObject, new: Any, drop: bool
) -> None:
    path = spooled.path / spool.COMPLETE
    right = path.read_bytes()
    told = json.loads(right)
    every = list(paths(told))
    path_in = every[data.draw(st.integers(0, len(every) - 1))]
    try:
        path.write_text(json.dumps(altered(told, path_in, new, drop)))
        with contextlib.suppress(ValueError):
            spool.SpooledPoint(spooled.path).changed_digests()
    finally:
        path.write_bytes(right)


FACTS = {"machine": MACHINE, "target": "/x"}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("journal") / "journal"
    with restore_journal.Journal(path, FACTS) as found:
        found.add(Extents.of([(0, 4096)]))
        found.add(Extents.of([(8192, 4096)]))
    return path, path.read_bytes()


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@fuzz(80)
@given(change=changes())
@pytest.mark.usefixtures("no_fsync")
def test_damaged_journals(journal: tuple[Path, bytes], change: Callable[[bytes], bytes]) -> None:
    """Nothing counts as done that wasn't."""
    path, data = journal
    path.write_bytes(change(data))
    with restore_journal.Journal(path, FACTS) as found:
        assert not found.done.subtract(Extents.of([(0, 4096), (8192, 4096)]))


@fuzz(80)
@given(new=odd, deep=st.booleans())
@pytest.mark.usefixtures("no_fsync")
def test_journals_of_another_shape(journal: tuple[Path, bytes], new: Any, deep: bool) -> None:
    path, data = journal
    line = new if deep else {"done": new}
    path.write_bytes(data + restore_journal._line(line))
    with restore_journal.Journal(path, FACTS) as found:
        assert found.done.to_json()[:2] == [[0, 4096], [8192, 4096]]
    for head in (b"[" * 100_000, b"[]", b"7"):
        path.write_bytes(b"%08x %s\n" % (zlib.crc32(head), head))
        restore_journal.Journal(path, FACTS).close()


@pytest.fixture(scope="module")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, restore_stamp.Held]:
    target = tmp_path_factory.mktemp("stamp") / "disk.raw"
    target.write_bytes(bytes(4096))
    held = restore_stamp.Held(VAULT, MACHINE, PointId(T1, 1), "00" * 32, DISK, 4096)
    restore_stamp.write_held(target, held)
    return target, restore_stamp.path_of(target).read_bytes(), held


@fuzz(200)
@given(change=changes(), data=st.data(), new=odd, drop=st.booleans(), blind=st.booleans())
def test_damaged_stamps(
    stamped: tuple[Path, bytes, restore_stamp.Held],
    change: Callable[[bytes], bytes],
    data: st.DataObject,
    new: Any,
    drop: bool,
    blind: bool,
) -> None:
    target, right, held = stamped
    told = json.loads(right)
    every = list(paths(told))
    path = every[data.draw(st.integers(0, len(every) - 1))]
    text = change(right) if blind else json.dumps(altered(told, path, new, drop)).encode()
    restore_stamp.path_of(target).write_bytes(text)
    found, why = restore_stamp.read(target)
    assert (found is None) == bool(why)
    if found is not None:
        assert type(found.size) is type(held.size)
        assert all(type(value) is str for value in (found.vault, found.machine, found.record_sha256, found.disk))


def test_a_stamp_nested_without_end(stamped: tuple[Path, bytes, restore_stamp.Held]) -> None:
    restore_stamp.path_of(stamped[0]).write_bytes(b"[" * 100_000)
    assert restore_stamp.read(stamped[0]) == (None, "its stamp can't be read")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskCache]:
    folder = tmp_path_factory.mktemp("cache")
    yield DiskCache(folder, 1 << 20)
    shutil.rmtree(folder)


@fuzz(100)
@given(change=changes())
def test_damaged_cache_entries(cache: DiskCache, change: Callable[[bytes], bytes]) -> None:
    data = noise(3, 300)
    cache.put("a", memoryview(data))
    path = cache._file("a")
    path.write_bytes(change(path.read_bytes()))
    found = cache.get("a")
    assert found is None or bytes(found) == data
    assert found is not None or not path.exists()


def test_manifests_of_another_shape(bucket: dict[str, bytes]) -> None:
    found = MachineStore(Untouched(bucket, "x", b""), KEYS)
    info = next(iter(found.layer(names.point(MACHINE, PointId(T1, 24))).segments))
    told = read_directory(found.objects, KEYS, replace(info)).manifest
    assert told is not None
    values: list[Any] = [
        None,
        -1,
        2**70,
        1.5,
        "",
        "x",
        "\ud800",
        "!!",
        [],
        [[]],
        [[1]],
        {},
        {"a": 1},
        {"disk0": "AAAA"},
    ]
    for path in paths(told):
        for value in values:
            wrong = altered(told, path, value, False)
            with contextlib.suppress(Corrupt):
                parsed = Manifest.parse("key", wrong)
                assert parsed.point.number >= 0
                _ = parsed.parent
