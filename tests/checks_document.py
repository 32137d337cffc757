"""The checks' table of docs/errors.md, made from their code: `.venv/bin/python -m tests.checks_document` writes it."""

from __future__ import annotations

from pathlib import Path

from homeport.domain.checks.catalogue import CATALOGUE
from homeport.domain.checks.check import Check

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
BEGIN = "<!-- checks: begin -->"
END = "<!-- checks: end -->"

_MEANS = {"error": "critical", "warning": "a warning", "info": "a note"}


def table() -> str:
    """Markdown: code, when, what to do."""
    rows = ["| code | when | what to do |", "|---|---|---|"]
    rows += [f"| `{check.code}` | {_when(check)} | {check.remedy} |" for check in CATALOGUE]
    return "\n".join(rows)


def with_table(page: str) -> str:
    """``page`` with the table between the markers as it should be. Raises ValueError where a marker is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _when(check: Check) -> str:
    parts = [f"Not the case: *{check.title}*. {' '.join(check.causes)}"]
    if check.refuses:
        parts.append(f"Refuses {_names(check.refuses)}.")
    if told := check.before - check.refuses:
        parts.append(f"Told before {_names(told)}.")
    parts.append(f"In between: {_MEANS[check.severity]}.")
    if check.also:
        parts.append(f"Also: {check.also}")
    return " ".join(parts)


def _names(occasions: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" if name != "planned-failover" else "a planned failover" for name in sorted(occasions))


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
