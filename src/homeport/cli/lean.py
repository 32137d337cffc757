"""Scripted calls that must not wait for the program: understood here, without Typer and what it loads.

Loading Typer, and Pydantic with it, takes a good part of what a small import takes in all. So commands that scripts
call often name their options here once more, and their work lies in a module that loads neither. What isn't plainly one
of these options (help, a typing error, a question that must be asked) is left to Typer; it says what is wrong.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from homeport.cli.answers import Session
from homeport.cli.errors import FAILED, Interrupted, exit_status, report, system_error
from homeport.cli.formats import instant
from homeport.cli.passphrase_file import VARIABLE, read_passphrase_file
from homeport.domain.errors import HomeportError

Convert = Callable[[str], Any]


@dataclass(frozen=True)
class Lean:
    """A command of `homeport store`. ``work``: module and function, called with the session, the options' values and
    ``secret``; ``options``: with one value each; ``lists``: that may be repeated; ``arguments``: the name under which
    what is no option goes."""

    work: tuple[str, str]
    options: dict[str, Convert]
    required: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    arguments: str = ""


COMMANDS = {
    "import": Lean(
        ("homeport.cli.store_import_work", "import_disks"),
        {"store": str, "machine": str, "changed": Path, "format": str, "at": instant, "passphrase-file": Path},
        required=("store", "machine"),
        lists=("tag", "note"),
        flags=("create",),
        arguments="disks",
    ),
    "restore": Lean(
        ("homeport.cli.store_restore_work", "restore_disks"),
        {"store": str, "machine": str, "point": str, "disk": str, "to": Path, "format": str, "passphrase-file": Path},
        required=("store", "to"),
        flags=("all", "differences", "overwrite", "check"),
    ),
}


def parse(arguments: Sequence[str]) -> tuple[Lean, dict[str, Any]] | None:
    """The command and its values by option, "json" among them; None: leave it to Typer."""
    command = COMMANDS.get(arguments[1]) if len(arguments) > 1 and arguments[0] == "store" else None
    if command is None:
        return None
    values: dict[str, Any] = {"json": False}
    plain: list[str] = []
    rest = list(arguments[2:])[::-1]
    while rest:
        text = rest.pop()
        if not text.startswith("-"):
            plain.append(text)
            continue
        name, equals, value = text[2:].partition("=")
        if text[:2] != "--":
            return None
        if name in ("json", *command.flags) and not equals:
            values[name] = True
            continue
        convert = str if name in command.lists else command.options.get(name)
        if convert is None or (name in values and name not in command.lists):
            return None
        if not equals:
            if not rest or rest[-1].startswith("-"):
                return None
            value = rest.pop()
        try:
            found = convert(value)
        except ValueError:
            return None
        if name in command.lists:
            values.setdefault(name, []).append(found)
        else:
            values[name] = found
    if any(name not in values for name in command.required) or bool(plain) != bool(command.arguments):
        return None
    if command.arguments:
        values[command.arguments] = plain
    return command, values


def run(arguments: Sequence[str]) -> int | None:
    """Carry out the command; returns the exit status, or None where nothing was done: Typer's to do."""
    found = parse(arguments)
    if found is None:
        return None
    command, values = found
    file = values.pop("passphrase-file", None) or os.environ.get(VARIABLE)
    if not file:
        return None
    json_wanted = values.pop("json")
    try:
        secret = read_passphrase_file(file)
        module, name = command.work
        session = Session(json_wanted=json_wanted)
        getattr(import_module(module), name)(session, secret=secret, **values)
        sys.stdout.flush()
    except HomeportError as error:
        report(error, json_wanted=json_wanted)
        return exit_status(error)
    except OSError as error:
        return system_error(error, json_wanted)
    except KeyboardInterrupt:
        report(Interrupted("The command was interrupted."), json_wanted=json_wanted)
        return FAILED
    return 0


def make_haste() -> None:
    """What a process of its own may do to load faster."""
    # Loading makes many objects and no garbage: looking for some after each 700 takes a twentieth of a short run.
    gc.set_threshold(50_000)
    # NumPy's linear algebra, of which nothing is used, would start a thread for each processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def leave(status: int) -> NoReturn:
    """End the process, all work being done and durable: taking the interpreter apart takes a tenth of a short run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
