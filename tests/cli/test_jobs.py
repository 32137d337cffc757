"""`homeport job …`: lists and filters, files, jobs that wait, and a client that asks again when an answer was lost."""

from __future__ import annotations

import csv
import io
import json
import socket
import threading
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homeport.cli import client
from homeport.cli.client import VaultClient
from homeport.cli.errors import VaultNotRunning
from tests.cli.conftest import Homeport
from tests.cli.fake_vault import START, FakeVault

DANGEROUS = "=1+1"


@pytest.fixture
def jobs(vault: FakeVault) -> FakeVault:
    """Five jobs: job1 failed long ago, job5 runs."""
    for number in range(5):
        name = vault.begin("failover" if number % 2 else "resync", DANGEROUS if number == 0 else "web1")
        vault.error = {"code": "x.y", "cause": "it broke", "remedy": "mend it", "details": {"n": 1}}
        if number < 4:
            vault.finish(name, "failed" if number == 0 else "succeeded")
    vault.jobs["job1"]["created"] = "2020-02-03T04:05:06+00:00"
    vault.jobs["job1"].update(
        type="Resync",
        display_name="Resynchronize",
        status="Failed",
        activity="job1",
        target={"type": "ReplicatedItem", "id": "item-1", "name": DANGEROUS},
        errors=[{**vault.error, "task": "ship"}],
        comments=[{"comment": "done", "at": START.isoformat(), "prompt": "Do it."}],
    )
    return vault


def listed(homeport: Homeport, *options: str) -> list[str]:
    return [job["id"] for job in homeport("job", "list", *options, "--json").json["jobs"]]


@pytest.mark.usefixtures("jobs")
def test_a_list_is_narrowed(homeport: Homeport) -> None:
    assert listed(homeport) == ["job5", "job4", "job3", "job2", "job1"]
    assert listed(homeport, "--only", "running", "--only", "failed") == ["job5", "job1"]
    assert listed(homeport, "--kind", "failover") == ["job4", "job2"]
    assert listed(homeport, "--since", "1h", "--limit", "2") == ["job5", "job4"]
    assert listed(homeport, "--until", "2020-02-03T04:05:07Z") == ["job1"]
    assert listed(homeport, "--since", "2020-02-03T05:05:06+01:00", "--until", "1h") == ["job1"]
    assert homeport("job", "list", "--since", "soon").status == 2


def test_a_long_list_is_read_page_by_page(homeport: Homeport, jobs: FakeVault) -> None:
    jobs.page = 2
    assert len(listed(homeport)) == 5
    assert len(listed(homeport, "--limit", "3")) == 3
    assert len(homeport("job", "export", "--json").json["jobs"]) == 5


@pytest.mark.usefixtures("jobs")
def test_jobs_are_exported_as_json_and_csv(homeport: Homeport, tmp_path: Path) -> None:
    whole = homeport("job", "list", "--json").json["jobs"]
    assert json.loads(homeport("job", "export").out)["jobs"] == whole
    file = tmp_path / "jobs.csv"
    told = homeport("job", "export", "--to", str(file), "--json").json
    assert told == {"exported": {"file": str(file), "format": "csv", "jobs": 5}}
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert [row["id"] for row in rows] == ["job5", "job4", "job3", "job2", "job1"]
    last = rows[-1]
    assert (last["type"], last["display_name"], last["activity"]) == ("Resync", "Resynchronize", "job1")
    assert (last["error_code"], last["errors"], last["comments"]) == (
        "x.y",
        "x.y: it broke",
        f"{START.isoformat()} done",
    )
    assert last["tasks"] == "Send the last changes: failed"
    assert last["target_name"] == f"'{DANGEROUS}", "a spreadsheet would compute it"
    assert homeport("job", "export", "--format", "csv", "--only", "failed").out.count("job1") == 2


def sheets(file: Path) -> dict[str, list[list[str]]]:
    """The cells of a workbook, as text; and that none is a formula."""
    space = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    with zipfile.ZipFile(file) as book:
        shared = ET.fromstring(book.read("xl/sharedStrings.xml"))
        texts = ["".join(part.text or "" for part in one.iter(f"{{{space['m']}}}t")) for one in shared]
        listed = ET.fromstring(book.read("xl/workbook.xml")).findall("m:sheets/m:sheet", space)
        names = [sheet.attrib["name"] for sheet in listed]
        found = {}
        for number, name in enumerate(names, 1):
            root = ET.fromstring(book.read(f"xl/worksheets/sheet{number}.xml"))
            assert not list(root.iter(f"{{{space['m']}}}f"))
            found[name] = [
                [
                    texts[int(value.text or 0)] if cell.get("t") == "s" else value.text or ""
                    for cell in row
                    if (value := cell.find("m:v", space)) is not None
                ]
                for row in root.iter(f"{{{space['m']}}}row")
            ]
    return found


@pytest.mark.usefixtures("jobs")
def test_jobs_are_exported_as_a_workbook(homeport: Homeport, tmp_path: Path) -> None:
    file = tmp_path / "jobs.xlsx"
    assert "5 jobs written" in homeport("job", "export", "--to", str(file)).out
    found = sheets(file)
    assert set(found) == {"Jobs", "Tasks", "Errors"}
    assert [row[0] for row in found["Jobs"]] == ["id", "job5", "job4", "job3", "job2", "job1"]
    assert DANGEROUS in found["Jobs"][-1]
    assert "43864.170208" in " ".join(found["Jobs"][-1]), "2020-02-03 04:05:06 as a workbook counts it"
    assert len(found["Tasks"]) == 6
    assert found["Errors"][1] == ["job1", "ship", "x.y", "it broke", "mend it", '{"n": 1}']
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["jobs.xlsx"]


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("options", [["--format", "xlsx"], ["--format", "pdf"], ["--to", "jobs"], ["--to", "jobs.pdf"]])
def test_a_format_that_is_none_is_refused(homeport: Homeport, options: list[str]) -> None:
    answer = homeport("job", "export", *options, "--json")
    assert (answer.status, answer.json["error"]["code"]) == (2, "cli.wrong-use")


def test_a_file_that_can_not_be_written_is_told(homeport: Homeport, jobs: FakeVault, tmp_path: Path) -> None:
    answer = homeport("job", "export", "--to", str(tmp_path / "none" / "jobs.csv"), "--json")
    assert (answer.status, answer.json["error"]["code"]) == (1, "cli.system-error")


def test_a_job_that_waits_says_what_for_and_is_resumed(homeport: Homeport, vault: FakeVault) -> None:
    job = vault.begin("failover", "web1")
    vault.jobs[job].update(
        state="waiting",
        waiting={"step": "ask", "prompt": "Plug [it] in.", "since": START.isoformat()},
        allowed=["cancel", "resume"],
    )
    shown = homeport("job", "show", job).out
    assert "Plug [it] in." in shown
    assert f"homeport job resume {job}" in shown
    assert homeport("job", "resume", job).status == 2, "a comment is wanted"
    done = homeport("job", "resume", job, "--comment", "plugged in")
    assert (done.status, f"Job {job} is succeeded" in done.out) == (0, True)
    assert ("POST", f"/v1/jobs/{job}/resume", {"comment": "plugged in"}) in vault.asked
    assert "plugged in" in homeport("job", "show", job).out


def test_who_follows_a_job_is_told_what_it_waits_for(homeport: Homeport, vault: FakeVault) -> None:
    job = vault.begin("failover", "web1")
    vault.jobs[job]["queued_because"] = {"text": "Site home has 4 jobs that move data at work, its limit."}
    followed = homeport("job", "show", job, "--wait")
    assert followed.err.count("waits for its turn: Site home has 4 jobs that move data at work, its limit.") == 1


def test_limits_are_shown_and_set(homeport: Homeport, vault: FakeVault) -> None:
    assert "4 jobs that move data, 16 failovers" in homeport("job", "limits").out
    changed = homeport("job", "limits", "--data-moving", "8", "--json").json
    assert changed == {"limits": {"data_moving": 8, "failovers": 16}}
    assert homeport("job", "limits", "--failovers", "0").status == 2


def node(name: str, title: str, state: str = "succeeded", **more: Any) -> dict[str, Any]:
    at = START.isoformat()
    return {"name": name, "title": title, "state": state, "progress": None, "started": at, "ended": at, **more}


@pytest.fixture
def nested_job(vault: FakeVault) -> str:
    """As a vault tells it."""
    job = vault.begin("failover", "web1")
    finding = {"code": "78144", "severity": "warning", "found": "The agent is silent", "expected": "an answer"}
    checks = [
        node("checks/one", "All is well", children=[]),
        node("checks/two", "The agent", children=[], finding=finding),
    ]
    start = node("start-machine", "Start the machine", "failed", error={"code": "x.y", "cause": "it broke"})
    vault.jobs[job]["tasks"] = [start]
    vault.jobs[job]["task_tree"] = [
        node("prerequisites", "Prerequisites check", children=checks),
        node("start", "Start the recovery machine", "failed", children=[{**start, "children": []}]),
    ]
    return job


def test_tasks_are_shown_nested(homeport: Homeport, nested_job: str) -> None:
    lines = homeport("job", "show", nested_job).out.splitlines()
    margin = next(line.index("Task ") for line in lines if "Task " in line)
    lines = [line[margin:] for line in lines]
    wanted = ("Prerequisites check ", "  All is well ", "  The agent ", "Start the recovery", "  Start the machine ")
    places = [next(place for place, line in enumerate(lines) if line.startswith(start)) for start in wanted]
    assert places == sorted(places)
    assert "78144: The agent is silent" in lines[places[2]]
    assert "x.y: it broke" in lines[places[4]]


def test_exports_tell_where_a_task_stands(homeport: Homeport, nested_job: str, tmp_path: Path) -> None:
    (job,) = json.loads(homeport("job", "export").out)["jobs"]
    assert job["task_tree"][1]["children"][0]["error"]["code"] == "x.y"
    (row,) = csv.DictReader(io.StringIO(homeport("job", "export", "--format", "csv").out, newline=""))
    assert row["tasks"] == (
        "Prerequisites check > The agent: succeeded; Start the recovery machine > Start the machine: failed"
    )
    homeport("job", "export", "--to", str(tmp_path / "jobs.xlsx"))
    head, *rows = sheets(tmp_path / "jobs.xlsx")["Tasks"]
    assert head[:3] == ["job", "number", "path"]
    assert [row[2] for row in rows] == [
        "Prerequisites check",
        "Prerequisites check > All is well",
        "Prerequisites check > The agent",
        "Start the recovery machine",
        "Start the recovery machine > Start the machine",
    ]


# ── answers that were lost ──────────────────────────────────────────────────────────────────────────────────────────

ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"job": "j1"}'
BUSY = b'{"code": "request.in-progress", "cause": "c"}'
IN_PROGRESS = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(BUSY), BUSY)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that gives these answers to one connection each (b"": it breaks off); returns the requests it got."""
    monkeypatch.setattr(client, "AGAIN_AFTER", 0.01)
    listening = socket.create_server(("127.0.0.1", 0))
    asked: list[str] = []

    def begin(*answers: bytes) -> tuple[VaultClient, list[str]]:
        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536).decode())
                    connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return VaultClient(f"http://127.0.0.1:{listening.getsockname()[1]}", "t", found_in=Path("/")), asked

    threads: list[threading.Thread] = []
    yield begin
    for thread in threads:
        thread.join(10)
    listening.close()


Begin = Callable[..., tuple[VaultClient, list[str]]]


def keys(asked: list[str]) -> set[str]:
    lines = (line for request in asked for line in request.splitlines())
    return {line.partition(": ")[2] for line in lines if line.lower().startswith("idempotency-key")}


def test_a_request_whose_answer_was_lost_is_asked_again_under_its_key(answering: Begin) -> None:
    vault, asked = answering(b"", IN_PROGRESS, b"", ACCEPTED)
    assert vault.operate("web1", "failover", {}) == "j1"
    assert (len(asked), len(keys(asked))) == (4, 1)


def test_a_vault_that_stays_away_is_given_up(answering: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOST_FOR", 0.0)
    vault, asked = answering(b"")
    with pytest.raises(VaultNotRunning):
        vault.operate("web1", "failover", {})
    assert len(asked) == 1


def test_two_requests_have_two_keys(answering: Begin) -> None:
    vault, asked = answering(ACCEPTED, ACCEPTED)
    vault.operate("web1", "failover", {})
    vault.close()
    again, _ = VaultClient(vault.url, "t", found_in=Path("/")), None
    again.operate("web1", "failover", {})
    assert len(keys(asked)) == 2


EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    b'retry: 2000\nid: 1\nevent: ready\ndata: {}\n\n: heartbeat\n\nid: 2\nevent: job\ndata: {"id": "j1"}\n\n'
)


def test_events_are_read_as_they_come(answering: Begin) -> None:
    vault, asked = answering(EVENTS)
    assert list(vault.events(kind="job", after="0")) == [
        {"id": "1", "kind": "ready", "shown": {}},
        {"id": "2", "kind": "job", "shown": {"id": "j1"}},
    ]
    assert "Last-Event-ID: 0" in asked[0]
    assert "GET /v1/events?kind=job" in asked[0]
