"""How the suite is spread over several processes (`make test`: pytest-xdist, ``--dist loadgroup``).

Each test goes to the next process that is free, in the order made here: what takes long begins first, so that no
process is left alone with it at the end. Files of one group stay in one process: those that boot guests, since emulated
processors are the heaviest load here and a guest that is starved misses its deadlines; and those that name a group with
``xdist_group``, since they share something costly.
"""

from __future__ import annotations

import re
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # begun in the background; commands that tests interrupt inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent

settings.register_profile("homeport", deadline=None)  # no test is timed: machines are busy
settings.load_profile("homeport")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _GroupsOfFiles(config, log) if config.getvalue("dist") == "loadgroup" else None


class _GroupsOfFiles(LoadScopeScheduling):
    """xdist's own groups are part of a test's id, which pytest 9.2 doesn't let it change."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0]) or nodeid


@cache
def _group(path: str) -> str | None:
    text = (ROOT / path).read_text()
    named = re.search(r'xdist_group\("(\w+)"\)', text)
    return named[1] if named else "guest" if "mark.guest" in text else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in one process they stay as they stand in the files
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    return next((turn for turn, mark in enumerate(("guest", "slow")) if item.get_closest_marker(mark)), 2)
