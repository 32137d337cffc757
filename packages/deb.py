"""The Debian package: `python -m packages.deb` makes dist/homeport_VERSION_ARCHITECTURE.deb with dpkg-deb alone.

It holds a virtual environment of Debian's own Python in /usr/lib/homeport: the wheel, and the libraries in the lock's
versions, as `make prepare` installed them. Two builds of the same files make the same package.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from homeport.servers.serve.settings import SETTINGS, sample_config
from homeport.servers.serve.units import unit
from packages.libraries import copy_libraries, needed
from packages.source import DIST, ROOT, version
from packages.wheel import build_wheel

HOME = Path("usr/lib/homeport")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_HERE = Path(__file__).parent


def build_deb(dist: Path = DIST) -> Path:
    """The package's path. Raises LibraryDiffers, CalledProcessError, OSError."""
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="homeport-deb-") as folder:
        root = Path(folder) / "root"
        _environment(root, Path(folder))
        _commands_and_units(root)
        architecture = _output("dpkg", "--print-architecture")
        _control(root, architecture)
        stamp = int(os.environ.get("SOURCE_DATE_EPOCH") or _output("git", "-C", str(ROOT), "log", "-1", "--format=%ct"))
        _uniform(root, stamp)
        package = dist / f"homeport_{version()}_{architecture}.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--build", str(root), str(package)],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": str(stamp)},
        )  # fmt: skip
    return package


def _environment(root: Path, scratch: Path) -> None:
    home = root / HOME
    site = home / f"lib/python{PYTHON}/site-packages"
    site.mkdir(parents=True)
    (home / "bin").mkdir()
    for name in ("python", "python3"):
        (home / "bin" / name).symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    copy_libraries(needed(requirements), site)
    with zipfile.ZipFile(build_wheel(scratch / "wheel")) as wheel:
        wheel.extractall(site)
    # Unchecked: the package manager replaces source and byte code together; and nothing writes there at run time.
    compiled = compileall.compile_dir(
        site, quiet=2, workers=0, stripdir=str(root), prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    if not compiled:
        raise ValueError("byte code can't be made")


def _commands_and_units(root: Path) -> None:
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy(_HERE / "debian/homeport", root / "usr/bin/homeport")
    units = root / "lib/systemd/system"
    units.mkdir(parents=True)
    for file in sorted((_HERE / "systemd").iterdir()):
        shutil.copy(file, units / file.name)
    documents = root / "usr/share/doc/homeport"
    examples = documents / "examples"
    examples.mkdir(parents=True)
    for role in SETTINGS:
        (units / f"homeport-{role}.service").write_text(unit(role, "/usr/bin/homeport"), "utf-8")
        (examples / f"{role}.toml").write_text(sample_config(role), "utf-8")
    shutil.copy(ROOT / "LICENSE", documents / "copyright")
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        shutil.copy(page, documents / page.name)
    shutil.copytree(ROOT / "docs", documents / "docs")


def _control(root: Path, architecture: str) -> None:
    control = root / "DEBIAN"
    control.mkdir()
    size = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    text = (_HERE / "debian/control.in").read_text("utf-8").format(
        version=version(), architecture=architecture, installed_size=-(-size // 1024),
        python=PYTHON, next_python=f"{sys.version_info.major}.{sys.version_info.minor + 1}",
    )  # fmt: skip
    (control / "control").write_text(text, "utf-8")
    for script in ("postinst", "prerm", "postrm"):
        shutil.copy(_HERE / "debian" / script, control / script)


def _uniform(root: Path, stamp: int) -> None:
    """Modes and times that don't depend on who builds, and when."""
    commands = {root / "usr/bin/homeport", *(root / "DEBIAN").iterdir()} - {root / "DEBIAN/control"}
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in commands else 0o644)
        os.utime(path, (stamp, stamp), follow_symlinks=False)


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    print(build_deb())
