"""Letting accepted jobs begin: at once, or in order when their sites have room (the rule: domain/admission.py).

A job is *admitted* in a transaction of its own, and its workflow begun after it. Who dies in between leaves an admitted
job without a workflow; any instance of the vault begins it later, and only once: the workflow carries the job's id.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import structlog
from dbos import DBOS, SetWorkflowID
from sqlalchemy import select

from homeport.domain.admission import LANES, Limits
from homeport.domain.operations import Operation
from homeport.vault.core import Core
from homeport.vault.database import JobRow, SettingRow, now
from homeport.vault.queueing import SETTING, verdicts
from homeport.vault.signal import Stopping
from homeport.vault.steps import WORKFLOWS

log = structlog.get_logger(__name__)

EVERY = 5.0
"""Seconds between two looks at the queue; it is looked at after each change, too."""
ABANDONED = timedelta(seconds=15)
"""After which an admitted job without a workflow is one whose instance died in between."""


def set_limits(core: Core, wanted: Limits) -> None:
    """Raises LimitsInvalid. What is at work goes on; what waits is judged anew."""
    wanted.check()
    with core.database.write() as session:
        session.merge(
            SettingRow(name=SETTING, value={"data_moving": wanted.data_moving, "failovers": wanted.failovers})
        )
    dispatch(core)


def admitted_at_once(operation: Operation) -> bool:
    """Whether jobs of this kind wait for nothing."""
    return operation not in LANES


def launch(job: str, operation: Operation) -> None:
    """Begin the workflow of an admitted job; a second time, nothing happens."""
    with SetWorkflowID(job):
        DBOS.start_workflow(WORKFLOWS[operation].start, job)


def dispatch(core: Core) -> None:
    """Begin whatever waits and may begin now."""
    with core.database.read() as session:
        if all(not verdict.admitted for verdict in verdicts(session)):
            return
    begun: list[tuple[str, Operation]] = []
    with core.database.write() as session:
        for verdict in verdicts(session):
            if verdict.admitted:
                job = session.get_one(JobRow, verdict.job)
                job.admitted = now()
                begun.append((job.id, Operation(job.kind)))
    for name, operation in begun:
        launch(name, operation)


class Dispatcher:
    """The thread that lets jobs begin when others have ended, and finds what an instance that died left behind."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._thread = threading.Thread(target=self._run, name="job-dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """After the vault's signal was stopped."""
        self._thread.join(30)

    def _run(self) -> None:
        seen, looked = -1, float("-inf")
        while True:
            try:
                seen = self._core.signal.wait(seen, EVERY)
                dispatch(self._core)
                if time.monotonic() - looked > EVERY:  # what was abandoned was so for longer than that
                    self._take_up_abandoned()
                    looked = time.monotonic()
            except Stopping:
                return
            except Exception:
                if self._core.signal.stopped:
                    return
                log.exception("jobs that wait can't be begun now; tried again soon")
                try:
                    self._core.signal.wait(self._core.signal.version, EVERY)
                except Stopping:
                    return

    def _take_up_abandoned(self) -> None:
        with self._core.database.read() as session:
            left = session.execute(
                select(JobRow.id, JobRow.kind).where(
                    JobRow.state.in_(("queued", "cancelling")),
                    JobRow.started.is_(None),
                    JobRow.admitted < now() - ABANDONED,
                )
            )
            found = list(left)
        for job, kind in found:
            if DBOS.get_workflow_status(job) is None:
                launch(job, Operation(kind))
