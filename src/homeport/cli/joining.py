"""`homeport ROLE join`: a server of its own becomes part of a vault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from homeport.cli import process_servers
from homeport.cli.consoles import log_to_standard_error
from homeport.cli.errors import WrongUse
from homeport.cli.formats import show_duration, show_instant, show_size
from homeport.cli.lessons import SET_UP, lesson
from homeport.cli.passphrase_file import read_passphrase_file
from homeport.cli.session import Session, command, group
from homeport.cli.speech import told
from homeport.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.domain.servers import Role
    from homeport.trust.identity import Identity

JOIN_VAULT = lesson(
    "Join this machine to a vault as the configuration server of a site, with a registration key.",
    """Runs unattended. The private key is made here and stays here; the vault signs a certificate for it. Refused when
    the two clocks differ by more than five minutes, or when it is not the key's own vault that answers. Can be run
    again until it succeeds: the key is used up only then.""",
    "homeport configuration-server join --key home.key --state /var/lib/homeport-cs",
    then="start the configuration server with that state folder",
)
PASSPHRASE = lesson(
    "Show the join passphrase of this configuration server: it admits the other servers of its site.",
    """It is not the recovery passphrase, and opens no recovery points. --rotate makes another; the old one admits
    nobody from then on, and servers that have joined stay.""",
    "homeport configuration-server passphrase --state /var/lib/homeport-cs",
    "homeport configuration-server passphrase --rotate --state /var/lib/homeport-cs",
    then="homeport process-server join --url URL --passphrase-file FILE --state DIR, on the other machine",
)


BACK_UP = lesson(
    "Hand a backup of this configuration server to the vault now.",
    """It does so by itself: once a day, and soon after a server joined or an item got another process server. The vault
    seals it with its own key and keeps the newest 7, so that the site may be lost whole. In it are the join passphrase,
    the site's servers, which process server each item has, and the newest fence numbers; not the private key: a
    restored server gets a certificate of its own. --to writes the sealed backup to a file, too: only this vault opens
    it. Works whether the server runs or not.""",
    "homeport configuration-server backup --state /var/lib/homeport/configuration-server",
    "homeport configuration-server backup --to home-cs.backup --state /var/lib/homeport/configuration-server",
    then="keep the file away from the site",
)
BACKUPS = lesson(
    "List the backups of configuration servers that the vault keeps, and when the next are due.",
    """The newest of a site first: when it was made, its size, the version of Homeport that the server had, and why:
    on schedule, because something had changed, or asked for with `configuration-server backup`. Of each site the newest
    7 are kept. With SERVER: only of that one.""",
    "homeport configuration-server backups",
    "homeport configuration-server backups cs-home",
    then="homeport configuration-server restore --from-vault --key FILE --state DIR, where one is lost",
)
RESTORE = lesson(
    "Make a lost configuration server again, in an empty folder, here or on another machine.",
    """Takes the newest backup that the vault keeps (--from-vault), or a file (--from FILE), and a registration key that
    lets it take the lost one's place. It gets a certificate of its own, and with that all certificates of the lost one
    are revoked: should it come back, nobody takes its word. Refused while the vault still hears of it. Process servers
    and master targets need not join again: at the same address they find it by themselves; at another one, set
    `configuration_server` in their settings and start them again. Can be run again until it succeeds.""",
    "homeport vault key new --site home --replace --out home.key",
    "homeport configuration-server restore --from-vault --key home.key --state /var/lib/homeport/configuration-server",
    "homeport configuration-server restore --from home-cs.backup --key home.key --state DIR",
    then="homeport serve configuration-server --config FILE, with that state folder",
)


def _joins(what: str, role: str) -> str:
    return lesson(
        f"Join this machine to its site's configuration server as a {what}, with the join passphrase.",
        f"""Both sides prove that they know the passphrase, bound to this connection, before either believes the other;
        it is never sent. The vault signs the certificate. `homeport configuration-server passphrase` shows the
        passphrase. Can be run again until it succeeds. A {what} of another name is another server.""",
        f"homeport {role} join --url https://cs.example:443 --passphrase-file FILE --state /var/lib/homeport-{role}",
        then="homeport server list",
    )


StateOption = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="State folder of this server; its identity lies in it (0600).")
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Of this server in the vault. Default: the machine's.")
]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="HOST", help="Name or address that its certificate shall bear; repeatable."),
]


def register(app: typer.Typer) -> None:
    configuration_server = group("The configuration server of a site: joins the vault, and admits the others.")
    app.add_typer(configuration_server, name="configuration-server", rich_help_panel=SET_UP)

    @command(configuration_server, "join", JOIN_VAULT, with_vault=False)
    def join(
        session: Session,
        key: Annotated[Path, typer.Option("--key", metavar="FILE", help="From `homeport vault key new`.")],
        state: StateOption,
        name: NameOption = None,
        urls: Annotated[
            list[str] | None,
            typer.Option("--url", metavar="URL", help="Of the vault, in place of those in the key; repeatable."),
        ] = None,
        hosts: HostOption = None,
    ) -> None:
        from homeport.servers.joining import join_vault

        log_to_standard_error()
        made = join_vault(_text(key), state, name=name, urls=urls or (), hosts=hosts or ())
        _tell(session, made)

    @command(configuration_server, "passphrase", PASSPHRASE, with_vault=False)
    def passphrase(
        session: Session,
        state: StateOption,
        rotate: Annotated[bool, typer.Option("--rotate", help="Make another: the old one admits nobody.")] = False,
    ) -> None:
        from homeport.servers.join_passphrase import JoinPassphrase
        from homeport.servers.joining import IDENTITY
        from homeport.trust.identity import Identity

        log_to_standard_error()
        Identity.open(state / IDENTITY)
        kept = JoinPassphrase(state)
        shown = kept.rotate() if rotate else kept.text
        session.tell({"join_passphrase": shown, "rotated": rotate}, [shown])

    @command(configuration_server, "backup", BACK_UP, with_vault=False)
    def backup(
        session: Session,
        state: StateOption,
        to: Annotated[
            Path | None, typer.Option("--to", metavar="FILE", help="Write the sealed backup to this file, too.")
        ] = None,
    ) -> None:
        from homeport.servers.configuration_backup import back_up
        from homeport.trust.private import write_private

        log_to_standard_error()
        made = back_up(state)
        if to is not None:
            try:
                write_private(to, json.dumps(made) + "\n")
            except OSError as error:
                raise WrongUse(f"{to} can't be written: {error}") from error
        answer = {"site": made["site"], "server": made["server"], "created": made["created"]}
        where = f" {to} holds it, too." if to is not None else ""
        session.answer(
            {"backup": {**answer, "file": str(to) if to is not None else None}},
            lambda console: console.print(
                f"The vault has a backup of {answer['server']} of {show_instant(answer['created'])}.{where}",
                markup=False,
            ),
        )

    @command(configuration_server, "backups", BACKUPS)
    def backups(
        session: Session,
        server: Annotated[
            str | None, typer.Argument(metavar="[SERVER]", help="Of a configuration server; all of them without.")
        ] = None,
    ) -> None:
        found = session.vault.configuration_backups(server)
        session.answer(found, lambda console: show_backups(console, found))

    @command(configuration_server, "restore", RESTORE, with_vault=False)
    def restore(
        session: Session,
        key: Annotated[Path, typer.Option("--key", metavar="FILE", help="From `homeport vault key new --replace`.")],
        state: StateOption,
        source: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="What `backup --to` wrote.")] = None,
        from_vault: Annotated[bool, typer.Option("--from-vault", help="The newest that the vault keeps.")] = False,
        name: Annotated[
            str | None, typer.Option("--name", metavar="NAME", help="Of this server. Default: the lost one's.")
        ] = None,
        urls: Annotated[
            list[str] | None,
            typer.Option("--url", metavar="URL", help="Of the vault, in place of those in the key; repeatable."),
        ] = None,
        hosts: HostOption = None,
    ) -> None:
        from homeport.servers.configuration_backup import restore as again

        if (source is None) is not from_vault:
            raise WrongUse("name one of --from FILE and --from-vault")
        log_to_standard_error()
        made = again(_text(key), state, file=source, name=name, urls=urls or (), hosts=hosts or ())
        answer = {
            **_joined(made.identity),
            "backup": {"server": made.server, "created": made.created},
            "servers": made.servers,
            "items": made.items,
            "settings": made.settings,
        }

        def tell(console: Console) -> None:
            console.print(
                f"{made.identity.name} is the configuration server of site {made.identity.site} again, as of "
                f"{show_instant(made.created)}.",
                markup=False,
            )
            if made.servers:
                console.print(f"Its servers: {', '.join(made.servers)}. They need not join again.", markup=False)
            if made.settings:
                ran = ", ".join(f"{setting} = {json.dumps(value)}" for setting, value in made.settings.items() if value)
                console.print(f"The lost one ran with: {ran}", markup=False)

        session.answer({"restored": answer}, tell)

    from homeport.domain.servers import Role

    for role, what in (
        (Role.PROCESS_SERVER, "process server"),
        (Role.MASTER_TARGET, "master target"),
        (Role.MOBILITY_SERVICE, "mobility service"),
    ):
        _by_passphrase(app, role, what)


def _by_passphrase(app: typer.Typer, role: Role, what: str) -> None:
    made = group(f"A {what}: joins its site's configuration server.")
    app.add_typer(made, name=str(role), rich_help_panel=SET_UP)
    if str(role) == "process-server":
        process_servers.add(made)

    @command(made, "join", _joins(what, str(role)), with_vault=False)
    def join(
        session: Session,
        url: Annotated[
            str, typer.Option("--url", metavar="URL", help="Of the configuration server: https://HOST:PORT.")
        ],
        passphrase_file: Annotated[
            Path, typer.Option("--passphrase-file", metavar="FILE", help="File that holds the join passphrase.")
        ],
        state: StateOption,
        name: NameOption = None,
        hosts: HostOption = None,
    ) -> None:
        from homeport.servers.joining import join_configuration_server

        log_to_standard_error()
        passphrase = read_passphrase_file(passphrase_file)
        _tell(session, join_configuration_server(url, passphrase, role, state, name=name, hosts=hosts or ()))


def _joined(made: Identity) -> dict[str, Any]:
    return {
        "name": made.name,
        "role": str(made.role),
        "site": made.site,
        "vault": made.vault,
        "serial": made.serial,
        "certificate_expires": made.not_after.isoformat(),
        "identity": str(made.folder),
    }


def _tell(session: Session, made: Identity) -> None:
    answer = _joined(made)
    session.answer(
        {"joined": answer},
        lambda console: console.print(
            f"{made.name} is a {made.role} of site {made.site}. Its certificate is valid until "
            f"{show_instant(answer['certificate_expires'])}, and renewed before.",
            markup=False,
        ),
    )


_REASONS = {"scheduled": "on schedule", "changed": "something changed", "asked": "asked for"}


def show_backups(console: Console, found: dict[str, Any]) -> None:
    if not found["backups"]:
        console.print("No configuration server has handed over a backup yet.")
    else:
        rows = table("Site", "Server", "Made", "Size", "Version", "Why")
        for each in found["backups"]:
            rows.add_row(
                each["site"],
                each["server"],
                show_instant(each["created"]),
                show_size(each["size"]),
                each["version"] or "-",
                told(_REASONS.get(each["reason"], "-")),
            )
        console.print(rows)
    for each in found["schedules"]:
        every = show_duration(each["every"])
        due = show_instant(each["due"]) if each["due"] else told("at once")
        text = f"{each['server']} of {each['site']}: every {every} and after a change; the next is due {due}"
        style = "yellow" if each["overdue"] else ""
        console.print(text, markup=False, style=style)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"the registration key {file} can't be read: {error}") from error
