"""Replication from this site, and the door to this site's store for the process servers of others."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from homeport.domain.bandwidth import Schedule, ScheduleInvalid, show_rate
from homeport.domain.errors import HomeportError
from homeport.domain.points import Consistency
from homeport.domain.units import MINUTE
from homeport.servers.crossing import Crossing
from homeport.servers.durable import write_durably
from homeport.servers.group_barrier import Groups
from homeport.servers.host_load import HostLoad
from homeport.servers.local_machine import LocalMachines
from homeport.servers.machines import Machines
from homeport.servers.object_gateway import ObjectGateway
from homeport.servers.planned_stop import Final
from homeport.servers.remote_source import RemoteMachines
from homeport.servers.replication import Replication
from homeport.servers.replication_spec import ReplicationSpec
from homeport.servers.shipping import Shipping
from homeport.servers.site_facts import drive
from homeport.servers.throttle import zone
from homeport.servers.traffic import Traffic
from homeport.servers.work.errors import NotReplicating
from homeport.servers.work.kinds import SWITCH, THROTTLE, Duty
from homeport.servers.work.site_context import Handler, Params, Progress, Report, Result, SiteContext, text_of
from homeport.trust.identity import Identity

log = structlog.get_logger(__name__)


_SPEC = "replicate.json"
_TRAFFIC = "traffic.json"
_THROTTLE = "throttle.json"
"""In its own folder: what the vault said of its bandwidth, so that it is known from the start."""
_STOPPED = "it was stopped for a failover"
"""Why a machine must not come up again beside the one that goes on elsewhere."""
_MARK = "replicating"
"""Beside it while the vault wants it replicated."""


@dataclass(frozen=True)
class Door:
    """Where the object gateway listens (``port`` 0: the one used before, else any), how others reach it, and the
    identity that it shows. ``state``: where its token and its port are kept (None: in the servers' folder)."""

    host: str = "127.0.0.1"
    port: int = 0
    advertise: str | None = None
    identity: Identity | None = None
    state: Path | None = None


class ProcessServerWork:
    """One :class:`Replication` per item, each with its folder in the cache; and the object gateway."""

    duty = Duty.PROCESS_SERVER

    def __init__(
        self,
        context: SiteContext,
        door: Door | None = None,
        shipping: Shipping | None = None,
        elsewhere: RemoteMachines | None = None,
    ) -> None:
        """``elsewhere``: where the site's machines run; None: here."""
        self.shipping = shipping or Shipping.unlimited(context.caches)
        self._load = HostLoad()
        self.name = context.name
        self._context = context
        self._door = door or Door()
        self._state = self._door.state or context.folder
        self._owner = f"{context.name}/{_id_in(self._state)}"
        """What it claims timelines as: no other process server does, of its site neither."""
        self._elsewhere = elsewhere
        self._machines: Machines = elsewhere or LocalMachines(context.site)
        self._gateway = self._open_gateway()
        self._replications: dict[str, Replication] = {}
        self._crossings: dict[str, Crossing] = {}
        self._traffic: dict[str, Traffic] = {}
        self._groups = Groups()
        self._lock = threading.RLock()
        self._report: Report = lambda report: None
        self._take_up_throttle()
        self.kinds: dict[str, Handler] = {
            "replicate": self._replicate,
            "renew-replication": self._renew_replication,
            "stop-replication": self._stop_replication,
            "take-point": self._take_point,
            "resync": self._resync,
            "planned-stop": self._planned_stop,
            SWITCH: self._switch,
            THROTTLE: self._throttle,
            "forget-stop": self._forget_stop,
            "forget-replication": self._forget_replication,
        }

    def connect(self, report: Report) -> None:
        self._report = report

    def gateway(self) -> dict[str, str]:
        return {"url": self._gateway.url, "token": self._token()}

    def facts(self) -> dict[str, Any]:
        return {"cache": drive(self._context.caches), "process_server": self.vitals()}

    def vitals(self) -> dict[str, Any]:
        """What its health is judged by (domain/process_servers.py), the throttle that rules, and statistics by item:
        see :meth:`Replication.statistics`."""
        self._load.sample()
        room = self.shipping.room.look()
        with self._lock:
            running = [replication for replication in self._replications.values() if replication.alive]
        items = {replication.spec.item: replication.statistics() for replication in running}
        return {
            "cpu": self._load.cpu(),
            "memory": self._load.memory(),
            "cache": {"free": room.free, "total": room.total},
            "pending": max((each["pending"] for each in items.values() if each["pending"] is not None), default=None),
            "rate": show_rate(self.shipping.throttle.rate),
            "throttle": self.shipping.throttle.to_json(),
            "threads": self.shipping.threads,
            "items": items,
        }

    def tend(self) -> None:
        self._load.sample()

    def resume_own(self) -> None:
        """Go on with what was replicated when an earlier process ended, without asking anyone: the vault may be away,
        and a timeline that was ended meanwhile refuses us by itself."""
        for mark in list(self._context.caches.glob(f"*/*/{_MARK}")):
            self._start_replication(json.loads((mark.parent / _SPEC).read_bytes()))

    def resume(self, replications: list[Params]) -> None:
        for params in replications:
            self._start_replication(params)

    def stop(self) -> None:
        with self._lock:
            running = list(self._replications.values())
        for replication in running:
            replication.stop(timeout=0)  # all of them hear it first
        for replication in running:
            replication.stop(timeout=10)
        if self._elsewhere is not None:
            self._elsewhere.exchange.close()
        self._gateway.close()

    def _replicate(self, params: Params, progress: Progress) -> Result:
        self._context.cache(params["item"], params["timeline"]).joinpath("final.json").unlink(missing_ok=True)
        self._start_replication(params)
        return {}

    def _start_replication(self, params: Params) -> Replication:
        """However many ask at once: two loops of one item would share its digest files."""
        spec = ReplicationSpec.from_json(params)
        stopped: Replication | None = None
        while True:
            with self._lock:
                running = self._replications.get(spec.item)
                goes_on = running is not None and running.alive and not running.stopping
                if running is not None and goes_on and running.spec.timeline == spec.timeline:
                    running.renew(params)
                    return running
                if running is None or running is stopped:
                    return self._begin(spec, params)
            running.stop()
            stopped = running

    def _begin(self, spec: ReplicationSpec, params: Params) -> Replication:
        cache = self._context.cache(spec.item, spec.timeline)
        write_durably(cache / _SPEC, json.dumps(params).encode())
        self._unmark(spec.item)
        write_durably(cache / _MARK, b"")
        machine = self._machines.machine(spec.vm, cache, spec.exclude)
        crossing = self._crossings.setdefault(spec.item, Crossing())
        if spec.item not in self._traffic:
            self._traffic[spec.item] = Traffic(self._context.caches / spec.item / _TRAFFIC)
        replication = Replication(
            spec, machine, self._context.objects, cache, self._owner, self._report, crossing,
            identity=self._door.identity, barrier=self._groups.of(spec.group) if spec.group else None,
            shipping=self.shipping, traffic=self._traffic[spec.item],
        )  # fmt: skip
        self._replications[spec.item] = replication
        replication.start()
        return replication

    def _unmark(self, item: str) -> None:
        for mark in list((self._context.caches / item).glob(f"*/{_MARK}")):
            mark.unlink()

    def _renew_replication(self, params: Params, progress: Progress) -> Result:
        """The item's policy changed. Where nothing replicates nothing begins: who begins is told the policy then."""
        with self._lock:
            running = self._replications.get(params["item"])
        if running is None or not running.alive or running.spec.timeline != params["timeline"]:
            return {"renewed": False}
        running.renew(params)
        return {"renewed": True}

    def running(self, item: str) -> Replication:
        """Raises NotReplicating."""
        with self._lock:
            replication = self._replications.get(item)
        if replication is None or not replication.alive:
            raise NotReplicating(f"nothing is replicated from {self.name} for this item")
        return replication

    def _stop_replication(self, params: Params, progress: Progress) -> Result:
        self._unmark(params["item"])
        with self._lock:
            replication = self._replications.get(params["item"])
        if replication is None:
            return {"head": None}
        replication.stop()  # known until it has ended: who wants it again meanwhile waits for that
        with self._lock:
            if self._replications.get(params["item"]) is replication:
                del self._replications[params["item"]]
        return {"head": text_of(replication.head)}

    def _take_point(self, params: Params, progress: Progress) -> Result:
        replication = self.running(params["item"])
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

    def _switch(self, params: Params, progress: Progress) -> Result:
        raise HomeportError(
            f"all roles of {self._context.name} run in one process, which is its process server",
            code="site.no-server",
            remedy="Serve its roles apart to have several: `homeport serve --help`.",
        )

    def _throttle(self, params: Params, progress: Progress) -> Result:
        """From now on what the vault says of the bandwidth rules; null: this server's own configuration again."""
        return {"throttle": self.throttled(params["throttle"])}

    def throttled(self, told: dict[str, Any] | None) -> dict[str, Any]:
        """As :meth:`Throttle.to_json`. ``told``: as :meth:`Schedule.to_json`, or None. Raises ScheduleInvalid."""
        schedule = None if told is None else Schedule.from_json(told)
        if schedule is not None and schedule.zone is not None:
            zone(schedule.zone)
        if schedule != self.shipping.throttle.told:
            write_durably(self._state / _THROTTLE, json.dumps(told).encode())
            self.shipping.throttle.told = schedule
        return self.shipping.throttle.to_json()

    def _take_up_throttle(self) -> None:
        try:
            self.throttled(json.loads((self._state / _THROTTLE).read_bytes()))
        except FileNotFoundError:
            return
        except (ValueError, AttributeError, ScheduleInvalid) as error:
            log.warning("what the vault said of the bandwidth can't be read", error=str(error))

    @property
    def elsewhere(self) -> bool:
        """Whether the machines run elsewhere, and mobility services dial this process server."""
        return self._elsewhere is not None

    def items(self) -> list[str]:
        """Those that are replicated from here."""
        with self._lock:
            return sorted(item for item, running in self._replications.items() if running.alive)

    def superseded(self) -> list[str]:
        """Those that were replicated from here until another process server wrote in its place."""
        with self._lock:
            return sorted(item for item, each in self._replications.items() if not each.alive and each.superseded)

    def _resync(self, params: Params, progress: Progress) -> Result:
        self.running(params["item"]).resync()
        return {}

    def _planned_stop(self, params: Params, progress: Progress) -> Result:
        item = params["item"]
        cache = self._newest_cache(item)
        final = cache / "final.json" if cache else None
        machine = self._machines.machine(params["vm"], self._context.caches / item)
        if final and final.exists() and machine.is_off():
            machine.stay_off(_STOPPED)
            self._stop_replication(params, progress)
            result: Result = json.loads(final.read_bytes())
            return result
        with self._lock:
            replication = self._replications.get(item)
        if (replication is None or not replication.alive) and cache and (cache / _SPEC).exists():
            replication = self._start_replication(json.loads((cache / _SPEC).read_bytes()))
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
            machine.stay_off(_STOPPED)
            if cache:  # asked again, there is no machine left that could tell
                write_durably(cache / "final.json", json.dumps(outcome.to_json()).encode())
        self._stop_replication(params, progress)
        machine.stay_off(_STOPPED)
        return outcome.to_json()

    def _forget_stop(self, params: Params, progress: Progress) -> Result:
        """The machine runs again: what an earlier planned stop left is history."""
        for final in (self._context.caches / params["item"]).glob("*/final.json"):
            final.unlink()
        return {}

    def _forget_replication(self, params: Params, progress: Progress) -> Result:
        self._stop_replication(params, progress)
        self._traffic.pop(params["item"], None)
        cache = self._context.caches
        shutil.rmtree(cache / params["item"], ignore_errors=True)
        if params.get("remove_tracking"):
            self._machines.machine(params["vm"], cache).forget_tracking()
        return {}

    def _newest_cache(self, item: str) -> Path | None:
        found = list((self._context.caches / item).glob(f"*/{_SPEC}"))
        return max(found, key=lambda path: path.stat().st_mtime_ns).parent if found else None

    def _token(self) -> str:
        return (self._state / "gateway.token").read_text()

    def _open_gateway(self) -> ObjectGateway:
        token = self._state / "gateway.token"
        if not token.exists():
            write_durably(token, secrets.token_urlsafe(32).encode())
        remembered, door, objects = self._state / "gateway.port", self._door, self._context.objects

        def at(port: int) -> ObjectGateway:
            exchange = self._elsewhere.exchange if self._elsewhere else None
            return ObjectGateway(objects, token.read_text(), door.host, port, door.identity, door.advertise, exchange)

        if door.port:
            gateway = at(door.port)
            gateway.start()
            return gateway
        try:
            gateway = at(int(remembered.read_text()) if remembered.exists() else 0)
        except OSError:
            gateway = at(0)
        write_durably(remembered, str(gateway.port).encode())
        gateway.start()
        return gateway


def _id_in(state: Path) -> str:
    """Random, made once."""
    path = state / "writer-id"
    if not path.exists():
        write_durably(path, secrets.token_hex(8).encode())
    return path.read_text()
