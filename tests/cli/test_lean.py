"""Commands understood without Typer take exactly what Typer's take, and leave to it what isn't plain."""

from __future__ import annotations

import pytest
import typer.main

from homeport.cli.app import build
from homeport.cli.lean import COMMANDS, parse

ELSEWHERE = {"help", "json", "key-file"}
"""Options that any command has; and those that a lean call may not use."""


def typed(command: str) -> tuple[dict[str, bool], list[str]]:
    """Typer's options (with whether it is a flag) and arguments of a command of `homeport store`."""
    group = typer.main.get_command(build()).commands["store"].commands[command]  # type: ignore[attr-defined]
    options = {
        name[2:]: bool(param.is_flag)
        for param in group.params
        if param.param_type_name == "option"
        for name in param.opts
        if name.startswith("--")
    }
    return options, [param.name for param in group.params if param.param_type_name == "argument"]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_are_those_of_typer(command: str) -> None:
    lean = COMMANDS[command]
    options, arguments = typed(command)
    assert set(lean.options) | set(lean.lists) | set(lean.flags) == set(options) - ELSEWHERE
    assert {name for name, flag in options.items() if flag} - ELSEWHERE == set(lean.flags)
    assert arguments == ([lean.arguments] if lean.arguments else [])


@pytest.mark.parametrize(
    "line",
    [
        "store restore --help",
        "store restore --store s",
        "store restore --store s --to",
        "store restore --store s --to t --unknown x",
        "store restore --store s --to t --to u",
        "store restore --store s --to t extra",
        "store restore --store s --to t --key-file k",
        "store restore -s s --to t",
        "store import --store s --machine m",
        "store import --store s --machine m disk --at nonsense",
        "store points --store s",
        "status",
    ],
)
def test_what_is_not_plain_is_left_to_typer(line: str) -> None:
    assert parse(line.split()) is None


def test_values_come_out_as_they_were_given() -> None:
    line = "store import --store=s --machine m --tag a --tag b a=x.raw y.raw --create --json"
    found = parse(line.split())
    assert found is not None
    values = found[1]
    assert values["disks"] == ["a=x.raw", "y.raw"]
    assert values["tag"] == ["a", "b"]
    assert values["create"] is values["json"] is True
    assert (values["store"], values["machine"]) == ("s", "m")
