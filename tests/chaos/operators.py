"""The operators: one for each machine, who begins, repeats, cancels and restarts, and never gives up on an answer.

All that one of them chooses is drawn from the seed and the machine's name; what there is to choose from is what the API
offers at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

import httpx

from homeport.domain.operations import Operation
from tests.chaos.sites import ChaosWorld

Json = dict[str, Any]

ENDED = ("succeeded", "failed", "cancelled")
PATIENCE = 600.0
"""Seconds after which an operator calls an answer or a job lost."""

WEIGHTS = {"disable": 0.7, "resync": 1, "point": 1.5, "failover": 4, "reprotect": 6, "failback": 5, "commit": 4}
USUAL = 2.0

INTERNAL = {"protect", "cancel-failover", "cancel-failback"}
"""Operations without a path of their own under an item."""


class NoAnswer(Exception):
    """The vault did not answer for so long that chaos does not explain it."""


class Operator:
    def __init__(self, world: ChaosWorld, vm: str, turns: int, claim: Callable[[], bool]) -> None:
        """``claim``: asked before each turn; False when there were enough."""
        self.world = world
        self.vm = vm
        self.turns = turns
        self._claim = claim
        self._draw = Random(f"{world.seed}/operator/{vm}")
        self._requests = 0
        self._last: Json | None = None
        self._client = httpx.Client(headers={"Authorization": f"Bearer {world.token}"}, timeout=10)

    def run(self) -> None:
        try:
            done = 0
            while done < self.turns and self._claim():
                self._turn()
                done += 1
        except NoAnswer as error:
            self.world.history.violation(str(error), vm=self.vm)
        finally:
            self._client.close()

    # one turn

    def _turn(self) -> None:
        item = self._item()
        if item is None:
            self.world.tidy(self.vm)
            self._last = None
            self._begin("protect", "/items", {"machine": self.vm, "from": "east", "to": "west", "policy": "gold"})
            return
        if item["job"] is not None:
            self._wait(item["job"])
            return
        if self._draw.random() < 0.1 and not item.get("commit_policy"):  # which may change its state at any moment
            self._forbidden(item)
        if self._last is not None and self._last["allowed"] and self._draw.random() < 0.5:
            what = self._draw.choice(self._last["allowed"])
            self._begin(f"{what} of {self._last['kind']}", f"/jobs/{self._last['id']}/{what}", {})
            return
        allowed = item["allowed_operations"]
        if not allowed:
            self.world.history.note("nothing-allowed", vm=self.vm, state=item["state"])
            time.sleep(0.5)
            return
        weights = [WEIGHTS.get(operation, USUAL) for operation in allowed]
        operation = self._draw.choices(allowed, weights)[0]
        self._begin(operation, f"/items/{item['id']}/operations/{operation}", self._params(operation, item))

    def _params(self, operation: str, item: Json) -> Json:
        draw = self._draw
        match operation:
            case "failover":
                if draw.random() < 0.25:
                    return {"planned": True}
                rolls_back = draw.random() < 0.15
                policy = {"commit_policy": "auto-rollback", "commit_after": 60} if rolls_back else {}
                return {"point": self._point(item), "shutdown": draw.random() < 0.75, **policy}
            case "failback" | "test-failover":
                return {"point": self._point(item)}
            case "change-point":
                return {"point": self._point(item)}
            case "point":
                return {"app_consistent": draw.random() < 0.3, "tag": draw.choice((None, "before patch"))}
            case "cleanup":
                return {"notes": "drilled"}
            case "commit":
                return {"erase_points": draw.random() < 0.3}
            case "disable":
                return {"purge": draw.random() < 0.5}
        return {}

    def _point(self, item: Json) -> str:
        kind = self._draw.random()
        if kind < 0.4:
            return "latest"
        if kind < 0.6:
            return "latest-processed"
        if kind < 0.65:
            return "0123456789abcdef/9"
        points = self._get(f"/items/{item['id']}/points")["points"]
        place = self._draw.random()
        return points[int(place * len(points))]["id"] if points else "latest"

    def _forbidden(self, item: Json) -> None:
        """Something that no report can make allowed meanwhile: it must be refused."""
        steady = {"Protected", "Resyncing", "ReverseProtected"}
        maybe = set(Operation) if item["state"] in steady else {*item["allowed_operations"]}
        if item["state"] in steady:
            maybe -= {"cleanup", "change-point", "commit", "reprotect"}
        wrong = sorted(str(each) for each in set(Operation) - maybe - INTERNAL)
        operation = self._draw.choice(wrong)
        body = {"point": "latest"} if operation == "change-point" else {}
        status, answer = self._post(f"/items/{item['id']}/operations/{operation}", body)
        self.world.history.note("forbidden", vm=self.vm, operation=operation, status=status, code=answer.get("code"))
        if status == 202:
            self.world.history.violation(
                f"{operation} was accepted for {self.vm} in state {item['state']}", answer=answer
            )
            self._wait(answer["job"]["id"])

    def _begin(self, wish: str, path: str, body: Json) -> None:
        draw = self._draw
        again, at_once, cancels, after = (draw.random() for _ in range(4))
        key = self._key()
        status, answer = self._post(path, body, key)
        if status != 202:
            self.world.history.note("refused", vm=self.vm, wish=wish, status=status, answer=answer)
            self._last = None
            return
        job: Json = answer["job"]
        self.world.history.note("accepted", vm=self.vm, wish=wish, job=job["id"], kind=job["kind"], body=body)
        self.world.history.accept(key, job["id"], self.vm)
        if again < 0.2:
            status, answer = self._post(path, body, key)
            self.world.history.note("repeated", vm=self.vm, wish=wish, status=status, job=answer.get("job"))
            if status == 202:
                self.world.history.accept(key, answer["job"]["id"], self.vm)
        if at_once < 0.15:
            self._second(job)
        if cancels < 0.15:
            time.sleep(after * 1.5)
            status, answer = self._post(f"/jobs/{job['id']}/cancel", {})
            self.world.history.note("cancel", vm=self.vm, job=job["id"], status=status, code=answer.get("code"))
            if status == 202 and answer["job"]["id"] != job["id"]:  # it had failed: the way back was begun
                self.world.history.accept(self._key(), answer["job"]["id"], self.vm)
                job = answer["job"]
        self._wait(job["id"])

    def _second(self, running: Json) -> None:
        """Another operation at once: refused by the first one's name, unless that has ended already."""
        status, answer = self._post(f"/items/{running['item']}/operations/commit", {})
        self.world.history.note("second", vm=self.vm, status=status, code=answer.get("code"))
        if status == 202:
            self.world.history.accept(self._key(), answer["job"]["id"], self.vm)
            self._wait(answer["job"]["id"])
        elif (
            answer.get("code") == "item.operation-running"
            and answer["details"]["job"] != running["id"]
            and self._get(f"/jobs/{running['id']}")["state"] not in ENDED
        ):
            self.world.history.violation(f"{self.vm}: another job than {running['id']} works on it", answer=answer)

    def _wait(self, job: str) -> None:
        deadline = time.monotonic() + PATIENCE
        version = 0
        while time.monotonic() < deadline:
            found = self._get(f"/jobs/{job}", wait=4, version=version)
            if found["state"] in ENDED:
                self.world.history.note("ended", vm=self.vm, job=job, kind=found["kind"], state=found["state"])
                self._last = found
                return
            version = found["version"]
            time.sleep(0.2)
        self.world.history.violation(f"the job {job} ({found['kind']}) of {self.vm} does not end", job=found)

    # the wire

    def _item(self) -> Json | None:
        status, answer = self._ask("GET", f"/items/{self.vm}", None, {})
        return answer if status == 200 else None

    def _get(self, path: str, **query: Any) -> Json:
        status, answer = self._ask("GET", path, None, query)
        if status != 200:
            self.world.history.violation(f"GET {path} answered {status}", vm=self.vm, answer=answer)
        return answer

    def _key(self) -> str:
        self._requests += 1
        return f"{self.world.seed}-{self.vm}-{self._requests}"

    def _post(self, path: str, body: Json, key: str | None = None) -> tuple[int, Json]:
        return self._ask("POST", path, body, {}, key or self._key())

    def _ask(self, method: str, path: str, body: Json | None, query: Json, key: str = "") -> tuple[int, Json]:
        """Sent again, with the same key, until there is an answer."""
        deadline = time.monotonic() + PATIENCE
        headers = {"Idempotency-Key": key} if key else {}
        while time.monotonic() < deadline:
            try:
                answer = self._client.request(
                    method, f"{self.world.url}/v1{path}", json=body, params=query, headers=headers
                )
                if answer.status_code < 500 or answer.status_code == 503:  # a site that is needed is not there
                    found: Json = answer.json()
                    if found.get("code") != "request.in-progress":
                        return answer.status_code, found
                    time.sleep(1)  # whoever answered the first sending may have been killed
                    continue
                self.world.history.violation(
                    f"{method} {path} answered {answer.status_code}", vm=self.vm, text=answer.text[:500]
                )
            except httpx.TransportError:
                pass
            self.world.another()
            time.sleep(0.5)
        raise NoAnswer(f"the vault does not answer {method} {path}")


def operate(world: ChaosWorld, operations: int) -> None:
    """So many turns, shared evenly by all machines' operators at once."""
    each, more = divmod(operations, len(world.names))
    operators = [Operator(world, name, each + (number < more), lambda: True) for number, name in enumerate(world.names)]
    threads = [
        threading.Thread(target=operator.run, name=f"operator-{operator.vm}", daemon=True) for operator in operators
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
