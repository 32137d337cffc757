"""What both packages are made of: the project's own files, apart from the working tree, and its version."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"


def version() -> str:
    """As `homeport --version` says it: the one place where it stands."""
    found = re.search(
        r'^__version__ = "([^"]+)"$', (ROOT / "src/homeport/__init__.py").read_text("utf-8"), re.MULTILINE
    )
    if found is None:
        raise ValueError("src/homeport/__init__.py names no __version__")
    return found[1]


def copy_source(target: Path) -> None:
    """What a wheel is built from: a build in the working tree would pack what an earlier one left there."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, target / name)
    shutil.copytree(
        ROOT / "src/homeport", target / "src/homeport", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
