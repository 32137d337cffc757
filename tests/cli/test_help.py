"""Every command explains itself, and quickly."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperGroup

from homeport.cli.app import ORDER, build
from tests.cli.conftest import Homeport

EXPECTED = {
    *("up", "vault passphrase", "vault backup", "vault backups", "vault restore", "vault rebuild"),
    *("serve vault", "serve configuration-server", "serve process-server", "serve master-target"),
    *("process-server switch", "process-server suggest", "process-server throttle"),
    *("serve mobility-service", "mobility-service join"),
    *("site add", "site list", "site show", "site set", "site refresh", "site remove"),
    *("vault key new", "vault authority", "vault trust"),
    *("configuration-server join", "configuration-server passphrase", "configuration-server backup"),
    *("configuration-server backups", "configuration-server restore", "process-server join", "master-target join"),
    *("server list", "server show", "server revoke", "server remove"),
    *("machine list", "machine start"),
    *("policy create", "policy list", "policy show", "policy set", "policy remove", "policy profile"),
    *("item list", "item show", "item set", "item restore", "item purge", "item untag"),
    *("group list", "group show", "group set"),
    *("protect", "point", "resync", "disable", "test-failover", "cleanup", "failover", "change-point", "commit"),
    *("pause", "resume", "undo", "complete-migration"),
    *("reprotect", "failback", "status", "points", "check", "job list", "job show", "job cancel", "job restart"),
    *("job resume", "job export", "job limits"),
    *("store points", "store restore", "store verify", "store serve", "store info", "store machines", "store stats"),
    *("store export", "store copy", "store purge", "store key list", "store key add-file", "store key remove"),
    *("store key change-passphrase", "store key rotate", "store rebuild", "store compact", "store import"),
}


def leaves(group: TyperGroup, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_the_commands_are_those_of_the_documentation() -> None:
    group = typer.main.get_command(build())
    assert isinstance(group, TyperGroup)
    assert set(leaves(group)) == EXPECTED
    assert set(group.commands) == set(ORDER)


@pytest.mark.parametrize("command", sorted(EXPECTED))
def test_every_command_teaches_with_an_example_and_answers_in_json(homeport: Homeport, command: str) -> None:
    answer = homeport(*command.split(), "--help")
    assert answer.status == 0
    assert f"$ homeport {command}" in answer.out
    assert "Next:" in answer.out
    assert "--json" in answer.out


def test_the_overview_groups_the_commands_in_the_order_of_a_recovery(homeport: Homeport) -> None:
    out = homeport("--help").out
    places = [
        out.index(f"─ {panel} ─")
        for panel in ("Set up", "Protect", "Drill", "Fail over", "Come home", "Look", "Without a vault")
    ]
    assert places == sorted(places)


def test_the_version_is_told(homeport: Homeport) -> None:
    assert homeport("--version").out.startswith("homeport 0.")


def test_the_overview_answers_at_once_because_nothing_slow_is_imported() -> None:
    heavy = ("httpx", "rich.progress", "numpy", "obstore", "fastapi", "sqlalchemy", "dbos", "pydantic")
    code = (
        "import sys; from homeport.cli import main; status = main(['--help']); "
        f"sys.exit(status or ' '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # The promise is 0.4 s. Processor time, not the clock's, and some room: tests share their machine.
    assert min(spent) < 0.8
