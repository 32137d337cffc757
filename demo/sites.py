"""Two sites and a WAN: replication across it, a cut, a killed server, a lost site, and the way home.

make demo-sites          run it, clean up (needs root: the sites are network namespaces)
make demo-sites KEEP=1   leave everything running until Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo.guest.build import build_guest, write_machine
from demo.guest.proof import Answer, NoAnswer, ask, check, get, wait_for_answer
from demo.hashes import hash_image, hash_point
from demo.namespaces import Namespace, kill
from demo.networks import Networks, NetworksUnavailable
from demo.round_trip import HOMEPORT, INTERVAL, MACHINE, Demo, DemoFailed, Row, closing_table, console, rpo, until
from demo.servers import ServerFailed, Servers
from homeport.sites.interface import StartOptions
from homeport.sites.qemu import QemuSite

HOME, AWAY = "oslo", "bergen"
NAMESPACES = {HOME: ("cs", "ps", "ps2", "mt"), AWAY: ("vault", "cs", "ps", "mt")}
PORT = 18080
"""Where the machine answers, on loopback of the configuration server of the site that runs it."""
CUT_SECONDS = 60
"""How long the WAN is cut, unless told otherwise."""
LOAD_EVERY = 2.0
"""Seconds between two files of a MiB of random data that the machine is made to write, beside its records."""


class Sites(Demo):
    """One run: ``servers`` are those of two sites, in namespaces that are up while it lasts."""

    def __init__(
        self, folder: Path, networks: Networks, *, one_place: bool = False, cut_seconds: int = CUT_SECONDS
    ) -> None:
        super().__init__(folder)
        self.networks = networks
        self.cut_seconds = cut_seconds
        self.servers = Servers(folder, networks, AWAY, one_place)
        self.runs_at = HOME

    @property
    def state(self) -> Path:
        return self.servers.state(self.servers.vault)

    def site_folder(self, site: str) -> Path:
        return self.servers.site_folder(site)

    def start_homeport(self) -> None:
        """The vault, then each site and its servers."""
        self.passphrase = self.servers.start_vault()
        for site in (HOME, AWAY):
            self.homeport("site", "add", site, "--provider", "qemu", "--path", str(self.site_folder(site)))
            self.servers.start_site(site)
            until(lambda site=site: self.connected(site), 60, f"{site} to be connected")  # type: ignore[misc]

    # ── asking, from where it can be asked ──────────────────────────────────────────────────────────────────────

    def api(self, path: str) -> Any:
        with self.servers.namespace(self.servers.vault).inside():
            return super().api(path)

    def homeport(self, *words: str) -> None:
        """As an operator at the vault's machine, for everyone to see."""
        with self.servers.namespace(self.servers.vault).inside():
            super().homeport(*words)

    def place(self, site: str | None = None) -> Namespace:
        """Where the machines of a site run: with who starts them."""
        return self.servers.namespace(f"{site or self.runs_at}-cs")

    def now(self) -> Answer:
        """What the machine says at once."""
        with self.place().inside():
            return ask(f"http://127.0.0.1:{PORT}/", 30)

    def answers(self) -> float:
        """Waits for the machine's first answer; the seconds it took."""
        with self.place().inside():
            return wait_for_answer(f"http://127.0.0.1:{PORT}/", 240)[1]

    def pause(self) -> int:
        """The number of the very last record before a planned stop."""
        with self.place().inside():
            return ask(f"http://127.0.0.1:{PORT}/pause", 30).last

    def prove(self, row: Row, **wanted: Any) -> int:
        with self.place().inside():
            answer = ask(f"http://127.0.0.1:{PORT}/verify", 120)
        verdict = check(answer, **wanted)
        row.verdict = "proven" if verdict.good else "FAILED"
        console.print(f"   {'[green]✓[/green]' if verdict.good else '[red]✗[/red]'} {verdict.text}", highlight=False)
        if not verdict.good:
            raise DemoFailed(verdict.text)
        return answer.last

    def connected(self, site: str) -> bool:
        found = next(one for one in self.api("/v1/sites")["sites"] if one["name"] == site)
        return bool(found["connected"])

    def newest(self) -> datetime | None:
        """The instant of the newest point at the other side."""
        point = self.item()["last_point"]
        return datetime.fromisoformat(point["time"]) if point else None

    def point_since(self, moment: datetime, seconds: float) -> datetime:
        """Waits for a point of after ``moment``."""

        def look() -> datetime | None:
            newest = self.newest()
            return newest if newest and newest > moment else None

        found: datetime = until(look, seconds, f"a point newer than {moment:%H:%M:%S}")
        return found

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Meanwhile the machine is made to write files of random data, wherever it runs; it may be away."""
        over = threading.Event()

        def write() -> None:
            number = 0
            while not over.wait(LOAD_EVERY):
                number += 1
                with contextlib.suppress(NoAnswer), self.place().inside():
                    get(f"http://127.0.0.1:{PORT}/write?mb=1&disk={number % 2}&name=load{number % 8}", 20)

        thread = threading.Thread(target=write, name="load", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)


# ── the steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def set_up(demo: Sites) -> None:
    with demo.step(
        "Two sites and a WAN",
        f"Oslo and Bergen are networks of their own, 40 ms and 100 Mbit/s apart ({demo.networks.wan.how}). Each has a "
        "configuration server, a process server and a master target, Bergen has the vault too: processes with an "
        "address each, which have joined the vault. Oslo runs the machine 'web', which appends numbered records in one "
        "hash chain over its two disks, each fsynced before the next, and from now on writes half a MiB of random data "
        "a second beside them.",
    ) as row:
        demo.start_homeport()
        demo.homeport("server", "list")
        images = build_guest(demo.folder / "guest")
        write_machine(demo.site_folder(HOME), MACHINE, images, forward=f"127.0.0.1:{PORT}:80")
        with demo.place(HOME).inside():
            QemuSite(demo.site_folder(HOME), name=HOME).start(MACHINE, StartOptions())
        seconds = demo.answers()
        row.rto = f"{seconds:.1f} s (plain boot)"
        demo.prove(row)


def protect(demo: Sites) -> None:
    with demo.step(
        "Protect across the WAN",
        f"A first copy of both disks while the machine goes on writing, then a point every {INTERVAL} seconds.",
    ) as row:
        demo.homeport("machine", "list", HOME)
        demo.homeport("policy", "create", "gold", "--rpo-threshold", "15m", "--retention", "24h",
                      "--app-consistent", "1h", "--interval", f"{INTERVAL}s")  # fmt: skip
        demo.homeport("protect", MACHINE, "--from", HOME, "--to", AWAY, "--policy", "gold")
        demo.point_since(datetime.now(UTC), 60)
        row.rpo = rpo(demo)
        demo.prove(row)


def cut(demo: Sites) -> None:
    with demo.step(
        "The WAN is cut",
        f"For {demo.cut_seconds} seconds nothing gets through. Points go on being taken: they wait in Oslo, and are in "
        "Bergen when the WAN is back, as points of their own.",
    ) as row:
        demo.networks.wan.cut()
        began = datetime.now(UTC)
        console.print("   cut …")
        time.sleep(demo.cut_seconds)
        behind = demo.newest()
        before = demo.now().last
        restored = datetime.now(UTC)
        demo.networks.wan.restore()
        console.print("   … restored")
        demo.point_since(restored, 120)
        caught_up = (datetime.now(UTC) - restored).total_seconds()
        times = [datetime.fromisoformat(point["time"]) for point in demo.points()]
        during = [moment for moment in times if began < moment < restored]
        wanted = demo.cut_seconds // INTERVAL // 2  # a busy machine may miss some
        console.print(
            f"   When it was restored, Bergen's newest point was of {behind:%H:%M:%S}; {caught_up:.1f} s later it had "
            f"{len(during)} points of those {demo.cut_seconds} seconds, and a newer one.",
            highlight=False,
        )
        if len(during) < wanted:
            raise DemoFailed(f"of the time of the cut there are {len(during)} points, not {wanted}")
        row.rpo = rpo(demo)
        demo.prove(row, not_older_than=before)


def kill_process_server(demo: Sites) -> None:
    with demo.step(
        "Oslo's process server is killed",
        "SIGKILL while points are under way, and another process server, with an address, an identity and a cache of "
        "its own, in its place. The machine isn't touched.",
    ) as row:
        demo.servers.kill(f"{HOME}-ps")
        killed = datetime.now(UTC)
        before = demo.now().last
        demo.servers.add_server(f"{HOME}-ps2")
        demo.homeport("process-server", "switch", MACHINE, "--to", f"{HOME}-ps2")
        demo.point_since(killed, 120)
        console.print(f"   a new point {(datetime.now(UTC) - killed).total_seconds():.1f} s after the kill")
        row.rpo = rpo(demo)
        demo.prove(row, not_older_than=before)


def lose_home(demo: Sites) -> None:
    with demo.step(
        "Oslo is lost",
        "Every process of Oslo ends at once, its machine included, without a warning. Bergen fails over alone, to the "
        "latest point that it has.",
    ) as row:
        promised = demo.newest()
        before = demo.now().last
        began = datetime.now(UTC)
        demo.point_since(began, 60)  # what was answered before this point must be in it
        last = demo.now()
        killed = kill(demo.networks.of_site(HOME))
        lost_at = datetime.now(UTC)
        console.print(f"   {len(killed)} processes of Oslo were killed; its last answer named record {last.last}.")
        started = time.monotonic()
        demo.homeport("failover", MACHINE, "--no-shutdown", "--point", "latest", "--yes")
        demo.runs_at = AWAY
        demo.answers()
        row.rto = f"{time.monotonic() - started:.1f} s"
        demo.prove(row, not_older_than=before)
        point = demo.item()["last_point"]
        newest = datetime.fromisoformat(point["time"])
        if promised is None or newest < promised:
            raise DemoFailed(f"failed over to a point of {newest}, though there was one of {promised}")
        row.rpo = f"{(lost_at - newest).total_seconds():.1f} s lost"
        demo.homeport("status", MACHINE)
        demo.homeport("commit", MACHINE, "--yes")


def rebuild_home(demo: Sites) -> None:
    with demo.step(
        "Oslo's configuration server is restored",
        "Oslo is back with its machines' disks, powered off. All that its servers kept is gone (identities, store, "
        "cache, settings): the configuration server is restored on an empty state folder, from the backup that the "
        "vault has of it, with a registration key that lets it take the lost one's place. Its other servers join again "
        "with the join passphrase that it had.",
    ) as row:
        shutil.rmtree(demo.site_folder(HOME) / ".homeport")
        shutil.rmtree(demo.servers.cache(f"{HOME}-ps2"))
        for lost in ("ps", "ps2", "mt"):
            demo.homeport("server", "remove", f"{HOME}-{lost}", "--force", "--yes")
        passphrase = demo.servers.join_passphrase(HOME)
        for namespace in NAMESPACES[HOME]:
            shutil.rmtree(demo.servers.state(f"{HOME}-{namespace}"))
        demo.servers.start_site(HOME, servers=("ps2", "mt"), restore=True)
        if demo.servers.join_passphrase(HOME) != passphrase:
            raise DemoFailed("the configuration server of Oslo has another join passphrase than before it was lost")
        demo.homeport("server", "list")
        demo.homeport("machine", "list", HOME)
        demo.prove(row)


def come_home(demo: Sites) -> None:
    with demo.step(
        "Reprotect",
        "Bergen replicates to Oslo across the WAN. The powered-off disks in Oslo are the base: what differs is found "
        "by digests, since nobody can say what Oslo wrote last.",
    ) as row:
        demo.homeport("reprotect", MACHINE)
        demo.point_since(datetime.now(UTC), 60)
        row.rpo = rpo(demo)
        demo.prove(row)
    with demo.step(
        "Failback",
        "The machine in Bergen is shut down, its last changes are shipped, the disks in Oslo are brought to that "
        "point, and 'web' starts where it came from.",
    ) as row:
        last = demo.pause()
        began = time.monotonic()
        demo.homeport("failback", MACHINE, "--yes")
        demo.runs_at = HOME
        demo.answers()
        row.rto = f"{time.monotonic() - began:.1f} s"
        row.rpo = "0, none lost"
        demo.prove(row, exactly=last)
        same_disks(demo, demo.point_of("failback"))
        demo.homeport("commit", MACHINE, "--yes")
    with demo.step("Reprotect forward", "Oslo replicates to Bergen again: only differences cross.") as row:
        demo.homeport("reprotect", MACHINE)
        demo.point_since(datetime.now(UTC), 60)
        row.rpo = rpo(demo)
        demo.prove(row)


def same_disks(demo: Sites, point: str) -> None:
    """The disks of the machine that was shut down in Bergen, against the point in Oslo's store."""
    stopped_at, runs_at = demo.site_folder(AWAY), demo.site_folder(HOME)
    own = {
        disk.id: hash_image(stopped_at / MACHINE / disk.path, disk.format)
        for disk in QemuSite(stopped_at, name=AWAY).machine(MACHINE).disks
    }
    other = hash_point(runs_at, demo.passphrase, demo.item()["machine"], point)
    for disk, digest in own.items():
        if other[disk] != digest:
            raise DemoFailed(f"{disk} in Bergen differs from point {point} in Oslo after a planned stop")
        console.print(f"   [green]✓[/green] {disk}: SHA-256 {digest[:16]}… in Bergen equals the point in Oslo")


def run(demo: Sites) -> None:
    set_up(demo)
    with demo.load():
        protect(demo)
        cut(demo)
        kill_process_server(demo)
        lose_home(demo)
        rebuild_home(demo)
        come_home(demo)


def clean_up(demo: Sites) -> None:
    kill(list(demo.networks.namespaces.values()))
    for process in demo.servers.running.values():
        process.wait(10)
    shutil.rmtree(demo.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--json", type=Path, help="write the table as JSON to this file")
    parser.add_argument(
        "--cut", type=int, default=CUT_SECONDS, metavar="SECONDS", help="how long the WAN is cut (default: %(default)s)"
    )
    options = parser.parse_args()
    console.print("Building the guest from Debian's packages (kept for the next run) …")
    with tempfile.TemporaryDirectory(prefix="homeport-guest-") as scratch:
        build_guest(Path(scratch))
    # SIGTERM cleans up as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="homeport-sites-"))
    began = time.monotonic()
    failed = False
    try:
        with Networks(NAMESPACES) as networks:
            demo = Sites(folder, networks, cut_seconds=options.cut)
            try:
                run(demo)
            except (DemoFailed, NoAnswer, ServerFailed) as error:
                failed = True
                console.print(f"\n[red bold]The demo failed:[/red bold] {error}", highlight=False)
                for name in demo.servers.running:
                    console.print(f"{name}: {demo.servers.said(name)[-2000:]}", highlight=False, markup=False)
            finally:
                console.print()
                console.print(closing_table(demo, time.monotonic() - began, "Two sites and a WAN"))
                if options.json:
                    options.json.write_text(json.dumps([vars(row) for row in demo.rows], indent=2))
                if options.keep:
                    wait_for_ctrl_c(demo)
                clean_up(demo)
    except NetworksUnavailable as error:
        console.print(f"[red bold]This demo needs root and network namespaces:[/red bold] {error}", highlight=False)
        return 1
    return 1 if failed else 0


def wait_for_ctrl_c(demo: Sites) -> None:
    vault = demo.servers.namespace(demo.servers.vault).name
    enter = ["ip", "netns", "exec", vault, "env", f"HOMEPORT_STATE={demo.state}", *HOMEPORT, "status", MACHINE]
    console.print(
        f"\nEverything runs on until Ctrl-C. Try:\n  {shlex.join(enter)}\nFolder: {demo.folder}", highlight=False
    )
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
