"""What a role's process is told, how it tells how it is, and what docs and units say of it."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from homeport.domain.servers import Role
from homeport.servers.serve.health import Check, Health
from homeport.servers.serve.notify import notify
from homeport.servers.serve.ports import PORTS, document
from homeport.servers.serve.process import Lock, RunsAlready
from homeport.servers.serve.settings import SETTINGS, ConfigInvalid, check_config, read_config, sample_config
from homeport.servers.serve.units import unit
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
GIVEN = {
    Role.VAULT: {"urls": ["https://vault.example"]},
    Role.CONFIGURATION_SERVER: {"folder": "/srv/site"},
    Role.PROCESS_SERVER: {"folder": "/srv/site", "advertise": "https://ps.example:9443"},
    Role.MASTER_TARGET: {"folder": "/srv/site"},
    Role.MOBILITY_SERVICE: {"folder": "/srv/site"},
}


@pytest.mark.parametrize("role", Role)
def test_a_sample_holds_every_setting_and_is_valid_with_and_without_its_hashes(role: Role) -> None:
    sample = sample_config(role)
    config = check_config(role, tomllib.loads(sample))
    bare = "\n".join(line.removeprefix("# ") if " = " in line else line for line in sample.splitlines())
    assert set(tomllib.loads(bare)) == {setting.name for setting in SETTINGS[role]}
    assert check_config(role, tomllib.loads(bare)).values == config.values


@pytest.mark.parametrize("role", Role)
def test_what_is_not_given_has_the_default_of_the_ports_table(role: Role) -> None:
    config = check_config(role, GIVEN[role])
    for port in PORTS:
        if port.to == role:
            assert config.address(port.setting)[1] == port.number


def test_a_setting_that_is_unknown_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(ConfigInvalid, match="did you mean advertise"):
        check_config(Role.PROCESS_SERVER, {**GIVEN[Role.PROCESS_SERVER], "advertize": "https://ps"})
    with pytest.raises(ConfigInvalid, match="folder is missing"):
        check_config(Role.MASTER_TARGET, {})


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({}, "store is missing"),
        ({"store": "s3://b/p"}, "cache is missing"),
        ({"store": "s3://b/p", "cache": "/c", "folder": "/srv/site"}, "folder is given"),
        ({"store": "s3://b/p", "cache": "/c"}, None),
        ({"source": "local"}, "folder is missing"),
        ({"source": "remote"}, "local or mobility-service"),
    ],
)
def test_a_process_server_elsewhere_has_no_folder_and_says_where_all_else_is(
    more: dict[str, str], wrong: str | None
) -> None:
    given = {"advertise": "https://ps.example:9443", "source": "mobility-service", **more}
    if wrong is None:
        assert check_config(Role.PROCESS_SERVER, given).machines_elsewhere
        return
    with pytest.raises(ConfigInvalid, match=wrong):
        check_config(Role.PROCESS_SERVER, given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "9443"),
        ("listen", "0.0.0.0:99999"),
        ("listen", 9443),
        ("health", "0.0.0.0:9472"),
        ("advertise", "http://ps.example:9443"),
        ("configuration_server", "cs.example"),
    ],
)
def test_a_value_that_can_not_work_is_refused_and_named(tmp_path: Path, name: str, value: object) -> None:
    file = tmp_path / "ps.toml"
    given = {**GIVEN[Role.PROCESS_SERVER], name: value}
    file.write_text("\n".join(f"{key} = {json.dumps(each)}" for key, each in given.items()))
    with pytest.raises(ConfigInvalid) as refused:
        read_config(Role.PROCESS_SERVER, file)
    assert refused.value.details["setting"] == name
    assert str(file) in refused.value.cause


def test_the_vault_may_have_several_instances_or_one(tmp_path: Path) -> None:
    given = GIVEN[Role.CONFIGURATION_SERVER]
    urls = ["https://a.example", "https://b.example:8443"]
    for value, expected in ((urls, urls), (urls[0], urls[:1]), ("", []), ([], [])):
        assert check_config(Role.CONFIGURATION_SERVER, {**given, "vault": value}).texts("vault") == expected
    for value in ("a.example", [*urls, "http://c.example"], 5, [5]):
        with pytest.raises(ConfigInvalid) as refused:
            check_config(Role.CONFIGURATION_SERVER, {**given, "vault": value})
        assert refused.value.details["setting"] == "vault"


def test_how_often_a_site_is_discovered_is_a_setting() -> None:
    given = GIVEN[Role.CONFIGURATION_SERVER]
    assert check_config(Role.CONFIGURATION_SERVER, given).discovery == 15 * 60
    assert check_config(Role.CONFIGURATION_SERVER, {**given, "discovery": 60}).discovery == 60
    for value in (0, "15m"):
        with pytest.raises(ConfigInvalid) as refused:
            check_config(Role.CONFIGURATION_SERVER, {**given, "discovery": value})
        assert refused.value.details["setting"] == "discovery"


def test_a_folder_has_one_owner_until_its_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from homeport.servers.serve.process import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1])); print('has', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"has\n"
    with pytest.raises(RunsAlready):
        Lock(tmp_path / "lock")
    other.kill()
    other.communicate()
    with Lock(tmp_path / "lock"):
        pass


def test_health_tells_what_is_wrong_and_its_status_does() -> None:
    checks = [Check("vault", True, "answered 1 s ago")]
    health = Health(
        ("127.0.0.1", free_port()),
        lambda: {
            "role": "x",
            "healthy": all(each.ok for each in checks),
            "checks": [each.to_json() for each in checks],
        },
    )
    health.start()
    try:
        url = f"http://127.0.0.1:{health.port}"
        assert json.load(urllib.request.urlopen(url + "/health"))["checks"][0]["name"] == "vault"
        checks.append(Check("store", False, "the disk is gone"))
        with pytest.raises(urllib.error.HTTPError) as ill:
            urllib.request.urlopen(url + "/health")
        assert ill.value.code == 503
        assert json.load(ill.value)["checks"][1]["text"] == "the disk is gone"
        with pytest.raises(urllib.error.HTTPError) as unknown:
            urllib.request.urlopen(url + "/")
        assert unknown.value.code == 404
    finally:
        health.close()


def test_systemd_is_told_where_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1") is False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1") is True
        assert systemd.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert notify("READY=1") is False


def test_the_documented_ports_are_those_of_the_code() -> None:
    assert (ROOT / "docs" / "ports.md").read_text() == document()


@pytest.mark.parametrize("role", Role)
def test_the_units_are_those_of_the_code_and_systemd_takes_them(role: Role, tmp_path: Path) -> None:
    shipped = ROOT / "packaging" / "systemd" / f"homeport-{role}.service"
    assert shipped.read_text() == unit(role, "/usr/bin/homeport")
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(shipped.read_text())
    assert parsed["Service"]["ExecStart"] == f"/usr/bin/homeport serve {role} --config /etc/homeport/{role}.toml"
    assert parsed["Service"]["Type"] == "notify"
    if shutil.which("systemd-analyze"):
        here = tmp_path / shipped.name
        here.write_text(unit(role, os.path.realpath(sys.executable)))
        found = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
