"""`homeport store …`: a bucket and the passphrase are enough; no vault, no database, no server."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.formats import show_size
from homeport.cli.lessons import STORE, lesson
from homeport.cli.passphrases import PassphraseFileOption, read_passphrase
from homeport.cli.session import Session, command, group
from homeport.domain.errors import HomeportError
from homeport.domain.units import BLOCK

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.cli.store import Bucket, StoredMachine

POINTS = lesson(
    "List the machines, timelines and recovery points of a store.",
    "--hidden shows the points that are no longer offered, too: after a commit, for example.",
    "homeport store points --store file:///srv/away/store --passphrase-file secret",
    then="homeport store restore …, or homeport store serve …",
)
RESTORE = lesson(
    "Write the disks of a recovery point to raw images.",
    """Sparse: zeroes take no space. Every frame is verified as it is read. The file grows as PATH.partial and gets its
    name when it is whole and durable. Nothing that exists is overwritten.""",
    "homeport store restore --store file:///srv/away/store --machine web1 --point latest --disk disk0 --to web1.raw",
    "homeport store restore --store file:///srv/away/store --machine web1 --all --to /srv/restored/",
    then="start the machine from the images with any hypervisor: they are plain raw disks.",
)
VERIFY = lesson(
    "Check a store: that every point is there and whole.",
    """Without --deep the records and the presence of all they name; with it every frame is read and authenticated too.
    --expect-head names the newest point that you know of, so that a cut-off tail is noticed. Exit 1, with a list of
    what is damaged, if anything is.""",
    "homeport store verify --store file:///srv/away/store --deep",
    then="restore another point where one is damaged: the others are fine.",
)
SERVE = lesson(
    "Serve a recovery point's disks over NBD, read-only, until Ctrl-C.",
    "Nothing is copied: mount a file system from it, or boot an overlay on it. Exports are named disk0, disk1, …",
    "homeport store serve --store file:///srv/away/store --machine web1 --point latest --socket /run/web1.nbd",
    then="qemu-img info 'nbd+unix:///disk0?socket=/run/web1.nbd'",
)

StoreOption = Annotated[str, typer.Option("--store", metavar="URL", help="The store: file:///path (or a path).")]
MachineOption = Annotated[
    str | None, typer.Option("--machine", metavar="NAME", help="Its name or UUID. Default: the only one.")
]
_POINT = re.compile(r"[0-9a-f]{16}/\d{1,16}")


def _known_point(text: str) -> str:
    if text not in ("latest", "latest-app-consistent") and not _POINT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not a point: expected latest, latest-app-consistent, or an id as `store points` lists it"
        )
    return text


def _point_id(text: str) -> str:
    if not _POINT.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a point's id (<timeline>/<number>)")
    return text


PointOption = Annotated[
    str,
    typer.Option("--point", metavar="POINT", parser=_known_point, help="latest, latest-app-consistent, or an id."),
]
OnePointOption = Annotated[
    str | None, typer.Option("--point", metavar="ID", parser=_point_id, help="Only this point. Default: all.")
]
HeadOption = Annotated[
    str | None,
    typer.Option("--expect-head", metavar="ID", parser=_point_id, help="The newest point that must be there."),
]


def register(app: typer.Typer) -> None:
    store = group("A recovery store alone: with the passphrase, without a vault.")
    app.add_typer(store, name="store", rich_help_panel=STORE)

    @command(store, "points", POINTS, with_vault=False)
    def points(
        session: Session,
        store: StoreOption,
        machine: MachineOption = None,
        hidden: Annotated[bool, typer.Option("--hidden", help="Also points that are no longer offered.")] = False,
        passphrase_file: PassphraseFileOption = None,
    ) -> None:
        bucket = _open(store, passphrase_file)
        chosen = bucket.machines() if machine is None else [bucket.machine(machine)]
        data = [_machine_json(one, hidden) for one in chosen]
        session.answer({"machines": data}, lambda console: show_store(console, data))

    @command(store, "restore", RESTORE, with_vault=False)
    def restore(
        session: Session,
        store: StoreOption,
        to: Annotated[Path, typer.Option("--to", metavar="PATH", help="A new file; with --all a folder.")],
        machine: MachineOption = None,
        point: PointOption = "latest",
        disk: Annotated[str | None, typer.Option(metavar="ID", help="The disk, such as disk0.")] = None,
        every: Annotated[bool, typer.Option("--all", help="All disks, as PATH/disk0.raw, …")] = False,
        passphrase_file: PassphraseFileOption = None,
    ) -> None:
        if (disk is None) != every:
            raise WrongUse("say either --disk ID or --all")
        bucket = _open(store, passphrase_file)
        restored = _restore(session, bucket.machine(machine), point, None if every else disk, to)
        session.answer({"restored": restored}, lambda console: show_restored(console, restored))

    @command(store, "verify", VERIFY, with_vault=False)
    def verify(
        session: Session,
        store: StoreOption,
        machine: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one. Default: all.")] = None,
        point: OnePointOption = None,
        deep: Annotated[bool, typer.Option("--deep", help="Read and authenticate every frame.")] = False,
        expect_head: HeadOption = None,
        passphrase_file: PassphraseFileOption = None,
    ) -> None:
        bucket = _open(store, passphrase_file)
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

    @command(store, "serve", SERVE, with_vault=False)
    def serve(
        session: Session,
        store: StoreOption,
        socket: Annotated[Path, typer.Option(metavar="PATH", help="The unix socket to serve on.")],
        machine: MachineOption = None,
        point: PointOption = "latest",
        passphrase_file: PassphraseFileOption = None,
    ) -> None:
        _serve(session, _open(store, passphrase_file).machine(machine), point, socket)


class StoreDamaged(HomeportError):
    """A verification found something. ``details.problems``: words; ``details.machines``: as `store verify` answers."""

    code = "store.damaged"
    remedy = "Points that aren't named are fine. Restore one of those; take new points with a resync of the machine."


def _open(store: str, passphrase_file: Path | None) -> Bucket:
    passphrase = read_passphrase(passphrase_file)
    from homeport.cli.store import Bucket

    return Bucket(store, passphrase)


def _machine_json(machine: StoredMachine, hidden: bool) -> dict[str, Any]:
    return {
        "uuid": machine.uuid,
        "name": machine.name,
        "timelines": [
            {
                "id": timeline.id,
                "parent": str(timeline.parent) if timeline.parent else None,
                "origin": str(timeline.origin) if timeline.origin else None,
                "created": timeline.created.isoformat() if timeline.created else None,
                "ended": timeline.ended,
                "points": [point.to_json() for point in machine.store.points(timeline.id, hidden=hidden)],
            }
            for timeline in machine.store.timelines()
        ],
    }


def _restore(session: Session, machine: StoredMachine, wanted: str, disk: str | None, to: Path) -> dict[str, Any]:
    from homeport.cli.restore import restore_disk
    from homeport.cli.transfers import transfer

    point = machine.choose(wanted)
    reader = machine.store.open(point)
    if disk is not None and disk not in reader.disks:
        raise HomeportError(
            f"the point {point} has no disk {disk!r}",
            code="store.disk-not-found",
            remedy=f"It has: {', '.join(sorted(reader.disks))}.",
            disks=sorted(reader.disks),
        )
    if disk is None:
        to.mkdir(parents=True, exist_ok=True)
    files = []
    for name in [disk] if disk is not None else sorted(reader.disks):
        target = to if disk is not None else to / f"{name}.raw"
        data, size = reader.extents(name), reader.disks[name]
        with transfer(session, f"{machine.name} {name}", data.total) as advance:
            restore_disk(reader, name, size, data, target, advance)
        files.append({"disk": name, "path": str(target.absolute()), "size": size, "data_bytes": data.total})
    return {"machine": machine.uuid, "name": machine.name, "point": str(point), "files": files}


def _verify(
    session: Session, machine: StoredMachine, point: str | None, deep: bool, expect_head: str | None
) -> dict[str, Any]:
    from homeport.domain.points import PointId

    session.note(f"Verifying {machine.name}{' (every frame)' if deep else ''} ...")
    found = machine.store.verify(
        PointId.parse(point) if point else None,
        deep=deep,
        expect_head=PointId.parse(expect_head) if expect_head else None,
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


def _serve(session: Session, machine: StoredMachine, wanted: str, socket: Path) -> None:
    """Until SIGINT or SIGTERM; then exit status 0."""
    from homeport.cli.store import serving

    point = machine.choose(wanted)
    reader = machine.store.open(point)
    served = {
        "machine": machine.uuid,
        "name": machine.name,
        "point": str(point),
        "socket": str(socket.absolute()),
        "exports": [
            {"disk": disk, "size": size, "url": f"nbd+unix:///{disk}?socket={quote(str(socket.absolute()))}"}
            for disk, size in sorted(reader.disks.items())
        ],
    }
    ends = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's threads begin, so that they inherit it and sigwait alone takes the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with serving(reader, socket):
            session.answer({"serving": served}, lambda console: show_served(console, served))
            signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def show_store(console: Console, machines: list[dict[str, Any]]) -> None:
    from homeport.cli.points import show_points

    if not machines:
        console.print("This store holds no machine.")
    for machine in machines:
        console.print(f"{machine['name']} ({machine['uuid']})", markup=False, style="bold")
        for timeline in machine["timelines"]:
            facts = [f"timeline {timeline['id']}"]
            if timeline["parent"]:
                facts.append(f"from {timeline['parent']}")
            if timeline["ended"]:
                facts.append("ended")
            console.print("  " + ", ".join(facts), markup=False)
            show_points(console, timeline["points"])


def show_restored(console: Console, restored: dict[str, Any]) -> None:
    for file in restored["files"]:
        console.print(
            f"{file['disk']} of {restored['name']} at {restored['point']}: {file['path']} "
            f"({show_size(file['size'])}, of which {show_size(file['data_bytes'])} data)",
            markup=False,
        )


def show_verified(console: Console, machines: list[dict[str, Any]]) -> None:
    if not machines:
        console.print("This store holds no machine.")
    for machine in machines:
        console.print(f"{machine['name']}: {machine['points']} points are whole", markup=False)


def show_served(console: Console, served: dict[str, Any]) -> None:
    console.print(f"Serving {served['point']} of {served['name']} until Ctrl-C:", markup=False)
    for export in served["exports"]:
        console.print(f"  {export['disk']} ({show_size(export['size'])})  {export['url']}", markup=False)
