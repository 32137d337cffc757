"""A site's own care of its store gives space back, and harms no point."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.servers import store_care
from homeport.servers.store_care import StoreCare
from homeport.store import MachineStore, MemoryObjects, VaultKey, machine_key
from tests.store.stores import KEYS, MACHINE, T1, add_point, noise, read_all

VAULT = VaultKey(KEYS.vault, bytes(32))
SIZES = {"disk0": 64 * BLOCK}


def used(objects: MemoryObjects) -> int:
    return sum(size for _, size in objects.list(""))


@pytest.fixture
def objects(tmp_path: Path) -> MemoryObjects:
    """A store whose first points were dropped: most of their segments is dead."""
    objects = MemoryObjects()
    machine_key(objects, VAULT, MACHINE, create=KEYS)
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    writer = store.writer(T1, "one")
    parent: PointId | None = None
    for number in range(1, 7):
        first = 0 if number == 1 else 1
        parent = add_point(
            writer, tmp_path, parent, [("disk0", first * BLOCK, noise(number, (64 - first) * BLOCK))], SIZES
        )
    store.expire(T1, [1, 2, 3, 4])
    return objects


def test_space_comes_back_round_by_round(objects: MemoryObjects, tmp_path: Path) -> None:
    before = used(objects)
    content = read_all(MachineStore(objects, KEYS), PointId(T1, 6))
    care = StoreCare(objects, lambda: VAULT, tmp_path / "spool")
    first = care.round()[MACHINE, T1]
    assert first.chosen
    care.round()
    # Of the first point and the fourth a block or none is seen still; the last two live wholly.
    assert before - used(objects) > 0.9 * first.freed_bytes > BLOCK
    assert read_all(MachineStore(objects, KEYS), PointId(T1, 6)) == content
    assert care.round()[MACHINE, T1].chosen == 0


def test_without_the_vaults_key_nothing_is_done(objects: MemoryObjects, tmp_path: Path) -> None:
    before = dict(objects.list(""))
    assert StoreCare(objects, lambda: None, tmp_path).round() == {}
    assert dict(objects.list("")) == before


def test_a_machine_whose_key_does_not_open_is_left_alone(objects: MemoryObjects, tmp_path: Path) -> None:
    other = VaultKey(KEYS.vault, bytes(31) + b"1")
    before = dict(objects.list(""))
    assert StoreCare(objects, lambda: other, tmp_path).round() == {}
    assert dict(objects.list("")) == before


def test_it_goes_on_after_a_failure_and_ends_when_asked(
    objects: MemoryObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_care, "EVERY", 0.01)
    asked = threading.Semaphore(0)

    def vault() -> VaultKey:
        asked.release()
        raise OSError("the disk is away")

    care = StoreCare(objects, vault, tmp_path)
    care.start()
    assert all(asked.acquire(timeout=10) for _ in range(3))
    care.stop(10)
    assert not care._thread.is_alive()
