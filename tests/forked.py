"""Processes that are forked from one that has imported Homeport: tests that kill a vault hundreds of times pay for a
start what the start itself costs, not its imports."""

from __future__ import annotations

import multiprocessing

from dbos._dbos import _get_or_create_dbos_registry

CONTEXT = multiprocessing.get_context("forkserver")
"""Its fork server, one for each process of the tests, starts with the first of its processes."""

# Installed modules only: Python 3.11's fork server does not get this process's sys.path.
CONTEXT.set_forkserver_preload(
    [
        "homeport.vault.app",
        "homeport.servers.up",
        "homeport.cli.app",
        "httpx",
        "uvicorn",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
        "uvicorn.lifespan.off",
    ]
)


def recover_quickly() -> None:
    """In a process that will be killed: recovery goes through the workflow library's internal queue, which is polled
    each second; too slow for hundreds of kills."""
    _get_or_create_dbos_registry().get_internal_queue()._polling_interval_sec = 0.1
