"""The round trip, as a person would do it: every step is a `homeport` command, and after each the machine is asked.

make demo            run it, clean up
make demo KEEP=1     leave the sites, the machines and Homeport running to look at
make demo DATABASE=postgresql            the vault on a PostgreSQL of the demo's own
make demo DATABASE=postgresql://…        the vault on this empty database
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from demo.guest.build import build_guest, write_machine
from demo.guest.proof import ask, check, wait_for_answer
from demo.hashes import hash_image, hash_point
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite

console = Console()
HOMEPORT = [sys.executable, "-m", "homeport.cli"]
MACHINE = "web"
PRODUCTION_PORT = 18080
TEST_PORT = 18081
INTERVAL = 5


class DemoFailed(Exception):
    """A verdict was not what it has to be."""


@dataclass
class Row:
    step: str
    seconds: float = 0.0
    crossed: int = 0
    rpo: str = "–"
    rto: str = "–"
    verdict: str = "–"


@dataclass
class Demo:
    """One run in ``folder``: two sites, a state folder, a guest."""

    folder: Path
    database: str | None = None
    """Where the vault keeps its rows; None: SQLite in the state folder."""
    rows: list[Row] = field(default_factory=list)
    up: subprocess.Popen[bytes] | None = None
    passphrase: str = ""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def oslo(self) -> Path:
        return self.folder / "oslo"

    @property
    def bergen(self) -> Path:
        return self.folder / "bergen"

    # ── homeport itself ─────────────────────────────────────────────────────────────────────────────────────────

    def start_homeport(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        out = (self.folder / "up.txt").open("ab")
        environment = {**os.environ, **({"HOMEPORT_DATABASE": self.database} if self.database else {})}
        self.up = subprocess.Popen(
            [*HOMEPORT, "up", "--state", str(self.state)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        until(lambda: self._answers(), 60, "Homeport to be up")
        if (self.state / "vault.db").exists() is (self.database is not None):
            raise DemoFailed("the vault keeps its rows elsewhere than it was told to")
        text = (self.folder / "up.txt").read_text()
        for line in text.splitlines():
            if line.startswith("    ") and not self.passphrase:
                self.passphrase = line.strip()

    def _answers(self) -> bool:
        if self.up is not None and self.up.poll() is not None:
            raise DemoFailed("homeport up ended:\n" + (self.folder / "up.txt").read_text())
        try:
            return self.api("/v1/vault") is not None
        except (httpx.HTTPError, FileNotFoundError):
            return False

    def api(self, path: str) -> Any:
        endpoint = (self.state / "endpoint").read_text().strip()
        token = (self.state / "token").read_text().strip()
        response = httpx.get(endpoint + path, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        response.raise_for_status()
        return response.json()

    def homeport(self, *words: str) -> None:
        """Run a command for everyone to see; its progress bars are its own."""
        console.print(f"[bold]$ homeport {shlex.join(words)}[/bold]", highlight=False)
        environment = {**os.environ, "HOMEPORT_STATE": str(self.state)}
        done = subprocess.run([*HOMEPORT, *words], env=environment, check=False)
        if done.returncode:
            raise DemoFailed(f"homeport {shlex.join(words)} ended with {done.returncode}")

    def item(self) -> dict[str, Any]:
        item: dict[str, Any] = self.api(f"/v1/items/{MACHINE}")
        return item

    def points(self) -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = self.api(f"/v1/items/{MACHINE}/points")["points"]
        return points

    def point_of(self, kind: str) -> str:
        """The recovery point that the last job of this kind chose."""
        jobs = [job for job in self.api("/v1/jobs")["jobs"] if job["kind"] == kind]
        point: str = max(jobs, key=lambda job: job["created"])["result"]["point"]
        return point

    # ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def step(self, title: str, story: str) -> Iterator[Row]:
        console.print()
        story = " ".join(story.split())
        console.print(Panel(story, title=f"[bold]{title}[/bold]", title_align="left", border_style="cyan"))
        row = Row(title)
        before = self.crossed()
        began = time.monotonic()
        yield row
        row.seconds = row.seconds or time.monotonic() - began
        row.crossed = self.crossed() - before
        self.rows.append(row)

    def crossed(self) -> int:
        try:
            replication = self.item().get("replication") or {}
        except (httpx.HTTPError, FileNotFoundError):
            return 0
        return sum((replication.get("crossed", {"out": 0})).values())

    def ask(self, row: Row, port: int, *, not_older_than: int | None = None, exactly: int | None = None) -> int:
        """Ask the running machine; its last record's number."""
        answer = ask(f"http://127.0.0.1:{port}/verify", 60)
        verdict = check(answer, not_older_than=not_older_than, exactly=exactly)
        row.verdict = "proven" if verdict.good else "FAILED"
        console.print(f"   {'[green]✓[/green]' if verdict.good else '[red]✗[/red]'} {verdict.text}", highlight=False)
        if not verdict.good:
            raise DemoFailed(verdict.text)
        return answer.last


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise DemoFailed(f"waited {seconds:.0f} s for {what}")


# ── the steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def set_up(demo: Demo) -> None:
    with demo.step(
        "Two sites, one machine",
        "Oslo runs the machine 'web': it boots from its own disk, and appends numbered records, each fsynced before\n"
        "the next, in one hash chain that alternates over its two disks. Bergen is empty.",
    ) as row:
        for site in (demo.oslo, demo.bergen):
            site.mkdir(parents=True, exist_ok=True)
        images = build_guest(demo.folder / "guest")
        write_machine(demo.oslo, MACHINE, images, forward=f"127.0.0.1:{PRODUCTION_PORT}:80")
        QemuSite(demo.oslo, name="oslo").start(MACHINE, StartOptions())
        url = f"http://127.0.0.1:{PRODUCTION_PORT}/"
        answer, seconds = wait_for_answer(url, 180)
        if answer.last < 0:  # it answers before its first record is written
            until(lambda: ask(url, 30).last >= 0, 60, "the first record")
            answer = ask(url, 30)
        console.print(f"   'web' answers {seconds:.1f} s after power-on; its last record is {answer.last}.")
        row.rto = f"{seconds:.1f} s (plain boot)"
        demo.ask(row, PRODUCTION_PORT)


def protect(demo: Demo) -> None:
    with demo.step(
        "Protect",
        "A first copy of both disks while the machine goes on writing, zeroes and holes left out; then a point\n"
        f"every {INTERVAL} seconds, of both disks at one instant.",
    ) as row:
        demo.homeport("site", "add", "oslo", "--provider", "qemu", "--path", str(demo.oslo))
        demo.homeport("site", "add", "bergen", "--provider", "qemu", "--path", str(demo.bergen))
        demo.homeport("machine", "list", "oslo")
        demo.homeport(
            "policy", "create", "gold", "--rpo-threshold", "15m", "--retention", "24h", "--app-consistent", "1h",
            "--interval", f"{INTERVAL}s",
        )  # fmt: skip
        demo.homeport("protect", MACHINE, "--from", "oslo", "--to", "bergen", "--policy", "gold")
        demo.homeport("point", MACHINE, "--app-consistent", "--tag", "before-the-drill")
        demo.homeport("points", MACHINE)
        row.rpo = rpo(demo)
        demo.ask(row, PRODUCTION_PORT)


def drill(demo: Demo) -> None:
    with demo.step(
        "Test failover",
        "A copy boots in Bergen on a network without a way out, while production goes on. Only its HTTP port is\n"
        "reachable, on loopback.",
    ) as row:
        before = ask(f"http://127.0.0.1:{PRODUCTION_PORT}/", 30).last
        demo.homeport("point", MACHINE)
        began = time.monotonic()
        demo.homeport("test-failover", MACHINE, "--forward", f"{TEST_PORT}:80")
        wait_for_answer(f"http://127.0.0.1:{TEST_PORT}/", 180)
        row.rto = f"{time.monotonic() - began:.1f} s"
        demo.ask(row, TEST_PORT, not_older_than=before)
        demo.homeport("cleanup", MACHINE, "--notes", "drill passed", "--yes")
        left = [path.name for path in demo.bergen.iterdir() if not path.name.startswith(".")]
        if left:
            raise DemoFailed(f"the clean-up left {left}")
        row.rpo = rpo(demo)


def planned_failover(demo: Demo) -> None:
    with demo.step(
        "Planned failover",
        "The machine in Oslo is shut down, its last changes are shipped, and it boots in Bergen at once from the\n"
        "point: what it reads and does not have yet comes from the recovery store, while the rest streams in.",
    ) as row:
        last = pause_writer(PRODUCTION_PORT)
        began = time.monotonic()
        demo.homeport("failover", MACHINE, "--yes")
        wait_for_answer(f"http://127.0.0.1:{PRODUCTION_PORT}/", 180)
        row.rto = f"{time.monotonic() - began:.1f} s"
        row.rpo = "0, none lost"
        demo.ask(row, PRODUCTION_PORT, exactly=last)
        same_disks(demo, demo.oslo, demo.bergen, demo.point_of("failover"))
        demo.homeport("commit", MACHINE, "--yes")


def come_home(demo: Demo) -> None:
    with demo.step(
        "Reprotect",
        "Now Bergen replicates to Oslo. The powered-off disks in Oslo are the base: only differences cross.",
    ) as row:
        demo.homeport("reprotect", MACHINE)
        demo.homeport("status", MACHINE)
        row.rpo = rpo(demo)
        demo.ask(row, PRODUCTION_PORT)
    with demo.step(
        "Failback",
        "The machine in Bergen is shut down, its last changes are shipped, the disks in Oslo are brought to that\n"
        "point (what is overwritten goes to the retention drive first), and 'web' starts where it came from.",
    ) as row:
        last = pause_writer(PRODUCTION_PORT)
        began = time.monotonic()
        demo.homeport("failback", MACHINE, "--yes")
        wait_for_answer(f"http://127.0.0.1:{PRODUCTION_PORT}/", 180)
        row.rto = f"{time.monotonic() - began:.1f} s"
        row.rpo = "0, none lost"
        demo.ask(row, PRODUCTION_PORT, exactly=last)
        same_disks(demo, demo.bergen, demo.oslo, demo.point_of("failback"))
        demo.homeport("commit", MACHINE, "--yes")
    with demo.step(
        "Reprotect forward",
        "Oslo replicates to Bergen again. What Bergen held is the base: only differences cross.",
    ) as row:
        demo.homeport("reprotect", MACHINE)
        row.rpo = rpo(demo)
        demo.ask(row, PRODUCTION_PORT)


def disaster(demo: Demo) -> None:
    with demo.step(
        "Oslo is gone",
        "Without a warning: its machine is killed and its whole folder is renamed away. Bergen fails over alone, to\n"
        "the newest point it has.",
    ) as row:
        demo.homeport("point", MACHINE)
        before = ask(f"http://127.0.0.1:{PRODUCTION_PORT}/", 30).last
        demo.homeport("point", MACHINE)
        lose(demo.oslo)
        lost_at = datetime.now(UTC)
        began = time.monotonic()
        demo.homeport("failover", MACHINE, "--no-shutdown", "--point", "latest-processed", "--yes")
        wait_for_answer(f"http://127.0.0.1:{PRODUCTION_PORT}/", 180)
        row.rto = f"{time.monotonic() - began:.1f} s"
        demo.ask(row, PRODUCTION_PORT, not_older_than=before)
        newest = datetime.fromisoformat(demo.item()["last_point"]["time"])
        row.rpo = f"{(lost_at - newest).total_seconds():.1f} s lost"
        demo.homeport("status", MACHINE)


def rpo(demo: Demo) -> str:
    seconds = demo.item()["rpo_seconds"]
    return "–" if seconds is None else f"{seconds:.0f} s"


def pause_writer(port: int) -> int:
    """The number of the very last record before a planned stop: the proof asks for exactly this one afterwards."""
    return ask(f"http://127.0.0.1:{port}/pause", 30).last


def same_disks(demo: Demo, stopped_at: Path, runs_at: Path, point: str) -> None:
    """The disks of the machine that was shut down, against the point at the other side."""
    folder = stopped_at / MACHINE
    machine = QemuSite(stopped_at, name=stopped_at.name).machine(MACHINE)
    own = {disk.id: hash_image(folder / disk.path, disk.format) for disk in machine.disks}
    other = hash_point(runs_at, demo.passphrase, demo.item()["machine"], point)
    for disk, digest in own.items():
        same = other[disk] == digest
        console.print(
            f"   {'[green]✓[/green]' if same else '[red]✗[/red]'} {disk}: SHA-256 {digest[:16]}… of the whole disk at "
            f"{stopped_at.name} {'equals' if same else 'DIFFERS from'} point {point} at {runs_at.name}",
            highlight=False,
        )
        if not same:
            raise DemoFailed(f"{disk} differs after a planned stop")


def lose(site: Path) -> None:
    """A site burns down: its processes end at once, its folder is out of reach."""
    os.kill(int((site / MACHINE / "run" / "qemu.pid").read_text()), signal.SIGKILL)
    site.rename(site.with_name(site.name + ".lost"))


def closing_table(demo: Demo, total: float, title: str = "The round trip") -> Table:
    table = Table(title=f"{title}, {total:.0f} s in all", title_justify="left")
    for name, justify in (
        ("step", "left"), ("took", "right"), ("crossed", "right"), ("RPO", "right"), ("RTO", "right"), ("data", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in demo.rows:
        table.add_row(row.step, f"{row.seconds:.1f} s", f"{row.crossed / 2**20:.1f} MiB", row.rpo, row.rto, row.verdict)
    return table


def clean_up(demo: Demo) -> None:
    for site in (demo.oslo, demo.bergen):
        if site.is_dir():
            provider = QemuSite(site, name=site.name)
            for machine in provider.machines():
                provider.delete(machine.name)
            end_point_servers(site)
    if demo.up is not None and demo.up.poll() is None:
        demo.up.send_signal(signal.SIGTERM)
        demo.up.wait(30)
    shutil.rmtree(demo.folder)


def end_point_servers(site: Path) -> None:
    from homeport.servers.process import end, read_identity

    for path in (site / ".homeport" / "points").glob("*/point.pid"):
        identity = read_identity(path)
        if identity:
            end(identity)


@contextmanager
def chosen_database(wanted: str) -> Iterator[str | None]:
    """The address of the vault's database while the body runs; None: SQLite. "postgresql": a server of our own."""
    if wanted in ("", "sqlite"):
        yield None
    elif wanted == "postgresql":
        from tests.vault.postgres import Postgres

        server = Postgres()
        try:
            server.start()
            yield server.database()
        finally:
            server.close()
    else:
        yield wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave everything running to look at")
    parser.add_argument("--json", type=Path, help="write the table as JSON to this file")
    parser.add_argument(
        "--database", default="sqlite", help="sqlite, postgresql (a server of the demo's own), or postgresql://…"
    )
    options = parser.parse_args()
    if options.keep and options.database == "postgresql":
        parser.error("--keep leaves Homeport running: it needs a database that stays, --database postgresql://…")
    with chosen_database(options.database) as database:
        return run(options, database)


def run(options: argparse.Namespace, database: str | None) -> int:
    began = time.monotonic()
    template = time.monotonic()
    console.print("Building the guest from Debian's packages (kept for the next run) …")
    with tempfile.TemporaryDirectory(prefix="homeport-guest-") as scratch:
        build_guest(Path(scratch))
    console.print(f"   {time.monotonic() - template:.1f} s")
    demo = Demo(Path(tempfile.mkdtemp(prefix="homeport-demo-")), database)
    console.print(f"The vault keeps its rows in {'PostgreSQL' if database else 'SQLite'}.")
    began = time.monotonic()
    failed = False
    try:
        demo.start_homeport()
        steps: list[Callable[[Demo], None]] = [set_up, protect, drill, planned_failover, come_home, disaster]
        for step in steps:
            step(demo)
    except DemoFailed as error:
        failed = True
        console.print(f"\n[red bold]The demo failed:[/red bold] {error}", highlight=False)
    finally:
        console.print()
        console.print(closing_table(demo, time.monotonic() - began))
        if options.json:
            options.json.write_text(json.dumps([vars(row) for row in demo.rows], indent=2))
        if options.keep:
            console.print(
                f"\nEverything runs on. Try:\n  export HOMEPORT_STATE={demo.state}\n  .venv/bin/homeport status web"
                f"\nThe machine answers at http://127.0.0.1:{PRODUCTION_PORT}/. Process: {demo.up and demo.up.pid}"
                f"\nFolder: {demo.folder}",
                highlight=False,
            )
        else:
            clean_up(demo)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
