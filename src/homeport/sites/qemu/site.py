"""The QEMU site: machines in folders, each with a process of its own that outlives this one."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine, Power
from homeport.domain.points import PointId
from homeport.qemu import graph
from homeport.qemu.agent import AgentError, AgentSilent, GuestAgent
from homeport.qemu.bitmaps import start_tracking
from homeport.qemu.errors import FilterMissing
from homeport.qemu.qmp import Qmp, QmpGone
from homeport.sites.errors import MachineFenced, MachineNotFound, MachineWouldNotStart, SiteError
from homeport.sites.interface import Hydration, PointService, StartOptions
from homeport.sites.qemu import accelerator, description, hydration, launch, locks, overlay, point_server
from homeport.sites.qemu.description import Description, Origin
from homeport.sites.qemu.durable import remove_durably, rename_durably, sync_folder, write_durably
from homeport.sites.qemu.host import host_facts
from homeport.sites.qemu.images import UnusableImage, inspect
from homeport.sites.qemu.process import MachineProcess

log = structlog.get_logger(__name__)

FENCE = "fenced"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,120}")
_STATUS_SECONDS = 3.0
_EVENT_SECONDS = 1.0
_RUNNING = {"running", "finish-migrate"}
_NOT_BEGUN = "prelaunch"
_HELD = "shutdown"
_IO_ERROR = "io-error"


@dataclass(frozen=True)
class Tended:
    """Something that :meth:`QemuSite.tend` did, or could not do, for a machine."""

    machine: str
    action: str


class QemuSite:
    """Keeps :class:`homeport.sites.interface.Site` for the machines under ``path``.

    ``kernel``: a Linux kernel for the accelerator's probe; ``cache``: where its result is kept.
    Every method may be called from any thread and process: what changes a machine is serialised per machine.
    """

    def __init__(self, path: Path, *, name: str, kernel: Path | None = None, cache: Path | None = None) -> None:
        self.path = Path(path).absolute()
        self.name = name
        self._kernel = kernel
        self._cache = cache or accelerator.default_cache()

    # ── where things are ────────────────────────────────────────────────────────────────────────────────────────

    def folder(self, name: str) -> Path:
        """The folder of the machine ``name``. Raises :class:`MachineNotFound`."""
        folder = self._place(name)
        if not (folder / description.FILE).exists():
            raise MachineNotFound(f"there is no machine {name} at {self.name} ({self.path})")
        return folder

    def qmp_socket(self, name: str) -> Path:
        """The QMP socket kept for whoever tracks changes (the site has its own)."""
        return self.folder(name) / "run" / launch.QMP

    def agent_socket(self, name: str) -> Path:
        """The guest agent's channel."""
        return self.folder(name) / "run" / launch.AGENT

    def disks_socket(self, name: str) -> Path:
        """Runner "storage-daemon": an NBD server with one writable export per disk, while it is switched on."""
        return self.folder(name) / "run" / launch.DISKS

    def nbd_server(self, name: str) -> Path | None:
        """The NBD server that the machine's process has from its start (it can have but one); None: whoever needs one
        starts it."""
        runs_disks = description.read(self.folder(name)).description.runner == "storage-daemon"
        return self.disks_socket(name) if runs_disks else None

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise MachineNotFound(f"{name!r} can't be the name of a machine")
        return self.path / name

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else changes the machine ``name`` meanwhile."""
        self._place(name)
        if not self.path.is_dir():  # made anew, it would be in the way of the real one when that comes back
            raise SiteError(
                f"the folder of {self.name}, {self.path}, is not there",
                code="site.folder-missing",
                remedy="Mount or restore it, then try again.",
            )
        with locks.exclusive(self.path / f".{name}.lock"):
            yield

    # ── what is there ───────────────────────────────────────────────────────────────────────────────────────────

    def machines(self) -> list[Machine]:
        try:
            folders = sorted(folder for folder in self.path.iterdir() if not folder.name.startswith("."))
        except FileNotFoundError:
            return []
        found = [self._look(folder) for folder in folders if (folder / description.FILE).exists()]
        owners: dict[str, list[str]] = {}
        for machine in found:
            owners.setdefault(machine.uuid, []).append(machine.name)
        return [self._with_double(machine, owners.get(machine.uuid, [])) for machine in found]

    def machine(self, name: str) -> Machine:
        folder = self.folder(name)
        machine = self._look(folder)
        same = [
            other.name for other in self._others(folder) if description.read(other).description.uuid == machine.uuid
        ]
        return self._with_double(machine, [*same, name])

    def _others(self, folder: Path) -> list[Path]:
        return [
            other
            for other in self.path.iterdir()
            if other != folder and not other.name.startswith(".") and (other / description.FILE).exists()
        ]

    @staticmethod
    def _with_double(machine: Machine, owners: list[str]) -> Machine:
        others = sorted(name for name in owners if name != machine.name)
        if not machine.uuid or not others:
            return machine
        return replace(machine, obstacles=(*machine.obstacles, f"uuid: {', '.join(others)} has the same one"))

    def _look(self, folder: Path) -> Machine:
        described = description.read(folder)
        wanted = described.description
        obstacles = list(described.problems)
        disks = []
        for disk in wanted.disks:
            try:
                disks.append(replace(disk, size=inspect(folder / disk.path, disk.format).size))
            except UnusableImage as error:
                obstacles.append(f"{disk.id}: {error}")
                disks.append(disk)
        if not disks and not described.problems:
            obstacles.append(f"{description.FILE}: no [[disk]]: there is nothing to protect")
        seen = self._observe(folder, wanted, obstacles)
        extra: dict[str, Any] = {
            "runner": wanted.runner,
            "accelerator": wanted.accelerator,
            "machine": wanted.machine,
            "cpu": wanted.cpu,
            "status": seen.status,
            "held": seen.status == _HELD,
        }
        fence = _read_fence(folder)
        if fence is not None:
            extra["fenced"] = fence
        if wanted.origin is not None:
            extra["origin"] = {
                "point": str(wanted.origin.point),
                "test": wanted.origin.test,
                "hydrated": wanted.origin.hydrated,
            }
        return Machine(
            uuid=wanted.uuid,
            name=folder.name,
            disks=tuple(disks),
            nics=wanted.nics,
            memory=wanted.memory,
            cpus=wanted.cpus,
            firmware=wanted.firmware,
            power=seen.power,
            guest_agent=seen.agent,
            obstacles=tuple(obstacles),
            extra=extra,
        )

    def _observe(self, folder: Path, wanted: Description, obstacles: list[str]) -> _Seen:
        process = MachineProcess(folder)
        if not process.alive():
            return _Seen(Power.OFF, "off")
        try:
            with process.monitor(_STATUS_SECONDS) as qmp:
                seen = _observe(qmp, wanted)
                try:
                    running = {disk.id for disk in graph.disks(qmp)}
                    missing = sorted({disk.id for disk in wanted.disks} - running)
                    if missing:
                        obstacles.append(f"the running process has no {', '.join(missing)}: restart the machine")
                except FilterMissing as error:
                    obstacles.append(
                        f"the running QEMU does not have Homeport's block graph ({error.cause}): "
                        "restart the machine through Homeport"
                    )
                return seen
        except QmpGone as error:
            if not process.alive():
                return _Seen(Power.OFF, "off")
            return _Seen(Power.UNKNOWN, f"silent: {error.cause}")

    # ── power ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, name: str, options: StartOptions) -> Machine:
        """Raises MachineFenced, MachineWouldNotStart, or a SiteError ("site.point-server") for its recovery point."""
        with self._alone(name):
            self._start(self.folder(name), options)
        return self.machine(name)

    def _start(self, folder: Path, options: StartOptions) -> None:
        fence = _read_fence(folder)
        if fence is not None:
            raise MachineFenced(f"{folder.name} must not run at {self.name}: {fence}")
        described = description.read(folder)
        if described.problems:
            raise MachineWouldNotStart(f"{folder.name}: {'; '.join(described.problems)}")
        wanted = _placed(described.description, options)
        if wanted.origin is not None and not wanted.origin.hydrated:
            point_server.ensure(wanted.origin.service, folder / "run")
        command = self._command(folder, wanted)
        process = MachineProcess(folder)
        if process.alive() and self._go_on(folder, process, wanted, command, options.base):
            return
        for disk in wanted.disks:
            try:
                inspect(folder / disk.path, disk.format)
            except UnusableImage as error:
                raise MachineWouldNotStart(f"{folder.name}: {disk.id}: {error}") from error
        process.run.mkdir(exist_ok=True)
        write_durably(process.run / "command.json", json.dumps(command))
        process.start(command)
        try:
            with process.monitor() as qmp:
                self._begin(qmp, wanted, options.base)
        except BaseException:
            process.end()  # nothing has run yet: the next attempt starts afresh
            raise

    def _go_on(
        self, folder: Path, process: MachineProcess, wanted: Description, command: list[str], base: PointId | None
    ) -> bool:
        """Whether the process that is there can carry the machine on; else it has been ended."""
        with process.monitor() as qmp:
            seen = _observe(qmp, wanted)
            if seen.power is Power.RUNNING:
                return True
            if seen.status == _NOT_BEGUN and not process.ours():
                self._begin(qmp, wanted, base)
                return True
            if seen.status not in (_HELD, _NOT_BEGUN):  # paused, or stopped by an I/O error
                qmp.execute("cont")
                return True
            if seen.status == _HELD and base is None and _kept_command(process) == command:
                # its disks are open and its changes tracked: the same process goes on
                if wanted.runner == "qemu":
                    qmp.execute("system_reset")
                self._begin(qmp, wanted, None)
                return True
        process.end()
        return False

    @staticmethod
    def _begin(qmp: Qmp, wanted: Description, base: PointId | None) -> None:
        """The first instruction, or the first writable export: tracking is on before."""
        if base is not None:
            start_tracking(qmp, base)
        if wanted.runner == "qemu":
            qmp.execute("cont")
            return
        there = _exports(qmp)
        for disk in wanted.disks:
            if _export_id(disk) not in there:
                qmp.execute("block-export-add", launch.writable_export(disk.id, _export_id(disk)))

    def _command(self, folder: Path, wanted: Description) -> list[str]:
        if wanted.runner == "storage-daemon":
            return launch.storage_daemon_command(folder, wanted)
        kind = wanted.accelerator
        if kind == "auto":
            kind = accelerator.choose(self._cache, self._kernel).kind
        return launch.qemu_command(folder.name, folder, wanted, kind)

    def shut_down(self, name: str, timeout: float) -> bool:
        """Also True for a machine that was off before."""
        folder = self.folder(name)
        process = MachineProcess(folder)
        wanted = description.read(folder).description
        if not process.alive():
            return True
        with process.monitor() as qmp:
            if wanted.runner == "storage-daemon":
                for disk in wanted.disks:
                    hydration.remove_export(qmp, _export_id(disk))
                return True
            return _shut_guest_down(qmp, process.run / launch.AGENT, timeout)

    def resume(self, name: str) -> Machine:
        """Let a guest go on that was paused, or that QEMU stopped at an I/O error whose cause is gone."""
        folder = self.folder(name)
        with self._alone(name), MachineProcess(folder).monitor() as qmp:
            status = _observe(qmp, description.read(folder).description).status
            if status not in (*_RUNNING, _HELD):
                qmp.execute("cont")
        return self.machine(name)

    def power_off(self, name: str) -> None:
        with self._alone(name):
            MachineProcess(self.folder(name)).end()

    # ── machines out of recovery points ─────────────────────────────────────────────────────────────────────────

    def create_from_point(
        self, name: str, like: Machine, point: PointId, service: PointService, options: StartOptions
    ) -> Machine:
        """A network other than production's (None) makes it a test machine, with a uuid of its own.

        Raises SiteError "site.machine-exists" where ``name`` is another machine, or lies on another point."""
        with self._alone(name):
            folder = self._place(name)
            if not (folder / description.FILE).exists():
                self._create(folder, like, point, service, options)
            else:
                self._check_same(folder, point, service)
            self._start(folder, StartOptions(base=options.base))
        return self.machine(name)

    def _create(
        self, folder: Path, like: Machine, point: PointId, service: PointService, options: StartOptions
    ) -> None:
        """The folder appears under its name when everything in it is durable, or not at all."""
        origin = Origin(point, service, test=options.network is not None)
        wanted = Description.like(like, origin, options.network, options.forward)
        prepared = self.path / f".creating-{folder.name}"
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.mkdir(parents=True)
        overlay.create_overlays(prepared, wanted.disks, service)
        wanted.write(prepared)
        sync_folder(prepared)
        if folder.exists():  # not a machine: there is no description in it
            raise SiteError(
                f"{folder} is in the way and holds no machine",
                code="site.machine-exists",
                remedy="Move that folder away, or choose another name.",
            )
        rename_durably(prepared, folder)
        log.info("machine created from its recovery point", machine=folder.name, point=str(point))

    def _check_same(self, folder: Path, point: PointId, service: PointService) -> None:
        wanted = description.read(folder).description
        if wanted.origin is None or wanted.origin.point != point:
            lies = f"on recovery point {wanted.origin.point}" if wanted.origin else "with disks of its own"
            raise SiteError(
                f"there is a machine {folder.name} at {self.name} already, {lies}; asked for was {point}",
                code="site.machine-exists",
                remedy="Remove that machine first, or choose another name.",
            )
        if wanted.origin.service != service:
            replace(wanted, origin=replace(wanted.origin, service=service)).write(folder)

    def delete(self, name: str) -> None:
        with self._alone(name):
            folder = self._place(name)
            if (folder / description.FILE).exists():  # a folder that is no machine is somebody else's
                MachineProcess(folder).end()
                rename_durably(folder, self.path / f".deleted-{name}.{secrets.token_hex(4)}")
            for left in (*self.path.glob(f".deleted-{name}.????????"), self.path / f".creating-{name}"):
                if left.exists():
                    shutil.rmtree(left)
            sync_folder(self.path)
            (self.path / f".{name}.lock").unlink(missing_ok=True)

    def fence(self, name: str, reason: str | None) -> None:
        with self._alone(name):
            place = self.folder(name) / FENCE
            if reason is None:
                remove_durably(place)
            else:
                write_durably(place, json.dumps({"reason": reason, "since": datetime.now(UTC).isoformat()}) + "\n")

    def hydrate(self, name: str, bytes_per_second: int) -> Hydration:
        """``bytes_per_second``: for all its disks together; 0: no limit. A machine whose process is not there gets no
        further until it is started."""
        with self._alone(name):
            return self._hydrate(self.folder(name), bytes_per_second)

    def _hydrate(self, folder: Path, bytes_per_second: int) -> Hydration:
        wanted = description.read(folder).description
        total = sum(disk.size for disk in wanted.disks)
        if wanted.origin is None or wanted.origin.hydrated:
            return Hydration(total, total, finished=True)
        process = MachineProcess(folder)
        if not process.alive():
            return Hydration(0, total, finished=False)
        with process.monitor() as qmp:
            state = hydration.stream(qmp, wanted.disks, bytes_per_second)
            if state.finished:
                done = replace(wanted, origin=replace(wanted.origin, hydrated=True))
                hydration.settle(qmp, process.run, wanted, lambda: done.write(folder))
                log.info("machine is hydrated", machine=folder.name, bytes=total)
        return state

    def tend(self, bytes_per_second: int | None = None) -> list[Tended]:
        """Look after the machines that run on recovery points: a dead point server is started again, a guest that
        stopped at an I/O error goes on; with ``bytes_per_second`` those that are no test are hydrated."""
        done: list[Tended] = []
        for folder in sorted(self.path.iterdir()) if self.path.exists() else []:
            if folder.name.startswith(".") or not (folder / description.FILE).exists():
                continue
            origin = description.read(folder).description.origin
            if origin is None or origin.hydrated or not MachineProcess(folder).alive():
                continue
            try:
                done += self._tend(folder.name, bytes_per_second)
            except (HomeportError, OSError) as error:
                # one machine's trouble must not keep the others from being looked after
                log.warning("machine can't be tended", machine=folder.name, cause=str(error))
                done.append(Tended(folder.name, f"failed: {error}"))
        return done

    def revive(self, name: str) -> list[Tended]:
        """What :meth:`tend` does for all machines, without hydration, for one."""
        self.folder(name)
        return self._tend(name, None)

    def _tend(self, name: str, bytes_per_second: int | None) -> list[Tended]:
        done: list[Tended] = []
        with self._alone(name):
            folder = self.folder(name)
            wanted, process = description.read(folder).description, MachineProcess(folder)
            origin = wanted.origin
            if origin is None or origin.hydrated or not process.alive():
                return done
            if point_server.ensure(origin.service, process.run):
                done.append(Tended(name, "point server started"))
            with process.monitor() as qmp:
                if _observe(qmp, wanted).status == _IO_ERROR:
                    qmp.execute("cont")
                    done.append(Tended(name, "resumed after an I/O error"))
            if bytes_per_second is not None and not origin.test and self._hydrate(folder, bytes_per_second).finished:
                done.append(Tended(name, "hydrated"))
        return done

    def serve_origin(self, name: str) -> None:
        """For reading the disks of a machine that is off: its recovery point's server runs, where it needs one."""
        folder = self.folder(name)
        origin = description.read(folder).description.origin
        if origin is not None and not origin.hydrated:
            point_server.ensure(origin.service, folder / "run")

    # ── the host ────────────────────────────────────────────────────────────────────────────────────────────────

    def facts(self) -> dict[str, Any]:
        """What the host has and allows (see host.py), and ``accelerator`` {kind, why}."""
        chosen = accelerator.choose(self._cache, self._kernel)
        return {**host_facts(self.path), "accelerator": {"kind": chosen.kind, "why": chosen.why}}


@dataclass(frozen=True)
class _Seen:
    """``status``: QEMU's run state; "off": no process; "shutdown": the guest is off, its disks are held."""

    power: Power
    status: str
    agent: bool = False


def _observe(qmp: Qmp, wanted: Description) -> _Seen:
    if wanted.runner == "storage-daemon":
        on = _exports(qmp) & {_export_id(disk) for disk in wanted.disks}
        return _Seen(Power.RUNNING, "running") if on else _Seen(Power.OFF, _HELD)
    status = str(qmp.execute("query-status")["status"])
    channels = {channel["label"]: channel for channel in qmp.execute("query-chardev")}
    agent = bool(channels.get("agent", {}).get("frontend-open"))
    if status in _RUNNING:
        return _Seen(Power.RUNNING, status, agent)
    return _Seen(Power.OFF if status == _HELD else Power.PAUSED, status)


def _shut_guest_down(qmp: Qmp, agent: Path, timeout: float) -> bool:
    """ACPI first; after a third of the time the guest agent too."""
    begun = time.monotonic()
    asked_agent = False
    pressed = 0.0
    while True:
        status = str(qmp.execute("query-status")["status"])
        if status == _HELD:
            return True
        passed = time.monotonic() - begun
        if passed >= timeout:
            return False
        if status not in _RUNNING:
            qmp.execute("cont")  # a stopped guest hears nothing
        if not pressed or passed - pressed > timeout / 3:
            qmp.execute("system_powerdown")  # again: a guest that was still booting did not hear it
            pressed = max(passed, 1e-9)
        if passed > timeout / 3 and not asked_agent:
            asked_agent = True
            try:
                with GuestAgent(agent, min(5.0, timeout / 3)) as guest:
                    guest.shutdown()
            except (AgentSilent, AgentError) as error:
                log.info("the guest agent can't be asked to shut down", why=error.cause)
        qmp.wait_event("SHUTDOWN", min(_EVENT_SECONDS, timeout - passed))


def _placed(wanted: Description, options: StartOptions) -> Description:
    """The description with the network that this start asks for."""
    if options.network is None and not options.forward:
        return wanted
    return replace(wanted, nics=description.connected(wanted.nics, options.network, options.forward))


def _exports(qmp: Qmp) -> set[str]:
    return {str(export["id"]) for export in qmp.execute("query-block-exports") if not export["shutting-down"]}


def _export_id(disk: Disk) -> str:
    return f"{disk.id}-guest"


def _kept_command(process: MachineProcess) -> list[str] | None:
    try:
        kept: list[str] = json.loads((process.run / "command.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return kept


def _read_fence(folder: Path) -> str | None:
    """Why the machine is fenced; None: it isn't. A fence that can't be read still fences."""
    try:
        return str(json.loads((folder / FENCE).read_text())["reason"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        return f"its file {FENCE} can't be read ({error})"
