"""From the accepted failover to the guest's first HTTP answer, against a plain boot of the same guest locally.

    make bench            medians of three, for an 8 GiB and a 64 GiB system disk, one after the other in one run

A plain boot is what the site does at `start`: the machine's process, its tracker, and the guest. A failover is
`--no-shutdown --point latest-processed`, which the vault accepts, carries out and reports; both end at the first
answer of the guest's HTTP server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.guest.build import build_guest
from demo.guest.machine import write_machine
from demo.guest.proof import wait_for_answer
from demo.guest.settings import GuestSettings
from homeport.domain.units import GiB
from homeport.sites.interface import StartOptions
from tests.e2e.test_guest import BOOT, WEB, GuestWorld
from tests.ports import free_port

BAR = 1.5


class BenchWorld(GuestWorld):
    """A guest whose system disk has ``system_size`` bytes, mostly holes."""

    def __init__(self, system_size: int) -> None:
        super().__init__(interval=5)
        self.system_size = system_size

    def make_machine(self) -> None:
        self.http = free_port()
        images = build_guest(self.folder / "guest", GuestSettings(system_size=self.system_size))
        self.uuid = write_machine(self.a, WEB, images, forward=f"127.0.0.1:{self.http}:80")

    def plain_boot(self) -> float:
        """Seconds from the site's start to the first answer; the guest is shut down again."""
        site = self.site("a")
        began = time.monotonic()
        site.start(WEB, StartOptions())
        wait_for_answer(self.url, BOOT)
        return time.monotonic() - began

    def stop_machine(self) -> None:
        site = self.site("a")
        site.shut_down(WEB, 60)
        site.power_off(WEB)


def measure(size: int) -> dict[str, Any]:
    """One disk size: plain boot, and failover. Seconds."""
    with BenchWorld(size) as world:
        world.make_machine()
        plain = world.plain_boot()
        world.stop_machine()
        world.site("a").start(WEB, StartOptions())
        world.make_machine = lambda: None  # type: ignore[method-assign]
        world.set_up()
        wait_for_answer(world.url, BOOT)
        began = time.monotonic()
        world.protect()
        copied = time.monotonic() - began
        world.take_point()
        world.kill_machine("a", WEB)
        began = time.monotonic()
        job = world.start("failover", shutdown=False, point="latest-processed")
        accepted = time.monotonic()
        _, _ = wait_for_answer(world.url, BOOT)
        answered = time.monotonic()
        world.wait(job)
        return {
            "disk_gib": size // GiB,
            "plain_boot_s": plain,
            "failover_to_answer_s": answered - accepted,
            "operation_s": job_seconds(world, job["id"]),
            "first_copy_s": copied,
            "accept_s": accepted - began,
        }


def job_seconds(world: GuestWorld, job: str) -> float:
    found = world.api("GET", f"/v1/jobs/{job}")
    return (datetime.fromisoformat(found["ended"]) - datetime.fromisoformat(found["created"])).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="8,64", help="GiB, with commas")
    parser.add_argument("--json", help="write all rounds to this file")
    options = parser.parse_args()
    console = Console()
    rounds: dict[int, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for size in (int(text) for text in options.sizes.split(",")):
            found = measure(size * GiB)
            rounds.setdefault(size, []).append(found)
            console.print(f"round {number + 1}, {size} GiB: {found}", highlight=False)
    table = Table(title=f"Boot from a recovery point, medians of {options.rounds}", title_justify="left")
    for column in ("disk", "plain boot", "failover to answer", "ratio", f"bar {BAR}", "whole operation", "first copy"):
        table.add_column(column, justify="right")
    for size, found in rounds.items():
        plain, answer, whole, copy = (
            statistics.median(entry[name] for entry in found)
            for name in ("plain_boot_s", "failover_to_answer_s", "operation_s", "first_copy_s")
        )
        ratio = answer / plain
        table.add_row(
            f"{size} GiB", f"{plain:.1f} s", f"{answer:.1f} s", f"{ratio:.2f}", "met" if ratio <= BAR else "NOT met",
            f"{whole:.1f} s", f"{copy:.1f} s",
        )  # fmt: skip
    console.print(table)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rounds, file, indent=2)


if __name__ == "__main__":
    main()
