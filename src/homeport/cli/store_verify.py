"""`homeport store verify`: is every point there, and whole?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.formats import show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    EachMachineOption,
    HeadOption,
    KeyFileOption,
    OnePointOption,
    PassphraseFileOption,
    StoreOption,
    open_bucket,
)
from homeport.domain.errors import HomeportError
from homeport.domain.units import BLOCK

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.bucket.opening import StoredMachine

VERIFY = lesson(
    "Check a store: that every point is there and whole.",
    """Without --deep the records and the presence of all they name; with it every frame is read and authenticated too.
    --expect-head names the newest point that you know of, so that a cut-off tail is noticed. Exit 1, with a list of
    what is damaged, if anything is.""",
    "homeport store verify --store file:///srv/away/store --deep",
    then="restore another point where one is damaged: the others are fine.",
)


class StoreDamaged(HomeportError):
    """A verification found something. ``details.problems``: words; ``details.machines``: as `store verify` answers."""

    code = "store.damaged"
    remedy = "Points that aren't named are fine. Restore one of those; take new points with a resync of the machine."


def add(group: typer.Typer) -> None:
    @command(group, "verify", VERIFY, with_vault=False)
    def verify(
        session: Session,
        store: StoreOption,
        machine: EachMachineOption = None,
        point: OnePointOption = None,
        deep: Annotated[bool, typer.Option("--deep", help="Read and authenticate every frame.")] = False,
        expect_head: HeadOption = None,
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        bucket = open_bucket(store, passphrase_file, key_file)
        one = machine is not None or point is not None or expect_head is not None
        chosen = [bucket.machine(machine)] if one else bucket.machines()
        data = [_verify(session, found, point, deep, expect_head) for found in chosen]
        problems = [problem for found in data for problem in found["problems"]]
        if problems:
            raise StoreDamaged(
                f"{len(problems)} problem(s) were found in {store}",
                problems=[_problem(found["name"], problem) for found in data for problem in found["problems"]],
                machines=data,
            )
        session.answer({"machines": data}, lambda console: show_verified(console, data))


def _verify(
    session: Session, machine: StoredMachine, point: str | None, deep: bool, expect_head: str | None
) -> dict[str, Any]:
    from homeport.cli.transfers import counting
    from homeport.domain.points import PointId

    session.note(f"Verifying {machine.name}{' (every frame)' if deep else ''} ...")
    with counting(session, f"Verifying {machine.name}", "points") as progress:
        found = machine.store.verify(
            PointId.parse(point) if point else None,
            deep=deep,
            expect_head=PointId.parse(expect_head) if expect_head else None,
            progress=progress,
        )
    return {"uuid": machine.uuid, "name": machine.name, **found.to_json()}


def _problem(machine: str, problem: dict[str, Any]) -> str:
    """A finding in words: where it lies and which points it touches."""
    where = [f"object {problem['object']}"]
    if problem.get("frame") is not None:
        where.append(f"frame {problem['frame']}")
    if problem.get("disk") is not None and problem.get("first_block") is not None:
        start, length = problem["first_block"] * BLOCK, (problem.get("blocks") or 1) * BLOCK
        where.append(f"{problem['disk']} from byte {start}, {show_size(length)}")
    points = ", ".join(problem.get("points") or []) or "none"
    return f"{machine}: {problem['cause']} ({'; '.join(where)}; points touched: {points})"


def show_verified(console: Console, machines: list[dict[str, Any]]) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for machine in machines:
        console.print(f"{machine['name']}: {machine['points']} points are whole", markup=False)
