"""Small files that must be whole or absent after a crash."""

from __future__ import annotations

import os
from pathlib import Path


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` atomically; file and folder are fsynced when it returns."""
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(file, content, 0)
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(draft, path)
    sync_folder(path.parent)


def write_all(file: int, content: bytes | bytearray | memoryview, offset: int) -> None:
    """All of ``content`` at ``offset``: a single write may stop short on a full disk without an error."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it; their names are durable when it returns."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
