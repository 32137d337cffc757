"""Processes that are forked from one that has imported Homeport: tests that kill a vault hundreds of times pay for a
start what the start itself costs, not its imports."""

from __future__ import annotations

import multiprocessing

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
