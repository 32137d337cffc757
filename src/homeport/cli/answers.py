"""One run of a command: where its vault is, how it answers, whom it may ask.

Nothing slow is loaded here, Typer neither: see :mod:`homeport.cli.lean`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeport.cli import speech
from homeport.cli.errors import ConfirmationNeeded, Declined, TokenUnreadable, WrongUse

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.cli.client import VaultClient


class Session:
    """What a command works with. Commands that talk to the vault use ``vault``; it is found on first use."""

    def __init__(
        self,
        *,
        json_wanted: bool,
        state: Path | None = None,
        url: str | None = None,
        token_file: Path | None = None,
        authority: Path | None = None,
    ) -> None:
        self.json_wanted = json_wanted
        self._state = state
        self._url = url
        self._token_file = token_file
        self._authority = authority
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
            client = VaultClient(self._url, token, authority=self._authority)
        return self._open.enter_context(client)

    def close(self) -> None:
        self._open.close()

    # -- answering ---------------------------------------------------------------------------------------------------

    def answer(self, data: dict[str, Any], people: Callable[[Console], None]) -> None:
        """The result: ``data`` under --json, else what ``people`` prints."""
        from homeport.cli.consoles import results, write_line

        if self.json_wanted:
            write_line(speech.json_text(data))
        else:
            people(results())

    def tell(self, data: dict[str, Any], lines: Sequence[str]) -> None:
        """The result, where lines of plain text are enough for people."""
        from homeport.cli.consoles import write_line

        if self.json_wanted:
            write_line(speech.json_text(data))
        else:
            write_line("\n".join(map(speech.told, lines)))

    def note(self, text: str) -> None:
        """A remark for people, on standard error; nothing under --json."""
        if self.json_wanted:
            return
        text = speech.told(text)
        if not sys.stderr.isatty():  # nothing to wrap or colour
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
            return
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
        sys.stderr.write(f"{speech.told('Go on? [y/N]')} ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Declined("Nothing was done.")
