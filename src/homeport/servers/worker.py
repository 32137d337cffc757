"""A server takes work by long poll from who tells it what to do, and carries it out at its site.

A configuration server takes the vault's; a process server and a master target take their configuration server's. Each
dials out; nothing reaches in. Work runs in threads of its own, so that a long copy doesn't keep a failover waiting.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import httpx
import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.servers.discovery import Discovery
from homeport.servers.joining import sign_at_configuration_server, sign_at_vault, take_revocations
from homeport.servers.link import Link
from homeport.servers.next_url import REPEATABLE
from homeport.servers.work.site_context import Params, Progress, Report, Result

log = structlog.get_logger(__name__)

POLL_SECONDS = 20
TEND_EVERY = 2.0
RENEW_EVERY = 3600.0
"""Seconds between two looks whether the certificate is due."""
RECONNECT_AFTER = 1.0


class Work(Protocol):
    """What a server does at its site."""

    def connect(self, report: Report) -> None: ...

    def present(self) -> bool: ...

    def greet(self, hello: Callable[[dict[str, Any]], dict[str, Any]]) -> None: ...

    def resume(self, replications: list[Params]) -> None: ...

    def carry_out(self, kind: str, params: Params, progress: Progress, id: str) -> Result: ...

    def tend(self) -> None: ...

    def stop(self) -> None: ...


class Worker:
    """``place``: what this server is known as to who is at the other end of ``link``: the vault knows a configuration
    server by its site, a configuration server the others by their names. ``work``: what it does. ``greet_every``:
    seconds after which what is told of this server is told anew (0: only when it begins). ``discovery``: of a
    configuration server."""

    def __init__(
        self, place: str, link: Link, work: Work, *, greet_every: float = 0, discovery: Discovery | None = None
    ) -> None:
        self.place = place
        self._link = link
        self._work = work
        self._greet_every = greet_every
        self._greeted = 0.0
        self._greet_anew = threading.Event()
        self._heard = 0.0
        self._next_renewal = 0.0
        self._executor = secrets.token_hex(8)
        self._client = link.client(httpx.Timeout(10.0, read=POLL_SECONDS + 10.0))
        self._stop = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._reports: dict[str, dict[str, Any]] = {}
        self._reported = threading.Event()
        work.connect(self._report)
        self._threads = [
            threading.Thread(target=self._poll, name=f"work-of-{place}", daemon=True),
            threading.Thread(target=self._send_reports, name=f"reports-{place}", daemon=True),
            threading.Thread(target=self._tend, name=f"tend-{place}", daemon=True),
        ]
        if discovery is not None:
            discover = threading.Thread(
                target=discovery.run, args=(self._client, self._stop), name=f"discovery-{place}", daemon=True
            )
            self._threads.append(discover)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the loops; replication ends after the piece of work at hand. Machines and point servers go on."""
        self._stop.set()
        self._reported.set()
        self._work.stop()
        self._client.close()

    # ── the loops ───────────────────────────────────────────────────────────────────────────────────────────────

    def _poll(self) -> None:
        greeted = False
        while not self._stop.is_set():
            if not self._work.present():  # the site is lost: nobody answers for it until it is back
                greeted = False
                self._stop.wait(RECONNECT_AFTER)
                continue
            try:
                if not greeted:
                    self._greet()
                    self._resume()
                    greeted = True
                with self._lock:
                    have = ",".join(sorted(self._busy))
                wanted: dict[str, str | int] = {"wait": POLL_SECONDS, "have": have}
                if self._link.identity is not None:
                    wanted["revocations"] = self._link.identity.revocations
                response = self._client.get(f"/v1/agent/{self.place}/work", params=wanted)
                response.raise_for_status()
                self._heard = time.monotonic()
                self._hear_of_revocations(response.json().get("revocations"))
                for work in response.json()["work"]:
                    self._accept(work)
            except Exception as error:  # a full disk, perhaps: who polls no more is gone for good
                if self._stop.is_set():
                    return  # the client was closed meanwhile, which httpx tells as a RuntimeError
                log.warning("can't be reached", place=self.place, url=self._link.url, error=str(error))
                greeted = False
                self._stop.wait(RECONNECT_AFTER)

    def _hear_of_revocations(self, number: int | None) -> None:
        identity = self._link.identity
        if identity is not None and number is not None and number > identity.revocations:
            take_revocations(identity, self._client)
            self._greet_anew.set()  # who was revoked or removed is in the answer

    def _greet(self) -> None:
        self._greet_anew.clear()
        self._greeted = time.monotonic()
        self._work.greet(self._hello)

    def _hello(self, body: dict[str, Any]) -> dict[str, Any]:
        greeting = {"executor": self._executor, **body}
        response = self._client.post(f"/v1/agent/{self.place}/hello", json=greeting, extensions=REPEATABLE)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def _resume(self) -> None:
        response = self._client.get(f"/v1/agent/{self.place}/replications")
        response.raise_for_status()
        self._work.resume(response.json()["replications"])

    def refresh(self) -> None:
        """What is told of this server has changed: tell it soon."""
        self._greet_anew.set()

    def silence(self) -> float | None:
        """Seconds since the other end last answered; None: it never did."""
        return time.monotonic() - self._heard if self._heard else None

    def _accept(self, work: dict[str, Any]) -> None:
        with self._lock:
            if work["id"] in self._busy:
                return
            self._busy.add(work["id"])
        threading.Thread(target=self._carry_out, args=(work,), name=f"work-{work['kind']}", daemon=True).start()

    def _carry_out(self, work: dict[str, Any]) -> None:
        last = 0.0

        def progress(done: int, total: int, text: str = "", unit: str = "bytes") -> None:
            nonlocal last
            if time.monotonic() - last >= 0.5:
                last = time.monotonic()
                self._answer(
                    work, {"state": "running", "progress": {"done": done, "total": total, "unit": unit, "text": text}}
                )

        try:
            result = self._work.carry_out(work["kind"], work["params"], progress, work["id"])
            answer: dict[str, Any] = {"state": "done", "result": result}
        except HomeportError as error:
            answer = {"state": "failed", "error": error.to_json()}
        except Exception as error:
            log.exception("work failed", place=self.place, kind=work["kind"])
            answer = {
                "state": "failed",
                "error": {
                    "code": "internal",
                    "cause": f"{type(error).__name__}: {error}",
                    "remedy": "This is a defect of Homeport: please report it with the log. The job can be restarted.",
                    "details": {},
                },
            }
        self._answer(work, answer)
        with self._lock:
            self._busy.discard(work["id"])

    def _answer(self, work: dict[str, Any], answer: dict[str, Any]) -> None:
        """Progress may get lost; an end is told until the vault has it (or hands the work out again)."""
        while not self._stop.is_set():
            try:
                path = f"/v1/agent/{self.place}/work/{work['id']}"
                response = self._client.post(path, json=answer, extensions=REPEATABLE)
                if response.status_code < 500:
                    return
            except httpx.HTTPError as error:
                log.warning("answer not delivered", place=self.place, kind=work["kind"], error=str(error))
            if answer["state"] == "running":
                return
            self._stop.wait(RECONNECT_AFTER)

    def _report(self, report: dict[str, Any]) -> None:
        with self._lock:
            waiting = self._reports.get(report["item"], {})
            if "points" in waiting and "points" not in report:
                report = {**report, "points": waiting["points"]}
            self._reports[report["item"]] = report
        self._reported.set()

    def _send_reports(self) -> None:
        while not self._stop.is_set():
            self._reported.wait()
            self._reported.clear()
            with self._lock:
                reports, self._reports = self._reports, {}
            for report in reports.values():
                try:
                    path = f"/v1/agent/{self.place}/report"
                    self._client.post(path, json=report, extensions=REPEATABLE).raise_for_status()
                except (httpx.HTTPError, RuntimeError) as error:
                    if self._stop.is_set():
                        return
                    log.warning("report not delivered", place=self.place, error=str(error))
                    with self._lock:
                        newer = self._reports.get(report["item"])
                    self._report(report if newer is None else {**report, **newer})
                    self._stop.wait(RECONNECT_AFTER)
                    self._reported.set()

    def _tend(self) -> None:
        while not self._stop.wait(TEND_EVERY):
            try:
                self._work.tend()
                if self._greeted and self._anew():
                    self._greet()
                self._renew()
            except httpx.HTTPError as error:
                log.info("greeting not delivered", place=self.place, error=str(error))
                self._greet_anew.set()
            except Exception:
                log.exception("tending failed", place=self.place)

    def _anew(self) -> bool:
        due = self._greet_every and time.monotonic() - self._greeted >= self._greet_every
        return self._greet_anew.is_set() or bool(due)

    def _renew(self) -> None:
        identity = self._link.identity
        if identity is None or time.monotonic() < self._next_renewal or not self._greeted:
            return
        self._next_renewal = time.monotonic() + RENEW_EVERY
        own = identity.role is Role.CONFIGURATION_SERVER
        identity.renew_if_due(
            sign_at_vault(self._client, identity.site) if own else sign_at_configuration_server(self._client)
        )
