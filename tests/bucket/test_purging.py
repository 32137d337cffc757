"""A machine is deleted for good: with its keys first where that protects anything, else not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeport.bucket import purging
from homeport.domain.points import PointId
from homeport.store import MemoryObjects, NotFound, StoreError, machine_key, machines
from tests.bucket.machines import VAULT_KEY, History, history
from tests.store.stores import MACHINE, T1, Crash, FaultyObjects


@pytest.fixture
def made(tmp_path: Path) -> History:
    return history(tmp_path / "spool", first=2, fork=0)


class Keeping(MemoryObjects):
    def __init__(self, answer: bool | None) -> None:
        super().__init__()
        self.answer = answer

    def versioned(self) -> bool | None:  # type: ignore[override]
        return self.answer


def test_shredding_is_refused_where_it_would_protect_nothing() -> None:
    purging.check_shredding(Keeping(False), even_if_unknown=False)
    purging.check_shredding(Keeping(None), even_if_unknown=True)
    for answer, unknown, code in (
        (True, False, "store.shred-ineffective"),
        (True, True, "store.shred-ineffective"),
        (None, False, "store.shred-unknown"),
    ):
        with pytest.raises(StoreError) as raised:
            purging.check_shredding(Keeping(answer), even_if_unknown=unknown)
        assert raised.value.code == code


def test_a_machine_in_use_is_not_purged(made: History) -> None:
    made.store.lease(PointId(T1, 1), "a guest", 60)
    with pytest.raises(StoreError) as raised:
        purging.check_unused(made.store, end=True)
    assert raised.value.code == "store.points-leased"
    made.store.release(PointId(T1, 1), "a guest")
    with pytest.raises(StoreError) as raised:
        purging.check_unused(made.store, end=False)
    assert raised.value.code == "store.not-ended"
    purging.check_unused(made.store, end=True)
    assert made.store.ended(T1)
    purging.check_unused(made.store, end=False)


@pytest.mark.parametrize("shred", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_purge_that_dies_can_be_repeated_and_a_shredding_begins_with_the_key(
    tmp_path: Path, shred: bool, after: bool
) -> None:
    made = history(tmp_path / "spool", first=2, fork=0)
    before = list(made.objects.list(f"machines/{MACHINE}/"))
    with pytest.raises(Crash):
        purging.purge(FaultyObjects(made.objects, 2, after=after), MACHINE, shred=shred)
    left = list(made.objects.list(f"machines/{MACHINE}/"))
    assert len(left) == len(before) - (2 if after else 1)
    assert purging.keyless(made.objects, MACHINE) is shred
    if shred:
        with pytest.raises(NotFound):
            machine_key(made.objects, VAULT_KEY, MACHINE)
    else:
        assert machine_key(made.objects, VAULT_KEY, MACHINE) == made.store.keys
    steps: list[tuple[int, int]] = []
    done = purging.purge(made.objects, MACHINE, shred=shred, progress=lambda *step: steps.append(step))
    assert (done.objects, done.bytes) == (len(left), sum(size for _, size in left))
    assert steps[-1] == (len(left), len(left))
    assert machines(made.objects) == []
    assert list(made.objects.list("machines/")) == []
    assert not purging.keyless(made.objects, MACHINE)
