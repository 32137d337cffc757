"""The work that a site's configuration server carries out: one small function per kind.

Every kind looks before it acts: asked twice (the vault was killed and asks again), it does no harm. Every request
carries the item's fence number; one older than the newest seen is refused: its operation was superseded.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from homeport.bucket import purging
from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine, Power
from homeport.domain.points import Consistency, PointId
from homeport.domain.units import MINUTE, KiB, MiB
from homeport.servers import store_probe, vault_backup
from homeport.servers.crossing import Crossing
from homeport.servers.durable import write_durably
from homeport.servers.group_barrier import Groups
from homeport.servers.hydration_plan import HydrationPlan
from homeport.servers.imports import import_base
from homeport.servers.local_machine import LocalMachine, disk_views, without_disks
from homeport.servers.master_target import MasterTarget, NothingToRollBack, stamp
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.point_services import PointServices
from homeport.servers.replication import Final, Replication
from homeport.servers.replication_spec import ReplicationSpec, machine_key_of
from homeport.servers.site_facts import StoreProbe, drives
from homeport.servers.store_care import StoreCare
from homeport.sites.errors import MachineNotFound
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite
from homeport.store import names
from homeport.store.keys import VaultKey, machine_key, place_header, seal_vault, sealed_header
from homeport.store.objects import Objects, versioned
from homeport.store.timeline import MachineStore

log = structlog.get_logger(__name__)

Progress = Callable[..., None]
Params = dict[str, Any]
Result = dict[str, Any]

HYDRATION_RATE = 200 * MiB
_PROBED = 64 * KiB
"""What is read of each disk of a point to see that it can be."""
HYDRATION_LOOK = 1.0
"""Seconds between two looks at how far a hydration that is waited for has come."""
LEASE_SECONDS = 10 * 365 * 86400.0
"""A running overlay's lease ends when its machine is removed; until then it must outlast any outage."""


class StaleWork(HomeportError):
    code = "work.superseded"
    remedy = "A newer operation on this item has begun; look at its job."


class NotReplicating(HomeportError):
    code = "replication.not-running"
    remedy = "See `homeport status ITEM` for what keeps replication from running."


class SiteWork:
    """``folder``: this site's own state: ``store``, ``cache``, ``retention``, ``points``. ``objects``: its store."""

    def __init__(self, name: str, site: QemuSite, folder: Path, objects: Objects, objects_url: str) -> None:
        self.name = name
        self._vault: VaultKey | None = None
        self._site = site
        self._folder = folder
        self._objects = objects
        self._objects_url = objects_url
        self._store_probe = StoreProbe(objects, objects_url)
        self._gateway = self._open_gateway()
        self._master_target = MasterTarget(folder / "retention")
        self._services = PointServices(folder / "points", objects_url)
        self._care = StoreCare(objects, lambda: self._vault, folder / "compaction")
        self._hydration = HydrationPlan()
        self._replications: dict[str, Replication] = {}
        self._crossings: dict[str, Crossing] = {}
        self._groups = Groups()
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._report: Callable[[dict[str, Any]], None] = lambda report: None
        self._owner = name
        self._kinds: dict[str, Callable[[Params, Progress], Result]] = {
            "inventory": self._inventory,
            "start-machine": self._start_machine,
            "prepare-timeline": self._prepare_timeline,
            "replicate": self._replicate,
            "renew-replication": self._renew_replication,
            "stop-replication": self._stop_replication,
            "take-point": self._take_point,
            "resync": self._resync,
            "planned-stop": self._planned_stop,
            "end-timeline": self._end_timeline,
            "points": self._points,
            "start-from-point": self._start_from_point,
            "remove-machine": self._remove_machine,
            "fence": self._fence,
            "power-off-original": self._power_off_original,
            "import-base": self._import_base,
            "write-disks": self._write_disks,
            "rollback-disks": self._rollback_disks,
            "start-original": self._start_original,
            "hide-points": self._hide_points,
            "probe-store": self._probe_store,
            "verify-point": self._verify_point,
            "purge": self._purge,
            "drop-points": self._drop_points,
            "drop-timeline": self._drop_timeline,
            "stop-machine": self._stop_machine,
            "hydrate": self._hydrate,
            "forget": self._forget,
            "describe": self._describe,
            "raise-fence": lambda params, progress: {},
            "store-vault-backup": self._store_vault_backup,
            "list-vault-backups": lambda params, progress: vault_backup.list_backups(self._objects),
        }

    # ── the configuration server's side ─────────────────────────────────────────────────────────────────────────

    def connect(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._care.start()

    def present(self) -> bool:
        """Whether the site's folder is there: a disk may have gone, and what is not there must not be made anew."""
        return self._folder.is_dir()

    def gateway(self) -> dict[str, str]:
        return {"url": self._gateway.url, "token": self._token()}

    def facts(self) -> dict[str, Any]:
        """For checks: the site's, its store's, its drives'."""
        return {**self._site.facts(), **drives(self._folder), "store": self._store_probe.facts()}

    def welcome(self, answer: dict[str, Any]) -> None:
        """The vault's answer to our greeting: its header, sealed by the passphrase, goes beside the data, once."""
        self._vault = VaultKey(answer["vault"], bytes.fromhex(answer["vault_key"]))
        if self.sealed_header() is not None:
            return
        if answer.get("sealed"):
            place_header(self._objects, answer["sealed"])
        elif answer.get("passphrase"):
            seal_vault(self._objects, self._vault, answer["passphrase"])
        else:
            raise HomeportError(
                f"the store of {self.name} can't be sealed: the passphrase was confirmed before any site had joined",
                code="site.no-passphrase",
                remedy="Copy the folder vault from another of this vault's stores into this one.",
            )

    def sealed_header(self) -> str | None:
        """The vault's sealed header as it lies in this site's store."""
        return sealed_header(self._objects)

    def resume(self, replications: list[Params]) -> None:
        for params in replications:
            self._start_replication(params)

    def carry_out(self, kind: str, params: Params, progress: Progress) -> Result:
        if not self.present():
            raise HomeportError(
                f"the folder of {self.name} is not there",
                code="site.folder-missing",
                remedy="Mount or restore it, then try again.",
            )
        handler = self._kinds.get(kind)
        if handler is None:
            raise HomeportError(f"unknown kind of work: {kind}", code="work.unknown-kind", remedy="Upgrade this site.")
        if "item" in params and "fence" in params:
            self._check_fence(params["item"], params["fence"])
        return handler(params, progress)

    def tend(self) -> None:
        """Look after what must go on: point servers, and hydration of machines that have come up."""
        if not self._folder.exists():
            return
        self._site.tend()
        for machine in self._site.machines():
            if self._hydration.due(machine):
                self._site.hydrate(machine.name, HYDRATION_RATE)

    def stop(self) -> None:
        self._ending.set()
        with self._lock:
            running = list(self._replications.values())
        for replication in running:
            replication.stop(timeout=10)
        self._care.stop(timeout=10)
        self._gateway.close()

    # ── replication from here ───────────────────────────────────────────────────────────────────────────────────

    def _replicate(self, params: Params, progress: Progress) -> Result:
        self._cache(params["item"], params["timeline"]).joinpath("final.json").unlink(missing_ok=True)
        self._master_target.discard(params["machine"])
        self._start_replication(params)
        return {}

    def _start_replication(self, params: Params) -> Replication:
        spec = ReplicationSpec.from_json(params)
        with self._lock:
            running = self._replications.get(spec.item)
            if running is not None and running.alive and running.spec.timeline == spec.timeline:
                running.renew(params)
                return running
        if running is not None:
            running.stop()
        with self._lock:
            cache = self._cache(spec.item, spec.timeline)
            write_durably(cache / "replicate.json", json.dumps(params).encode())
            machine = LocalMachine(self._site, spec.vm, cache / "scratch", exclude=spec.exclude)
            crossing = self._crossings.setdefault(spec.item, Crossing())
            barrier = self._groups.of(spec.group) if spec.group else None
            replication = Replication(spec, machine, self._objects, cache, self._owner, self._report, crossing, barrier)
            self._replications[spec.item] = replication
            replication.start()
            return replication

    def _renew_replication(self, params: Params, progress: Progress) -> Result:
        """The item's policy changed. Where nothing replicates nothing begins: who begins is told the policy then."""
        with self._lock:
            running = self._replications.get(params["item"])
        if running is None or not running.alive or running.spec.timeline != params["timeline"]:
            return {"renewed": False}
        running.renew(params)
        return {"renewed": True}

    def _running(self, item: str) -> Replication:
        with self._lock:
            replication = self._replications.get(item)
        if replication is None or not replication.alive:
            raise NotReplicating(f"nothing is replicated from {self.name} for this item")
        return replication

    def _stop_replication(self, params: Params, progress: Progress) -> Result:
        with self._lock:
            replication = self._replications.pop(params["item"], None)
        if replication is None:
            return {"head": None}
        replication.stop()
        return {"head": _text(replication.head)}

    def _take_point(self, params: Params, progress: Progress) -> Result:
        replication = self._running(params["item"])
        tags = (params["tag"],) if params.get("tag") else ()
        timeout = float(params.get("timeout", 5 * MINUTE))
        try:
            taken = replication.take_point(Consistency(params["consistency"]), tags, timeout)
        except TimeoutError as error:
            raise HomeportError(
                f"no point was taken within {timeout:.0f} s: replication is busy",
                code="replication.busy",
                remedy="See `homeport status ITEM` for what it does; the point is taken when it is done.",
            ) from error
        return {
            "point": str(taken.point),
            "consistency": str(taken.consistency),
            "notes": taken.notes,
            "found_by": taken.found_by,
            "logical_bytes": taken.logical_bytes,
        }

    def _resync(self, params: Params, progress: Progress) -> Result:
        self._running(params["item"]).resync()
        return {}

    def _planned_stop(self, params: Params, progress: Progress) -> Result:
        item = params["item"]
        cache = self._newest_cache(item)
        final = cache / "final.json" if cache else None
        if final and final.exists() and self._site.machine(params["vm"]).power is Power.OFF:
            self._stay_off(params["vm"])
            self._stop_replication(params, progress)
            result: Result = json.loads(final.read_bytes())
            return result
        with self._lock:
            replication = self._replications.get(item)
        if (replication is None or not replication.alive) and cache and (cache / "replicate.json").exists():
            replication = self._start_replication(json.loads((cache / "replicate.json").read_bytes()))
        if replication is None:
            raise NotReplicating(f"nothing is replicated from {self.name} for this item")
        timeout = float(params.get("timeout", 2 * MINUTE))
        try:
            outcome: Final = replication.finish(timeout, timeout + 10 * MINUTE)
        except (HomeportError, TimeoutError, OSError) as error:
            log.warning("planned stop", item=item, error=repr(error))
            head = replication.head
            replication.stop(timeout=MINUTE)
            outcome = Final(head, False, [f"the last changes could not be taken: {error or 'nothing moved any more'}"])
            self._stay_off(params["vm"])
            if cache:  # asked again, there is no machine left that could tell
                write_durably(cache / "final.json", json.dumps(outcome.to_json()).encode())
        with self._lock:
            self._replications.pop(item, None)
        replication.stop()
        self._stay_off(params["vm"])
        return outcome.to_json()

    def _stay_off(self, vm: str) -> None:
        """What was stopped for a failover must not come up again beside the machine that goes on elsewhere."""
        self._site.fence(vm, "it was stopped for a failover")
        self._site.power_off(vm)

    # ── this site's store ───────────────────────────────────────────────────────────────────────────────────────

    def _store(self, params: Params) -> MachineStore:
        return MachineStore(self._objects, machine_key_of(params))

    def _prepare_timeline(self, params: Params, progress: Progress) -> Result:
        self._keep_key(params)
        store = self._store(params)
        store.create_timeline(params["timeline"], parent=_point(params, "parent"), origin=_point(params, "origin"))
        if params.get("description"):
            store.describe(params["description"])
        return {}

    def _end_timeline(self, params: Params, progress: Progress) -> Result:
        self._store(params).end(params["timeline"], params.get("reason", "failover"))
        return self._points(params, progress)

    def _points(self, params: Params, progress: Progress) -> Result:
        store = self._store(params)
        points = store.points(params["timeline"])
        return {"points": [point.to_json() for point in points], "head": _text(store.head(params["timeline"]))}

    def _probe_store(self, params: Params, progress: Progress) -> Result:
        if self._vault is None:
            raise HomeportError("this site has not greeted its vault yet", code="site.not-joined")
        return {"free": store_probe.try_out(params["store"], self._vault.id)}

    def _verify_point(self, params: Params, progress: Progress) -> Result:
        """The point can be opened here, has all disks of ``disks``, and all that it stands on is there."""
        store = self._store(params)
        point = PointId.parse(params["point"])
        found = store.verify(point, progress=progress)
        reader = store.open(point)
        wrong = [f"{problem.object}: {problem.cause}" for problem in found.problems]
        wrong += [f"it has no {disk}" for disk in params["disks"] if disk not in reader.disks]
        if wrong:
            raise HomeportError(
                f"recovery point {point} can't be used at {self.name}: {'; '.join(wrong[:5])}",
                code="protect.point-unusable",
                remedy="Compare everything again with `homeport disable ITEM` and a new `homeport protect`; "
                "`homeport store verify --deep` tells more of the store.",
                problems=wrong,
            )
        for disk, size in reader.disks.items():
            reader.read(disk, 0, min(size, _PROBED))
        return {"point": str(point), "disks": dict(reader.disks), "objects": found.objects, "segments": found.segments}

    def _hide_points(self, params: Params, progress: Progress) -> Result:
        self._store(params).hide(params["timeline"], int(params["upto"]))
        return {}

    def _drop_points(self, params: Params, progress: Progress) -> Result:
        """``timelines``: up to which number each loses its points; ``keep``: points that something still needs. The
        newest of each, leased ones and those that others fork from stay in any case: hidden, not dropped."""
        store = self._store(params)
        keep = {PointId.parse(point) for point in params["keep"]}
        there = set(store.timeline_ids())
        dropped = 0
        for timeline, upto in params["timelines"].items():
            if timeline not in there:
                continue
            store.hide(timeline, int(upto))
            found = [point.id for point in store.points(timeline, hidden=True)]
            drop = [point.number for point in found if point.number <= int(upto) and point not in keep]
            dropped += len(store.expire(timeline, drop).dropped)
        return {"dropped": dropped}

    def _drop_timeline(self, params: Params, progress: Progress) -> Result:
        self._store(params).purge(params["timeline"])
        return {}

    def _import_base(self, params: Params, progress: Progress) -> Result:
        self._keep_key(params)
        store = self._store(params)
        if params.get("description"):
            store.describe(params["description"])
        machine = self._site.machine(params["vm"])
        if machine.power is not Power.OFF:
            raise HomeportError(
                f"{params['vm']} is {machine.power}, and its disks can only be taken as a base while it is off",
                code="reprotect.machine-runs",
                remedy="Shut it down; its writes since the failover are undone by the failback.",
            )
        self._site.power_off(params["vm"])
        machine = without_disks(machine, params.get("exclude", ()))
        spool = self._cache(params["item"], params["timeline"]) / "import"
        parent = _point(params, "parent")
        with disk_views(self._site, machine) as views:
            stamps = {disk.id: stamp(self._site.folder(machine.name) / disk.path) for disk in machine.disks}
            info, differing = import_base(
                store, machine_key_of(params), params["timeline"], parent, _point(params, "origin"), machine, views,
                spool, self._owner, progress,
            )  # fmt: skip
        content = {"point": str(info.id), "disks": stamps}
        write_durably(self._folder / "imports" / f"{params['machine']}.json", json.dumps(content).encode())
        return {"point": str(info.id), "bytes": differing}

    def _imported(self, machine: str) -> dict[str, Any]:
        """The disks' stamps when they were last taken as a base."""
        path = self._folder / "imports" / f"{machine}.json"
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _describe(self, params: Params, progress: Progress) -> Result:
        """What a vault is rebuilt from, beside the points; where there are none any more, nothing is left lying."""
        if any(True for _ in self._objects.list(names.machine_keys(params["machine"]))):
            self._store(params).describe(params["description"])
        return {}

    def _store_vault_backup(self, params: Params, progress: Progress) -> Result:
        return vault_backup.store_backup(self._objects, self._joined(), params)

    # ── machines at this site ───────────────────────────────────────────────────────────────────────────────────

    def _inventory(self, params: Params, progress: Progress) -> Result:
        return {"machines": [machine.to_json() for machine in self._site.machines()], "facts": self.facts()}

    def _start_machine(self, params: Params, progress: Progress) -> Result:
        return {"machine": self._site.start(params["vm"], StartOptions()).to_json()}

    def _start_from_point(self, params: Params, progress: Progress) -> Result:
        keys = machine_key_of(params)
        store = MachineStore(self._objects, keys)
        point = PointId.parse(params["point"])
        self._must_lie_on(params["vm"], point)
        like = Machine.from_json(params["like"])
        store.lease(point, params["vm"], LEASE_SECONDS)
        service = self._services.prepare(params["vm"], like, point, keys)
        options = StartOptions(
            base=None if params.get("test") else point,
            network=(params.get("network") or "isolated") if params.get("test") else None,
            forward=tuple(params.get("forward") or ()),
        )
        machine = self._site.create_from_point(params["vm"], like, point, service, options)
        return {"machine": machine.to_json()}

    def _remove_machine(self, params: Params, progress: Progress) -> Result:
        vm = params["vm"]
        store = self._store(params)
        foreign = self._foreign(vm, store, params.get("test"))
        if foreign:
            return {"left": foreign}
        self._site.delete(vm)
        self._services.end(vm)
        for lease in store.leases():
            if lease.owner == vm:
                store.release(lease.point, vm)
        return {}

    def _must_lie_on(self, vm: str, point: PointId) -> None:
        """A machine that is there already under this name must be the one that is asked for."""
        try:
            origin = self._site.machine(vm).extra.get("origin")
        except MachineNotFound:
            return
        if not origin or origin["point"] != str(point):
            lies = f"on recovery point {origin['point']}" if origin else "with disks of its own"
            raise HomeportError(
                f"there is a machine {vm} at {self.name} already, {lies}; asked for was {point}",
                code="site.machine-exists",
                remedy="Rename or remove that machine, then restart the job.",
            )

    def _foreign(self, vm: str, store: MachineStore, test: bool | None) -> str | None:
        """Why the machine of this name is not ours to remove: it doesn't lie on a recovery point of this item."""
        try:
            origin = self._site.machine(vm).extra.get("origin")
        except MachineNotFound:
            return None
        if not origin:
            return f"{vm} at {self.name} has disks of its own: it was left alone"
        if PointId.parse(origin["point"]).timeline not in store.timeline_ids():
            return f"{vm} at {self.name} lies on another machine's recovery point: it was left alone"
        if test is not None and bool(origin["test"]) is not bool(test):
            return f"{vm} at {self.name} is {'a' if origin['test'] else 'no'} test machine: it was left alone"
        return None

    def _stop_machine(self, params: Params, progress: Progress) -> Result:
        """The guest is shut down, else loses power. ``gone``: there is no such machine."""
        vm = params["vm"]
        try:
            clean = self._site.shut_down(vm, float(params.get("timeout", 2 * MINUTE)))
        except MachineNotFound:
            return {"gone": True}
        self._site.power_off(vm)
        notes = [] if clean else [f"the guest of {vm} did not shut down in time and was powered off"]
        return {"gone": False, "notes": notes}

    def _hydrate(self, params: Params, progress: Progress) -> Result:
        """Until the machine holds all of its disks itself; then nothing needs its recovery point any more."""
        vm, keys = params["vm"], machine_key_of(params)
        while True:
            state = self._site.hydrate(vm, HYDRATION_RATE)
            progress(state.done, state.total, "copying the rest of the recovery point")
            if state.finished:
                break
            if self._site.machine(vm).power is Power.OFF:
                raise HomeportError(
                    f"{vm} at {self.name} is off, and its disks still lie on its recovery point",
                    code="migration.machine-off",
                    remedy=f"Start it with `homeport machine start {self.name} {vm}`, then restart the job.",
                )
            if self._ending.wait(HYDRATION_LOOK):
                raise HomeportError(f"{self.name} stops", code="site.unreachable", remedy="Restart the job.")
        self._services.end(vm)
        store = MachineStore(self._objects, keys)
        for lease in store.leases():
            if lease.owner == vm:
                store.release(lease.point, vm)
        return {"bytes": state.total}

    def _fence(self, params: Params, progress: Progress) -> Result:
        """The machine goes on elsewhere: it must not be started here; where asked, it is powered off too."""
        try:
            self._site.fence(params["vm"], params["reason"])
            if params.get("power_off"):
                self._stop_replication(params, progress)
                self._site.power_off(params["vm"])
        except MachineNotFound:
            return {}
        return {}

    def _power_off_original(self, params: Params, progress: Progress) -> Result:
        vm, reason = params["vm"], params["reason"]
        try:
            self._site.machine(vm)
        except MachineNotFound as error:
            raise HomeportError(
                f"the original machine {vm} is no longer at {self.name}",
                code="reprotect.original-missing",
                remedy="Put its folder back; failing back to a new location is not part of this release.",
            ) from error
        self._site.fence(vm, reason)
        self._site.power_off(vm)
        return {}

    def _write_disks(self, params: Params, progress: Progress) -> Result:
        store = self._store(params)
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

    def _start_original(self, params: Params, progress: Progress) -> Result:
        vm = params["vm"]
        for final in (self._folder / "cache" / params["item"]).glob("*/final.json"):
            final.unlink()  # it runs again: what an earlier planned stop left is history
        self._master_target.note_start(params["machine"])
        self._site.fence(vm, None)
        machine = self._site.start(vm, StartOptions(base=_point(params, "base")))
        return {"machine": machine.to_json()}

    def _forget(self, params: Params, progress: Progress) -> Result:
        self._stop_replication(params, progress)
        shutil.rmtree(self._folder / "cache" / params["item"], ignore_errors=True)
        self._master_target.discard(params["machine"])
        if params.get("remove_tracking"):
            LocalMachine(self._site, params["vm"], self._folder / "cache" / "scratch").forget_tracking()
        if params.get("timelines"):
            store = self._store(params)
            self._must_be_free(store)
            purge_timelines(store, params["timelines"])
            if not store.timeline_ids():
                store.purge()
        return {}

    def _purge(self, params: Params, progress: Progress) -> Result:
        """Delete the points of ``timelines``; where the machine has no others here, all of it, with ``shred`` its key
        first."""
        store = self._store(params)
        self._must_be_free(store)
        if set(store.timeline_ids()) - set(params["timelines"]):
            purge_timelines(store, params["timelines"])
            return {"notes": [f"The machine has other recovery points at {self.name}: its key stays there."]}
        shred = bool(params.get("shred"))
        notes = []
        if shred and versioned(self._objects) is not False:
            notes.append(f"The store of {self.name} may keep what is deleted: the machine's key could be brought back.")
        purging.purge(self._objects, params["machine"], shred=shred, progress=progress)
        return {"notes": notes}

    def _must_be_free(self, store: MachineStore) -> None:
        """A machine that still reads its recovery point would lose its disks with it."""
        for lease in store.leases():
            try:
                origin = self._site.machine(lease.owner).extra.get("origin")
            except MachineNotFound:
                continue
            if origin and not origin["hydrated"]:
                raise HomeportError(
                    f"{lease.owner} at {self.name} still runs on recovery point {lease.point}",
                    code="store.in-use",
                    remedy="They stay until it holds all of its disks itself; then disable it again.",
                )

    # ── this site's own small files ─────────────────────────────────────────────────────────────────────────────

    def _cache(self, item: str, timeline: str) -> Path:
        return self._folder / "cache" / item / timeline

    def _newest_cache(self, item: str) -> Path | None:
        found = list((self._folder / "cache" / item).glob("*/replicate.json"))
        return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None

    def _token(self) -> str:
        return (self._folder / "gateway.token").read_text()

    def _open_gateway(self) -> ObjectGateway:
        token = self._folder / "gateway.token"
        if not token.exists():
            write_durably(token, secrets.token_urlsafe(32).encode())
        remembered = self._folder / "gateway.port"
        port = int(remembered.read_text()) if remembered.exists() else 0
        try:
            gateway = ObjectGateway(self._objects, token.read_text(), port=port)
        except OSError:
            gateway = ObjectGateway(self._objects, token.read_text())
        write_durably(remembered, str(gateway.port).encode())
        gateway.start()
        return gateway

    def _keep_key(self, params: Params) -> None:
        """The machine's key, wrapped by the vault's, lies beside the data: the bucket and the passphrase are enough."""
        machine_key(self._objects, self._joined(), params["machine"], create=machine_key_of(params))

    def _joined(self) -> VaultKey:
        """The vault's key, as the vault told it."""
        if self._vault is None:
            raise HomeportError("this site has not greeted its vault yet", code="site.not-joined")
        return self._vault

    def _check_fence(self, item: str, fence: int) -> None:
        path = self._folder / "fences" / item  # outlasts the item: work may come late
        with self._lock:
            seen = int(path.read_text()) if path.exists() else 0
            if fence < seen:
                raise StaleWork(f"work with fence {fence} arrived after {seen}")
            if fence > seen:
                write_durably(path, str(fence).encode())


def purge_timelines(store: MachineStore, timelines: Collection[str]) -> None:
    """Delete those of ``timelines`` that are there, forks before what they fork from. One that another timeline of the
    machine forks from stays."""
    left = [info for info in store.timelines() if info.id in timelines]
    while left:
        needed = {info.parent.timeline for info in store.timelines() if info.parent and info.parent.timeline != info.id}
        free = [info for info in left if info.id not in needed]
        if not free:
            return
        for info in free:
            store.purge(info.id)
        left = [info for info in left if info not in free]


def _point(params: Params, name: str) -> PointId | None:
    return PointId.parse(params[name]) if params.get(name) else None


def _text(point: PointId | None) -> str | None:
    return str(point) if point else None
