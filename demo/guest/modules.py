"""Kernel modules and the order in which they must be loaded."""

from __future__ import annotations

import re
from pathlib import Path

from demo.guest.commands import GuestBuildError


class Modules:
    """The modules of one kernel, by name ("virtio_blk"). What they depend on is read from the modules themselves (the
    ``depends=`` string that modpost leaves in .modinfo), so that neither kmod nor depmod is needed."""

    def __init__(self, tree: Path) -> None:
        self._paths = {path.name.split(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}

    def in_order(self, names: tuple[str, ...]) -> list[Path]:
        """The files of these modules and of all they need, dependencies first. Raises GuestBuildError."""
        order: list[Path] = []
        for name in names:
            self._add(name, order)
        return order

    def _add(self, name: str, order: list[Path]) -> None:
        path = self._paths.get(name)
        if path is None or path in order:
            return  # built into the kernel, or there already
        if path.suffix != ".ko":
            raise GuestBuildError(f"{path.name} is compressed: this kernel's modules can't be read")
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in depends[1].decode().split(",") if depends else []:
            if needed:
                self._add(needed.replace("-", "_"), order)
        order.append(path)
