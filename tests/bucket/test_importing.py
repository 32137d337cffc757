"""Importing disk images: what is read back is what they held, however it was found, and whatever was interrupted."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from homeport.bucket import importing
from homeport.bucket.import_base import Base, Digests
from homeport.bucket.importing import Facts, Import, opened_images, plan_import
from homeport.bucket.opening import Bucket, MachineNotFound
from homeport.disks.raw import RawImage
from homeport.domain.errors import HomeportError
from homeport.domain.extents import Extents
from homeport.domain.points import PointId, PointInfo
from homeport.domain.units import BLOCK, MiB
from homeport.store import Fenced, LocalObjects, MachineStore, StoreUnavailable, machine_key, seal_vault, segment
from tests.bucket.machines import FILE, VAULT_KEY
from tests.store.stores import noise, read_all

NAME = "web1"


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    path = tmp_path / "store"
    path.mkdir()
    seal_vault(LocalObjects(path), VAULT_KEY, FILE)
    return Bucket(str(path), FILE)


def again(bucket: Bucket) -> Bucket:
    """As another process opens it."""
    return Bucket(bucket.url, FILE)


def write(path: Path, content: bytes | bytearray) -> Path:
    """Sparse, as images are: blocks of 4 KiB of zeroes are holes."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), 4096):
            piece = content[start : start + 4096]
            if any(piece):
                file.seek(start)
                file.write(piece)
    return path


@contextmanager
def planned(
    bucket: Bucket, paths: dict[str, Path], changed: dict[str, Extents] | None = None, name: str = NAME
) -> Iterator[Import]:
    with opened_images({disk: (path, "raw") for disk, path in paths.items()}) as images:
        yield plan_import(bucket, name, images, changed, Facts())


def add(
    bucket: Bucket, paths: dict[str, Path], changed: dict[str, Extents] | None = None
) -> tuple[PointInfo, list[dict[str, object]], list[str]]:
    with planned(bucket, paths, changed) as job:
        seen: list[int] = []
        point = job.run(seen.append)
        assert sum(seen) == job.total
        return point, [disk.to_json() for disk in job.disks], job.notes


def content_of(bucket: Bucket, point: PointInfo) -> dict[str, bytes]:
    return read_all(again(bucket).machine(NAME).store, point.id)


def stored_keys(bucket: Bucket, part: str) -> list[str]:
    return [key for key, _ in bucket.objects.list("machines/") if f"/{part}/" in key]


def test_a_first_copy_then_extents_then_a_scan_then_nothing(bucket: Bucket, tmp_path: Path) -> None:
    root = bytearray(noise(1, 3 * MiB) + bytes(2 * MiB) + b"text " * 100_000)
    data = bytearray(noise(2, MiB + 512))
    paths = {"root": tmp_path / "root.raw", "data": tmp_path / "data.raw"}

    def save() -> dict[str, bytes]:
        write(paths["root"], root)
        write(paths["data"], data)
        return {"root": bytes(root), "data": bytes(data)}

    held = [save()]
    points = []
    point, disks, _ = add(bucket, paths)
    points.append(point)
    assert point.id.number == 1
    assert point.parent is None
    assert [disk["found_by"] for disk in disks] == ["copy", "copy"]

    root[MiB + 5000 : MiB + 5100] = noise(3, 100)
    root[2 * MiB : 2 * MiB + 4 * BLOCK] = bytes(4 * BLOCK)  # became a hole
    data[-512:] = noise(4, 512)
    held.append(save())
    changed = {"root": Extents.of([(MiB + 5000, 100), (2 * MiB, 4 * BLOCK)]), "data": Extents.of([(MiB, 512)])}
    point, disks, notes = add(again(bucket), paths, changed)
    points.append(point)
    assert [disk["found_by"] for disk in disks] == ["extents", "extents"]
    assert [disk["looked_at"] for disk in disks] == [BLOCK, 512]
    assert not notes
    assert point.logical_bytes == BLOCK + 4 * BLOCK + 512
    assert point.stored_bytes < BLOCK + 2048

    root[100:108] = b"8 bytes!"
    root[4 * MiB : 4 * MiB + 10] = b"no hole   "
    held.append(save())
    point, disks, _ = add(again(bucket), paths)
    points.append(point)
    assert [disk["found_by"] for disk in disks] == ["scan", "scan"]
    assert point.logical_bytes == 2 * BLOCK

    held.append(held[-1])
    point, _, _ = add(again(bucket), paths)
    points.append(point)
    assert (point.logical_bytes, point.stored_bytes) == (0, 0)

    assert [point.id.number for point in points] == [1, 2, 3, 4]
    assert [content_of(bucket, point) for point in points] == held
    assert again(bucket).machine(NAME).store.verify(deep=True).ok
    staging = tmp_path / "store" / ".homeport-staging"
    assert not list(staging.iterdir())


@pytest.mark.parametrize("by_extents", [True, False])
@pytest.mark.parametrize(("before", "after"), [(5, 9), (9, 5), (5 + 0.3, 9), (9, 5 + 0.3), (5 + 0.3, 5 + 0.7)])
def test_disks_grow_and_shrink(bucket: Bucket, tmp_path: Path, before: float, after: float, by_extents: bool) -> None:
    """Sizes in blocks of 16 KiB, whole or not."""
    sizes = [int(count * BLOCK) // 512 * 512 for count in (before, after, before)]
    whole = noise(7, 16 * BLOCK)
    path = tmp_path / "disk.raw"
    points = []
    for number, size in enumerate(sizes):
        # Grown, the new part is other data than what lay there once.
        content = bytearray(whole[:size])
        if number == 2:
            content[sizes[1] :] = noise(8, max(sizes[2] - sizes[1], 0))
        write(path, content)
        point, _, notes = add(again(bucket), {"disk0": path}, {"disk0": Extents()} if by_extents and number else None)
        assert not notes
        points.append((point, bytes(content)))
    for point, content in points:
        assert content_of(bucket, point) == {"disk0": content}


def test_extents_that_leave_something_out_are_found_out(bucket: Bucket, tmp_path: Path) -> None:
    content = bytearray(noise(1, 40 * BLOCK))
    path = write(tmp_path / "disk.raw", content)
    add(bucket, {"disk0": path})
    content[7 * BLOCK : 7 * BLOCK + 8] = b"changed!"
    content[30 * BLOCK] ^= 1
    write(path, content)
    point, disks, notes = add(again(bucket), {"disk0": path}, {"disk0": Extents.of([(30 * BLOCK, 1)])})
    assert disks[0]["found_by"] == "scan"
    (note,) = notes
    assert "leave out block 7" in note
    assert content_of(bucket, point)["disk0"] == content
    machine = again(bucket).machine(NAME)
    assert machine.store.open(point.id).notes == (note,)


def test_only_a_few_blocks_are_compared(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(noise(1, 16 * MiB))
    path = write(tmp_path / "disk.raw", content)
    add(bucket, {"disk0": path})
    read = []
    read_into = RawImage.read_into

    def count(self: RawImage, offset: int, buffer: memoryview) -> None:
        read.append(len(buffer))
        read_into(self, offset, buffer)

    monkeypatch.setattr(RawImage, "read_into", count)
    add(again(bucket), {"disk0": path}, {"disk0": Extents.of([(0, 3 * BLOCK)])})
    assert sum(read) == (importing.SAMPLES + 3) * BLOCK


@pytest.mark.parametrize("seed", range(4))
def test_a_first_copy_interrupted_at_any_put_goes_on_where_it_was(
    bucket: Bucket, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, at another place each time, the disk changing in between: the point is right, and what a part
    holds isn't stored twice."""
    monkeypatch.setattr(segment, "TARGET", 256 << 10)
    chance = random.Random(seed)
    content = bytearray(noise(seed, 5 * MiB) + bytes(MiB) + noise(seed + 50, 2 * MiB))
    path = write(tmp_path / "disk.raw", content)
    point = None
    for attempt in range(40):
        opened = again(bucket)
        left = 3 + 2 * attempt
        put, put_file = opened.objects.put, opened.objects.put_file

        def fail(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise StoreUnavailable("the store is away")

        def failing_put(key: str, data: bytes, *, if_absent: bool = True, put=put, fail=fail) -> None:  # type: ignore[no-untyped-def]
            fail()
            put(key, data, if_absent=if_absent)
            if chance.random() < 0.2:
                fail()

        def failing_file(key: str, file: Path, *, if_absent: bool = True, put=put_file, fail=fail) -> None:  # type: ignore[no-untyped-def]
            fail()
            put(key, file, if_absent=if_absent)

        opened.objects.put, opened.objects.put_file = failing_put, failing_file  # type: ignore[method-assign]
        try:
            with planned(opened, {"disk0": path}) as job:
                job.part_bytes = MiB
                point = job.run()
            break
        except StoreUnavailable:
            content[chance.randrange(len(content))] ^= 255
            at = chance.randrange(0, 8) * MiB
            content[at : at + BLOCK] = bytes(BLOCK)
            write(path, content)
    assert point is not None
    assert attempt > 2
    assert content_of(bucket, point)["disk0"] == content
    assert point.id.number in (1, 2)  # the first may be there although its maker was told otherwise
    assert point.logical_bytes < 8 * MiB
    assert again(bucket).machine(NAME).store.verify(deep=True).ok


def test_what_parts_hold_is_not_copied_again(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = noise(9, 6 * MiB)
    path = write(tmp_path / "disk.raw", content)

    def die(*_: object, **__: object) -> None:
        raise StoreUnavailable("the store is away")

    opened = again(bucket)
    with planned(opened, {"disk0": path}) as job:
        job.part_bytes = 2 * MiB
        monkeypatch.setattr(job.target.writer, "publish", die)
        with pytest.raises(StoreUnavailable):
            job.run()
    assert len(stored_keys(bucket, "part")) == 2
    assert again(bucket).machine(NAME).points() == []
    with planned(again(bucket), {"disk0": path}) as job:
        point = job.run()
        assert (job.disks[0].looked_at, job.disks[0].changed) == (6 * MiB, 2 * MiB)
    assert content_of(bucket, point)["disk0"] == content


def test_a_delta_interrupted_before_its_record_is_no_point(bucket: Bucket, tmp_path: Path) -> None:
    content = bytearray(noise(1, MiB))
    path = write(tmp_path / "disk.raw", content)
    first, _, _ = add(bucket, {"disk0": path})
    content[:BLOCK] = noise(2, BLOCK)
    write(path, content)
    opened = again(bucket)
    with planned(opened, {"disk0": path}) as job:
        put = opened.objects.put

        def no_points(key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            if "/point/" in key:
                raise StoreUnavailable("the store is away")
            put(key, data, if_absent=if_absent)

        opened.objects.put = no_points  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            job.run()
    assert [point.id for point in again(bucket).machine(NAME).points()] == [first.id]
    point, _, _ = add(again(bucket), {"disk0": path})
    assert point.id == PointId(first.id.timeline, 2)
    assert content_of(bucket, point)["disk0"] == content


def test_who_comes_later_fences_who_came_before(bucket: Bucket, tmp_path: Path) -> None:
    path = write(tmp_path / "disk.raw", noise(1, MiB))
    add(bucket, {"disk0": path})
    with planned(again(bucket), {"disk0": path}) as slow:
        add(again(bucket), {"disk0": path})
        with pytest.raises(Fenced):
            slow.run()
    assert len(again(bucket).machine(NAME).points()) == 2


def test_timelines_that_are_not_its_own_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    path = write(tmp_path / "disk.raw", noise(1, MiB))
    point, _, _ = add(bucket, {"disk0": path})
    store = again(bucket).machine(NAME).store
    epochs = len(stored_keys(bucket, "epoch"))
    store.writer(point.id.timeline, "process server 7")
    with pytest.raises(Fenced, match="process server 7"):
        add(again(bucket), {"disk0": path})
    assert len(stored_keys(bucket, "epoch")) == epochs + 1  # nobody was fenced by the refusal
    store.end(point.id.timeline, "failover")
    with pytest.raises(Fenced, match="has ended"):
        add(again(bucket), {"disk0": path})


def test_names_disks_and_extents_must_be_clear(bucket: Bucket, tmp_path: Path) -> None:
    path = write(tmp_path / "disk.raw", noise(1, MiB))
    other = write(tmp_path / "other.raw", noise(2, MiB))
    add(bucket, {"disk0": path, "disk1": other})
    for changed, code in (
        ({"disk7": Extents()}, "import.bad-extents"),
        ({"disk0": Extents.of([(MiB, 1)])}, "import.bad-extents"),
        (None, "import.disk-missing"),
    ):
        with pytest.raises(HomeportError) as refused:
            add(again(bucket), {"disk0": path}, changed)
        assert refused.value.code == code
    more = write(tmp_path / "more.raw", noise(3, MiB))
    point, disks, _ = add(again(bucket), {"disk0": path, "disk1": other, "disk2": more})
    assert [disk["found_by"] for disk in disks] == ["scan", "scan", "copy"]
    assert content_of(bucket, point)["disk2"] == more.read_bytes()

    for _ in range(2):
        fresh = str(uuid.uuid4())
        key = machine_key(bucket.objects, bucket.vault, fresh, create=True)
        MachineStore(bucket.objects, key).describe({"machine": {"uuid": fresh, "name": "twin"}})
    with pytest.raises(MachineNotFound, match="several"), planned(again(bucket), {"disk0": path}, name="twin"):
        pass


def test_what_is_known_of_a_disk_is_bounded() -> None:
    made: list[int] = []

    def page(number: int) -> Digests:
        made.append(number)
        return np.zeros((65536, 16), np.uint8)

    base = Base(page, Extents())
    for number in range(40):
        base.known(number * 65536 + 7, 64)
        base.known(number * 65536 + 99, 1)
    assert made == list(range(40))
    assert len(base._pages) <= 8
