"""Machines out of recovery points: created at once, hydrated later, whatever dies meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from homeport.domain.machines import Power
from homeport.domain.points import PointId
from homeport.domain.units import MiB
from homeport.qemu import graph
from homeport.qemu.bitmaps import bitmaps
from homeport.qemu.qmp import Qmp
from homeport.sites.errors import SiteError
from homeport.sites.interface import Hydration, PointService, StartOptions
from homeport.sites.qemu import Tended, description, launch, overlay
from homeport.sites.qemu.process import MachineProcess

from .conftest import POINT, SIZE, Bench
from .test_power import until

pytestmark = pytest.mark.qemu


def create(bench: Bench, runner: str = "storage-daemon", **options: Any) -> PointService:
    service = bench.service()
    bench.site.create_from_point("vm", bench.like(runner), POINT, service, StartOptions(**options))
    return service


def read(bench: Bench, disk: str) -> bytes:
    with bench.disk(disk) as client:
        return client.read(0, client.size)


def hydrated(bench: Bench, rate: int = 0) -> Hydration:
    deadline = time.monotonic() + 60
    while True:
        state = bench.site.hydrate("vm", rate)
        assert state.total == 2 * SIZE
        if state.finished:
            return state
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_machine_runs_on_its_point_at_once(bench: Bench) -> None:
    like = bench.like("storage-daemon")
    machine = bench.site.create_from_point("vm", like, POINT, bench.service(), StartOptions(base=POINT))
    assert machine.power is Power.RUNNING
    assert machine.uuid == like.uuid
    assert machine.obstacles == ()
    assert [(disk.id, disk.format, disk.size) for disk in machine.disks] == [
        ("disk0", "qcow2", SIZE),
        ("disk1", "qcow2", SIZE),
    ]
    assert machine.extra["origin"] == {"point": str(POINT), "test": False, "hydrated": False}
    for disk, content in bench.content.items():
        assert read(bench, disk) == content
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert bitmaps(qmp)["disk1"][0].point == POINT
    # nothing was copied: it costs what was written, nothing
    assert all((bench.path / "vm" / f"{disk}.qcow2").stat().st_size < MiB for disk in bench.content)


def test_a_test_machine_is_another_one_without_a_way_out(bench: Bench) -> None:
    bench.make("original", runner="storage-daemon")
    like = bench.site.machine("original")
    machine = bench.site.create_from_point(
        "vm", like, POINT, bench.service(), StartOptions(network="isolated", forward=("9000:80",))
    )
    assert machine.uuid != like.uuid
    assert machine.obstacles == ()
    assert machine.nics == (replace(like.nics[0], network="isolated", forward=("9000:80",)),)
    assert machine.extra["origin"]["test"] is True
    assert bench.site.machine("original").obstacles == ()


def test_asked_twice_it_is_the_same_machine_on_another_point_it_is_refused(bench: Bench) -> None:
    service = create(bench)
    pid = bench.process().pid()
    like = bench.site.machine("vm")
    again = bench.site.create_from_point("vm", like, POINT, service, StartOptions())
    assert again == like
    assert bench.process().pid() == pid
    with pytest.raises(SiteError) as caught:
        bench.site.create_from_point("vm", like, POINT.next(), service, StartOptions())
    assert caught.value.code == "site.machine-exists"
    bench.make("other", runner="storage-daemon")
    with pytest.raises(SiteError) as caught:
        bench.site.create_from_point("other", like, POINT, service, StartOptions())
    assert caught.value.code == "site.machine-exists"


@pytest.mark.parametrize("step", ["overlays", "description", "service", "process", "begin"])
def test_killed_at_any_step_a_second_call_finishes(bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A kill is played by an exception that no clean-up of ours may see: BaseException, clean-up patched away."""

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    where: dict[str, tuple[Any, str]] = {
        "overlays": (overlay, "sync_file"),
        "description": (description.Description, "write"),
        "service": (bench.site, "_start"),
        "process": (MachineProcess, "start"),
        "begin": (bench.site, "_begin"),
    }
    service, like = bench.service(), bench.like("storage-daemon")
    with monkeypatch.context() as patch:
        patch.setattr(*where[step], kill)
        if step == "begin":
            patch.setattr(MachineProcess, "end", lambda self: None)
        with pytest.raises(Killed):
            bench.site.create_from_point("vm", like, POINT, service, StartOptions(base=POINT))
    machine = bench.site.create_from_point("vm", like, POINT, service, StartOptions(base=POINT))
    assert machine.power is Power.RUNNING
    assert read(bench, "disk1") == bench.content["disk1"]
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert [bitmap.point for bitmap in bitmaps(qmp)["disk0"]] == [POINT]
    assert [entry.name for entry in bench.path.iterdir() if not entry.name.startswith(".vm.lock")] == ["vm"]


def test_a_read_waits_for_a_killed_server_and_succeeds_when_it_is_back(bench: Bench) -> None:
    create(bench)
    with bench.disk("disk0") as client:
        client.read(0, 4096)
    bench.kill_server()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read(bench, "disk0")))
    reader.start()
    reader.join(1)
    assert found == []
    assert bench.site.tend() == [Tended("vm", "point server started")]
    reader.join(30)
    assert found == [bench.content["disk0"]]
    assert bench.site.tend() == []


def test_a_guest_stops_at_an_error_and_goes_on_when_its_point_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "RECONNECT_SECONDS", 1)  # no long waiting: the error shows soon
    # for ever: read sector 2 of disk0 to 0x8000 by the BIOS
    code = bytes.fromhex("31c0 8ec0 b80102 bb0080 b90200 ba8000 cd13 ebf0")
    bench.content["disk0"] = code.ljust(510, b"\0") + b"\x55\xaa" + bench.content["disk0"][512:]
    create(bench, "qemu")
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:

        def reads() -> int:
            devices = qmp.execute("query-blockstats")
            return int(next(one for one in devices if "disk0-dev" in one["qdev"])["stats"]["rd_operations"])

        until(lambda: reads() > 20)
        bench.kill_server()
        until(lambda: bench.site.machine("vm").extra["status"] == "io-error")
        assert bench.site.machine("vm").power is Power.PAUSED
        stopped_at = reads()
        assert bench.site.tend() == [
            Tended("vm", "point server started"),
            Tended("vm", "resumed after an I/O error"),
        ]

        def goes_on() -> bool:
            bench.site.tend()  # QEMU's client reconnects in the background: the first read may fail once more
            return reads() > stopped_at + 20

        until(goes_on)
        assert bench.site.machine("vm").power is Power.RUNNING


def test_a_start_brings_the_server_up_first(bench: Bench) -> None:
    create(bench)
    bench.site.power_off("vm")
    bench.kill_server()
    assert bench.site.start("vm", StartOptions()).power is Power.RUNNING
    assert read(bench, "disk0") == bench.content["disk0"]


def test_a_server_that_does_not_start_is_said_with_its_reason(bench: Bench) -> None:
    service = replace(bench.service(), command=("/bin/sh", "-c", "echo no store >&2; exit 3"))
    with pytest.raises(SiteError, match="no store") as caught:
        bench.site.create_from_point("vm", bench.like("storage-daemon"), POINT, service, StartOptions())
    assert caught.value.code == "site.point-server"
    assert bench.site.machine("vm").power is Power.OFF
    # the next attempt brings a better command
    bench.site.create_from_point("vm", bench.site.machine("vm"), POINT, bench.service(), StartOptions())
    assert read(bench, "disk0") == bench.content["disk0"]


@pytest.mark.parametrize("runner", ["qemu", "storage-daemon"])
def test_a_hydrated_machine_needs_its_point_no_more(bench: Bench, runner: str) -> None:
    create(bench, runner)
    if runner == "storage-daemon":
        with bench.disk("disk0") as client:
            client.write(5 * MiB, b"mine" * 4096)
            client.flush()
        bench.content["disk0"] = (
            bench.content["disk0"][: 5 * MiB] + b"mine" * 4096 + bench.content["disk0"][5 * MiB + 16384 :]
        )
    first = bench.site.hydrate("vm", 4 * MiB)
    assert not first.finished
    assert first.total == 2 * SIZE
    assert bench.site.hydrate("vm", 4 * MiB).done >= first.done
    assert hydrated(bench).done == 2 * SIZE
    assert bench.site.machine("vm").extra["origin"]["hydrated"] is True
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert not [name for name in graph.nodes(qmp) if "point" in name]
        assert qmp.execute("query-block-exports") == [] or runner == "storage-daemon"
    bench.kill_server()
    (bench.path / "vm" / "run" / "point.sock").unlink()
    assert bench.site.hydrate("vm", 0).finished
    assert bench.site.tend(0) == []
    bench.site.power_off("vm")
    bench.site.start("vm", StartOptions())
    bench.site.power_off("vm")
    for disk, content in bench.content.items():
        image = bench.path / "vm" / f"{disk}.qcow2"
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", image]))
        assert "backing-filename" not in info
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, bench.folder / "out"], check=True)
        assert (bench.folder / "out").read_bytes() == content


def test_hydration_goes_on_after_a_kill_and_the_point_counts_until_it_is_written_down(bench: Bench) -> None:
    create(bench)
    bench.site.hydrate("vm", 2 * MiB)
    pid = bench.process().pid()
    assert pid is not None
    subprocess.run(["kill", "-9", str(pid)], check=True)
    until(lambda: not bench.process().alive())
    assert bench.site.hydrate("vm", 0) == Hydration(0, 2 * SIZE, finished=False)
    bench.site.start("vm", StartOptions())
    assert read(bench, "disk1") == bench.content["disk1"]
    hydrated(bench)
    # as if the power had gone before it was noted: the description decides, and the content stays
    folder = bench.path / "vm"
    bench.site.power_off("vm")
    known = description.read(folder).description
    assert known.origin is not None
    replace(known, origin=replace(known.origin, hydrated=False)).write(folder)
    bench.site.start("vm", StartOptions())
    assert read(bench, "disk0") == bench.content["disk0"]
    assert hydrated(bench).finished


def test_hydration_waits_for_a_killed_server(bench: Bench) -> None:
    create(bench)
    bench.site.hydrate("vm", 8 * MiB)
    bench.kill_server()
    bench.site.tend(0)
    hydrated(bench)
    for disk, content in bench.content.items():
        assert read(bench, disk) == content


def test_tending_hydrates_what_is_no_test(bench: Bench) -> None:
    create(bench)
    until(lambda: Tended("vm", "hydrated") in bench.site.tend(0))
    bench.site.delete("vm")
    create(bench, network="isolated")
    for _ in range(3):
        assert bench.site.tend(0) == []
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp:
        assert qmp.execute("query-block-jobs") == []


def test_views_come_and_go_while_it_is_hydrated(bench: Bench) -> None:
    """What the tracker does every few seconds: a copy-before-write node under the filter, by one reopen."""
    create(bench, base=POINT)
    want = {disk: bytearray(content) for disk, content in bench.content.items()}
    scratch = bench.folder / "scratch"
    scratch.mkdir()
    bench.site.hydrate("vm", MiB)
    rounds = 0
    with Qmp.connect(bench.site.qmp_socket("vm")) as qmp, bench.disk("disk0") as zero, bench.disk("disk1") as one:
        clients = {"disk0": zero, "disk1": one}
        while rounds < 12 or not bench.site.hydrate("vm", 2 * MiB if rounds < 12 else 0).finished:
            rounds += 1
            for disk in want:
                image = scratch / disk
                with image.open("wb") as file:
                    file.truncate(SIZE)
                target = {"driver": "file", "filename": str(image), "node-name": f"{disk}-scratch"}
                node = {"driver": "copy-before-write", "node-name": f"{disk}-cbw", "file": f"{disk}-format"}
                qmp.execute("blockdev-add", {**node, "target": target, "on-cbw-error": "break-snapshot"})
            graph.switch(qmp, graph.nodes(qmp), {disk: f"{disk}-cbw" for disk in want})
            frozen = {disk: bytes(content) for disk, content in want.items()}
            for disk in want:
                qmp.execute(
                    "blockdev-add", {"driver": "snapshot-access", "node-name": f"{disk}-view", "file": f"{disk}-cbw"}
                )
                view = {"type": "nbd", "id": f"{disk}-view", "node-name": f"{disk}-view", "name": f"{disk}-view"}
                qmp.execute("block-export-add", view)
            for disk, client in clients.items():
                start = (rounds * 524287) % (SIZE - 65536) // 4096 * 4096
                client.write(start, bytes([rounds % 250 + 1]) * 65536)
                want[disk][start : start + 65536] = bytes([rounds % 250 + 1]) * 65536
            for disk in want:
                with bench.disk(f"{disk}-view") as reader:
                    assert reader.read(0, SIZE) == frozen[disk]
                qmp.execute("block-export-del", {"id": f"{disk}-view", "mode": "hard"})
                assert qmp.wait_event(
                    "BLOCK_EXPORT_DELETED", 10, where=lambda data, disk=disk: data["id"] == f"{disk}-view"
                )
            for disk in want:
                qmp.execute("blockdev-del", {"node-name": f"{disk}-view"})
            graph.switch(qmp, graph.nodes(qmp), {disk: f"{disk}-format" for disk in want})
            for disk in want:
                qmp.execute("blockdev-del", {"node-name": f"{disk}-cbw"})
        for disk, client in clients.items():
            assert client.read(0, SIZE) == bytes(want[disk])
    bench.kill_server()
    shutil.rmtree(scratch)
    bench.site.power_off("vm")
    bench.site.start("vm", StartOptions())
    for disk, content in want.items():
        assert read(bench, disk) == bytes(content)


def test_a_point_id_survives_its_description(bench: Bench) -> None:
    create(bench)
    origin = description.read(bench.path / "vm").description.origin
    assert origin is not None
    assert origin.point == PointId.parse(str(POINT))
    assert origin.service == bench.service()
