"""One round of the store's benchmark: each step by each tool in turn, so that what the machine does meets all alike.

Every restored image is compared with its original byte by byte, outside the timed part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench import nbd_speed
from tests.bench.image_facts import cut
from tests.bench.images import Images
from tests.bench.measure import BenchError, Command, Sample, call, must_equal, ready, run, stored
from tests.bench.peers import (
    DISK,
    PYTHON,
    ROOT,
    Backup,
    Benji,
    Borg,
    Homeport,
    Restic,
    nbdcopy,
    rsync,
    zstd,
)
from tests.bench.store_rows import Results

PEERS: dict[str, Callable[[Path], Backup]] = {"borg": Borg, "benji": Benji, "restic": Restic}
NEEDS = {"first": [], "delta": ["first"], "scan": ["first", "delta"], "restore": ["first", "delta"]}
NEEDS["bring"] = NEEDS["bring in memory"] = NEEDS["restore"]


class Round:
    """``stores``: a folder for what is backed up; ``targets``: a folder for what is restored."""

    def __init__(
        self,
        number: int,
        images: Images,
        stores: Path,
        targets: Path,
        results: Results,
        console: Console,
        *,
        rows: Sequence[str],
        peers: Sequence[str],
        patience: float,
    ) -> None:
        self.number, self.images, self.results, self.console = number, images, results, console
        self.stores, self.targets = stores, targets
        self.rows, self.patience = rows, patience
        self.needed = {*rows, *(need for row in rows for need in NEEDS.get(row, []))}
        self.tools: list[Backup] = []
        self.last = Sample(0)
        self.homeport = Homeport(stores / "homeport")
        makers: list[Callable[[], Backup]] = [lambda: self.homeport]
        makers += [lambda name=name: PEERS[name](stores / name) for name in PEERS if name in peers]  # type: ignore[misc]
        turn = number % len(makers)
        for maker in makers[turn:] + makers[:turn]:
            self._guarded("prepare", lambda maker=maker: self.tools.append(maker()))  # type: ignore[misc]
        self.others = [name for name in ("nbdcopy", "zstd", "rsync") if name in peers]
        self.nbdkit = "nbdkit" in peers

    def run(self) -> None:
        steps = {
            self._first: {"first"},
            self._scan: {"scan"},
            self._delta: {"delta"},
            self._restore: {"restore"},
            lambda: self._bring("bring", self.stores): {"bring"},
            lambda: self._bring("bring in memory", self.targets): {"bring in memory"},
            self._nbd: {"nbd"},
        }
        for step, rows in steps.items():
            if rows & self.needed:
                self._guarded(min(rows), step)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _first(self) -> None:
        for tool in list(self.tools):
            if not self._timed("first", tool.name, tool.first(self.images), self.images.day1):
                self.tools.remove(tool)
            elif "first" in self.rows:
                self.results.add("first", f"{tool.name} bytes", tool.stored())
        if "first" not in self.rows:
            return
        target = self.stores / "copied"
        if "nbdcopy" in self.others:
            for name, flush in (("nbdcopy", False), ("nbdcopy flushed", True)):
                command = nbdcopy(self.images, target, flush=flush)
                if self._timed("first", name, command, self.images.day1):
                    must_equal(target, self.images.day1)
                target.unlink(missing_ok=True)
        if "zstd" in self.others:
            if self._timed("first", "zstd", zstd(self.images, target), self.images.day1):
                self.results.add("first", "zstd bytes", stored(target))
            target.unlink(missing_ok=True)

    def _scan(self) -> None:
        """Before the delta: a store that holds day 1 alone is copied."""
        if self.homeport not in self.tools:
            return
        other = self.homeport.copy(self.stores / "scanned", hints=False)
        if self._timed("scan", "homeport", other.delta(self.images), self.images.day2, other.files):
            self._check("scan", other)
        shutil.rmtree(other.folder)
        if "scan" in self.rows:
            command = Command([PYTHON, "-m", "tests.bench.hashing", self.images.day2], folder=ROOT)
            self._timed("scan", "hashing alone", command, self.images.day2)

    def _delta(self) -> None:
        for tool in list(self.tools):
            # Borg takes no hints: its delta is its scan, too.
            scan = tool.name == "borg" and "scan" in self.rows
            row = "scan" if scan and "delta" not in self.rows else "delta"
            before = tool.stored()
            if not self._timed(row, tool.name, tool.delta(self.images), self.images.day2, tool.files):
                self.tools.remove(tool)
                continue
            if "delta" in self.rows:
                self.results.add("delta", f"{tool.name} bytes", tool.stored() - before)
                if scan:
                    self.results.add("scan", tool.name, self.last)

    def _restore(self) -> None:
        for tool in self.tools:
            target = self._target(self.targets)
            if self._timed("restore", tool.name, tool.restore(target), tool.files):
                self._guarded("restore", lambda tool=tool, target=target: must_equal(  # type: ignore[misc]
                    tool.restored(target), self.images.day2
                ))  # fmt: skip
            shutil.rmtree(target)

    def _bring(self, row: str, room: Path) -> None:
        """Day 2 is restored, brought to day 1 by what is known of it, and back to day 2, nothing being known; then
        rsync brings a copy of day 2 to day 1."""
        if self.homeport not in self.tools:
            return
        target = self._target(room)
        if self._timed(row, "full restore", self.homeport.restore(target), self.homeport.files):
            self._bring_by_ours(row, target)
        shutil.rmtree(target)
        if "rsync" in self.others:
            self._bring_by_rsync(row, room)

    def _bring_by_ours(self, row: str, target: Path) -> None:
        disk, first = self.homeport.restored(target), self.homeport.points()[0]
        command = self.homeport.restore(target, first, "--differences", "--json")
        if not self._timed(row, "by map", command, self.homeport.files, disk):
            return
        self._must_go_by("map")
        must_equal(disk, self.images.day1)
        for beside in target.iterdir():
            if beside != disk:  # the note of which point it holds
                beside.unlink()
        command = self.homeport.restore(target, "latest", "--differences", "--json")
        if self._timed(row, "by digests", command, self.homeport.files, disk):
            self._must_go_by("digests")
            must_equal(disk, self.images.day2)

    def _must_go_by(self, way: str) -> None:
        if f'"way": "{way}"' not in self.last.said:
            raise BenchError(f"not brought by {way}: {self.last.said}")

    def _bring_by_rsync(self, row: str, room: Path) -> None:
        for name, compare in (("rsync whole", False), ("rsync compare", True)):
            target = self._target(room)
            disk = target / "disk.raw"
            call(Command(["cp", "--sparse=auto", self.images.day2, disk]))
            command = rsync(self.images.day1, disk, compare=compare)
            if self._timed(row, name, command, self.images.day1, disk):
                must_equal(disk, self.images.day1)
            shutil.rmtree(target)

    def _nbd(self) -> None:
        """Of a disk that is the working set: the fullest 256 MiB, on both days."""
        window = cut(self.images, nbd_speed.WORKING_SET, self.stores / "window")
        ours = Homeport(self.stores / "served")
        for command in (ours.first(window), ours.delta(window)):
            if not self._guarded("nbd", lambda command=command: call(command)):  # type: ignore[misc]
                return
        socket = self.stores / "nbd.sock"
        servers = {"": nbd_speed.Server(ours.serve(socket), socket, DISK)}
        if self.nbdkit:
            servers["nbdkit"] = nbd_speed.nbdkit(window.day2, socket)
        for name in list(servers)[:: -1 if self.number % 2 else 1]:
            self._guarded("nbd", lambda name=name: self._serve(servers[name], name, window, ours))  # type: ignore[misc]
        shutil.rmtree(ours.folder)
        shutil.rmtree(window.folder)

    def _serve(self, server: nbd_speed.Server, name: str, window: Images, ours: Homeport) -> None:
        ready(window.day2, ours.files, patience=self.patience)
        copied = self._target(self.targets) / "disk.raw"
        with nbd_speed.running(server) as served:
            call(Command(["nbdcopy", served.uri, copied]))
        must_equal(copied, window.day2)
        shutil.rmtree(copied.parent)
        found = nbd_speed.warm(server, self.patience)
        found["cold random"] = nbd_speed.cold_random(server, self.patience)
        for what, value in found.items():
            full = f"nbdkit {what}" if name else what if what.startswith("cold") else f"warm {what}"
            self.results.add("nbd", full, value)
            self._say("nbd", full, f"{value.rate:,.0f} a second, others used {value.foreign:4.0%}")

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _target(room: Path) -> Path:
        """A new, empty folder."""
        target = room / "restored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    def _check(self, row: str, tool: Homeport) -> None:
        """What was just stored comes back as it was."""
        target = self._target(self.targets)

        def check() -> None:
            call(tool.restore(target))
            must_equal(tool.restored(target), self.images.day2)

        self._guarded(row, check)
        shutil.rmtree(target)

    def _timed(self, row: str, name: str, command: Command, *reads: Path) -> bool:
        """Whether it went well. What only prepares another row is run, not recorded."""

        def step() -> None:
            if row not in self.rows:
                self.last = run(command)
                return
            ready(*reads, patience=self.patience)
            self.last = run(command)
            self.results.add(row, name, self.last)
            self._say(row, name, self._words(self.last))

        return self._guarded(f"{row} {name}", step)

    def _words(self, sample: Sample) -> str:
        mark = "  DISTURBED" if sample.disturbed else ""
        memory = "     –" if sample.memory is None else f"{sample.memory >> 20:6}"
        return (
            f"{sample.seconds:7.2f} s, CPU {sample.cpu:6.2f} s, {memory} MiB, others used {sample.foreign:4.0%}{mark}"
        )

    def _say(self, row: str, name: str, text: str) -> None:
        self.console.print(f"round {self.number + 1}  {row:8}{name:24}{text}", highlight=False, markup=False)

    def _guarded(self, what: str, step: Callable[[], object]) -> bool:
        """A tool that fails doesn't end the others' run; the table says so."""
        try:
            step()
        except (BenchError, OSError) as error:
            self.results.failures.append(f"round {self.number + 1}, {what}: {error}")
            self.console.print(f"FAILED {what}: {error}", style="red", markup=False, highlight=False)
            return False
        return True
