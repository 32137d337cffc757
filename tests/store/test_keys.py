"""What unlocks a store, and how that changes: a crash at any step leaves every machine readable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.store import (
    Corrupt,
    MachineKey,
    MemoryObjects,
    NotFound,
    StoreError,
    VaultKey,
    WrongKey,
    machine_key,
    machines,
    open_vault,
    seal_vault,
)
from homeport.store import rotation as keys
from homeport.store.errors import Locked
from homeport.store.s3_lock import is_kept
from homeport.store.unlock import KeyFile, Secret, canonical, unwrap, wrap
from homeport.store.vaultfile import VaultFile, load, save
from tests.store.stores import MACHINE, Crash, FaultyObjects

FILE, OTHER = KeyFile(bytes(range(32))), KeyFile(bytes(range(1, 33)))
MACHINES = [MACHINE, "other"]


def refused(code: str, action: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as raised:
        action()
    assert raised.value.code == code
    assert raised.value.remedy
    return raised.value


@pytest.fixture
def vault() -> VaultKey:
    return VaultKey("a vault", bytes(range(7, 39)))


@pytest.fixture
def objects(vault: VaultKey) -> MemoryObjects:
    """Unlocked by a key file, which costs no key derivation."""
    made = MemoryObjects()
    seal_vault(made, vault, FILE)
    for machine in MACHINES:
        machine_key(made, vault, machine, create=True)
    return made


def everything(objects: MemoryObjects, secret: Secret) -> dict[str, bytes]:
    """Machines' keys, as this secret unlocks them."""
    vault = open_vault(objects, secret)
    return {machine: machine_key(objects, vault, machine).key for machine in machines(objects)}


def test_the_passphrase_opens_the_vault_and_no_other_does() -> None:
    objects, vault = MemoryObjects(), VaultKey.create()
    refused("store.no-vault", lambda: open_vault(objects, "right"))
    seal_vault(objects, vault, "right")
    before = objects.get(load(objects).key)
    seal_vault(objects, vault, "right")
    seal_vault(objects, vault, "another, of a vault that doesn't know that it was changed")
    assert objects.get(load(objects).key) == before
    assert open_vault(objects, "right") == vault
    refused("store.wrong-passphrase", lambda: open_vault(objects, "wrong"))
    refused("store.wrong-key-file", lambda: open_vault(objects, FILE))
    refused("store.other-vault", lambda: seal_vault(objects, VaultKey.create(), "right"))
    refused("store.key-rotated", lambda: seal_vault(objects, VaultKey(vault.id, bytes(32)), "right"))
    keys.change_passphrase(objects, "right", "newer")
    assert open_vault(objects, "newer") == vault
    refused("store.wrong-passphrase", lambda: open_vault(objects, "right"))


def test_a_forged_derivation_is_refused_before_any_work_is_done() -> None:
    way = wrap("a vault", 1, bytes(32), "right")
    assert unwrap("a vault", way, "right") == bytes(32)
    for forged in (
        {"memory_kib": 64},
        {"passes": 2},
        {"lanes": 0},
        {"memory_kib": 1 << 40},
        {"passes": 1 << 30},
        {"lanes": 1 << 20},
        {"name": "pbkdf2"},
        {"memory_kib": "65536"},
        {"passes": True},
    ):
        changed = {**way, "kdf": {**way["kdf"], **forged}}
        refused("store.unlock-refused", lambda changed=changed: unwrap("a vault", changed, "right"))  # type: ignore[misc]
    # Stronger is fine, but it isn't what was sealed.
    stronger = {**way, "kdf": {**way["kdf"], "passes": 4}}
    refused("store.wrong-passphrase", lambda: unwrap("a vault", stronger, "right"))


@pytest.mark.parametrize("change", [{"generation": 2}, {"label": "x"}, {"id": "0" * 16}, {"salt": "00" * 16}])
def test_nothing_of_a_way_can_be_changed(change: dict[str, object]) -> None:
    way = wrap("a vault", 1, bytes(32), FILE, "safe")
    assert unwrap("a vault", way, FILE) == bytes(32)
    with pytest.raises(WrongKey):
        unwrap("a vault", {**way, **change}, FILE)
    with pytest.raises(WrongKey):
        unwrap("another vault", way, FILE)


def test_a_vault_file_that_is_damaged_or_moved_is_told_from_a_wrong_key(objects: MemoryObjects) -> None:
    found = load(objects)
    raw = objects.get(found.key)
    moved = found.key.replace("1.json", "2.json")
    objects.put(moved, raw)
    with pytest.raises(Corrupt):
        load(objects)
    objects.delete(moved)
    data = json.loads(raw)
    for damaged in (b"", b"{}", b"[]", raw[:-9], raw.replace(b'"generation": 1', b'"generation": 3'), b"[" * 9000):
        objects.put(found.key, damaged, if_absent=False)
        with pytest.raises(Corrupt):
            open_vault(objects, FILE)
    data["version"] = 2
    data.pop("check")
    data["check"] = hashlib.sha256(canonical(data)).hexdigest()
    objects.put(found.key, json.dumps(data).encode(), if_absent=False)
    with pytest.raises(Corrupt, match="version 2"):
        open_vault(objects, FILE)


def test_a_key_file_is_written_once_privately_and_checked_when_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    FILE.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyFile.read(path) == FILE
    with pytest.raises(FileExistsError):
        OTHER.write(path)
    text = path.read_text()
    assert FILE.id in text
    assert FILE.id not in FILE.key.hex()
    for damaged in ("", "secret", text.replace("1f", "1e"), text + text, text.replace("file 1", "file 2")):
        refused("store.key-file-damaged", lambda damaged=damaged: KeyFile.parse(damaged))  # type: ignore[misc]


def test_ways_are_added_and_removed_but_never_the_last(objects: MemoryObjects, vault: VaultKey) -> None:
    keys.add_way(objects, FILE, OTHER, "in the safe")
    assert open_vault(objects, OTHER) == vault
    assert [way["label"] for way in load(objects).ways()] == ["", "in the safe"]
    refused("store.way-exists", lambda: keys.add_way(objects, FILE, OTHER))
    refused("store.last-way", lambda: keys.remove_way(objects, FILE, FILE.id))
    refused("store.way-not-found", lambda: keys.remove_way(objects, FILE, "passphrase"))
    keys.remove_way(objects, OTHER, FILE.id)
    refused("store.wrong-key-file", lambda: open_vault(objects, FILE))
    refused("store.wrong-key-file", lambda: keys.add_way(objects, FILE, OTHER))
    assert everything(objects, OTHER).keys() == set(MACHINES)
    assert [key for key, _ in objects.list("vault/")] == [load(objects).key]


def test_of_two_who_change_the_keys_at_once_one_is_told(objects: MemoryObjects) -> None:
    seen = load(objects)
    keys.add_way(objects, FILE, OTHER)
    before = load(objects)
    refused("store.keys-busy", lambda: save(objects, seen.next(unlock=[])))
    # Its number may have been used and deleted already.
    keys.remove_way(objects, FILE, OTHER.id)
    refused("store.keys-busy", lambda: save(objects, seen.next(unlock=[])))
    assert load(objects).revision == before.revision + 1
    assert [key for key, _ in objects.list("vault/")] == [load(objects).key]


def test_a_rotation_replaces_the_vaults_key_and_leaves_the_machines(objects: MemoryObjects, vault: VaultKey) -> None:
    before = everything(objects, FILE)
    keys.add_way(objects, FILE, OTHER)
    kept = refused("store.ways-would-end", lambda: keys.rotate(objects, FILE))
    assert kept.details["ways"] == [OTHER.id]
    steps: list[tuple[int, int]] = []
    done = keys.rotate(objects, FILE, drop_others=True, progress=lambda *step: steps.append(step))
    assert (done.resumed, sorted(done.machines), done.dropped) == (False, sorted(MACHINES), [OTHER.id])
    assert steps == [(1, 2), (2, 2)]
    assert everything(objects, FILE) == before
    assert open_vault(objects, FILE) != vault
    refused("store.wrong-key-file", lambda: open_vault(objects, OTHER))
    # The old key is worth nothing here any more, and who holds it is told why.
    refused("store.key-rotated", lambda: machine_key(objects, vault, MACHINE))
    refused("store.key-rotated", lambda: machine_key(objects, vault, "new", create=True))
    assert "new" not in machines(objects)
    assert len([key for key, _ in objects.list("machines/")]) == len(MACHINES)
    again = keys.rotate(objects, FILE, [OTHER])
    assert again.generation > done.generation
    assert everything(objects, OTHER) == before


class LockedObjects(MemoryObjects):
    """What object lock keeps, while it does."""

    locked = True

    def delete(self, key: str) -> None:
        if self.locked and is_kept(key) and key in self.objects:
            raise Locked(f"{key} is locked", key=key)
        super().delete(key)


def test_keys_are_changed_in_a_locked_bucket_too(objects: MemoryObjects, vault: VaultKey) -> None:
    """What the storage keeps counts no longer, and goes with a later change."""
    bucket = LockedObjects()
    bucket.objects = dict(objects.objects)
    before = everything(bucket, FILE)
    keys.add_way(bucket, FILE, OTHER)
    keys.remove_way(bucket, OTHER, FILE.id)
    for _ in range(2):
        assert sorted(keys.rotate(bucket, OTHER).machines) == sorted(MACHINES)
        assert everything(bucket, OTHER) == before
        refused("store.wrong-key-file", lambda: open_vault(bucket, FILE))
    assert len([key for key in bucket.objects if "/key/" in key]) == 3 * len(MACHINES)
    bucket.locked = False
    assert keys.rotate(bucket, OTHER).resumed
    assert not keys.rotate(bucket, OTHER).resumed
    assert sum("/key/" in key for key in bucket.objects) == len(MACHINES)
    assert sum(key.startswith("vault/") for key in bucket.objects) == 1
    assert everything(bucket, OTHER) == before


def test_a_rotation_may_change_the_passphrase_too(objects: MemoryObjects) -> None:
    before = everything(objects, FILE)
    keys.rotate(objects, FILE, new_passphrase="new")
    assert everything(objects, "new") == everything(objects, FILE) == before


def rotations() -> int:
    """How many puts and deletes a rotation makes."""
    objects = MemoryObjects()
    vault = VaultKey("a vault", bytes(range(7, 39)))
    seal_vault(objects, vault, FILE)
    for machine in MACHINES:
        machine_key(objects, vault, machine, create=True)
    counting = FaultyObjects(objects)
    keys.rotate(counting, FILE, [OTHER])
    return counting.count


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("resumer", ["same", "without the new key file"])
def test_a_rotation_that_dies_anywhere_leaves_all_readable_and_can_be_completed(after: bool, resumer: str) -> None:
    steps = rotations()
    assert steps == 2 * (2 + len(MACHINES))  # put and delete: two revisions, each machine's key
    seen = set()
    for at in range(1, steps + 1):
        objects = MemoryObjects()
        vault = VaultKey("a vault", bytes(range(7, 39)))
        seal_vault(objects, vault, FILE)
        before = {machine: machine_key(objects, vault, machine, create=True).key for machine in MACHINES}
        with pytest.raises(Crash):
            keys.rotate(FaultyObjects(objects, at, after=after), FILE, [OTHER])
        assert everything(objects, FILE) == before
        pending = load(objects).pending is not None
        seen.add(pending)
        if pending:
            # No machine begins now: its key might not be carried over.
            refused("store.key-rotated", lambda o=objects: machine_key(o, open_vault(o, FILE), "new", create=True))  # type: ignore[misc]
            refused("store.rotation-unfinished", lambda o=objects: keys.add_way(o, FILE, KeyFile.create()))  # type: ignore[misc]
            assert "new" not in machines(objects)
        try:
            if resumer == "same":
                keys.rotate(objects, FILE, [OTHER])
            else:
                keys.rotate(objects, FILE, drop_others=True)
        finally:
            assert everything(objects, FILE) == before
        assert load(objects).pending is None
        generation = load(objects).generation
        left = [key for key, _ in objects.list("machines/") if not key.endswith(f"{generation:010d}")]
        assert left == []
        fresh = machine_key(objects, open_vault(objects, FILE), "new", create=True)
        assert everything(objects, FILE) == {**before, "new": fresh.key}
    assert seen == {True, False}


def test_a_rotation_paused_while_another_takes_its_place_stops(objects: MemoryObjects) -> None:
    before = everything(objects, FILE)

    class Overtaken(MemoryObjects):
        """Before the first machine's key is wrapped anew, another rotation runs from beginning to end."""

        done = False

        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            if key.startswith("machines/") and not self.done:
                Overtaken.done = True
                keys.rotate(objects, FILE, drop_others=True, new_passphrase=None)
            objects.put(key, data, if_absent=if_absent)

    paused = Overtaken()
    paused.get, paused.list, paused.delete = objects.get, objects.list, objects.delete  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        keys.rotate(paused, FILE, [OTHER])
    assert everything(objects, FILE) == before
    keys.rotate(objects, FILE, drop_others=True)
    assert everything(objects, FILE) == before


def test_a_machine_begun_just_before_a_rotation_is_carried_over(objects: MemoryObjects, vault: VaultKey) -> None:
    class Begun(MemoryObjects):
        """A rotation begins between a writer's put of a machine's first key and its look at the vault's file."""

        def put(self, key: str, data: bytes | memoryview, *, if_absent: bool = True) -> None:
            objects.put(key, data, if_absent=if_absent)
            if "/new/" in key:
                keys.rotate(objects, FILE)

    writer = Begun()
    writer.get, writer.list, writer.delete = objects.get, objects.list, objects.delete  # type: ignore[method-assign]
    refused("store.key-rotated", lambda: machine_key(writer, vault, "new", create=True))
    # It was carried over by the rotation: nothing of it is unreadable.
    assert everything(objects, FILE).keys() >= set(MACHINES)


def test_a_machines_key_is_made_once_and_the_same_at_every_site() -> None:
    vault = VaultKey("a vault", bytes(range(32)))
    home, away = MemoryObjects(), MemoryObjects()
    with pytest.raises(NotFound):
        machine_key(home, vault, MACHINE)
    key = machine_key(home, vault, MACHINE, create=True)
    assert machine_key(home, vault, MACHINE, create=True) == key == machine_key(away, vault, MACHINE, create=key)
    assert machines(away) == [MACHINE]
    refused("store.wrong-key", lambda: machine_key(home, VaultKey("a vault", bytes(32)), MACHINE))
    wrong = MachineKey("a vault", MACHINE, bytes(32))
    refused("store.other-key", lambda: machine_key(home, vault, MACHINE, create=wrong))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["vault", "revision", "generation", "generations", "unlock", "version", "check", "format"]), JSON
)
def test_any_vault_file_is_read_or_refused(field: str, value: object) -> None:
    """With a right checksum, too: who can write to the bucket can make one."""
    found = VaultFile("a vault", 1, 1, {1: "00"}, [wrap("a vault", 1, bytes(32), FILE)])
    data = json.loads(found.to_bytes())
    data[field] = value
    check = data.pop("check")
    data["check"] = check if field == "check" else hashlib.sha256(canonical(data)).hexdigest()
    try:
        VaultFile.parse(json.dumps(data).encode(), found.key)
    except Corrupt:
        return
    changed = MemoryObjects()
    changed.put(found.key, json.dumps(data).encode())
    with pytest.raises(StoreError):
        open_vault(changed, OTHER)


@given(
    st.sampled_from(["id", "kind", "generation", "label", "created", "salt", "cipher", "nonce", "wrapped", "kdf"]), JSON
)
def test_any_way_to_unlock_is_used_or_refused(field: str, value: object) -> None:
    way = {**wrap("a vault", 1, bytes(32), FILE), field: value}
    with pytest.raises(StoreError):
        unwrap("a vault", way, OTHER)


@given(st.text(max_size=200))
def test_any_text_is_a_key_file_or_refused(text: str) -> None:
    refused("store.key-file-damaged", lambda: KeyFile.parse(text))


def test_a_vault_file_survives_the_way_to_bytes_and_back(objects: MemoryObjects) -> None:
    found = load(objects)
    assert VaultFile.parse(found.to_bytes(), found.key) == found


def test_the_vaults_own_key_opens_its_stores_where_the_passphrase_is_lost(
    objects: MemoryObjects, vault: VaultKey
) -> None:
    assert open_vault(objects, vault) == vault
    keys.change_passphrase(objects, vault, "new")
    keys.remove_way(objects, vault, FILE.id)
    assert open_vault(objects, "new") == vault
    refused("store.last-way", lambda: keys.rotate(objects, vault, drop_others=True))
    keys.rotate(objects, vault, [OTHER], drop_others=True)
    refused("store.wrong-key", lambda: open_vault(objects, vault))
    assert everything(objects, OTHER).keys() == set(MACHINES)
