"""What can go wrong at the command line, and how any error is shown."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from homeport.domain.errors import HomeportError

FAILED = 1
WRONG_USE = 2


class WrongUse(HomeportError):
    """The command can't be carried out as it was typed. Exit status 2."""

    code = "cli.wrong-use"
    remedy = "Add --help to the command to see how it is used."


class ConfirmationNeeded(WrongUse):
    """The command loses or ends something, and there is nobody to ask."""

    code = "cli.confirmation-needed"
    remedy = "Add --yes if this is what you want, or run the command in a terminal without --json to be asked."


class Declined(HomeportError):
    """The operator was asked and said no."""

    code = "cli.declined"
    remedy = ""


class VaultNotRunning(HomeportError):
    """No vault answers where one is expected."""

    code = "cli.vault-not-running"
    remedy = (
        "Start Homeport with `homeport up` (in another terminal, or as a service), or say where the vault is: "
        "--state DIR, HOMEPORT_STATE, or --vault URL --token-file FILE."
    )


class TokenUnreadable(HomeportError):
    """The vault's token can't be read by this user."""

    code = "cli.token-unreadable"
    remedy = "Run the command as the user that runs `homeport up` (for example with sudo)."


class AuthorityUnreadable(HomeportError):
    """The file with the vault's authority can't be read."""

    code = "cli.authority-unreadable"
    remedy = "Name the file that `homeport vault trust` wrote, with --ca or HOMEPORT_CA."


class FingerprintDiffers(HomeportError):
    """What answers shows another authority than the operator expects."""

    code = "cli.fingerprint-differs"
    remedy = "Compare with what `homeport vault authority` says at the vault. If that is right, somebody is in between."


class BadAnswer(HomeportError):
    """Something answered that isn't a Homeport vault, or the vault failed without saying why."""

    code = "cli.bad-answer"
    remedy = "Check that the address is a Homeport vault's, and look at the output of `homeport up`."


class VaultFailing(BadAnswer):
    """An answer of 500 or above without a reason: the vault is stopping or starting, or has a fault."""


class VaultRefused(HomeportError):
    """The vault's own refusal: its code, cause, remedy and details. ``status``: the HTTP status."""

    status = 0


class Interrupted(HomeportError):
    """Ctrl-C: the command stopped; what runs in the vault goes on."""

    code = "cli.interrupted"


class JobFailed(HomeportError):
    """A job that was waited for failed or was cancelled. ``job``: the API's Job."""

    job: dict[str, Any]


def exit_status(error: HomeportError) -> int:
    return WRONG_USE if isinstance(error, WrongUse) else FAILED


def as_json(error: HomeportError) -> dict[str, Any]:
    """``{"error": {code, cause, remedy, details}}``, and the job beside it where one failed."""
    shown: dict[str, Any] = {"error": error.to_json()}
    if isinstance(error, JobFailed):
        shown["job"] = error.job
    return shown


def report(error: HomeportError, *, json_wanted: bool) -> None:
    """Show ``error``: as JSON on standard output, or for people on standard error."""
    from homeport.cli.consoles import complaints, write_line
    from homeport.cli.speech import json_text, label, told

    if json_wanted:
        write_line(json_text(as_json(error)))
        return
    from rich.text import Text

    console = complaints()
    console.print(Text.assemble((f"{label('Error')} ", "red"), (error.code, "bold")))
    console.print(Text(told(error.cause)))
    if error.remedy:
        console.print(Text.assemble((f"{label('What to do:')} ", "bold"), told(error.remedy)))
    allowed = error.details.get("allowed_operations")
    if isinstance(allowed, list):
        console.print(
            Text.assemble((f"{label('Allowed now:')} ", "bold"), ", ".join(map(str, allowed)) or label("nothing"))
        )
    for problem in error.details.get("problems", []):
        if str(problem) not in error.cause:
            console.print(Text(f"  - {told(str(problem))}"))


def system_error(error: OSError, json_wanted: bool) -> int:
    """Report a disk that is full, a file that can't be written, in the operating system's own words. Returns the exit
    status."""
    if error.errno == errno.EPIPE:
        # The reader of our output went away (`homeport points X | head`): nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    named = f"{error.filename}: " if error.filename else ""
    report(
        HomeportError(f"{named}{error.strerror or error}", code="cli.system-error", errno=error.errno),
        json_wanted=json_wanted,
    )
    return FAILED
