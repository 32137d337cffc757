"""`homeport vault key new`, `authority`, `trust`: what servers and operators elsewhere know the vault by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homeport.cli.errors import BadAnswer, FingerprintDiffers, VaultNotRunning, WrongUse
from homeport.cli.formats import show_instant
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command, group

NEW = lesson(
    "Make a registration key: a file with which one configuration server joins this vault.",
    """It is valid for five days, for one server of one site; a join that fails does not use it up. It holds a secret:
    carry it as a password. --replace: the server takes the place of the site's present configuration server, whose
    certificates are revoked once the new one has joined.""",
    "homeport vault key new --site home --out home.key",
    "homeport vault key new --site home --url https://vault.example:443 --replace --out home.key",
    then="homeport configuration-server join --key FILE --state DIR, at the site",
)
AUTHORITY = lesson(
    "Show the fingerprint of the vault's certificate authority.",
    "What operators compare when they trust this vault from another machine; it signs the servers' certificates.",
    "homeport vault authority",
    then="homeport vault trust URL --fingerprint HEX --out FILE, on the other machine",
)
TRUST = lesson(
    "Fetch a vault's certificate authority, so that this machine can talk to that vault over TLS.",
    """Compares its fingerprint with the one that `homeport vault authority` shows at the vault, and writes the
    authority to a file: only a vault that it vouches for is talked to.""",
    "homeport vault trust https://vault.example --fingerprint 3f1a…c9 --out vault.pem",
    then="HOMEPORT_CA=FILE homeport status --vault URL --token-file FILE",
)


def add(vault: typer.Typer) -> None:
    key = group("Registration keys: with which configuration servers join this vault.")
    vault.add_typer(key, name="key")

    @command(key, "new", NEW)
    def new(
        session: Session,
        site: Annotated[str, typer.Option("--site", metavar="SITE", help="Whose configuration server it is for.")],
        out: Annotated[
            Path | None, typer.Option("--out", metavar="FILE", help="File to write, mode 0600. Default: SITE.key here.")
        ] = None,
        urls: Annotated[
            list[str] | None,
            typer.Option("--url", metavar="URL", help="Where the server reaches the vault; repeatable."),
        ] = None,
        replace: Annotated[
            bool, typer.Option("--replace", help="It takes the place of the site's present configuration server.")
        ] = False,
    ) -> None:
        file = out or Path(f"{site}.key")
        if file.exists():
            raise WrongUse(f"the file {file} is there already", remedy="Name another with --out.")
        made = session.vault.make_key(site, urls or [], replace=replace)
        _write(file, made.pop("key"))
        session.answer(
            {"registration_key": {**made, "file": str(file)}},
            lambda console: console.print(
                f"{file} admits one configuration server of site {site}, until {show_instant(made['expires'])}.",
                markup=False,
            ),
        )

    @command(vault, "authority", AUTHORITY)
    def authority(session: Session) -> None:
        shown = session.vault.authority()
        session.answer(
            {"authority": {name: shown[name] for name in ("vault", "fingerprint", "certificate")}},
            lambda console: console.print(shown["fingerprint"], markup=False),
        )

    @command(vault, "trust", TRUST, with_vault=False)
    def trust(
        session: Session,
        url: Annotated[str, typer.Argument(metavar="URL", help="Of the vault: https://HOST:PORT.")],
        fingerprint: Annotated[
            str, typer.Option("--fingerprint", metavar="HEX", help="As `homeport vault authority` shows it.")
        ],
        out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    ) -> None:
        found = _fetch(url)
        shown = _fingerprint(found)
        if shown != fingerprint.lower().replace(":", "").replace(" ", ""):
            raise FingerprintDiffers(f"the authority that {url} shows has the fingerprint {shown}")
        out.write_text(found)
        session.answer(
            {"trusted": {"url": url, "fingerprint": shown, "file": str(out)}},
            lambda console: console.print(f"{out} is the authority of the vault at {url}.", markup=False),
        )


def _write(file: Path, text: str) -> None:
    import os

    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)


def _fetch(url: str) -> str:
    import httpx

    from homeport.trust import tls

    try:
        with httpx.Client(verify=tls.client_context(None), trust_env=False, timeout=20) as client:
            answer: Any = client.get(f"{url.rstrip('/')}/v1/authority").json()
        return str(answer["certificate"])
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise VaultNotRunning(f"the vault at {url} doesn't answer ({error or type(error).__name__})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadAnswer(f"what answers at {url} is no vault") from error


def _fingerprint(pem: str) -> str:
    from homeport.trust.certificates import CertificateInvalid, fingerprint, from_pem

    try:
        return fingerprint(from_pem(pem))
    except CertificateInvalid as error:
        raise BadAnswer("what answers shows no certificate") from error
