"""What a process server is told of bandwidth and cache, and how much of it takes effect while it runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from homeport.domain.bandwidth import Schedule, parse_window
from homeport.domain.servers import Role
from homeport.domain.units import GiB
from homeport.servers.host_load import HostLoad
from homeport.servers.relay import Relay
from homeport.servers.relay_errors import NoServer, ProcessServerCritical
from homeport.servers.serve.settings import ConfigInvalid, check_config, sample_config
from homeport.servers.serve.site_server import ProcessServer
from homeport.servers.shipping import Shipping
from homeport.servers.work.kinds import Duty, Part

NEEDED = {"folder": "/srv/site", "advertise": "https://ps1.example:9443"}


def config(**changes: Any) -> Any:
    return check_config(Role.PROCESS_SERVER, {**NEEDED, **changes})


def test_the_sample_is_a_configuration_without_limits() -> None:
    found = check_config(Role.PROCESS_SERVER, tomllib.loads(sample_config(Role.PROCESS_SERVER)))
    assert (found.schedule(), found.threads, found.cache_quota()) == (Schedule(), 4, None)


def test_limits_are_read() -> None:
    found = config(rate="100M", windows=["20M 8-18 mon-fri"], threads=32, cache_quota="500GiB")
    assert found.schedule() == Schedule(100_000_000, (parse_window("20M 8-18 mon-fri"),))
    assert (found.threads, found.cache_quota()) == (32, 500 * GiB)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rate", "fast"), ("windows", ["20M 8-8"]), ("windows", "20M"), ("threads", 0), ("threads", 33),
        ("threads", True), ("threads", "4"), ("cache_quota", "big"), ("cache_quota", "0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigInvalid) as told:
        config(**{setting: value})
    assert told.value.details["setting"] == setting


def proc(folder: Path, busy: int, idle: int, available: int) -> None:
    (folder / "stat").write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    (folder / "meminfo").write_text(f"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n")


def test_a_host_is_as_busy_as_it_was_in_the_last_fifteen_minutes(tmp_path: Path) -> None:
    proc(tmp_path, 0, 0, 900)
    load = HostLoad(tmp_path)
    assert load.cpu() is None
    begun = load._samples[0][0]
    load.sample(begun + 14 * 60)
    assert load.cpu() is None, "fourteen minutes are judged as fifteen"
    assert load.memory() is None
    load._samples.pop()
    for minute in range(1, 41):  # a quiet quarter of an hour and more, then a busy one
        proc(
            tmp_path, max(0, minute - 20) * 9, min(minute, 20) * 10 + max(0, minute - 20), 900 if minute <= 20 else 100
        )
        load.sample(begun + minute * 60)
    assert load.cpu() == pytest.approx(0.9)
    assert load.memory() == pytest.approx(0.9)


def greet(relay: Relay, name: str, free: int) -> None:
    facts = {"process_server": {"cache": {"free": free, "total": 100}}}
    relay.hello(name, Duty.PROCESS_SERVER, {"executor": "x", "facts": facts, "items": []})


def test_a_critical_process_server_gets_no_new_item_and_keeps_what_it_has(tmp_path: Path) -> None:
    relay, part = Relay(tmp_path), Part(Duty.PROCESS_SERVER, "replicate")
    greet(relay, "ps1", 24)
    with pytest.raises(ProcessServerCritical, match="24% free"):
        relay._server_for(part, {"item": "web", "process_server": "ps1"})
    assert relay._server_for(part, {"item": "home"}).name == "ps1", "there is no other"  # type: ignore[union-attr]
    greet(relay, "ps1", 26)  # a warning
    assert relay._server_for(part, {"item": "web"}).name == "ps1"  # type: ignore[union-attr]
    greet(relay, "ps1", 10)
    greet(relay, "ps2", 90)
    assert relay._server_for(part, {"item": "web"}).name == "ps1"  # type: ignore[union-attr]
    assert relay._server_for(part, {"item": "db"}).name == "ps2"  # type: ignore[union-attr]
    with pytest.raises(ProcessServerCritical):
        relay._server_for(part, {"item": "db", "process_server": "ps1"})
    with pytest.raises(NoServer):
        relay._server_for(part, {"item": "db", "process_server": "ps3"})
    told = {server["name"]: server["process_server"] for server in relay.facts()["servers"]}
    assert told["ps1"] == {"cache": {"free": 10, "total": 100}}


def test_a_changed_configuration_is_taken_on_by_a_server_that_runs(tmp_path: Path) -> None:
    server = ProcessServer.__new__(ProcessServer)
    shipping = server._shipping = Shipping.unlimited(tmp_path)
    assert shipping.throttle.rate is None
    server.reload(config(rate="512k", threads=8))
    assert (shipping.throttle.rate, shipping.threads) == (512_000, 8)
