"""Seeds: images at the other site that a machine's first copy begins from; looked at before anything begins."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from homeport.domain.machines import Machine
from homeport.domain.seed import check_seed
from homeport.domain.target import Target
from homeport.vault.core import Core
from homeport.vault.database import Json
from homeport.vault.work import Ask, ask


def check(core: Core, away: str, seed: Mapping[str, str], target: Target, machine: Machine) -> None:
    """``away`` looks at the images, too. Raises what :func:`homeport.domain.seed.check_seed` does, SiteUnreachable, and
    what the site answers (``seed.not-found``, ``seed.wrong-size``, ``disk.in-use``, …)."""
    check_seed(seed, machine, target.excluded_disks)
    params: Json = {"seed": dict(seed), "disks": [{"id": disk.id, "size": disk.size} for disk in machine.disks]}
    limit = core.timeouts.inventory
    ask(core, Ask(away, "probe-seed", params, key=f"probe-seed:{uuid.uuid4().hex}", silence=limit, limit=limit))
