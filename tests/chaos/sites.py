"""Two sites with many machines, whose servers die, are slow and fail, and which record every effect that they have.

On top of tests/vault's fake sites. What a machine, a store or a fence is outlives a server's death; what a server only
remembered (its replications, work in hand) does not. As real ones, they refuse work with a lower fence than they have
seen, and carry out each piece of work in a thread of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import httpx

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine, Power
from homeport.domain.points import Consistency, PointId, PointInfo
from tests.chaos.history import History
from tests.vault.fake_sites import FakeMachine, FakeSite, Stopped, World

Json = dict[str, Any]

MOST_POINTS = 8
"""A timeline stops growing there: long lists would only cost time."""
REPORT_EVERY = 1.5


class ChaosSite(FakeSite):
    world: ChaosWorld

    def __init__(self, world: ChaosWorld, name: str, machines: list[Machine]) -> None:
        super().__init__(world, name, machines)
        self._lock = world.lock
        self._finals: dict[str, Json] = {}
        self._resyncing: dict[str, float] = {}
        self._draws: dict[str, Random] = {}
        self._wake = threading.Event()
        self._doing = threading.local()

    # the server

    def begin(self) -> None:
        with self._lock:
            self.replications = {}
        super().begin()

    def _call(self, method: str, path: str, body: Json | None = None, **query: Any) -> Json:
        alive = self._alive
        while alive.is_set():
            try:
                answer = self._client.request(
                    method,
                    f"{self.world.url}/v1/agent/{self.name}/{path}",
                    json=body,
                    params=query,
                    headers={"Authorization": f"Bearer {self.world.token}"},
                    timeout=8,
                )
            except (httpx.TransportError, RuntimeError):
                self.world.another()
                time.sleep(0.3)
                continue
            if answer.status_code == 410:
                return {}
            if answer.status_code >= 500:
                self.world.history.violation(
                    f"{self.name}'s server was answered {answer.status_code}", path=path, text=answer.text[:500]
                )
                self.world.another()
                time.sleep(0.3)
                continue
            if answer.status_code >= 400:
                self.world.history.violation(
                    f"the vault refused what {self.name}'s server said", path=path, text=answer.text[:300]
                )
                return {}
            found: Json = answer.json()
            return found
        raise Stopped

    def _long_poll(self, have: str) -> list[Json]:
        url = httpx.URL(self.world.url)
        self._poll_connection = connection = http.client.HTTPConnection(url.host, url.port, timeout=8)
        try:
            headers = {"Authorization": f"Bearer {self.world.token}"}
            connection.request("GET", f"/v1/agent/{self.name}/work?wait=4&have={have}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                found: list[Json] = json.loads(body)["work"]
                return found
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        self.world.another()
        time.sleep(0.3)
        return []

    def _work(self, work: Json, alive: threading.Event) -> None:
        with contextlib.suppress(Stopped):
            self._call("POST", f"work/{work['id']}", {"state": "running"})
            try:
                body: Json = {"state": "done", "result": self._carry_out(work, alive)}
            except HomeportError as error:
                body = {"state": "failed", "error": error.to_json()}
            if not alive.is_set():
                return
            self._call("POST", f"work/{work['id']}", body)
            with self._lock:
                self._in_hand.discard(work["id"])

    def _report(self, alive: threading.Event) -> None:
        with contextlib.suppress(Stopped):
            while alive.is_set():
                with self._lock:
                    current = list(self.replications.values())
                for params in current:
                    if not alive.is_set():
                        return
                    self._grow(params)
                    self._report_one(params)
                self._wake.wait(REPORT_EVERY)
                self._wake.clear()

    def _grow(self, params: Json) -> None:
        with self._lock:
            timeline = self.world.sites[params["store"]["site"]].timelines.get(params["timeline"])
            if timeline is not None and not timeline.ended and len(timeline.offered()) < MOST_POINTS and self.produce:
                self.world.sites[params["store"]["site"]].add_point(params["timeline"])

    def _tell(self, params: Json) -> None:
        with self._lock:
            timeline = self.world.sites[params["store"]["site"]].timelines.get(params["timeline"])
            if timeline is None or self.replications.get(params["item"]) is not params:
                return
            points = timeline.offered()
            resyncing = self._resyncing.get(params["item"], 0) > time.monotonic()
            fenced = {"code": "store.fenced", "cause": "the timeline has ended", "remedy": ""}
            body = {
                "item": params["item"],
                "timeline": params["timeline"],
                "phase": "error" if timeline.ended else "resyncing" if resyncing else "replicating",
                "progress": {"done": 1, "total": 2, "unit": "bytes", "text": "copying"},
                "head": points[-1]["id"] if points else timeline.parent,
                "rpo_from": points[-1]["time"] if points else None,
                "error": fenced if timeline.ended else None,
                "crossed": {"out": 100, "in": 1},
                "points": points,
            }
        self._call("POST", "report", body)

    # the work

    def _carry_out(self, work: Json, alive: threading.Event) -> Json:
        kind, params = work["kind"], work["params"]
        vm = self.world.vms.get(params.get("machine", ""), "")
        trouble = self._trouble(kind, vm)
        if trouble.delay:
            time.sleep(trouble.delay)
        if trouble.fail:
            self.world.history.note("work-fails", site=self.name, vm=vm, kind=kind, work=work["id"])
            raise HomeportError(f"{kind} broke", code=f"fake.{kind}", remedy="Mend it.")
        with self._lock:
            if not alive.is_set():
                raise Stopped
            if "item" in params:
                self.world.items[params["item"]] = vm
                seen = self._fences.get(params["item"], 0)
                if params["fence"] < seen:
                    self.world.history.note("superseded", site=self.name, vm=vm, kind=kind, fence=params["fence"])
                    raise HomeportError(f"fence {params['fence']} after {seen}", code="work.superseded")
                self._fences[params["item"]] = params["fence"]
            self._doing.incomplete = trouble.incomplete
            with self.watched(vm, work):
                result = self._effect(kind, params)
        if trouble.lose:
            self.world.history.note("work-loses", site=self.name, vm=vm, kind=kind, work=work["id"])
            raise HomeportError(f"{kind} was done, but broke after it", code=f"fake.{kind}")
        return result

    def _effect(self, kind: str, params: Json) -> Json:
        work: Callable[[Json], Json] | None = getattr(self, "do_" + kind.replace("-", "_"), None)
        if work is None:
            raise HomeportError(f"unknown kind of work: {kind}", code="work.unknown-kind")
        if "timeline" in params and "item" in params:
            self.world.owners.setdefault(params["timeline"], params["item"])
        try:
            return work(params)
        except KeyError as error:  # a machine or timeline that a step which failed never made
            raise HomeportError(f"{self.name} has no {error}", code="fake.not-there") from error
        except AssertionError as error:
            shown = {name: value for name, value in params.items() if name not in ("keys", "like", "description")}
            self.world.history.violation(f"{self.name} was asked for {kind}, but: {error!r}", params=shown)
            raise HomeportError(f"{kind} must not be: {error!r}", code="fake.violation") from error

    def _trouble(self, kind: str, vm: str) -> Trouble:
        """Drawn by the machine, its site and how much was asked before: the scheduling of others does not count."""
        with self._lock:
            draw = self._draws.setdefault(vm, Random(f"{self.world.seed}/{self.name}/{vm}"))
            chance, quick, hurt, slow = draw.random(), draw.uniform(0, 0.15), draw.random(), draw.random()
        if not self.world.troubled or not vm:
            return Trouble()
        return Trouble(
            delay=quick if slow > 0.03 else 1 + 6 * hurt,
            fail=chance < 0.03,
            lose=0.03 <= chance < 0.05,
            incomplete=hurt < 0.15,
        )

    @contextlib.contextmanager
    def watched(self, vm: str, work: Json | None) -> Any:
        """Records what changes at this site meanwhile; under the lock."""
        before = self._look(vm)
        try:
            yield
        finally:
            for change in _changes(before, self._look(vm)):
                self.world.history.effect(self.name, vm, change, work)

    def _look(self, vm: str) -> Json:
        items = {item for item, name in self.world.items.items() if name == vm}
        return {
            "machines": {
                name: replace(self.machines[name]) for name in (vm, f"{vm}-test") if name in self.machines
            },
            "timelines": {
                name: (timeline.ended, timeline.hidden_upto, timeline.imported)
                for name, timeline in self.timelines.items()
                if self.world.owners.get(name) in items
            },
        }  # fmt: skip

    def add_point(
        self, timeline: str, consistency: Consistency = Consistency.CRASH, tags: tuple[str, ...] = ()
    ) -> PointId:
        with self._lock:
            store = self.timelines[timeline]
            if store.ended:
                raise HomeportError("the timeline has ended", code="store.fenced")
            point = PointId(timeline, max(store.points, default=0) + 1)
            store.points[point.number] = PointInfo(point, datetime.now(UTC), consistency, tags=tags)
            return point

    def do_replicate(self, params: Json) -> Json:
        self._finals.pop(params["item"], None)
        result = super().do_replicate(params)
        self._wake.set()
        return result

    def do_take_point(self, params: Json) -> Json:
        current = self.replications.get(params["item"])
        if current is None:
            raise HomeportError("not replicating", code="replication.not-running")
        consistency = Consistency(params["consistency"])
        tags = (params["tag"],) if params["tag"] else ()
        point = self.world.sites[current["store"]["site"]].add_point(current["timeline"], consistency, tags)
        self._wake.set()
        return {"point": str(point), "notes": []}

    def do_resync(self, params: Json) -> Json:
        if params["item"] not in self.replications:
            raise HomeportError("not replicating", code="replication.not-running")
        self._resyncing[params["item"]] = time.monotonic() + 1.5
        self._wake.set()
        return {}

    def do_planned_stop(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        known = self._finals.get(params["item"])
        if known is not None and not machine.running:
            self.replications.pop(params["item"], None)
            return known
        current = self.replications.pop(params["item"], None)
        if current is None:
            raise HomeportError("not replicating", code="replication.not-running")
        machine.running, machine.fenced = False, machine.fenced or "stopped"
        store = self.world.sites[current["store"]["site"]]
        if self._doing.incomplete or store.timelines[current["timeline"]].ended:
            outcome: Json = {"point": None, "complete": False, "notes": ["the store did not take the last changes"]}
        else:
            machine.content = str(store.add_point(current["timeline"]))
            outcome = {"point": machine.content, "complete": True, "notes": []}
        self._finals[params["item"]] = outcome
        return outcome

    def do_start_original(self, params: Json) -> Json:
        self._finals.pop(params["item"], None)
        return super().do_start_original(params)

    def do_import_base(self, params: Json) -> Json:
        if params["timeline"] not in self.timelines and self.machines[params["vm"]].running:
            raise HomeportError(f"{params['vm']} runs", code="reprotect.machine-runs")
        return super().do_import_base(params)


class Trouble:
    """What goes wrong with one piece of work."""

    def __init__(
        self, delay: float = 0, *, fail: bool = False, lose: bool = False, incomplete: bool = False
    ) -> None:  # fmt: skip
        self.delay = delay
        self.fail = fail
        self.lose = lose
        self.incomplete = incomplete


def _changes(before: Json, after: Json) -> list[str]:
    found = []
    for name in sorted({*before["machines"], *after["machines"]}):
        was: FakeMachine | None = before["machines"].get(name)
        now: FakeMachine | None = after["machines"].get(name)
        if was is None and now is not None:
            found.append(f"made {name} from {now.made_from}")
        if now is None:
            found.append(f"removed {name}")
            continue
        if now.running and (was is None or not was.running):
            found.append(f"started {name}")
        if was is None:
            continue
        if was.running and not now.running:
            found.append(f"stopped {name}")
        if was.content != now.content:
            found.append(f"disks {name} hold {now.content}")
        if (was.fenced is None) != (now.fenced is None):
            found.append(f"{'fenced' if now.fenced else 'unfenced'} {name}")
    for name in sorted({*before["timelines"], *after["timelines"]}):
        old, new = before["timelines"].get(name), after["timelines"].get(name)
        if old is None or new is None:
            found.append(f"timeline {name} {'made' if old is None else 'forgotten'}")
            if new is None or not new[2]:
                continue
        ended, hidden, imported = old or (False, -1, None)
        if new[0] and not ended:
            found.append(f"timeline {name} ended")
        if new[1] != hidden:
            found.append(f"timeline {name} hidden to {new[1]}")
        if new[2] and not imported:
            found.append(f"timeline {name} imported")
    return found


class ChaosWorld(World):
    """``machines``: how many run at the site east. ``urls``: of the vault's instances, any of which answers."""

    sites: dict[str, ChaosSite]  # type: ignore[assignment]

    def __init__(self, urls: list[str], token: str, machines: int, seed: str, history: History) -> None:
        self._urls = urls
        self._turn = itertools.count()
        super().__init__(urls[0], token)
        self.client.close()
        self.seed = seed
        self.history = history
        self.troubled = False
        self.lock = threading.RLock()
        disks = (Disk("disk0", 1 << 30, "raw"), Disk("disk1", 1 << 30, "qcow2"))
        described = [
            Machine(f"5b0c2a52-0000-4000-8000-{number:012x}", f"vm{number:02}", disks, power=Power.RUNNING)
            for number in range(machines)
        ]
        self.names = [machine.name for machine in described]
        self.vms = {machine.uuid: machine.name for machine in described}
        self.items: dict[str, str] = {}
        """Each item's machine."""
        self.owners: dict[str, str] = {}
        """Each timeline's item."""
        self.sites = {"east": ChaosSite(self, "east", described), "west": ChaosSite(self, "west", [])}

    @property
    def url(self) -> str:
        return self._url

    @url.setter
    def url(self, value: str) -> None:
        self._url = value

    def another(self) -> None:
        """The next caller goes to another instance of the vault."""
        self._url = self._urls[next(self._turn) % len(self._urls)]

    def tidy(self, vm: str) -> None:
        """An operator, by hand, after the protection was ended: one machine, at home, running."""
        with self.lock:
            east, west = self.sites["east"], self.sites["west"]
            with west.watched(vm, None):
                west.machines.pop(vm, None)
                west.machines.pop(f"{vm}-test", None)
            with east.watched(vm, None):
                east.machines[vm] = FakeMachine(vm)

    def left(self, item: str) -> tuple[str, ...]:
        """What the sites keep for an item."""
        found = []
        for site in self.sites.values():
            found += [f"timeline {name} at {site.name}" for name in site.timelines if self.owners.get(name) == item]
            if item in site.replications:
                found.append(f"replication from {site.name}")
        return tuple(found)
