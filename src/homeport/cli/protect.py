"""`homeport protect`: the beginning of a machine's replication."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from homeport.cli.api import Job
from homeport.cli.errors import FAILED, VaultRefused, WrongUse
from homeport.cli.formats import parse_size
from homeport.cli.lessons import PROTECT, lesson
from homeport.cli.session import NoWaitOption, Session, command
from homeport.cli.status import tell_what_now
from homeport.cli.waiting import accept, failure, follow

HELP = lesson(
    "Protect machines: replicate them from one site to another.",
    """Prepares a timeline of recovery points at the other site and begins the first copy, which skips what is empty;
    then points are taken at the policy's interval. It is done when the other site has opened and verified the first
    point. The machine goes on running all the while. Several machines get a job each: one that is refused or fails does
    not stop the others, and makes the exit status 1. What is chosen for the other site can be changed later with
    homeport item set, except --exclude-disk and --group. Where the line is thin, carry an image of each disk to the
    other site and name it with --seed: what differs from it is found by digests, and only that crosses. Members of a
    --group stand still together for a moment at each point, so that they can be failed over as they were together.""",
    "homeport protect web1 --from home --to away --policy gold",
    "homeport protect db1 --from home --to away --policy gold --size 4x8GiB --exclude-disk disk2",
    "homeport protect web1 --from home --to away --policy gold --seed disk0=seeds/web1/disk0.raw",
    "homeport protect web1 web2 db1 --from home --to away --policy gold --json",
    "homeport protect shop-db shop-web --from home --to away --policy gold --group shop",
    then="homeport status web1 --watch, then a drill: homeport test-failover web1",
)

_SIZE = re.compile(r"(\d+)\s*[x×]\s*(.+)", re.IGNORECASE)


def parse_machine_size(text: str) -> tuple[int, int]:
    """CPUs and bytes of memory of "2x4GiB". Raises typer.BadParameter."""
    match = _SIZE.fullmatch(text.strip())
    try:
        if not match:
            raise ValueError(f"{text!r} is not a size (expected CPUs x memory, e.g. 2x4GiB)")
        return int(match[1]), parse_size(match[2])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def parse_seed(given: Sequence[str]) -> dict[str, str]:
    """By disk id the path of its image: the id that is given, else disk0, disk1, … by place. Raises WrongUse."""
    found: dict[str, str] = {}
    for number, text in enumerate(given):
        before, equals, after = text.partition("=")
        disk, path = (before, after) if equals and "/" not in before else (f"disk{number}", text)
        if disk in found:
            raise WrongUse(f"two seeds are given for {disk}")
        found[disk] = path
    return found


def register(app: typer.Typer) -> None:
    @command(app, "protect", HELP, panel=PROTECT)
    def protect(
        session: Session,
        machines: Annotated[list[str], typer.Argument(metavar="MACHINE…", help="Names or UUIDs.")],
        source: Annotated[str, typer.Option("--from", metavar="SITE", help="Where they run.")],
        target: Annotated[str, typer.Option("--to", metavar="SITE", help="Where they can be recovered.")],
        policy: Annotated[str, typer.Option(metavar="NAME", help="The replication policy.")],
        name: Annotated[str | None, typer.Option(help="The machine's name there. Default: its own.")] = None,
        size: Annotated[
            str | None, typer.Option(metavar="CPUSxMEMORY", help="Its size there, e.g. 2x4GiB. Default: as it is.")
        ] = None,
        network: Annotated[str | None, typer.Option(help="Its network there. Default: as it is named here.")] = None,
        network_later: Annotated[
            bool, typer.Option("--network-later", help="Choose the network later, with homeport item set.")
        ] = False,
        ip: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The address that it shall get there.")] = None,
        exclude_disk: Annotated[
            list[str] | None, typer.Option(metavar="DISK", help="Leave this disk out, e.g. disk1; repeatable.")
        ] = None,
        seed: Annotated[
            list[str] | None,
            typer.Option(
                metavar="DISK=PATH",
                help="An image of this disk (raw, img or qcow2) below the other site's folder to begin from; "
                "for each disk. Without DISK=: disk0, disk1, … by place.",
            ),
        ] = None,
        tag: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A note on the item; repeatable.")] = None,
        group: Annotated[
            str | None,
            typer.Option(
                metavar="GROUP",
                help="A replication group: its members' points are of one instant.",
            ),
        ] = None,
        process_server: Annotated[
            str | None,
            typer.Option(
                "--process-server",
                metavar="NAME",
                help="Of the site where they run. Default: the one with the fewest machines.",
            ),
        ] = None,
        no_wait: NoWaitOption = False,
    ) -> None:
        if network is not None and network_later:
            raise WrongUse("--network and --network-later exclude each other")
        if len(machines) > 1 and (name is not None or ip is not None or seed):
            raise WrongUse("--name, --ip and --seed are for one machine")
        cpus, memory = parse_machine_size(size) if size is not None else (None, None)
        chosen = {
            "name": name,
            "cpus": cpus,
            "memory": memory,
            "network": network,
            "ip": ip,
            "exclude_disks": exclude_disk or None,
            "tags": tag or None,
            "seed": parse_seed(seed or ()) or None,
            "group": group,
            "process_server": process_server,
        }
        properties = {key: value for key, value in chosen.items() if value is not None}
        if len(machines) == 1:
            (machine,) = machines
            job_id = session.vault.protect(machine, source, target, policy, properties)
            job = accept(session, job_id, wait=not no_wait, done=f"{machine} is protected from {source} to {target}")
            if not no_wait:
                tell_what_now(session, job, job.get("item") or machine)
            return
        _protect_all(session, machines, source, target, policy, properties, wait=not no_wait)


def _protect_all(
    session: Session,
    machines: list[str],
    source: str,
    target: str,
    policy: str,
    properties: dict[str, Any],
    *,
    wait: bool,
) -> None:
    begun: dict[str, str] = {}
    refused: list[dict[str, Any]] = []
    for machine in dict.fromkeys(machines):
        try:
            begun[machine] = session.vault.protect(machine, source, target, policy, properties)
        except VaultRefused as error:
            refused.append({"machine": machine, "error": error.to_json()})
    jobs: dict[str, Job] = {
        machine: follow(session, job) if wait else session.vault.job(job) for machine, job in begun.items()
    }
    failed = {machine: job for machine, job in jobs.items() if wait and job["state"] != "succeeded"}
    lines = [f"{each['machine']}: refused: {_told(each['error'])}" for each in refused]
    for machine, job in jobs.items():
        if machine in failed:
            lines.append(f"{machine}: {job['state']}: {_told(failure(job).to_json())}")
        elif wait:
            lines.append(f"{machine}: protected from {source} to {target}")
        else:
            lines.append(f"{machine}: accepted, job {job['id']}")
    session.tell({"jobs": list(jobs.values()), "refused": refused}, lines)
    if refused or failed:
        raise typer.Exit(FAILED)


def _told(error: dict[str, Any]) -> str:
    return " ".join(filter(None, (f"{error['cause']} ({error['code']})", error.get("remedy"))))
