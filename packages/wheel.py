"""The wheel: `python -m packages.wheel` makes dist/homeport-VERSION-py3-none-any.whl, without the network."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from packages.source import DIST, copy_source, version


def build_wheel(dist: Path = DIST) -> Path:
    """The wheel's path. Raises CalledProcessError with what the build said on standard error."""
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="homeport-wheel-") as folder:
        copy_source(Path(folder))
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
             "--wheel-dir", str(dist), folder],
            check=True,
        )  # fmt: skip
    return dist / f"homeport-{version()}-py3-none-any.whl"


if __name__ == "__main__":
    print(build_wheel())
