"""The guest's root file system as a folder, put together from unpacked packages and from ``inside/``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from demo.guest.commands import GuestBuildError, run
from demo.guest.initramfs import initramfs
from demo.guest.modules import Modules
from demo.guest.settings import GuestSettings

INSIDE = Path(__file__).parent / "inside"

_DISK = ("virtio_pci", "virtio_blk")
_NETWORK = ("virtio_pci", "virtio_net")
_LATE = ("virtio_console", "evdev", "button")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr"
_LOADER = f"""DEFAULT guest
PROMPT 0
TIMEOUT 0
LABEL guest
 LINUX /boot/vmlinuz
 INITRD /boot/initrd
 APPEND {_COMMAND_LINE}
"""
_SKIPPED_TOOLS = {"busybox", "init", "linuxrc", "shutdown", "poweroff", "reboot", "halt"}


def stage(packages: Path, root: Path, settings: GuestSettings) -> None:
    """Makes ``root`` (which must not exist) from the unpacked ``packages``. Raises GuestBuildError, OSError."""
    for folder in ("bin", "boot/extlinux", "data", "dev", "etc/acpi/PWRF", "proc", "run", "srv", "sys", "tmp"):
        (root / folder).mkdir(parents=True)
    for folder in ("lib64", "opt/homeport", _LIBRARIES, "usr/bin", "usr/sbin"):
        (root / folder).mkdir(parents=True)
    (root / "sbin").symlink_to("bin")
    (root / "etc/mtab").symlink_to("/proc/self/mounts")
    _kernel(packages, root)
    _busybox(packages, root)
    python = _programs(packages, root)
    _scripts(root)
    (root / "etc/homeport-demo").write_text(settings.text(), encoding="ascii")
    (root / "srv/records").touch()
    _service(packages, root, python)


def _kernel(packages: Path, root: Path) -> None:
    modules = Modules(packages / "lib/modules")
    disk = modules.in_order(_DISK)
    network = [module for module in modules.in_order(_NETWORK) if module not in disk]
    late = [module for module in modules.in_order(_LATE) if module not in disk]
    for folder, files in (("network", network), ("late", late)):
        target = root / "lib/demo-modules" / folder
        target.mkdir(parents=True)
        for order, file in enumerate(files):
            shutil.copyfile(file, target / f"{order:02}-{file.name}")
    shutil.copyfile(_one(packages, "boot/vmlinuz-*"), root / "boot/vmlinuz")
    init = (INSIDE / "initramfs-init").read_text(encoding="ascii")
    (root / "boot/initrd").write_bytes(initramfs(_one(packages, "*bin/busybox"), disk, init))
    (root / "boot/extlinux/extlinux.conf").write_text(_LOADER, encoding="ascii")


def _busybox(packages: Path, root: Path) -> None:
    busybox = root / "bin/busybox"
    shutil.copy(_one(packages, "*bin/busybox"), busybox)
    for tool in run([busybox, "--list"]).split():
        if tool not in _SKIPPED_TOOLS:
            (root / "bin" / tool).symlink_to("busybox")
    (root / "bin/init").symlink_to("busybox")


def _programs(packages: Path, root: Path) -> str:
    """Python, the guest agent and the libraries they need; the version of Python ("3.11")."""
    python = next(path for path in packages.glob("usr/bin/python3.*") if re.fullmatch(r"python3\.\d+", path.name))
    agent = packages / "usr/sbin/qemu-ga"
    shutil.copy(python, root / "usr/bin/python3")
    shutil.copy(agent, root / "usr/sbin/qemu-ga")
    loader = "ld-linux-x86-64.so.2"
    for program in (python, agent):
        for library in re.findall(r"=> (\S+) \(", _with_loader(packages, "--list", str(program))):
            name = Path(library).name
            target = root / ("lib64" if name == loader else _LIBRARIES) / name
            shutil.copy(library, target)
    (root / "lib").mkdir(exist_ok=True)
    (root / "lib/x86_64-linux-gnu").symlink_to(f"../{_LIBRARIES}")
    standard = f"usr/lib/{python.name}"
    shutil.copytree(packages / standard, root / standard, ignore=shutil.ignore_patterns("lib-dynload"), symlinks=True)
    (root / standard / "lib-dynload").mkdir()  # Python wants it to be there
    return python.name.removeprefix("python")


def _scripts(root: Path) -> None:
    for script in ("start", "service", "late"):
        shutil.copy(INSIDE / script, root / "etc" / script)
        (root / "etc" / script).chmod(0o755)
    shutil.copy(INSIDE / "inittab", root / "etc/inittab")
    shutil.copy(INSIDE / "shutdown", root / "bin/shutdown")
    (root / "bin/shutdown").chmod(0o755)
    (root / "bin/poweroff").symlink_to("shutdown")
    button = root / "etc/acpi/PWRF/00000080"
    button.write_text("#!/bin/sh\nexec /sbin/shutdown\n", encoding="ascii")
    button.chmod(0o755)


def _service(packages: Path, root: Path, python: str) -> None:
    """The guest's program, under the same names as here, compiled by the guest's own Python."""
    home = root / "opt/homeport"
    inside = home / "demo/guest/inside"
    inside.mkdir(parents=True)
    for folder in (home / "demo", home / "demo/guest"):
        (folder / "__init__.py").touch()
    for module in INSIDE.glob("*.py"):
        shutil.copy(module, inside / module.name)
    (home / "service.py").write_text("from demo.guest.inside.service import main\n\nmain()\n", encoding="ascii")
    # Importing it leaves the compiled form of all it imports, the standard library's too.
    home_of_python = root / "usr"
    script = f"import sys; sys.path.insert(0, {str(home)!r}); import demo.guest.inside.service"
    _with_loader(packages, str(root / "usr/bin/python3"), "-s", "-S", "-c", script, PYTHONHOME=str(home_of_python))
    if not list(inside.glob("__pycache__/service.*.pyc")):
        raise GuestBuildError(f"Python {python} of the guest left nothing compiled")


def _with_loader(packages: Path, *arguments: str, **environment: str) -> str:
    """Runs a program of the packages with their own loader and libraries, whatever this machine has."""
    loader = _one(packages, "*lib*/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-*")
    paths = ":".join(str(packages / folder) for folder in ("lib/x86_64-linux-gnu", _LIBRARIES))
    command = [str(loader), "--library-path", paths, *arguments]
    done = subprocess.run(command, env={"LC_ALL": "C", **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestBuildError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _one(tree: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for path in sorted([*tree.glob(pattern), *tree.glob(f"usr/{pattern}")]):
            return path
    raise GuestBuildError(f"no {patterns[0]} in the packages")
