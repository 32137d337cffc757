"""`make chaos`: the long run; exit status 1, and the history's place, if anything is wrong."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.run import chaos
from tests.vault.postgres import Postgres


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="fixes every choice, but not the scheduling")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="keep the history of a run that found nothing, too")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the vaults' processes are ended, too
    print(f"seed {arguments.seed}", flush=True)
    databases = ["sqlite", "postgresql"] if arguments.database == "both" else [arguments.database]
    return max(run(arguments, database) for database in databases)


def run(arguments: argparse.Namespace, database: str) -> int:
    folder = Path(tempfile.mkdtemp(prefix=f"homeport-chaos-{database}-"))
    with ExitStack() as stack:
        address = None
        if database == "postgresql":
            server = Postgres()
            stack.callback(server.close)
            server.start()
            address = server.database()
        verdict = chaos(folder, arguments.seed, arguments.operations, arguments.machines, address)
    print(f"{database}: {json.dumps(verdict.figures, indent=2)}")
    for violation in verdict.violations:
        print(violation)
    print(f"{database}: seed {arguments.seed}: {len(verdict.violations)} violations", flush=True)
    if verdict.violations or arguments.keep:
        print(f"history: {verdict.history}", flush=True)
    else:
        shutil.rmtree(folder)
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
