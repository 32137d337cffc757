"""How the suite is spread over several processes (`make test`: pytest-xdist, ``--dist loadgroup``).

Each test goes to the next process that is free, in the order made here: what takes long begins first, so that no
process is left alone with it at the end. Tests that boot guests form one group, which one process runs: emulated
processors are the heaviest load here, and a guest that is starved misses its deadlines.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):  # one process: as they stand in the files
        return
    for item in items:
        if item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.xdist_group("guest"))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    return next((turn for turn, mark in enumerate(("guest", "slow")) if item.get_closest_marker(mark)), 2)
