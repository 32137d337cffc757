"""A role's configuration: a TOML file whose every value is described, and of which nothing unknown is taken."""

from __future__ import annotations

import difflib
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from homeport.domain.bandwidth import Schedule, parse_rate, parse_window
from homeport.domain.errors import HomeportError
from homeport.domain.inventory import DISCOVERY_INTERVAL
from homeport.domain.servers import Role
from homeport.servers.serve.ports import DATA_PORT, LOCAL_PORT, SITE_PORT, VAULT_PORT, health_port
from homeport.servers.shipping import MOST_THREADS
from homeport.sites.qemu.description import parse_size

LEAST_DISCOVERY = 10


class ConfigInvalid(HomeportError):
    """``details``: ``file``, ``setting``."""

    code = "serve.config-invalid"
    remedy = "`homeport serve ROLE --sample-config` shows every setting and what it is for."


@dataclass(frozen=True)
class Setting:
    """``default``: None: it must be given. ``example``: the sample's, for one that is given, always or mostly.
    ``alone``: of a list: its only text may be given without brackets."""

    name: str
    kind: type
    default: Any
    doc: str
    example: Any = ""
    alone: bool = False


def _state(role: Role) -> Setting:
    return Setting("state", str, f"/var/lib/homeport/{role}", "Folder of this server's own state, for it alone.")


def _common(role: Role) -> tuple[Setting, ...]:
    return (
        Setting(
            "health",
            str,
            f"127.0.0.1:{health_port(role)}",
            "Where GET /health answers: an address of loopback. Empty: nowhere.",
        ),
        Setting(
            "log", str, "", "File for the log, a JSON object a line. Empty: standard error, for systemd's journal."
        ),
    )


_SITE = Setting(
    "folder", str, None, "The site's folder: one folder per machine in it, the servers' own is .homeport.", "/srv/site"
)
_STORE = Setting(
    "store",
    str,
    "",
    "URL of the site's recovery store: file:///…, s3://BUCKET/PREFIX, az://… or gs://…. Empty: what the vault says\n"
    "(homeport site set SITE --store URL), else .homeport/store in the site's folder. Refused where the vault says\n"
    "another.",
)
_UPSTREAM = Setting(
    "configuration_server",
    str,
    "",
    "URL of the site's configuration server. Empty: where this server joined.",
)

LOCAL, MOBILITY_SERVICE = "local", "mobility-service"
"""Where a process server gets changes from."""

SETTINGS: dict[Role, tuple[Setting, ...]] = {
    Role.VAULT: (
        _state(Role.VAULT),
        Setting("name", str, "", "Of this instance among the servers. Empty: the machine's name."),
        Setting("listen", str, f"0.0.0.0:{VAULT_PORT}", "Address and port for sites and operators, over TLS."),
        Setting(
            "urls",
            list,
            None,
            "Where servers reach this vault, nearest first; goes into registration keys.",
            [f"https://vault.example:{VAULT_PORT}"],
        ),
        Setting("local", str, f"127.0.0.1:{LOCAL_PORT}", "Loopback address for the `homeport` command here."),
        Setting(
            "database",
            str,
            "",
            "PostgreSQL: postgresql://USER:PASSWORD@HOST/NAME; several instances may share one. Empty: SQLite in the\n"
            "state folder.",
        ),
        *_common(Role.VAULT),
    ),
    Role.CONFIGURATION_SERVER: (
        _state(Role.CONFIGURATION_SERVER),
        _SITE,
        _STORE,
        Setting(
            "vault",
            list,
            [],
            "URLs of the vault's instances (all of one vault), or the URL of its only one. Who answers is asked until\n"
            "it is away, then the next. Empty: where this server joined, and what its registration key said.",
            alone=True,
        ),
        Setting(
            "discovery",
            int,
            DISCOVERY_INTERVAL,
            f"Seconds between two discoveries of the site's machines: {LEAST_DISCOVERY} or more. Read again at SIGHUP.",
        ),
        Setting(
            "listen",
            str,
            f"0.0.0.0:{SITE_PORT}",
            "Address and port for the other servers of this site, over TLS; that of a private interface will do.",
        ),
        *_common(Role.CONFIGURATION_SERVER),
    ),
    Role.PROCESS_SERVER: (
        _state(Role.PROCESS_SERVER),
        Setting(
            "source",
            str,
            LOCAL,
            "Where it gets the changes of its machines from: local: it runs at their host and sees the site's folder;\n"
            "mobility-service: it runs elsewhere, and the mobility service at their host brings them. Then set store\n"
            "and cache, and no folder.",
        ),
        Setting(
            "folder",
            str,
            "",
            "The site's folder, where source is local: one folder per machine in it, the servers' own is .homeport.",
            "/srv/site",
        ),
        _STORE,
        _UPSTREAM,
        Setting(
            "listen",
            str,
            f"0.0.0.0:{DATA_PORT}",
            "Address and port for the process servers of other sites, and this one's mobility services, over TLS.",
        ),
        Setting(
            "advertise",
            str,
            None,
            "URL under which the process servers of other sites, and this one's mobility services, reach it.",
            f"https://ps1.home.example:{DATA_PORT}",
        ),
        Setting("cache", str, "", "Folder for what waits to be shipped. Empty: .homeport/cache in the site's folder."),
        Setting(
            "cache_quota",
            str,
            "",
            "What the cache may have at most: 500GiB. Empty: its volume. With less than 20 % of it free, no points\n"
            "are begun, until there is room again.",
        ),
        Setting(
            "rate",
            str,
            "none",
            "Bits per second that all machines of this server may ship together: 512k, 20M, 1G; none: no limit. Read\n"
            "again at SIGHUP, as are the next two.",
        ),
        Setting(
            "windows",
            list,
            [],
            "Other rates by hour (local time) and weekday, the first that holds counts:\n"
            '["20M 8-18 mon-fri", "none 22-6"].',
        ),
        Setting("threads", int, 4, "How many uploads at once for each machine: 1 to 32."),
        *_common(Role.PROCESS_SERVER),
    ),
    Role.MASTER_TARGET: (
        _state(Role.MASTER_TARGET),
        _SITE,
        _STORE,
        _UPSTREAM,
        Setting(
            "retention",
            str,
            "",
            "Folder on the retention drive, where overwritten data is kept at a failback. Empty: .homeport/retention\n"
            "in the site's folder.",
        ),
        *_common(Role.MASTER_TARGET),
    ),
    Role.MOBILITY_SERVICE: (
        _state(Role.MOBILITY_SERVICE),
        _SITE,
        _UPSTREAM,
        Setting(
            "scratch",
            str,
            "",
            "Folder for what guests overwrite while their disks are read, at most 8 GiB a machine. Empty:\n"
            ".homeport/scratch in the site's folder.",
        ),
        *_common(Role.MOBILITY_SERVICE),
    ),
}


@dataclass(frozen=True)
class Config:
    """The values of a file, with the defaults of what it doesn't say."""

    role: Role
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.values[name])

    def texts(self, name: str) -> list[str]:
        return [str(value) for value in self.values[name]]

    def path(self, name: str) -> Path:
        return Path(self.text(name)).absolute()

    @property
    def state(self) -> Path:
        return self.path("state")

    @property
    def servers_folder(self) -> Path:
        """The servers' own folder at the site."""
        return self.path("folder") / ".homeport"

    @property
    def machines_elsewhere(self) -> bool:
        """Of a process server: mobility services bring what machines wrote."""
        return self.values.get("source") == MOBILITY_SERVICE

    @property
    def store_url(self) -> str:
        return self.text("store") or (self.servers_folder / "store").as_uri()

    @property
    def threads(self) -> int:
        return int(self.values["threads"])

    @property
    def discovery(self) -> int:
        """Seconds."""
        return int(self.values["discovery"])

    def schedule(self) -> Schedule:
        """How fast a process server may ship. Raises ScheduleInvalid."""
        return Schedule(parse_rate(self.text("rate")), tuple(map(parse_window, self.texts("windows"))))

    def cache_quota(self) -> int | None:
        """Bytes. Raises :class:`ConfigInvalid`."""
        text = self.text("cache_quota")
        size = parse_size(text) if text else None
        if text and not size:
            raise ConfigInvalid(f'{text!r} is no size like "500GiB"', setting="cache_quota")
        return size

    def address(self, name: str) -> tuple[str, int]:
        return parse_address(self.text(name), name)


def read_config(role: Role, path: Path) -> Config:
    """Raises :class:`ConfigInvalid`."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigInvalid(f"There is no file {path}.", file=str(path)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"{path} can't be read: {error}.", file=str(path)) from error
    try:
        return check_config(role, data)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error.cause}", file=str(path), **error.details) from error


def check_config(role: Role, data: Mapping[str, Any]) -> Config:
    """Raises :class:`ConfigInvalid`."""
    known = {setting.name: setting for setting in SETTINGS[role]}
    for name in data:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}."
            raise ConfigInvalid(f"a {role} has no setting {name!r}{hint}", setting=name)
    values: dict[str, Any] = {}
    for name, setting in known.items():
        if name not in data:
            if setting.default is None:
                raise ConfigInvalid(f"{name} is missing: {setting.doc.splitlines()[0]}", setting=name)
            values[name] = setting.default
            continue
        value = data[name]
        if setting.alone and isinstance(value, str):
            value = [value] if value else []
        given = value if isinstance(value, list) else [value]
        of = str if setting.kind is list else setting.kind
        fits = isinstance(value, setting.kind) and all(isinstance(each, of) for each in given)
        if not fits or isinstance(value, bool) or (not given and setting.default != []):
            wanted = {str: "a text", list: "a list of texts", int: "a number"}[setting.kind]
            raise ConfigInvalid(f"{name} is {value!r}, and {wanted} is wanted", setting=name)
        values[name] = value
    config = Config(role, values)
    for name in ("listen", "health", "local"):
        if values.get(name):
            host, _ = config.address(name)
            if name != "listen" and not _is_loopback(host):
                raise ConfigInvalid(f"{name} is at {host}: that is no address of loopback", setting=name)
    addresses = [(name, url) for name in ("urls", "vault") for url in values.get(name, [])]
    addresses += [(name, values[name]) for name in _URLS if values.get(name)]
    for name, url in addresses:
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            raise ConfigInvalid(f"{name}: {url!r} is no https:// address", setting=name)
    if role is Role.PROCESS_SERVER:
        _check_source(config)
        _check_shipping(config)
    if role is Role.CONFIGURATION_SERVER and config.discovery < LEAST_DISCOVERY:
        raise ConfigInvalid(
            f"discovery is {config.discovery}, and {LEAST_DISCOVERY} or more seconds are wanted", setting="discovery"
        )
    return config


def _check_source(config: Config) -> None:
    source = config.text("source")
    if source not in (LOCAL, MOBILITY_SERVICE):
        raise ConfigInvalid(f"source is {source!r}, and {LOCAL} or {MOBILITY_SERVICE} is wanted", setting="source")
    if source == LOCAL and not config.text("folder"):
        raise ConfigInvalid("folder is missing: it must be given where source is local", setting="folder")
    if source == MOBILITY_SERVICE:
        if config.text("folder"):
            raise ConfigInvalid("folder is given, and source is mobility-service: that has no folder", setting="folder")
        for name in ("store", "cache"):
            if not config.text(name):
                raise ConfigInvalid(f"{name} is missing: it must be given where source is {source}", setting=name)


def _check_shipping(config: Config) -> None:
    for name, parse in (
        ("rate", lambda: parse_rate(config.text("rate"))),
        ("windows", config.schedule),
        ("cache_quota", config.cache_quota),
    ):
        try:
            parse()
        except HomeportError as error:
            raise ConfigInvalid(f"{name}: {error.cause} {error.remedy}", setting=name) from error
    if not 1 <= config.threads <= MOST_THREADS:
        raise ConfigInvalid(f"threads is {config.threads}, and 1 to {MOST_THREADS} is wanted", setting="threads")


_URLS = ("configuration_server", "advertise")


def parse_address(text: str, name: str) -> tuple[str, int]:
    """HOST:PORT, [IPV6]:PORT. Raises :class:`ConfigInvalid`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigInvalid(f"{name} is {text!r}, and HOST:PORT is wanted", setting=name)
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(str(each[4][0]).startswith("127.") or each[4][0] == "::1" for each in found)


def sample_config(role: Role) -> str:
    """A commented TOML file with every setting: what may stay at its default stands behind a #."""
    lines = [f"# Configuration of a Homeport {role}: homeport serve {role} --config FILE", ""]
    for setting in SETTINGS[role]:
        lines += [f"# {line}" for line in setting.doc.splitlines()]
        given = setting.default is None or bool(setting.example)
        value = setting.example if given else setting.default
        shown = f"[{', '.join(_quoted(each) for each in value)}]" if isinstance(value, list) else _quoted(value)
        lines += [f"{'' if given else '# '}{setting.name} = {shown}", ""]
    return "\n".join(lines)


def _quoted(text: str | int) -> str:
    if isinstance(text, int):
        return str(text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
