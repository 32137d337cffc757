"""The format is what docs/store-format.md says: a reader written from that page alone restores a point.

Nothing of Homeport is used to read. Change this file only together with the page, and neither for format 1.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from homeport.domain.points import PointId
from homeport.store import LocalObjects, MachineStore, VaultKey, block_digests, heads, machine_key, seal_vault
from homeport.store.names import Segment
from homeport.store.records import MemoryIndex, pack
from homeport.store.segment import SegmentInfo
from tests.store.stores import MACHINE, T1, T2, add_point, blocks, noise, spool_point

BLOCK = 16384
SHARD = 4194304


def lp(text: str) -> bytes:
    return struct.pack("<H", len(text.encode())) + text.encode()


def canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def hkdf(key: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def columns(data: bytes, count: int, widths: list[int]) -> tuple[list[list[int]], bytes]:
    result = []
    for width in widths:
        values, total = [], 0
        for row in range(count):
            delta = sum(data[plane * count + row] << (8 * plane) for plane in range(width))
            total = (total + delta) % (1 << (8 * width))
            values.append(total)
        result.append(values)
        data = data[count * width :]
    return result, data


class Reader:
    """Reads a folder. Keeps to the page."""

    def __init__(self, root: Path, passphrase: str, machine: str) -> None:
        self.root, self.machine = root, machine
        vault = json.loads(max((root / "vault").iterdir()).read_text())
        check = vault.pop("check")
        assert hashlib.sha256(canonical(vault)).hexdigest() == check
        self.vault: str = vault["vault"]
        ways = [way for way in vault["unlock"] if way["generation"] == vault["generation"]]
        (way,) = [way for way in ways if way["kind"] == "passphrase"]
        kdf, nonce, wrapped = way["kdf"], bytes.fromhex(way.pop("nonce")), bytes.fromhex(way.pop("wrapped"))
        assert (kdf["name"], kdf["memory_kib"], kdf["passes"], kdf["lanes"]) == ("argon2id", 65536, 3, 4)
        salt = bytes.fromhex(way["salt"])
        wrapping = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536).derive(passphrase.encode())
        vault_key = AESGCM(wrapping).decrypt(nonce, wrapped, b"homeport unlock 1" + lp(self.vault) + canonical(way))
        key = f"machines/{machine}/key/{vault['generation']:010d}"
        head, _ = self.sealed(key, b"HP-MKEY\0", b"homeport machine key 1", vault_key)
        self.key = bytes.fromhex(head["key"])

    def sealed(self, key: str, magic: bytes, info: bytes, secret: bytes | None = None) -> tuple[Any, list[bytes]]:
        data = (self.root / key).read_bytes()
        assert data[:12] == magic + b"\x01\0\0\0"
        salt, length, total, check = struct.unpack("<32sIQI", data[12:60])
        assert zlib.crc32(data[:56]) == check
        assert len(data) == total
        assert zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]
        cipher = AESGCM(hkdf(self.key if secret is None else secret, salt, info))

        def part(number: int, start: int, size: int) -> bytes:
            bound = b"homeport sealed 1" + data[:12] + lp(self.vault) + lp(key) + struct.pack("<I", number)
            return zstandard.decompress(cipher.decrypt(number.to_bytes(12, "big"), data[start : start + size], bound))

        head = json.loads(part(0, 60, length))
        sections, start = [], 60 + length
        for number, size in enumerate(head["sections"], 1):
            sections.append(part(number, start, size))
            start += size
        assert start == len(data) - 4
        return head, sections

    def thins(self, folder: str) -> list[Path]:
        force: list[tuple[Path, range]] = []
        for path in sorted((self.root / folder / "thin").glob("*"), key=lambda path: path.name[34:], reverse=True):
            reach = range(int(path.name[:16]), int(path.name[17:33]) + 1)
            if not any(reach.start < other.stop and other.start < reach.stop for _, other in force):
                force.append((path, reach))
        return [path for path, _ in force]

    def record(self, point: str) -> tuple[Any, list[bytes]]:
        timeline, number = point.split("/")
        folder = f"machines/{self.machine}/t/{timeline}/"
        for path in self.thins(folder):
            if int(path.name.split("-")[1]) == int(number):
                return self.sealed(f"{folder}thin/{path.name}", b"HP-THIN\0", b"homeport thin 1")
        return self.sealed(f"{folder}point/{int(number):016d}", b"HP-POINT", b"homeport point 1")

    def frame(self, segment: tuple[str, int, int, bytes], disk: str, first: int, place: tuple[int, int, int]) -> bytes:
        timeline, epoch, seq, random = segment
        offset, length, number = place
        path = self.root / f"machines/{self.machine}/t/{timeline}/segment/{epoch:010d}-{seq:010d}"
        data = path.read_bytes()
        assert data[:12] == b"HP-SEGMT\x01\0\0\0"
        assert data[12:44] == random
        assert zlib.crc32(data[:44]) == struct.unpack("<I", data[44:48])[0]
        footer = data[-32:]
        assert footer[:12] == b"HP-SEGND\x01\0\0\0"
        at, size, frames, check = struct.unpack("<QIII", footer[12:])
        assert zlib.crc32(footer[:28]) == check
        assert at + size + 32 == len(data)
        scope = lp(self.vault) + lp(self.machine) + lp(timeline) + struct.pack("<QQ", epoch, seq)
        header = data[offset : offset + 28]
        magic, found, begins, disk_number, count, flags, rest, check = struct.unpack("<4sIQHBBII", header)
        assert (magic, found, begins, rest) == (b"HPFR", number, first, length - 28)
        assert zlib.crc32(header[:24]) == check
        cipher = AESGCM(hkdf(self.key, random, b"homeport segment 1" + scope))
        bound = b"homeport frame 1" + scope + lp(disk) + struct.pack("<IQBB", number, first, count, flags)
        plain = cipher.decrypt(number.to_bytes(12, "big"), data[offset + 28 : offset + length], bound)
        plain = zstandard.decompress(plain) if flags & 1 else plain
        self.check_directory(data[at : at + size], random, scope, frames, disk_number, disk, number, plain)
        return plain.ljust(count * BLOCK, b"\0")

    def check_directory(
        self, data: bytes, random: bytes, scope: bytes, frames: int, at: int, disk: str, number: int, plain: bytes
    ) -> None:
        cipher = AESGCM(hkdf(self.key, random, b"homeport directory 1" + scope))
        directory = zstandard.decompress(cipher.decrypt(bytes(12), data, b"homeport directory 1" + scope))
        (length,) = struct.unpack("<I", directory[:4])
        head = json.loads(directory[4 : 4 + length])
        assert head["frames"] == frames
        assert head["disks"][at] == disk
        (_, _, counts, *_), digests = columns(directory[4 + length :], frames, [2, 8, 1, 4, 4, 1])
        start = sum(counts[:number]) * 16
        key = hkdf(self.key, None, b"homeport block digest 1" + lp(self.vault) + lp(self.machine))
        for block in range(counts[number]):
            content = plain[block * BLOCK : (block + 1) * BLOCK].ljust(BLOCK, b"\0")
            expected = blake3(content, key=key).digest(16) if any(content) else bytes(16)
            assert digests[start + 16 * block : start + 16 * block + 16] == expected

    def read(self, point: str) -> dict[str, bytes]:
        layers = []
        name: str | None = point
        while name:
            head, sections = self.record(name)
            layers.append((head, sections))
            name = head["parent"]
        sizes = dict(layers[0][0]["disks"])
        result = {}
        for disk, size in sizes.items():
            content, known = bytearray(-(-size // BLOCK) * BLOCK), set()
            valid = size
            for head, sections in layers:
                holds = min(valid, dict(head["disks"]).get(disk, 0))
                for first, data in self.rows(head, sections, disk):
                    for step in range(0, len(data), BLOCK):
                        block = first + step // BLOCK
                        if block not in known and block * BLOCK < holds:
                            known.add(block)
                            piece = data[step : step + min(BLOCK, holds - block * BLOCK)]
                            content[block * BLOCK : block * BLOCK + len(piece)] = piece
                valid = min(valid, dict(head.get("floor", head["disks"])).get(disk, 0))
            result[disk] = bytes(content[:size])
        return result

    @staticmethod
    def segments(head: Any, pages: list[bytes]) -> list[tuple[str, int, int, bytes]]:
        segments = []
        for number, table in enumerate(pages, 1):
            (count,) = struct.unpack("<I", table[:4])
            assert count == (4096 if number < len(pages) else (head["segments"] - 1) % 4096 + 1)
            found, randoms = columns(table[4:], count, [2, 8, 8, 8, 8])
            assert len(randoms) == 32 * count
            for n in range(count):
                timeline, epoch, seq = head["timelines"][found[0][n]], found[1][n], found[2][n]
                segments.append((timeline, epoch, seq, randoms[32 * n : 32 * n + 32]))
        return segments

    def rows(self, head: Any, sections: list[bytes], disk: str) -> list[tuple[int, bytes]]:
        pages = -(-head["segments"] // 4096)
        segments = self.segments(head, sections[:pages])
        result = []
        for (owner, shard, _), data in zip(head["index"], sections[pages:], strict=True):
            (count,) = struct.unpack("<I", data[:4])
            if owner != disk:
                continue
            if shard < 0:
                (firsts, counts), rest = columns(data[4:], count, [8, 8])
                result += [(first, bytes(n * BLOCK)) for first, n in zip(firsts, counts, strict=True)]
            else:
                found, rest = columns(data[4:], count, [4, 1, 1, 4, 4, 4, 4])
                for first, n, skip, segment, *place in zip(*found, strict=True):
                    begin = shard * SHARD + first
                    frame = self.frame(segments[segment], disk, begin - skip, (place[0], place[1], place[2]))
                    result.append((begin, frame[skip * BLOCK : (skip + n) * BLOCK]))
            assert rest == b""
        return result


def test_a_reader_written_from_the_page_restores_points(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "bucket")
    vault = VaultKey.create()
    seal_vault(objects, vault, "correct horse")
    keys = machine_key(objects, vault, MACHINE, create=True)
    store = MachineStore(objects, keys)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    spool = tmp_path / "spool"
    size = {"disk0": 50 * BLOCK, "disk1": 3 * BLOCK + 512}
    now = {disk: bytearray(n) for disk, n in size.items()}
    expected: dict[PointId, dict[str, bytes]] = {}

    def apply(writes: list[tuple[str, int, bytes]]) -> list[tuple[str, int, bytes]]:
        for disk, offset, data in writes:
            now[disk][offset : offset + len(data)] = data
        return writes

    def snapshot(point: PointId) -> PointId:
        expected[point] = {disk: bytes(data) for disk, data in now.items()}
        return point

    writer.publish_part(spool_point(writer, 0, spool, None, apply([("disk0", 0, blocks(1, 40))]), size))
    first = [("disk0", 3 * BLOCK, blocks(2, 2)), ("disk1", 3 * BLOCK, noise(1, 512))]
    point = snapshot(add_point(writer, spool, None, apply(first), size))
    for seed in range(3, 7):
        writes = [("disk0", seed * 4 * BLOCK, blocks(seed, 20)), ("disk0", 5 * BLOCK, bytes(2 * BLOCK))]
        # Shrinks within a block, grows again.
        if seed == 5:
            size["disk1"] = now_size = 2 * BLOCK + 100
            now["disk1"] = now["disk1"][:now_size]
        if seed == 6:
            size["disk1"] = 6 * BLOCK
            now["disk1"] = now["disk1"].ljust(6 * BLOCK, b"\0")
        else:
            writes.append(("disk1", 0, noise(seed, BLOCK)))
        apply(writes)
        maps = {disk: block_digests(keys, data) for disk, data in now.items()}
        point = snapshot(add_point(writer, spool, point, writes, size, digest_maps=maps if seed == 4 else None))
    store.create_timeline(T2, parent=point)
    fork = store.writer(T2, "two")
    snapshot(add_point(fork, spool, point, apply([("disk1", 4 * BLOCK, noise(9, BLOCK))]), size))
    reader = Reader(tmp_path / "bucket", "correct horse", MACHINE)
    second, _ = reader.record(f"{T1}/2")
    assert store.expire(T1, [1, 2]).dropped == [1, 2]
    store.end(T1, "done")

    assert reader.vault == vault.id
    points = [info.id for timeline in (T1, T2) for info in store.points(timeline)]
    assert [str(p) for p in points] == [f"{T1}/3", f"{T1}/4", f"{T1}/5", f"{T2}/1"]
    for found in points:
        assert reader.read(str(found)) == expected[found]

    folder = f"machines/{MACHINE}/t/{T1}/"
    thin, _ = reader.sealed(f"{folder}thin/{1:016d}-{2:016d}-{1:010d}", b"HP-THIN\0", b"homeport thin 1")
    third, _ = reader.record(f"{T1}/3")
    fourth, _ = reader.record(f"{T1}/4")
    assert third["parent_sha256"] == dict(thin["removed"])[2]
    data = (tmp_path / "bucket" / folder / f"point/{3:016d}").read_bytes()
    assert fourth["parent_sha256"] == hashlib.sha256(data).hexdigest()
    end, _ = reader.record(f"{T1}/6")
    assert (end["kind"], end["parent"], end["reason"]) == ("end", f"{T1}/5", "done")
    head, _ = reader.sealed(f"{folder}timeline", b"HP-TMLNE", b"homeport timeline 1")
    assert (head["parent"], head["origin"]) == (None, None)
    head, _ = reader.sealed(f"{folder}epoch/{1:010d}", b"HP-EPOCH", b"homeport epoch 1")
    assert (head["epoch"], head["owner"]) == (1, "one")
    head, sections = reader.sealed(f"{folder}digests/{3:016d}/disk0", b"HP-DIGST", b"homeport digests 1")
    assert (head["size"], head["regions"], head["built"]) == (50 * BLOCK, 1, third["built"])
    assert (thin["pruned"], thin["built"]) == (False, second["built"])
    key = hkdf(reader.key, None, b"homeport region digest 1" + lp(reader.vault) + lp(MACHINE))
    assert blake3(sections[1].ljust(BLOCK, b"\0"), key=key).digest(16) == sections[0]
    expected_digests = block_digests(keys, expected[PointId(T1, 3)]["disk0"])
    assert np.array_equal(np.frombuffer(sections[1], np.uint8).reshape(-1, 16), expected_digests)


@pytest.mark.parametrize("count", [1, 4096, 4097, 9000])
def test_a_long_table_of_segments_has_pages(count: int) -> None:
    rng = np.random.default_rng(count)
    infos = [SegmentInfo(Segment((T2, T1)[n % 2], 1 + n // 5000, n), 1 << 20, n, rng.bytes(32)) for n in range(count)]
    head, sections = pack(MemoryIndex.of({}, infos))
    expected = [(*info.segment, info.random) for info in infos]
    assert Reader.segments(head, sections) == expected


def test_a_point_of_a_group_says_so_and_is_read_all_the_same(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "bucket")
    vault = VaultKey.create()
    seal_vault(objects, vault, "correct horse")
    store = MachineStore(objects, machine_key(objects, vault, MACHINE, create=True))
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    data = noise(1, BLOCK)
    mark = "shop/00112233445566ff"
    first = add_point(writer, tmp_path / "spool", None, [("disk0", 0, data)], {"disk0": BLOCK})
    second = add_point(writer, tmp_path / "spool", first, [("disk0", 0, data[::-1])], {"disk0": BLOCK}, group=mark)
    assert [info.group for info in store.points(T1)] == [None, mark]
    reader = Reader(tmp_path / "bucket", "correct horse", MACHINE)
    assert "group" not in reader.record(str(first))[0]
    assert reader.record(str(second))[0]["group"] == mark
    assert reader.read(str(second)) == {"disk0": data[::-1]}

    head = reader.record(str(second))[0]
    assert heads.wrong("point", head) is None
    for bad in ("shop", "shop/00112233445566FF", "/00112233445566ff", "a/b/00112233445566ff", 7, None):
        assert heads.wrong("point", {**head, "group": bad}) == "group"
