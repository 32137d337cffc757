"""How a command gets registered, and the options that many have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from homeport.cli.answers import Session

__all__ = [
    "AuthorityOption",
    "JsonOption",
    "NoWaitOption",
    "Session",
    "StateOption",
    "TokenOption",
    "UrlOption",
    "YesOption",
    "command",
    "group",
]

JSON_HELP = "Answer with one JSON object (docs/cli.md names its keys)."
VAULT_PANEL = "Which vault"

JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar="HOMEPORT_STATE",
        rich_help_panel=VAULT_PANEL,
        help="State folder of `homeport up`. Default: /var/lib/homeport as root, else ~/.local/share/homeport.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--vault", metavar="URL", rich_help_panel=VAULT_PANEL, help="A vault elsewhere; with --token-file."),
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", rich_help_panel=VAULT_PANEL, help="File that holds its token."),
]
AuthorityOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        envvar="HOMEPORT_CA",
        rich_help_panel=VAULT_PANEL,
        help="Its authority, for a --vault https://…: the file that `homeport vault trust` wrote.",
    ),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Don't wait for the job: print its id and return once it is accepted.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask: I know what this loses or ends.")]


def command(
    app: typer.Typer, name: str, help: str, *, panel: str | None = None, with_vault: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function(session, …)`` as a command: adds --json and, ``with_vault``, the options that find a vault.

    ``help``: of the command, from lessons.lesson. The function's other parameters are declared as Typer wants them.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        added: dict[str, Any] = {"json_wanted": (JsonOption, False)}
        if with_vault:
            added |= {"state": (StateOption, None), "url": (UrlOption, None), "token_file": (TokenOption, None)}
            added |= {"authority": (AuthorityOption, None)}
        kind = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(key, kind, default=default, annotation=note) for key, (note, default) in added.items()
        ]
        parameters = [parameter.replace(kind=kind) for parameter in own] + shared

        def run(**values: Any) -> None:
            session = Session(**{key: values.pop(key) for key in added})
            try:
                function(session, **values)
            finally:
                session.close()

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=help, rich_help_panel=panel)(run)
        return function

    return register


def group(help: str) -> typer.Typer:
    """A group of commands, such as `homeport site …`."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode="rich", add_completion=False)
