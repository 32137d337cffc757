"""The original machine's disks: taken as a base at reprotect, written at failback, put back where that is undone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine, Power
from homeport.domain.points import PointId
from homeport.domain.retention_drives import why_not
from homeport.servers import seeds
from homeport.servers.durable import write_durably
from homeport.servers.imports import import_base
from homeport.servers.local_machine import disk_views, without_disks
from homeport.servers.master_target import MasterTarget, NothingToRollBack, stamp
from homeport.servers.replication_spec import machine_key_of
from homeport.servers.site_facts import device_of, drive, volumes
from homeport.servers.work.kinds import Duty
from homeport.servers.work.site_context import Handler, Params, Progress, Result, SiteContext, optional_point


class MasterTargetWork:
    """Keeps the retention drive's journals, and what the disks looked like when they were taken as a base."""

    duty = Duty.MASTER_TARGET

    def __init__(self, context: SiteContext) -> None:
        self.name = context.name
        self._context = context
        self._site = context.site
        self._master_target = MasterTarget(context.retention)
        self.kinds: dict[str, Handler] = {
            "import-base": self._import_base,
            "probe-seed": self._probe_seed,
            "import-seed": self._import_seed,
            "write-disks": self._write_disks,
            "rollback-disks": self._rollback_disks,
            "discard-journal": self._discard_journal,
            "note-start": self._note_start,
        }

    def facts(self) -> dict[str, Any]:
        return {"retention": drive(self._context.retention), "retention_drives": self._drives()}

    def _drives(self) -> list[dict[str, Any]]:
        """{"path", "filesystem", "total", "free", "reason"} of each; reason: null: it could be the retention drive."""
        context = self._context
        held = {
            "the system and this installation": Path(sys.prefix),
            "the process server's cache": context.caches,
            "the site's machines": context.folder.parent,
        }
        store = urlsplit(context.objects_url)
        if store.scheme == "file":
            held["the recovery store"] = Path(unquote(store.path))
        used_for = {device: what for what, folder in held.items() if (device := device_of(folder)) is not None}
        return [
            {
                "path": volume.path,
                "filesystem": volume.filesystem,
                "total": volume.total,
                "free": volume.free,
                "reason": why_not(volume, used_for),
            }
            for volume in volumes()
        ]

    def _import_base(self, params: Params, progress: Progress) -> Result:
        store = self._context.store(params)
        machine = self._site.machine(params["vm"])
        if machine.power is not Power.OFF:
            raise HomeportError(
                f"{params['vm']} is {machine.power}, and its disks can only be taken as a base while it is off",
                code="reprotect.machine-runs",
                remedy="Shut it down; its writes since the failover are undone by the failback.",
            )
        self._site.power_off(params["vm"])
        machine = without_disks(machine, params.get("exclude", ()))
        spool = self._context.folder / "imports" / params["item"] / params["timeline"]
        parent, origin = optional_point(params, "parent"), optional_point(params, "origin")
        with disk_views(self._site, machine) as views:
            stamps = {disk.id: stamp(self._site.folder(machine.name) / disk.path) for disk in machine.disks}
            info, differing = import_base(
                store, machine_key_of(params), params["timeline"], parent, origin, machine, views, spool, self.name,
                progress,
            )  # fmt: skip
        content = {"point": str(info.id), "disks": stamps}
        write_durably(self._context.folder / "imports" / f"{params['machine']}.json", json.dumps(content).encode())
        return {"point": str(info.id), "bytes": differing}

    def _probe_seed(self, params: Params, progress: Progress) -> Result:
        """The images are there, of the disks' sizes, and nobody writes to them."""
        with seeds.seed_images(self._site.path, params["seed"], params["disks"]) as images:
            return {"disks": {disk: image.size for disk, image in images.items()}}

    def _import_seed(self, params: Params, progress: Progress) -> Result:
        store = self._context.store(params)
        machine = without_disks(Machine.from_json(params["like"]), params.get("exclude", ()))
        timeline = params["timeline"]
        if (done := seeds.imported(store, timeline)) is not None:
            return {"point": done[0], "bytes": done[1]}
        spool = self._context.cache(params["item"], timeline) / "import"
        disks = [{"id": disk.id, "size": disk.size} for disk in machine.disks]
        with seeds.seed_images(self._site.path, params["seed"], disks) as images:
            point, taken = seeds.import_seed(
                store, machine_key_of(params), timeline, machine, images, spool, self.name, progress
            )
        return {"point": point, "bytes": taken}

    def _imported(self, machine: str) -> dict[str, Any]:
        """The disks' stamps when they were last taken as a base."""
        path = self._context.folder / "imports" / f"{machine}.json"
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _write_disks(self, params: Params, progress: Progress) -> Result:
        store = self._context.store(params)
        base, target = PointId.parse(params["base"]), PointId.parse(params["point"])
        machine = without_disks(self._site.machine(params["vm"]), params.get("exclude", ()))
        stamps = self._imported(params["machine"])
        imported = stamps["disks"] if stamps.get("point") == str(base) else None
        written = self._master_target.write_disks(
            self._site.folder(params["vm"]), machine, store.open(base), store.open(target), progress, imported
        )
        return {"written": written.written, "retained": written.retained}

    def _rollback_disks(self, params: Params, progress: Progress) -> Result:
        self._site.power_off(params["vm"])
        machine = without_disks(self._site.machine(params["vm"]), params.get("exclude", ()))
        try:
            return {"restored": self._master_target.roll_back(self._site.folder(params["vm"]), machine)}
        except NothingToRollBack:
            return {"restored": 0}

    def _discard_journal(self, params: Params, progress: Progress) -> Result:
        self._master_target.discard(params["machine"])
        shutil.rmtree(self._context.folder / "imports" / params["item"], ignore_errors=True)
        return {}

    def _note_start(self, params: Params, progress: Progress) -> Result:
        self._master_target.note_start(params["machine"])
        return {}
