"""Jobs as a file: JSON as the API tells them, CSV with a row for each, XLSX with sheets of jobs, tasks and errors.

Tasks are nested: JSON tells them so (``task_tree``), a table by the path of each.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from homeport.cli.api import Job, TaskNode
from homeport.cli.formats import parse_instant, seconds_between
from homeport.cli.task_tree import walk

JOB_COLUMNS = (
    *("id", "type", "display_name", "kind", "activity", "status", "state"),
    *("target_type", "target_id", "target_name", "created", "started", "ended", "seconds"),
    *("tasks", "error_code", "error_cause", "error_remedy", "errors", "comments", "allowed"),
)
TASK_COLUMNS = (
    *("job", "number", "path", "name", "title", "state", "started", "ended", "seconds"),
    *("error_code", "error_cause", "found"),
)
ERROR_COLUMNS = ("job", "task", "code", "cause", "remedy", "details")

INSTANTS = frozenset({"created", "started", "ended"})

Row = dict[str, Any]


def job_row(job: Job) -> Row:
    target, error = job.get("target") or {}, job.get("error") or {}
    return {
        "id": job["id"],
        "type": job.get("type"),
        "display_name": job.get("display_name"),
        "kind": job.get("kind"),
        "activity": job.get("activity"),
        "status": job.get("status"),
        "state": job["state"],
        "target_type": target.get("type"),
        "target_id": target.get("id") or job.get("item"),
        "target_name": target.get("name") or job.get("item_name"),
        "created": job.get("created"),
        "started": job.get("started"),
        "ended": job.get("ended"),
        "seconds": seconds_between(job.get("started"), job.get("ended")),
        "tasks": "; ".join(f"{joined(path)}: {task['state']}" for path, task in walk(job) if _tells(task)),
        "error_code": error.get("code"),
        "error_cause": error.get("cause"),
        "error_remedy": error.get("remedy"),
        "errors": "; ".join(f"{each.get('code')}: {each.get('cause')}" for each in job.get("errors", [])),
        "comments": "; ".join(f"{each['at']} {each['comment']}" for each in job.get("comments", [])),
        "allowed": ", ".join(job.get("allowed", [])),
    }


def _tells(task: TaskNode) -> bool:
    """Not a group, nor a check that found nothing."""
    return not task.get("children") and (not task.get("name", "").startswith("checks/") or "finding" in task)


def task_rows(job: Job) -> Iterator[Row]:
    for number, (path, task) in enumerate(walk(job), 1):
        error, finding = task.get("error") or {}, task.get("finding") or {}
        yield {
            "job": job["id"],
            "number": number,
            "path": joined(path),
            "name": task.get("name"),
            "title": task.get("title"),
            "state": task["state"],
            "started": task.get("started"),
            "ended": task.get("ended"),
            "seconds": seconds_between(task.get("started"), task.get("ended")),
            "error_code": error.get("code"),
            "error_cause": error.get("cause"),
            "found": f"{finding.get('code')}: {finding.get('found')}" if finding else None,
        }


def joined(path: Sequence[str]) -> str:
    """In one cell: "Start the recovery machine > Choose the recovery point"."""
    return " > ".join(path)


def error_rows(job: Job) -> Iterator[Row]:
    for error in job.get("errors", []):
        named = {name: error.get(name) for name in ("task", "code", "cause", "remedy")}
        yield {"job": job["id"], **named, "details": json.dumps(error.get("details") or {}, default=str)}


def as_json(jobs: Sequence[Job]) -> bytes:
    return json.dumps({"jobs": list(jobs)}, indent=2, default=str).encode() + b"\n"


def as_csv(jobs: Sequence[Job]) -> bytes:
    """RFC 4180 in UTF-8. Text that a spreadsheet would take for a formula has an apostrophe before it."""
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, JOB_COLUMNS)
    writer.writeheader()
    for job in jobs:
        writer.writerow({name: _harmless(value) for name, value in job_row(job).items()})
    return written.getvalue().encode()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def as_xlsx(jobs: Sequence[Job]) -> bytes:
    """Instants are cells of date and time, in UTC: a workbook knows no time zones."""
    import xlsxwriter

    written = io.BytesIO()
    text_only = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(written, {"in_memory": True, **text_only}) as book:
        head = book.add_format({"bold": True})
        instant = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        sheets: tuple[tuple[str, tuple[str, ...], list[Row]], ...] = (
            ("Jobs", JOB_COLUMNS, [job_row(job) for job in jobs]),
            ("Tasks", TASK_COLUMNS, [row for job in jobs for row in task_rows(job)]),
            ("Errors", ERROR_COLUMNS, [row for job in jobs for row in error_rows(job)]),
        )
        for title, columns, rows in sheets:
            sheet = book.add_worksheet(title)
            sheet.freeze_panes(1, 0)
            sheet.autofilter(0, 0, len(rows), len(columns) - 1)
            for place, name in enumerate(columns):
                sheet.write_string(0, place, f"{name} (UTC)" if name in INSTANTS else name, head)
                sheet.set_column(place, place, 20 if name in INSTANTS else max(10, len(name) + 2))
            for line, row in enumerate(rows, 1):
                for place, name in enumerate(columns):
                    value = row[name]
                    if name in INSTANTS and (found := parse_instant(value)) is not None:
                        sheet.write_datetime(line, place, found.replace(tzinfo=None), instant)
                    elif isinstance(value, int | float):
                        sheet.write_number(line, place, value)
                    elif value is not None:
                        sheet.write_string(line, place, str(value)[:CELL])
    return written.getvalue()


CELL = 32_767
"""Characters that a cell of a workbook can hold."""

FORMATS: dict[str, Callable[[Sequence[Job]], bytes]] = {"json": as_json, "csv": as_csv, "xlsx": as_xlsx}


def write_file(path: Path, content: bytes) -> None:
    """Whole or not at all. Raises OSError."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
