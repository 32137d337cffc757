"""Who makes the trouble: vaults killed or stopped, sites silent for a while, at moments drawn from the seed."""

from __future__ import annotations

import threading
import time
from random import Random

from tests.chaos.instances import Instance
from tests.chaos.sites import ChaosSite, ChaosWorld


class Troubles:
    """Until :meth:`end`, which leaves every vault and site at work."""

    def __init__(self, world: ChaosWorld, instances: list[Instance], seed: str, long_stop: float = 0) -> None:
        """``long_stop``: seconds of one stop in five: so long that another instance takes over, where there is one."""
        self._world = world
        self._instances = instances
        self._long_stop = long_stop
        self._ending = threading.Event()
        self._pace = 1.0
        """By how much longer everything is left alone than on a machine where a vault starts in 2 s."""
        self._threads = [
            threading.Thread(target=self._vaults, args=(Random(f"{seed}/vaults"),)),
            *(
                threading.Thread(target=self._site, args=(site, Random(f"{seed}/{site.name}")))
                for site in world.sites.values()
            ),
        ]

    def begin(self) -> None:
        self._world.troubled = True
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._world.troubled = False
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _vaults(self, draw: Random) -> None:
        while not self._ending.wait(draw.uniform(1, 11) * self._pace):
            victim, how, seconds = draw.choice(self._instances), draw.random(), draw.uniform(0.3, 4)
            if how < 0.6:
                victim.kill()
                if draw.random() < 0.8:  # else it may be killed while it starts
                    begun = time.monotonic()
                    victim.wait_until_served(self._ending)
                    self._pace = max(1.0, (time.monotonic() - begun) / 2)
            else:
                victim.stop_for(self._long_stop if self._long_stop and how > 0.92 else seconds, self._ending)

    def _site(self, site: ChaosSite, draw: Random) -> None:
        while not self._ending.wait(draw.uniform(8, 30) * self._pace):
            seconds = draw.choice((draw.uniform(0.1, 1), draw.uniform(1, 6), draw.uniform(8, 14)))
            self._world.history.note("site-dies", site=site.name, seconds=round(seconds, 2))
            site.die()
            self._ending.wait(seconds)
            site.begin()
            self._world.history.note("site-begins", site=site.name)
