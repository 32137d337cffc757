"""One site's configuration server: takes the vault's work by long poll, and carries it out at its site.

It dials out; nothing reaches in. Work runs in threads of its own, so that a long copy doesn't keep a failover waiting.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import httpx
import structlog

from homeport.domain.errors import HomeportError
from homeport.servers.work import SiteWork

log = structlog.get_logger(__name__)

POLL_SECONDS = 20
TEND_EVERY = 2.0
RECONNECT_AFTER = 1.0


class ConfigurationServer:
    """``vault_url`` and ``token`` say where the vault is; ``work`` knows how things are done at this site."""

    def __init__(self, site: str, vault_url: str, token: str, work: SiteWork) -> None:
        self.site = site
        self._work = work
        self._executor = secrets.token_hex(8)
        self._client = httpx.Client(
            base_url=vault_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(10.0, read=POLL_SECONDS + 10.0),
        )
        self._stop = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._reports: dict[str, dict[str, Any]] = {}
        self._reported = threading.Event()
        work.connect(self._report)
        self._threads = [
            threading.Thread(target=self._poll, name=f"configuration-server-{site}", daemon=True),
            threading.Thread(target=self._send_reports, name=f"reports-{site}", daemon=True),
            threading.Thread(target=self._tend, name=f"tend-{site}", daemon=True),
        ]

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
                    greeted = True
                with self._lock:
                    have = ",".join(sorted(self._busy))
                response = self._client.get(f"/v1/agent/{self.site}/work", params={"wait": POLL_SECONDS, "have": have})
                response.raise_for_status()
                for work in response.json()["work"]:
                    self._accept(work)
            except (httpx.HTTPError, HomeportError) as error:
                if self._stop.is_set():
                    return
                log.warning("the vault can't be reached", site=self.site, error=str(error))
                greeted = False
                self._stop.wait(RECONNECT_AFTER)

    def _greet(self) -> None:
        before = self._work.sealed_header()
        self._work.welcome(self._hello(before))
        if before is None:
            self._hello(self._work.sealed_header())  # so that sites which join later get it too
        replications = self._client.get(f"/v1/agent/{self.site}/replications")
        replications.raise_for_status()
        self._work.resume(replications.json()["replications"])

    def _hello(self, sealed: str | None) -> dict[str, Any]:
        body = {
            "executor": self._executor,
            "gateway": self._work.gateway(),
            "facts": self._work.facts(),
            "sealed": sealed,
        }
        response = self._client.post(f"/v1/agent/{self.site}/hello", json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

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
            result = self._work.carry_out(work["kind"], work["params"], progress)
            answer: dict[str, Any] = {"state": "done", "result": result}
        except HomeportError as error:
            answer = {"state": "failed", "error": error.to_json()}
        except Exception as error:
            log.exception("work failed", site=self.site, kind=work["kind"])
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
                response = self._client.post(f"/v1/agent/{self.site}/work/{work['id']}", json=answer)
                if response.status_code < 500:
                    return
            except httpx.HTTPError as error:
                log.warning("answer not delivered", site=self.site, kind=work["kind"], error=str(error))
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
                    self._client.post(f"/v1/agent/{self.site}/report", json=report).raise_for_status()
                except (httpx.HTTPError, RuntimeError) as error:
                    if self._stop.is_set():
                        return
                    log.warning("report not delivered", site=self.site, error=str(error))
                    with self._lock:
                        newer = self._reports.get(report["item"])
                    self._report(report if newer is None else {**report, **newer})
                    self._stop.wait(RECONNECT_AFTER)
                    self._reported.set()

    def _tend(self) -> None:
        while not self._stop.wait(TEND_EVERY):
            try:
                self._work.tend()
            except Exception:
                log.exception("tending failed", site=self.site)
