"""What enabling and its end ask of a site: a first point that can be used, disks that are left out, points that go."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Power
from homeport.domain.points import PointId
from homeport.domain.units import BLOCK
from homeport.servers import store_probe
from homeport.sites.interface import StartOptions
from homeport.store import names, open_objects
from homeport.store.errors import StoreError
from homeport.store.keys import VaultKey, seal_vault
from tests.servers.bucket import KEYS, read_point
from tests.servers.test_work import SIZE, T1, T2, Place


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="hp"))
    place = Place(folder)
    try:
        yield place
    finally:
        place.close()
        rmtree(folder, ignore_errors=True)


def second_disk(place: Place) -> Path:
    """The machine gets a disk1, full of noise."""
    machine = place.path / "disks"
    (machine / "disk1.raw").write_bytes(os.urandom(SIZE))
    with (machine / "machine.toml").open("a") as file:
        file.write('[[disk]]\nid = "disk1"\npath = "disk1.raw"\nformat = "raw"\n')
    return machine / "disk1.raw"


def replicate(place: Place, **more: Any) -> PointId:
    """Starts the machine and its replication into T1; its first point."""
    place.site.start("disks", StartOptions())
    place.write(0, os.urandom(8 * BLOCK))
    place.twice("prepare-timeline", timeline=T1, description={"name": "disks"})
    store = {"site": "b", **place.here.process_server.gateway()}
    place.twice("replicate", timeline=T1, store=store, interval=3600, **more)
    return PointId.parse(place.do("take-point", consistency="crash-consistent")["point"])


@pytest.mark.qemu
def test_a_point_is_opened_and_verified_and_what_it_lacks_is_named(place: Place) -> None:
    point = replicate(place)
    found = place.twice("verify-point", point=str(point), disks=["disk0"])
    assert found["disks"] == {"disk0": SIZE}
    assert found["segments"] > 0
    with pytest.raises(HomeportError, match="it has no disk1") as refused:
        place.do("verify-point", point=str(point), disks=["disk0", "disk1"])
    assert refused.value.code == "protect.point-unusable"


@pytest.mark.qemu
def test_a_point_with_a_segment_lost_is_unusable(place: Place) -> None:
    point = replicate(place)
    prefix = names.timeline(KEYS.machine, T1) + "segment/"
    place.objects.delete(next(key for key, _ in place.objects.list(prefix)))
    with pytest.raises(HomeportError) as refused:
        place.do("verify-point", point=str(point), disks=["disk0"])
    assert refused.value.code == "protect.point-unusable"


@pytest.mark.qemu
def test_an_excluded_disk_is_neither_replicated_nor_brought_home(place: Place) -> None:
    """As the whole machine's other disk is: replicated, imported, overwritten and rolled back."""
    other = second_disk(place)
    content = other.read_bytes()
    exclude = ["disk1"]
    point = replicate(place, exclude=exclude)
    assert set(read_point(place.store, point)) == {"disk0"}
    remembered = place.store.open(point).info
    assert set(remembered.disks) == {"disk0"}
    again = PointId.parse(place.do("take-point", consistency="crash-consistent")["point"])
    assert read_point(place.store, again)["disk0"] == place.disk()
    place.twice("planned-stop", timeout=5, exclude=exclude)
    assert place.site.machine("disks").power is Power.OFF

    base = place.do(
        "import-base", timeline=T2, parent=None, origin=str(point), description={"name": "d"}, exclude=exclude
    )
    assert set(read_point(place.store, PointId.parse(base["point"]))) == {"disk0"}
    with (place.path / "disks" / "disk0.raw").open("r+b") as disk:
        disk.write(b"\x55" * BLOCK)
    written = place.do("write-disks", base=base["point"], point=str(point), exclude=exclude)
    assert written["written"] > 0
    assert read_point(place.store, point)["disk0"] == place.disk()
    assert not list((place.own / "retention").rglob("disk1*"))
    place.do("rollback-disks", exclude=exclude)
    assert place.disk()[:BLOCK] == b"\x55" * BLOCK
    assert other.read_bytes() == content


def test_points_of_a_machine_go_and_its_key_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for timeline in (T1, T2):
        place.do("prepare-timeline", timeline=timeline, description={"name": "disks"})
    left = place.do("purge", timelines=[T1], shred=True)
    assert "its key stays" in left["notes"][0]
    assert place.store.timeline_ids() == [T2]
    gone: list[str] = []
    delete = place.objects.delete
    monkeypatch.setattr(place.objects, "delete", lambda key: (gone.append(key), delete(key))[1])
    place.twice("purge", timelines=[T1, T2], shred=True)
    assert gone[0].startswith(names.machine_keys(KEYS.machine))
    assert list(place.objects.list(names.machine(KEYS.machine))) == []


@pytest.mark.qemu
def test_forks_go_before_what_they_fork_from(place: Place) -> None:
    third = "3" * 16
    point = str(replicate(place))
    place.do("stop-replication")
    place.do("prepare-timeline", timeline=T2, parent=point, description={"name": "disks"})
    place.do("prepare-timeline", timeline=third, description={"name": "disks"})
    place.do("purge", timelines=[T1], shred=False)
    assert place.store.timeline_ids() == [T1, T2, third]  # T2 still needs it
    place.do("purge", timelines=[T1, T2], shred=False)
    assert place.store.timeline_ids() == [third]


def test_another_protections_points_stay_when_a_machine_is_forgotten(place: Place) -> None:
    for timeline in (T1, T2):
        place.do("prepare-timeline", timeline=timeline, description={"name": "disks"})
    place.do("forget", timelines=[T2])
    assert place.store.timeline_ids() == [T1]


def test_a_store_is_tried_out(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = (tmp_path / "points").as_uri()
    assert place.do("probe-store", store=url)["free"] > 0
    assert list(open_objects(url).list("")) == []
    for wrong, code in (("points", "site.store-invalid"), ("/srv/points", "site.store-invalid")):
        with pytest.raises(HomeportError) as refused:
            place.do("probe-store", store=wrong)
        assert refused.value.code == code
    other = VaultKey.create()
    seal_vault(open_objects(url), other, "another vault's words, some of them")
    with pytest.raises(StoreError) as taken:
        place.do("probe-store", store=url)
    assert taken.value.code == "store.other-vault"
    monkeypatch.setattr(store_probe, "LEAST_SPACE", 1 << 62)
    with pytest.raises(StoreError) as full:
        place.do("probe-store", store=(tmp_path / "more").as_uri())
    assert full.value.code == "store.full"


def test_a_seed_is_looked_at_taken_in_and_dropped_however_often_it_is_asked_for(place: Place) -> None:
    (place.path / "carried").mkdir()
    (place.path / "carried" / "disk0.img").write_bytes(os.urandom(SIZE))
    seed = {"disk0": "carried/disk0.img"}
    like = {**place.site.machine("disks").to_json(), "obstacles": []}
    probed = place.work.carry_out("probe-seed", {"seed": seed, "disks": like["disks"]}, lambda *told: None)
    assert probed == {"disks": {"disk0": SIZE}}
    told = {"timeline": T1, "seed": seed, "like": like, "description": {"name": "disks"}}
    taken = place.twice("import-seed", **told)
    assert taken == {"point": f"{T1}/0", "bytes": SIZE}
    assert place.do("points", timeline=T1) == {"points": [], "head": f"{T1}/0"}
    (place.path / "carried" / "disk0.img").unlink()
    assert place.do("import-seed", **told) == taken, "it is in the store; nobody needs the image any more"
    with pytest.raises(HomeportError) as refused:
        place.do("import-seed", **{**told, "timeline": T2})
    assert refused.value.code == "seed.not-found"
    assert not list((place.own / "cache").glob("*/*/import/*"))
    assert place.do("drop-points", timelines={T1: 0}, keep=[])["dropped"] == 0, "the newest stays, whatever it is"


@pytest.mark.qemu
def test_points_of_a_timeline_that_another_forks_from_are_thinned(place: Place) -> None:
    replicate(place)
    points = [PointId.parse(place.do("take-point", consistency="crash-consistent")["point"]) for _ in range(3)]
    place.do("end-timeline", timeline=T1)
    place.do("prepare-timeline", timeline=T2, parent=str(points[1]), description={"name": "disks"})
    everything = {point.id.number for point in place.store.points(T1)}
    found = place.twice("thin-points", timelines={T1: [point.number for point in points]})
    gone = points[0].number
    assert found == {"left": {T1: sorted(everything - {gone})}}, "the fork's own and the newest stay"
