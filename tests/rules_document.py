"""The tables of states and operations in docs/operations.md, made from the rules.

`python -m tests.rules_document` writes them; tests/domain/test_rules_document.py holds the page to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from homeport.domain.operation_kinds import CANCELLABLE, NOT_ASKED_FOR, Operation
from homeport.domain.operations import (
    OperationNotAllowed,
    allowed_operations,
    require_allowed,
    transition,
    way_back,
)
from homeport.domain.states import (
    FAILED,
    IN_PROGRESS,
    OFFERS_KEPT_POINTS,
    OFFERS_POINTS,
    REPLICATES,
    Direction,
    State,
    directions_of,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"

ASKED_FOR = [operation for operation in Operation if operation not in NOT_ASKED_FOR]

RUNS_AT = {
    State.TEST_FAILOVER_CLEANUP_PENDING: "home, and a test machine away",
    State.FAILOVER_IN_PROGRESS: "home, then away",
    State.FAILOVER_COMMIT_PENDING: "away",
    State.CHANGE_POINT_IN_PROGRESS: "away",
    State.COMMIT_IN_PROGRESS: "where it ran before",
    State.FAILOVER_COMMITTED: "away",
    State.REPROTECT_IN_PROGRESS: "where it ran before",
    State.REVERSE_PROTECTED: "away",
    State.FAILBACK_IN_PROGRESS: "away, then home",
    State.UNDO_IN_PROGRESS: "away, then home",
    State.MIGRATION_IN_PROGRESS: "away",
    State.MIGRATED: "away",
    State.DISABLING: "where it ran before",
    State.FAILOVER_FAILED: "nowhere, or still home",
    State.REPROTECT_FAILED: "where it ran before",
    State.FAILBACK_FAILED: "nowhere",
    State.MIGRATION_FAILED: "away",
    State.DISABLE_FAILED: "where it ran before",
}
"""Home where nothing else is said."""

SHOWN_BOTH_WAYS = (State.RESYNCING, State.PAUSED)
"""What may be done in them depends on the direction."""

UNDONE = CANCELLABLE | {Operation.CHANGE_POINT, Operation.UNDO, Operation.COMPLETE_MIGRATION}


def shown_states() -> Iterator[tuple[str, State, Direction]]:
    """Every state that an item is shown in, as the page names it."""
    for state in State:
        if state is State.UNPROTECTED:
            continue
        if state in SHOWN_BOTH_WAYS:
            yield from ((f"`{state}` ({direction})", state, direction) for direction in Direction)
        else:
            yield f"`{state}`", state, directions_of(state)[0]


def code_of(operation: Operation, state: State, direction: Direction) -> str | None:
    """With which code the operation is refused; None: it is allowed."""
    try:
        require_allowed(operation, state, direction)
    except OperationNotAllowed as refused:
        return refused.code
    return None


def states_table() -> str:
    rows = []
    for name, state, direction in shown_states():
        away = state in SHOWN_BOTH_WAYS and direction is Direction.REVERSE
        where = "away" if away else RUNS_AT.get(state, "home")
        points = "yes" if state in OFFERS_POINTS else "if kept" if state in OFFERS_KEPT_POINTS else "no"
        allowed = () if state in IN_PROGRESS else allowed_operations(state, direction)
        rows.append(
            [name, where, "yes" if state in REPLICATES else "no", points, ", ".join(f"`{each}`" for each in allowed)]
        )
    return _table(["state", "runs at", "replicates", "points", "you can now"], rows)


def refusals_table() -> str:
    rows = [["all that end in `InProgress`, and `EnablingProtection`, `Disabling`", "`item.operation-running`: all"]]
    for name, state, direction in shown_states():
        if state in IN_PROGRESS:
            continue
        by_code: dict[str, list[Operation]] = {}
        for operation in ASKED_FOR:
            code = code_of(operation, state, direction)
            if code is not None:
                by_code.setdefault(code, []).append(operation)
        most = max(by_code, key=lambda code: len(by_code[code]))
        told = [
            f"`{code}`: {', '.join(f'`{each}`' for each in operations)}"
            for code, operations in by_code.items()
            if code != most
        ]
        rows.append([name, "; ".join([*told, f"`{most}`: all others"])])
    return _table(["state", "refused with"], rows)


def transitions_table() -> str:
    rows = []
    for operation in Operation:
        begun = [
            (state, way)
            for state in State
            for way in directions_of(state)
            if operation in allowed_operations(state, way)
        ]
        if operation is Operation.PROTECT:
            begun = [(State.UNPROTECTED, Direction.FORWARD)]
        if operation in (Operation.CANCEL_FAILOVER, Operation.CANCEL_FAILBACK):
            begun = [(state, way) for state in FAILED for way in directions_of(state) if operation is _back(state)]
        ends: dict[tuple[str, ...], list[tuple[State, Direction]]] = {}
        for state, way in begun:
            ends.setdefault(_ends(operation, state, way), []).append((state, way))
        rows += [[f"`{operation}`", _names(states, begun), *ends_in] for ends_in, states in ends.items()]
    return _table(["operation", "begun in", "while it runs", "done", "failed", "undone"], rows)


def _back(state: State) -> Operation | None:
    return way_back(Operation.CANCEL_FAILOVER, state) or way_back(Operation.CANCEL_FAILBACK, state)


def _ends(operation: Operation, state: State, way: Direction) -> tuple[str, ...]:
    leads = transition(operation, state, way)
    undone = leads.cancelled if operation in UNDONE else None
    shown = (leads.during or state, leads.done, leads.failed, undone)
    same = leads.during is None
    return tuple("–" if each is None else "as it was" if same and each is state else f"`{each}`" for each in shown)


def _names(states: list[tuple[State, Direction]], begun: list[tuple[State, Direction]]) -> str:
    """A state's direction is told where its other one leads elsewhere."""
    names = []
    for state, way in states:
        whole = [pair for pair in begun if pair[0] is state] == [pair for pair in states if pair[0] is state]
        names.append(f"`{state}`" if whole else f"`{state}` ({way})")
    return ", ".join(dict.fromkeys(names))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "|" + "|".join(cell if cell == "---" else f" {cell or '–'} " for cell in line) + "|" for line in lines
    )


TABLES = {"states": states_table, "refusals": refusals_table, "transitions": transitions_table}


def with_tables(page: str) -> str:
    """``page`` with each table made anew between its two marks. Raises ValueError where a mark is missing."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: made by python -m tests.rules_document -->", f"<!-- /{name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"not once in the page: {begin} … {end}")
        table = f"{begin}\n\n{make()}\n\n{end}"
        page = re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _, table=table: table, page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
