"""Every hop that a change takes, and every trouble that may come over it: which test shows that replication goes on by
itself afterwards, no point is ever wrong, and nothing is shipped twice beyond one generation.

`python -m tests.e2e.hop_matrix` writes the table in docs/architecture.md; test_hop_matrix.py holds the page to it, and
each named test to be there.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN = "<!-- hops: begin -->"
END = "<!-- hops: end -->"

TROUBLES = ("restart", "kill", "disk full", "cut", "silence")

HERE = "tests/e2e/test_hops.py::test_replication_goes_on_by_itself"
"""A cell that is True is this test, with the cell's name."""

MASTER_TARGET = "tests/e2e/test_receiving_side.py::test_failover_and_failback_go_on_when_the_receiving_side_ends"
RETENTION_FULL = "tests/servers/test_master_target.py::test_nothing_is_overwritten_where_the_retention_drive_is_full"
ELSEWHERE = "tests/servers/test_source_elsewhere"
SILENT_SOURCE = "test_a_network_that_is_cut_without_a_word_is_noticed_and_what_it_took_is_taken_again"
SCRATCH_FULL = (
    "tests/sources/test_qemu_scratch.py::test_a_full_file_system_below_the_scratch_breaks_the_view_and_no_write_fails"
)
LARGE_POINT = "tests/e2e/test_hops.py::test_a_kill_while_a_large_point_crosses_ships_no_more_than_that_point_again"

_NO_PROCESS = "a network is no process"
_NO_DISK = "a network has no disk"

MATRIX: dict[str, dict[str, str | bool]] = {
    "machine": {
        "restart": True,
        "kill": True,
        "disk full": True,
        "cut": "QMP and NBD are unix sockets of its host, which end with the machine's process (kill)",
        "silence": True,
    },
    "mobility service, where the process server is elsewhere": {
        "restart": "a kill is the harder case",
        "kill": f"{ELSEWHERE}_killed.py::test_a_mobility_service_killed_at_any_step_leaves_nothing_missed",
        "disk full": SCRATCH_FULL,
        "cut": f"{ELSEWHERE}.py::test_while_the_mobility_service_is_away_points_are_shipped_and_none_begun",
        "silence": f"{ELSEWHERE}.py::{SILENT_SOURCE}",
    },
    "process server": {
        "restart": True,
        "kill": True,
        "disk full": True,
        "cut": "is the next row's, and that of its way to the configuration server",
        "silence": True,
    },
    "way to the other site": {
        "restart": _NO_PROCESS,
        "kill": LARGE_POINT,
        "disk full": _NO_DISK,
        "cut": True,
        "silence": True,
    },
    "gateway": {
        "restart": True,
        "kill": True,
        "disk full": True,
        "cut": "is the row before",
        "silence": True,
    },
    "store": {
        "restart": "a folder is no process: the gateway's row; buckets: `tests/store/test_cloud.py`",
        "kill": "is the gateway's row",
        "disk full": True,
        "cut": True,
        "silence": "tests/servers/test_cycle.py::test_points_go_on_while_a_store_neither_answers_nor_refuses",
    },
    "way to the configuration server": {
        "restart": _NO_PROCESS,
        "kill": _NO_PROCESS,
        "disk full": _NO_DISK,
        "cut": True,
        "silence": True,
    },
    "configuration servers": {
        "restart": True,
        "kill": True,
        "disk full": True,
        "cut": "is the row before and the next",
        "silence": True,
    },
    "way to the vault": {
        "restart": _NO_PROCESS,
        "kill": _NO_PROCESS,
        "disk full": _NO_DISK,
        "cut": True,
        "silence": True,
    },
    "vault": {
        "restart": True,
        "kill": True,
        "disk full": True,
        "cut": "is the row before",
        "silence": True,
    },
    "master target": {
        "restart": f"{MASTER_TARGET}[a]",
        "kill": f"{MASTER_TARGET}[b]",
        "disk full": RETENTION_FULL,
        "cut": "it works on disks of its own host; what it is told waits for it, as at a kill",
        "silence": f"{MASTER_TARGET}[b]",
    },
}
"""Hops in the order that changes take, then those who tell them what to do. A text without :: is why there is none."""


def name_of(hop: str, trouble: str) -> str:
    """Of a cell that is True."""
    return f"{hop}-{trouble}".replace(" ", "-")


def shown_here() -> list[tuple[str, str]]:
    return [(hop, trouble) for hop, row in MATRIX.items() for trouble, cell in row.items() if cell is True]


def table() -> str:
    """Markdown."""
    rows = [f"| hop | {' | '.join(TROUBLES)} |", "|---" * (len(TROUBLES) + 1) + "|"]
    for hop, row in MATRIX.items():
        rows.append(f"| {hop} | {' | '.join(_cell(hop, trouble, row[trouble]) for trouble in TROUBLES)} |")
    return "\n".join(rows)


def _cell(hop: str, trouble: str, cell: str | bool) -> str:
    if cell is True:
        return f"`[{name_of(hop, trouble)}]`"
    text = str(cell)
    return f"`{text.removeprefix('tests/').replace('::', ' ')}`" if "::" in text else text


def with_table(page: str) -> str:
    """``page`` with the table between the markers as it should be. Raises ValueError where a marker is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
