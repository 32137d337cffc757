"""Two sites in memory, with a configuration server each that speaks the vault's real API.

They keep what the contract asks of real ones: every kind of work looks before it acts, work in hand is not begun twice,
results are told until the vault takes them, a lower fence than the last is refused.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from homeport.domain.errors import HomeportError
from homeport.domain.machines import Disk, Machine, Power
from homeport.domain.points import Consistency, PointId, PointInfo

Json = dict[str, Any]

REPORT_AGAIN = 0.4
"""Seconds after which a report is told again though it says what the last one said; another one is told at once."""


@dataclass
class FakeMachine:
    name: str
    running: bool = True
    fenced: str | None = None
    content: str | None = None
    """The point that its disks were made from or brought to."""
    made_from: str | None = None
    """The recovery point that it was made from, where it was."""
    before: str | None = None
    """What the retention drive would give back."""
    test: bool = False
    like: Json | None = None
    """What it was asked to be, where it was made from a point."""
    hydrated: bool = False


@dataclass
class FakeTimeline:
    points: dict[int, PointInfo] = field(default_factory=dict)
    parent: str | None = None
    origin: str | None = None
    ended: bool = False
    hidden_upto: int = -1
    imported: str | None = None

    def offered(self) -> list[Json]:
        return [point.to_json() for number, point in sorted(self.points.items()) if number > self.hidden_upto]


class Stopped(Exception):
    pass


class FakeSite:
    """One site: machines, a store, and its configuration server's threads."""

    def __init__(self, world: World, name: str, machines: list[Machine]) -> None:
        self.world = world
        self.name = name
        self.descriptions = {machine.name: machine for machine in machines}
        self.machines = {machine.name: FakeMachine(machine.name) for machine in machines}
        self.timelines: dict[str, FakeTimeline] = {}
        self.replications: dict[str, Json] = {}
        self.kept: dict[str, Json] = {}
        """What stopped replications would go on with: their caches."""
        self.calls: list[tuple[str, Json]] = []
        self.hello_answer: Json = {}
        self.tell_points = True
        self.app_obstacle = False
        self.in_use = False
        """Whether a machine needs the store's points."""
        self.hold: dict[str, threading.Event] = {}
        """Work of this kind waits for the event."""
        self.entered: dict[str, threading.Event] = {}
        self.fail: dict[str, int] = {}
        """How often work of this kind fails."""
        self.lose: dict[str, int] = {}
        """How often work of this kind is done and fails nevertheless."""
        self.phase = "replicating"
        self.error: Json | None = None
        self.incomplete_stops = 0
        """How many planned stops will not get the last changes out."""
        self.facts: Json = {}
        """What else it tells for checks."""
        self.produce = True
        """Whether a replication that began makes a first point."""
        self.told: dict[str, Json] = {}
        """What was described beside the points, by item."""
        self.shredded: list[str] = []
        """Machines whose keys were shredded here."""
        self.seeds: dict[str, int] = {}
        """Images that were carried here: their sizes by path."""
        self.networks: list[str] | None = None
        """What the site tells of its networks."""
        self.traffic: Json | None = None
        """What it tells of the bytes that its items' disks change."""
        self._fences: dict[str, int] = {}
        self._in_hand: set[str] = set()
        self._lock = threading.RLock()
        self._reports = threading.Lock()
        self._alive = threading.Event()
        self._threads: list[threading.Thread] = []
        self._client = httpx.Client(timeout=40, verify=False)
        self._poll_connection: http.client.HTTPConnection | None = None

    # the configuration server

    def begin(self) -> None:
        """Start the server, as a new process of it would."""
        self._alive = threading.Event()
        self._alive.set()
        self._client = httpx.Client(timeout=40, verify=False)
        self._in_hand = set()
        alive = self._alive
        self.hello_answer = self._call(
            "POST",
            "hello",
            {"executor": secrets.token_hex(4), "gateway": {"url": f"tcp://{self.name}", "token": "t"}, "facts": {}},
        )
        for params in self._call("GET", "replications")["replications"]:
            self.replications[params["item"]] = params
        for target in (self._poll, self._report):
            thread = threading.Thread(target=target, args=(alive,), name=f"{self.name}-{target.__name__}")
            thread.start()
            self._threads.append(thread)

    def die(self) -> None:
        """As if the server's process were killed: connections break, nothing is said any more."""
        self._alive.clear()
        with contextlib.suppress(OSError):
            if self._poll_connection is not None and self._poll_connection.sock is not None:
                self._poll_connection.sock.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)

    def _call(self, method: str, path: str, body: Json | None = None, **query: Any) -> Json:
        """Again and again until the vault answers."""
        alive = self._alive
        while alive.is_set():
            try:
                answer = self._client.request(
                    method,
                    f"{self.world.url}/v1/agent/{self.name}/{path}",
                    json=body,
                    params=query,
                    headers={"Authorization": f"Bearer {self.world.token}"},
                )
            except (httpx.TransportError, RuntimeError):
                threading.Event().wait(0.05)
                continue
            if answer.status_code == 410:
                return {}
            if answer.status_code >= 500:
                threading.Event().wait(0.05)
                continue
            assert answer.status_code < 400, answer.text
            found: Json = answer.json()
            return found
        raise Stopped

    def _poll(self, alive: threading.Event) -> None:
        with contextlib.suppress(Stopped):
            while alive.is_set():
                with self._lock:
                    have = ",".join(sorted(self._in_hand))
                for work in self._long_poll(have):
                    with self._lock:
                        if work["id"] in self._in_hand:
                            continue
                        self._in_hand.add(work["id"])
                    thread = threading.Thread(target=self._work, args=(work, alive), name=f"{self.name}-{work['kind']}")
                    thread.start()
                    self._threads.append(thread)

    def _long_poll(self, have: str) -> list[Json]:
        """By a connection that can be broken from another thread, as a death of the process would."""
        url = httpx.URL(self.world.url)
        self._poll_connection = connection = http.client.HTTPConnection(url.host, url.port, timeout=40)
        try:
            headers = {"Authorization": f"Bearer {self.world.token}"}
            connection.request("GET", f"/v1/agent/{self.name}/work?wait=10&have={have}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            found: list[Json] = json.loads(body)["work"] if answer.status == 200 else []
            return found
        except (OSError, http.client.HTTPException):
            threading.Event().wait(0.05)
            return []
        finally:
            connection.close()

    def _work(self, work: Json, alive: threading.Event) -> None:
        with contextlib.suppress(Stopped):
            try:
                self._call("POST", f"work/{work['id']}", {"state": "running"})
                result = self._do(work["kind"], work["params"], alive)
                if not alive.is_set():
                    return
                body = {"state": "done", "result": result}
            except HomeportError as error:
                body = {"state": "failed", "error": error.to_json()}
            self._call("POST", f"work/{work['id']}", body)
            with self._lock:
                self._in_hand.discard(work["id"])

    def _report(self, alive: threading.Event) -> None:
        told: dict[str, tuple[Json, float]] = {}
        with contextlib.suppress(Stopped):
            while alive.is_set():
                with self._lock:
                    current = list(self.replications.values())
                for params in current:
                    with self._reports:
                        body = self._status(params)
                        last, at = told.get(params["item"], (None, 0.0))
                        # A report costs the vault, and all who wait there, more than anything else here.
                        if body is not None and (body != last or time.monotonic() - at > REPORT_AGAIN):
                            self._call("POST", "report", body)
                            told[params["item"]] = body, time.monotonic()
                threading.Event().wait(0.1)

    def _report_one(self, params: Json) -> None:
        """One at a time: an older list told after a newer one would take points away for a moment."""
        with self._reports:
            if (body := self._status(params)) is not None:
                self._call("POST", "report", body)

    def _status(self, params: Json) -> Json | None:
        store = self.world.sites[params["store"]["site"]]
        timeline = store.timelines.get(params["timeline"])
        if timeline is None:
            return None
        points = timeline.offered()
        body: Json = {
            "item": params["item"],
            "timeline": params["timeline"],
            "phase": self.phase,
            "progress": {"done": 1, "total": 2, "unit": "bytes", "text": "copying"},
            "head": points[-1]["id"] if points else timeline.parent,
            "rpo_from": points[-1]["time"] if points else None,
            "error": self.error,
            "crossed": {"out": 100, "in": 1},
        }
        if self.tell_points:
            body["points"] = points
        if params.get("process_server"):
            body["process_server"] = params["process_server"]
        if self.traffic is not None:
            body["traffic"] = self.traffic
        return body

    # the work

    def _do(self, kind: str, params: Json, alive: threading.Event) -> Json:
        with self._lock:
            self.calls.append((kind, params))
            if kind in self.entered:
                self.entered[kind].set()
        while alive.is_set() and (held := self.hold.get(kind)) is not None and not held.wait(0.1):
            pass
        with self._lock:
            if "item" in params and "fence" in params:
                if kind in ("fence", "describe", "drop-timeline", "drop-points", "thin-points") and params[
                    "fence"
                ] < self._fences.get(params["item"], 0):
                    raise HomeportError("superseded", code="work.superseded")
                assert params["fence"] >= self._fences.get(params["item"], 0), "a fence went back"
                self._fences[params["item"]] = params["fence"]
                assert len(bytes.fromhex(params["keys"]["machine_key"])) == 32
            if self.fail.get(kind, 0) > 0:
                self.fail[kind] -= 1
                raise HomeportError(f"{kind} broke", code=f"fake.{kind}", remedy="Mend it.", why="asked to")
            work: Callable[[Json], Json] = getattr(self, "do_" + kind.replace("-", "_"))
            result = work(params)
            if self.lose.get(kind, 0) > 0:
                self.lose[kind] -= 1
                raise HomeportError(f"{kind} was done, but broke after it", code=f"fake.{kind}")
            return result

    def add_point(
        self,
        timeline: str,
        consistency: Consistency = Consistency.CRASH,
        tags: tuple[str, ...] = (),
        group: str | None = None,
    ) -> PointId:
        """The next point of a timeline in this site's store."""
        store = self.timelines[timeline]
        assert not store.ended, "a point was written into an ended timeline"
        number = max(store.points, default=0) + 1
        point = PointId(timeline, number)
        self.world.clock += timedelta(seconds=1)
        store.points[number] = PointInfo(point, self.world.clock, consistency, tags=tags, group=group)
        return point

    def do_inventory(self, params: Json) -> Json:
        facts: Json = {"fake": True} if self.networks is None else {"fake": True, "networks": self.networks}
        return {"machines": [machine.to_json() for machine in self.seen().values()], "facts": {**facts, **self.facts}}

    def seen(self) -> dict[str, Machine]:
        """What an inventory shows: the machines as they are now, those too that were made of recovery points."""
        found = dict(self.descriptions)
        for name, machine in self.machines.items():
            likes = [site.descriptions[like] for site in self.world.sites.values() for like in site.descriptions]
            like = next((like for like in likes if like.name == name.removesuffix("-test")), None)
            if like is None and machine.like is not None:
                like = Machine.from_json(machine.like)
            if like is not None:
                origin = {"origin": {"point": machine.made_from, "test": machine.test}} if machine.made_from else {}
                power = Power.RUNNING if machine.running else Power.OFF
                found[name] = replace(found.get(name, like), name=name, power=power, extra=origin)
        return found

    def do_prepare_timeline(self, params: Json) -> Json:
        assert params["description"]["machine"]["uuid"] == params["machine"]
        self.timelines.setdefault(params["timeline"], FakeTimeline(parent=params["parent"], origin=params["origin"]))
        return {}

    def do_replicate(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        assert machine.running, "a machine that does not run can't replicate"
        assert params["store"]["url"] == f"tcp://{params['store']['site']}"
        self.replications[params["item"]] = params
        store = self.world.sites[params["store"]["site"]]
        with store._lock:
            timeline = store.timelines[params["timeline"]]
            assert not timeline.ended
            if self.produce and max(timeline.points, default=0) == 0:
                store.add_point(params["timeline"])
        return {}

    def do_renew_replication(self, params: Json) -> Json:
        running = self.replications.get(params["item"])
        if running is None or running["timeline"] != params["timeline"]:
            return {"renewed": False}
        running.update(params)
        return {"renewed": True}

    def do_stop_replication(self, params: Json) -> Json:
        current = self.replications.pop(params["item"], None)
        if current is not None:
            self.kept[params["item"]] = current
        return {"head": None}

    def do_take_point(self, params: Json) -> Json:
        current = self.replications.get(params["item"])
        if current is None:
            raise HomeportError("not replicating", code="fake.not-replicating")
        notes = []
        consistency = Consistency(params["consistency"])
        if consistency is Consistency.APP and self.app_obstacle:
            consistency, notes = Consistency.CRASH, ["78144: the guest agent did not answer"]
        tags = (params["tag"],) if params["tag"] else ()
        store = self.world.sites[current["store"]["site"]]
        point = store.add_point(current["timeline"], consistency, tags)
        self._report_one(current)
        return {"point": str(point), "notes": notes}

    def do_resync(self, params: Json) -> Json:
        self.phase = "resyncing"
        return {}

    def do_planned_stop(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        current = self.replications.pop(params["item"], None)
        if current is None and machine.running:
            current = self.kept.get(params["item"])
        if self.incomplete_stops > 0:
            self.incomplete_stops -= 1
            machine.running, machine.fenced = False, "stopped"
            return {"point": None, "complete": False, "notes": ["the store did not answer"]}
        if current is not None:
            machine.running = False
            point = self.world.sites[current["store"]["site"]].add_point(current["timeline"])
            machine.content = str(point)
        return {"point": machine.content, "complete": machine.content is not None, "notes": []}

    def do_fence(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        machine.fenced = params["reason"]
        machine.running = machine.running and not params["power_off"]
        return {}

    def do_end_timeline(self, params: Json) -> Json:
        if params["timeline"] not in self.timelines:
            raise HomeportError("There is no such timeline.", code="store.timeline-not-found")
        self.timelines[params["timeline"]].ended = True
        return self.do_points(params)

    def do_points(self, params: Json) -> Json:
        timeline = self.timelines[params["timeline"]]
        points = timeline.offered()
        return {"points": points, "head": points[-1]["id"] if points else timeline.parent}

    def do_start_from_point(self, params: Json) -> Json:
        point = PointId.parse(params["point"])
        assert point.number in self.timelines[point.timeline].points
        if not params["test"]:
            assert self.timelines[point.timeline].ended, "a failover starts its machine after replication has ended"
        machine = self.machines.setdefault(params["vm"], FakeMachine(params["vm"], test=params["test"]))
        if machine.made_from is None:
            machine.content = machine.made_from = params["point"]
            machine.like = params["like"]
        assert machine.made_from == params["point"], "a machine on another point was taken for it"
        machine.running = True
        return {"machine": {**params["like"], "name": params["vm"], "power": "running"}}

    def do_remove_machine(self, params: Json) -> Json:
        machine = self.machines.get(params["vm"])
        if machine is None:
            return {}
        if machine.made_from is None:
            return {"left": f"{params['vm']} lies on no recovery point"}
        assert machine.test == params["test"]
        assert machine.made_from == params["point"]
        del self.machines[params["vm"]]
        return {}

    def do_power_off_original(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        machine.running, machine.fenced = False, params["reason"]
        return {}

    def do_import_base(self, params: Json) -> Json:
        timeline = self.timelines.setdefault(
            params["timeline"], FakeTimeline(parent=params["parent"], origin=params["origin"])
        )
        if timeline.imported is None:
            machine = self.machines[params["vm"]]
            assert not machine.running, "disks in use were imported"
            point = PointId(params["timeline"], 0)
            self.world.clock += timedelta(seconds=1)
            timeline.points[0] = PointInfo(point, self.world.clock, Consistency.CRASH, tags=("import",))
            timeline.imported = str(point)
        return {"point": timeline.imported, "bytes": 10}

    def do_probe_seed(self, params: Json) -> Json:
        sizes = {disk["id"]: disk["size"] for disk in params["disks"]}
        for disk, path in params["seed"].items():
            if path not in self.seeds:
                raise HomeportError(f"There is no {path}.", code="seed.not-found")
            if self.seeds[path] != sizes[disk]:
                raise HomeportError(f"{path} has another size.", code="seed.wrong-size")
        return {"disks": sizes}

    def do_import_seed(self, params: Json) -> Json:
        self.do_probe_seed({**params, "disks": params["like"]["disks"]})
        assert params["like"]["uuid"] == params["description"]["machine"]["uuid"] == params["machine"]
        timeline = self.timelines.setdefault(params["timeline"], FakeTimeline())
        if not timeline.points:
            point = PointId(params["timeline"], 0)
            self.world.clock += timedelta(seconds=1)
            timeline.points[0] = PointInfo(point, self.world.clock, Consistency.CRASH, tags=("seed",))
        timeline.hidden_upto = max(timeline.hidden_upto, 0)
        return {"point": f"{params['timeline']}/0", "bytes": 10}

    def do_write_disks(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        assert not machine.running, "disks in use were written"
        assert machine.fenced
        assert params["base"]
        if machine.content != params["point"]:
            machine.before = machine.before or machine.content or "original"
            machine.content = params["point"]
        return {"written": 7, "retained": 7}

    def do_rollback_disks(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        assert not machine.running, "disks in use were rolled back"
        if machine.before is not None:
            machine.content, machine.before = machine.before, None
        return {"restored": 7}

    def do_start_original(self, params: Json) -> Json:
        machine = self.machines[params["vm"]]
        machine.running, machine.fenced = True, None
        return {"machine": {"name": params["vm"]}}

    def do_verify_point(self, params: Json) -> Json:
        point = PointId.parse(params["point"])
        assert point.number in self.timelines[point.timeline].points
        assert params["disks"]
        return {"point": params["point"], "disks": dict.fromkeys(params["disks"], 1), "objects": 3, "segments": 1}

    def do_switch_process_server(self, params: Json) -> Json:
        before = self.replications[params["item"]].get("process_server")
        self.replications[params["item"]] = params
        return {"process_server": params["process_server"], "before": before}

    def do_probe_store(self, params: Json) -> Json:
        assert params["store"]
        return {"free": 1 << 40}

    def do_purge(self, params: Json) -> Json:
        if self.in_use:
            raise HomeportError("A machine needs them.", code="store.in-use")
        for timeline in params["timelines"]:
            self.timelines.pop(timeline, None)
        if params["shred"]:
            self.shredded.append(params["machine"])
        return {"notes": []}

    def do_drop_points(self, params: Json) -> Json:
        for name, upto in params["timelines"].items():
            timeline = self.timelines[name]
            timeline.hidden_upto = max(timeline.hidden_upto, upto)
            forks = {other.parent for other in self.timelines.values()}
            for number in [number for number in timeline.points if number <= upto and number < max(timeline.points)]:
                if not {f"{name}/{number}"} & (forks | set(params["keep"])):
                    del timeline.points[number]
        return {}

    def do_thin_points(self, params: Json) -> Json:
        left = {}
        for name, numbers in params["timelines"].items():
            timeline = self.timelines[name]
            forks = {other.parent for other in self.timelines.values()}
            for number in numbers:
                if f"{name}/{number}" not in forks:
                    timeline.points.pop(number, None)
            left[name] = [PointId.parse(point["id"]).number for point in timeline.offered()]
        return {"left": left}

    def do_drop_timeline(self, params: Json) -> Json:
        name = params["timeline"]
        assert not any((other.parent or "").startswith(name) for other in self.timelines.values())
        self.timelines.pop(name, None)
        return {}

    def do_stop_machine(self, params: Json) -> Json:
        machine = self.machines.get(params["vm"])
        if machine is None:
            return {"gone": True}
        machine.running = False
        return {"gone": False, "notes": []}

    def do_hydrate(self, params: Json) -> Json:
        self.machines[params["vm"]].hydrated = True
        self.in_use = False
        return {"bytes": 10}

    def do_hide_points(self, params: Json) -> Json:
        timeline = self.timelines[params["timeline"]]
        timeline.hidden_upto = max(timeline.hidden_upto, params["upto"])
        return {}

    def do_forget(self, params: Json) -> Json:
        self.replications.pop(params["item"], None)
        if params["timelines"] and self.in_use:
            raise HomeportError("A machine needs them.", code="store.in-use")
        for timeline in params["timelines"]:
            self.timelines.pop(timeline, None)
        return {}

    def do_describe(self, params: Json) -> Json:
        self.told[params["item"]] = params["description"]
        return {}

    def do_raise_fence(self, params: Json) -> Json:
        return {}

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]


class World:
    """Both sites, and an operator's client."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.clock = datetime.now(UTC) - timedelta(minutes=2)
        disks = (Disk("disk0", 1 << 30, "raw"), Disk("disk1", 1 << 30, "qcow2"))
        web = Machine("5b0c2a52-0000-4000-8000-000000000001", "web", disks, power=Power.RUNNING)
        broken = Machine("5b0c2a52-0000-4000-8000-000000000002", "broken", disks, obstacles=("a disk is shared",))
        self.sites = {"east": FakeSite(self, "east", [web, broken]), "west": FakeSite(self, "west", [])}
        self.client = httpx.Client(base_url=url, timeout=60, verify=False, headers={"Authorization": f"Bearer {token}"})

    @property
    def east(self) -> FakeSite:
        return self.sites["east"]

    @property
    def west(self) -> FakeSite:
        return self.sites["west"]

    def close(self) -> None:
        """Ends both sites' servers and every thread of theirs."""
        for site in self.sites.values():
            for event in site.hold.values():
                event.set()
            site.die()
        for site in self.sites.values():
            site.join()
        self.client.close()

    # the operator; a vault that is being killed is asked again

    def call(
        self, method: str, path: str, body: Json | None = None, *, status: int | None = None, **query: Any
    ) -> Json:
        last: Exception | None = None
        for _ in range(600):
            try:
                answer = self.client.request(method, f"/v1{path}", json=body, params=query)
                break
            except httpx.TransportError as error:
                last = error
                threading.Event().wait(0.05)
        else:
            raise AssertionError(f"the vault does not answer: {last}")
        if status is None:
            assert answer.status_code < 400, answer.text
        else:
            assert answer.status_code == status, answer.text
        found: Json = answer.json()
        return found

    def begin(self, operation: str, body: Json | None = None, *, status: int = 202) -> Json:
        """The accepted job; or the refusal, where one is expected."""
        found = self.call("POST", f"/items/web/operations/{operation}", body or {}, status=status)
        return found.get("job", found)

    def wait(self, job: str, seconds: float = 60) -> Json:
        """The job when it has ended."""
        version = 0
        deadline = time.monotonic() + 2 * seconds
        while time.monotonic() < deadline:
            found = self.call("GET", f"/jobs/{job}", wait=2, version=version)
            version = found["version"]
            if found["state"] in ("succeeded", "failed", "cancelled"):
                return found
            threading.Event().wait(0.05)  # several changes in one answer: its end alone is waited for
        raise AssertionError(f"the job does not end: {found}")

    def run(self, operation: str, body: Json | None = None, *, ends: str = "succeeded") -> Json:
        done = self.wait(self.begin(operation, body)["id"])
        assert done["state"] == ends, done
        return done

    def item(self) -> Json:
        return self.call("GET", "/items/web")

    def expect(self, state: str, **values: Any) -> Json:
        item = self.item()
        assert item["state"] == state, item
        assert {name: item[name] for name in values} == values
        return item

    def until(self, look: Callable[[], bool], seconds: float = 60) -> None:
        for _ in range(int(seconds / 0.05)):
            if look():
                return
            threading.Event().wait(0.05)
        raise AssertionError("it never came to that")

    def set_up(self) -> None:
        self.call("POST", "/sites", {"name": "east", "provider": "qemu", "path": "/east"}, status=201)
        self.call("POST", "/sites", {"name": "west", "provider": "qemu", "path": "/west"}, status=201)
        self.call("POST", "/policies", {"name": "gold", "rpo_threshold": 900, "interval": 5}, status=201)
        for site in self.sites.values():
            site.begin()

    def protect(self, *, status: int = 202, **changes: Any) -> Json:
        body = {"machine": "web", "from": "east", "to": "west", "policy": "gold", **changes}
        return self.call("POST", "/items", body, status=status)

    def protected(self) -> None:
        done = self.wait(self.protect()["job"]["id"])
        assert done["state"] == "succeeded", done

    def more_points(self, count: int = 2) -> None:
        """Some more recovery points, known to the vault."""
        active, other = (self.east, self.west) if self.item()["active_site"] == "east" else (self.west, self.east)
        for _ in range(count):
            point = other.add_point(self.item()["timeline"])
        for params in list(active.replications.values()):
            active._report_one(params)
        self.until(lambda: str(point) in [each["id"] for each in self.points()])

    def points(self) -> list[Json]:
        found: list[Json] = self.call("GET", "/items/web/points")["points"]
        return found
