"""Machines at this site: started, stopped, made of recovery points, fenced."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Machine, Power
from homeport.domain.points import PointId
from homeport.domain.units import MINUTE, MiB
from homeport.servers.hydration_plan import HydrationPlan
from homeport.servers.point_services import PointServices
from homeport.servers.replication_spec import machine_key_of
from homeport.servers.site_facts import drive
from homeport.servers.work.errors import StaleWork
from homeport.servers.work.kinds import Duty
from homeport.servers.work.site_context import Handler, Params, Progress, Result, SiteContext, optional_point
from homeport.sites.errors import MachineNotFound
from homeport.sites.interface import StartOptions
from homeport.store.timeline import MachineStore

HYDRATION_RATE = 200 * MiB
HYDRATION_LOOK = 1.0
"""Seconds between two looks at how far a hydration that is waited for has come."""
LEASE_SECONDS = 10 * 365 * 86400.0
"""A running overlay's lease ends when its machine is removed; until then it must outlast any outage."""


class ProviderWork:
    """What the site's provider does; point servers are its too, as machines run on them."""

    duty = Duty.PROVIDER

    def __init__(self, context: SiteContext) -> None:
        self.name = context.name
        self._context = context
        self._site = context.site
        self.services = PointServices(context.folder / "points", context.objects_url)
        self._hydration = HydrationPlan()
        self._ending = threading.Event()
        self.kinds: dict[str, Handler] = {
            "inventory": self._inventory,
            "start-machine": self._start_machine,
            "stop-machine": self._stop_machine,
            "remove-machine": self._remove_machine,
            "start-from-point": self._start_from_point,
            "hydrate": self._hydrate,
            "fence": self._fence,
            "power-off": self._power_off,
            "power-off-original": self._power_off_original,
            "start-original": self._start_original,
        }

    def facts(self) -> dict[str, Any]:
        return {**self._site.facts(), "folder": drive(self._context.folder.parent.resolve())}

    def tend(self) -> None:
        """Look after what must go on: point servers, and hydration of machines that have come up."""
        self._site.tend()
        for machine in self._site.machines():
            if self._hydration.due(machine):
                self._site.hydrate(machine.name, HYDRATION_RATE)

    def stop(self) -> None:
        self._ending.set()

    def _inventory(self, params: Params, progress: Progress) -> Result:
        return {"machines": [machine.to_json() for machine in self._site.machines()]}

    def _start_machine(self, params: Params, progress: Progress) -> Result:
        return {"machine": self._site.start(params["vm"], StartOptions()).to_json()}

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

    def _start_from_point(self, params: Params, progress: Progress) -> Result:
        keys = machine_key_of(params)
        store = MachineStore(self._context.objects, keys)
        point = PointId.parse(params["point"])
        self._must_lie_on(params["vm"], point)
        like = Machine.from_json(params["like"])
        store.lease(point, params["vm"], LEASE_SECONDS)
        service = self.services.prepare(params["vm"], like, point, keys)
        options = StartOptions(
            base=None if params.get("test") else point,
            network=(params.get("network") or "isolated") if params.get("test") else None,
            forward=tuple(params.get("forward") or ()),
        )
        machine = self._site.create_from_point(params["vm"], like, point, service, options)
        return {"machine": machine.to_json()}

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

    def _remove_machine(self, params: Params, progress: Progress) -> Result:
        vm = params["vm"]
        store = self._context.store(params)
        foreign = self._foreign(vm, store, params.get("test"))
        if foreign:
            return {"left": foreign}
        self._site.delete(vm)
        self.services.end(vm)
        for lease in store.leases():
            if lease.owner == vm:
                store.release(lease.point, vm)
        return {}

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

    def _hydrate(self, params: Params, progress: Progress) -> Result:
        """Until the machine holds all of its disks itself; then nothing needs its recovery point any more."""
        vm, keys = params["vm"], machine_key_of(params)
        lies_on = self._lies_on(vm)
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
        if self._lies_on(vm) != lies_on:  # nobody waited any more, and the machine was made anew
            raise StaleWork(f"{vm} at {self.name} no longer lies on {lies_on}")
        self.services.end(vm)
        store = MachineStore(self._context.objects, keys)
        for lease in store.leases():
            if lease.owner == vm:
                store.release(lease.point, vm)
        return {"bytes": state.total}

    def _lies_on(self, vm: str) -> str | None:
        """The recovery point that the machine was made from."""
        origin = self._site.machine(vm).extra.get("origin")
        return str(origin["point"]) if origin else None

    def _fence(self, params: Params, progress: Progress) -> Result:
        """The machine goes on elsewhere: it must not be started here."""
        with suppress(MachineNotFound):
            self._site.fence(params["vm"], params["reason"])
        return {}

    def _power_off(self, params: Params, progress: Progress) -> Result:
        with suppress(MachineNotFound):
            self._site.power_off(params["vm"])
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

    def _start_original(self, params: Params, progress: Progress) -> Result:
        vm = params["vm"]
        self._site.fence(vm, None)
        machine = self._site.start(vm, StartOptions(base=optional_point(params, "base")))
        return {"machine": machine.to_json()}
