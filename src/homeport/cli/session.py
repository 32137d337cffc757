"""One run of a command: where its vault is, how it answers, whom it may ask; and how a command gets registered."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli.errors import ConfirmationNeeded, Declined, TokenUnreadable, WrongUse

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.cli.client import VaultClient

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
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Don't wait for the job: print its id and return once it is accepted.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask: I know what this loses or ends.")]


class Session:
    """What a command works with. Commands that talk to the vault use ``vault``; it is found on first use."""

    def __init__(
        self,
        *,
        json_wanted: bool,
        state: Path | None = None,
        url: str | None = None,
        token_file: Path | None = None,
    ) -> None:
        self.json_wanted = json_wanted
        self._state = state
        self._url = url
        self._token_file = token_file
        self._open = ExitStack()

    @functools.cached_property
    def vault(self) -> VaultClient:
        """Raises VaultNotRunning, TokenUnreadable, WrongUse."""
        from homeport.cli.client import VaultClient

        if self._url is None:
            if self._token_file is not None:
                raise WrongUse("--token-file needs --vault URL")
            client = VaultClient.of_state(self._state)
        else:
            if self._token_file is None:
                raise WrongUse("--vault URL needs --token-file FILE")
            try:
                token = self._token_file.read_text().strip()
            except OSError as error:
                raise TokenUnreadable(
                    f"the token file {self._token_file} can't be read: {error.strerror}", remedy=""
                ) from error
            client = VaultClient(self._url, token)
        return self._open.enter_context(client)

    def close(self) -> None:
        self._open.close()

    # -- answering ---------------------------------------------------------------------------------------------------

    def answer(self, data: dict[str, Any], people: Callable[[Console], None]) -> None:
        """The result: ``data`` under --json, else what ``people`` prints."""
        from homeport.cli.consoles import results, write_line

        if self.json_wanted:
            write_line(json.dumps(data, indent=2, default=str))
        else:
            people(results())

    def note(self, text: str) -> None:
        """A remark for people, on standard error; nothing under --json."""
        if not self.json_wanted:
            from rich.text import Text

            from homeport.cli.consoles import complaints

            complaints().print(Text(text))

    # -- asking ------------------------------------------------------------------------------------------------------

    def needs_consent(self, yes: bool, what: str) -> None:
        """Before anything is done: raises ConfirmationNeeded where ``what`` must be confirmed and nobody can be
        asked."""
        if yes:
            return
        if self.json_wanted:
            raise ConfirmationNeeded(f"{what} must be confirmed, and --json doesn't ask")
        if not sys.stdin.isatty():
            raise ConfirmationNeeded(f"{what} must be confirmed, and there is no terminal to ask at")

    def ask(self, consequences: list[str]) -> None:
        """Say what will happen and ask whether to go on. Raises Declined."""
        for line in consequences:
            self.note(line)
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Declined("Nothing was done.")


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
