"""Unix sockets at paths of any length."""

from __future__ import annotations

import os
import socket

import pytest
from disk_peers import short_folder

from homeport.disks import unixpath


@pytest.mark.parametrize("total", [60, 107, 108, 109, 200, 1000])
def test_bind_and_connect_meet_at_paths_around_and_beyond_the_limit(total):
    with short_folder() as base:
        folder = base
        while len(os.fsencode(folder)) + 60 < total:
            folder = folder / ("d" * min(50, total - len(os.fsencode(folder)) - 8))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("s" * (total - len(os.fsencode(folder)) - 1))
        assert len(os.fsencode(path)) == total
        before = len(os.listdir("/proc/self/fd"))
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            unixpath.bind(listener, path)
            listener.listen()
            assert path.is_socket()
            unixpath.connect(client, str(path))
            accepted, _ = listener.accept()
            with accepted:
                client.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
        assert len(os.listdir("/proc/self/fd")) == before
        path.unlink()


def test_a_long_path_whose_folder_is_missing_is_an_error(tmp_path):
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        unixpath.connect(client, tmp_path / ("x" * 150) / "s")
