"""The packages are built, installed where nothing of the working tree is, and run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from homeport import __version__
from packages.deb import PYTHON, build_deb
from packages.source import ROOT
from packages.wheel import build_wheel

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packages")]


def run(*words: str | Path, **more: str) -> str:
    """Its output; nothing of our environment reaches it."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **more}
    done = subprocess.run(
        [str(word) for word in words], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb: not a Debian machine")
    return build_deb(tmp_path_factory.mktemp("dist"))


class TestWheel:
    def test_it_holds_every_file_of_the_application(self, wheel: Path) -> None:
        source = ROOT / "src"
        ours = {
            path.relative_to(source).as_posix()
            for path in (source / "homeport").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        with zipfile.ZipFile(wheel) as opened:
            packed = {name for name in opened.namelist() if name.startswith("homeport/")}
        assert packed == ours

    def test_it_runs_in_a_fresh_environment(self, wheel: Path, tmp_path: Path) -> None:
        venv.create(tmp_path / "fresh", symlinks=True)
        python = tmp_path / "fresh/bin/python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
        libraries = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # the libraries alone, not our homeport
        where = run(python, "-c", "import homeport; print(homeport.__file__)").strip()
        assert Path(where).is_relative_to(tmp_path)
        homeport = tmp_path / "fresh/bin/homeport"
        assert run(homeport, "--version") == f"homeport {__version__}\n"
        assert "failover" in run(homeport, "--help")
        assert "restore" in run(homeport, "store", "--help")


IN_A_COPY = """
set -e
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root
mount --bind /proc $1/root/proc
mount --bind /dev $1/root/dev
mount -t tmpfs tmpfs $1/root/run
mount -t tmpfs tmpfs $1/root/root
mkdir -p $1/root/srv/package
cp $1/script $1/*.deb $1/root/srv/package
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot $1/root sh -ex /srv/package/script
"""
"""This machine's own system, of which a copy is changed: mounts and changes end with the process. ($1: a folder)"""

INSTALL_AND_RUN = """
exec 2>&1
dpkg -i /srv/package/*.deb
homeport --version
homeport --help | grep -q failover
homeport store --help | grep -q restore
/usr/lib/homeport/bin/python3 -I -c '
import sys, homeport, numpy
for module in (homeport, numpy):
    assert module.__file__.startswith("/usr/lib/homeport/lib/"), module.__file__
    assert module.__cached__ and __import__("os").path.exists(module.__cached__)
'
stat -c '%U %a %n' /var/lib/homeport
systemd-analyze verify --man=no /lib/systemd/system/homeport*.service && ls /lib/systemd/system | grep -c homeport
for role in vault configuration-server process-server master-target mobility-service; do
    homeport serve $role --systemd-unit | cmp - /lib/systemd/system/homeport-$role.service && echo "unit of $role"
done
id -nG homeport

echo a passphrase of some length > /srv/passphrase
head -c 3000000 /dev/urandom > /srv/disk.raw
store="--store file:///srv/bucket --passphrase-file /srv/passphrase --machine web"
homeport store import $store --create /srv/disk.raw
homeport store restore $store --point latest --disk disk0 --to /srv/again.raw
cmp /srv/disk.raw /srv/again.raw && echo restored

chmod 711 /srv
setpriv --reuid homeport --regid homeport --clear-groups homeport up --state /var/lib/homeport/state --port 18899 &
up=$!
export HOMEPORT_STATE=/var/lib/homeport/state
for _ in $(seq 150); do homeport site list && break || sleep 0.2; done
homeport site list --json
stat -c '%U %a %n' $HOMEPORT_STATE
kill $up
wait $up
echo stopped

touch /var/lib/homeport/kept
dpkg --purge homeport
test ! -e /usr/lib/homeport && test ! -e /usr/bin/homeport && test -e /var/lib/homeport/kept && echo purged
"""


class TestDebianPackage:
    def test_nothing_in_it_names_the_place_where_it_was_built(self, package: Path, tmp_path: Path) -> None:
        run("dpkg-deb", "-x", package, tmp_path)
        site = tmp_path / f"usr/lib/homeport/lib/python{PYTHON}/site-packages"
        needles = [os.fsencode(ROOT), os.fsencode(package.parent), b"homeport-deb-", b"homeport-wheel-"]
        for path in [
            *(site / "homeport").rglob("*.py*"),
            *site.glob("homeport-*/*[A-Z]*"),
            tmp_path / "usr/bin/homeport",
        ]:
            content = path.read_bytes()
            assert not [needle for needle in needles if needle in content], path
        # numpy says to whoever asks where its byte code came from
        pyc = next((site / "numpy/__pycache__").glob("__init__.*.pyc"))
        assert b"/usr/lib/homeport/lib/python" in pyc.read_bytes()

    @pytest.mark.timeout(120)
    def test_it_is_installed_runs_and_is_purged(self, package: Path, tmp_path: Path) -> None:
        if os.geteuid():
            pytest.skip("installing needs root")
        if run("/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() != PYTHON:
            pytest.skip(f"Debian's own Python isn't {PYTHON}, for which the package was built")
        for name in ("upper", "work", "root"):
            (tmp_path / name).mkdir()
        shutil.copy(package, tmp_path)
        (tmp_path / "script").write_text(INSTALL_AND_RUN)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", IN_A_COPY, "sh", str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "wrong fs type" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip(f"no copy of this system can be made to install into: {done.stderr.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        for wanted in (
            f"homeport {__version__}", "homeport 700 /var/lib/homeport", "homeport 700 /var/lib/homeport/state",
            "restored", "stopped", "purged", "unit of vault", "unit of master-target", "unit of mobility-service",
        ):  # fmt: skip
            assert wanted in lines, done.stdout
        assert not Path("/usr/lib/homeport").exists()
