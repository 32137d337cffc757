"""`homeport store serve`: a recovery point over NBD."""

from __future__ import annotations

import ipaddress
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from homeport.cli.errors import WrongUse
from homeport.cli.formats import parse_size, show_size
from homeport.cli.lessons import lesson
from homeport.cli.session import Session, command
from homeport.cli.store_options import (
    KeyFileOption,
    MachineOption,
    PassphraseFileOption,
    PointOption,
    StoreOption,
    open_bucket,
)

if TYPE_CHECKING:
    from rich.console import Console

    from homeport.bucket.opening import StoredMachine
    from homeport.disks.nbd.server import NbdServer
    from homeport.store.reader import PointReader

SERVE = lesson(
    "Serve a recovery point's disks over NBD, read-only, until Ctrl-C.",
    """Nothing is copied: mount a file system from it, or boot an overlay on it. Exports are named disk0, disk1, …
    Over TCP there is neither encryption nor a password, so it listens on this host alone unless you insist. For a store
    that is far, --cache-dir keeps what was fetched, encrypted as it lies in the store.""",
    "homeport store serve --store file:///srv/away/store --machine web1 --point latest --socket /run/web1.nbd",
    "homeport store serve --store file:///srv/away/store --machine web1 --port 10809 --cache 2G",
    then="qemu-img info 'nbd+unix:///disk0?socket=/run/web1.nbd'",
)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


SocketOption = Annotated[Path | None, typer.Option(metavar="PATH", help="The unix socket to serve on.")]
PortOption = Annotated[
    int | None, typer.Option(metavar="N", min=0, max=65535, help="The TCP port to serve on; 0: any that is free.")
]
BindOption = Annotated[str, typer.Option(metavar="ADDRESS", help="With --port: the address to listen at.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure-bind", help="Let --bind be an address that others reach: they can read the disks.")
]
CacheOption = Annotated[
    int | None,
    typer.Option(
        metavar="SIZE", parser=_size, help="Memory for what was read, such as 512M. Default: a quarter, at most 1G."
    ),
]
CacheFolderOption = Annotated[
    Path | None, typer.Option("--cache-dir", metavar="DIR", help="Keep what was fetched here, as it was: encrypted.")
]
CacheFolderSizeOption = Annotated[
    int, typer.Option("--cache-dir-size", metavar="SIZE", parser=_size, help="How much of it.")
]


@dataclass(frozen=True)
class Listening:
    """Where to listen: at a socket, or a port."""

    socket: Path | None
    port: int | None
    bind: str

    def open(self, server: NbdServer) -> dict[str, Any]:
        """Listen; what to tell of it. Raises OSError."""
        if self.socket is not None:
            server.serve_unix(self.socket)
            return {"socket": str(self.socket.absolute())}
        host, port = server.serve_tcp(self.bind, self.port or 0)
        return {"host": host, "port": port}


def url(place: dict[str, Any], disk: str) -> str:
    """An NBD URL of an export (the NBD project's doc/uri.md)."""
    if "socket" in place:
        return f"nbd+unix:///{disk}?socket={quote(place['socket'])}"
    host = f"[{place['host']}]" if ":" in place["host"] else place["host"]
    return f"nbd://{host}:{place['port']}/{disk}"


def add(group: typer.Typer) -> None:
    @command(group, "serve", SERVE, with_vault=False)
    def serve(
        session: Session,
        store: StoreOption,
        socket: SocketOption = None,
        port: PortOption = None,
        bind: BindOption = "127.0.0.1",
        insecure_bind: InsecureOption = False,
        machine: MachineOption = None,
        point: PointOption = "latest",
        cache: CacheOption = None,
        cache_dir: CacheFolderOption = None,
        cache_dir_size: CacheFolderSizeOption = "10G",  # type: ignore[assignment]  # parsed as if it were typed
        passphrase_file: PassphraseFileOption = None,
        key_file: KeyFileOption = None,
    ) -> None:
        if (socket is None) == (port is None):
            raise WrongUse("say either --socket PATH or --port N")
        if port is not None and not insecure_bind and not _is_loopback(bind):
            raise WrongUse(
                f"anybody who reaches {bind} could read the disks, which go over the network unencrypted",
                remedy="Leave --bind out and use a tunnel, or add --insecure-bind on a network that you trust.",
            )
        bucket = open_bucket(store, passphrase_file, key_file)
        chosen = bucket.machine(machine)
        reader = _open(chosen, point, bucket.url, cache, cache_dir, cache_dir_size)
        _serve(session, chosen, reader, Listening(socket, port, bind))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _open(
    machine: StoredMachine, wanted: str, store: str, memory: int | None, folder: Path | None, folder_size: int
) -> PointReader:
    """The point, with caches as asked for."""
    from homeport.servers.point_export import default_cache
    from homeport.store.disk_cache import CachedObjects, DiskCache
    from homeport.store.timeline import MachineStore

    point = machine.choose(wanted)
    objects = machine.store.objects
    if folder is not None:
        objects = CachedObjects(objects, DiskCache(folder, folder_size), store)
    kept = default_cache() if memory is None else memory
    return MachineStore(objects, machine.store.keys, cache_bytes=kept).open(point)


def _serve(session: Session, machine: StoredMachine, reader: PointReader, listening: Listening) -> None:
    """Until SIGINT or SIGTERM; then exit status 0."""
    from homeport.servers.point_export import served

    ends = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the server's threads begin, so that they inherit it and sigwait alone takes the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with served(reader, {disk: disk for disk in reader.disks}) as server:
            place = listening.open(server)
            server.start()
            told = {
                "machine": machine.uuid,
                "name": machine.name,
                "point": str(reader.point),
                **place,
                "exports": [
                    {"disk": disk, "size": size, "url": url(place, disk)} for disk, size in sorted(reader.disks.items())
                ],
            }
            session.answer({"serving": told}, lambda console: show_served(console, told))
            signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def show_served(console: Console, served: dict[str, Any]) -> None:
    console.print(f"Serving {served['point']} of {served['name']} until Ctrl-C:", markup=False)
    for export in served["exports"]:
        console.print(f"  {export['disk']} ({show_size(export['size'])})  {export['url']}", markup=False)
