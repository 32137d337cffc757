"""The ranges of a policy's values, in two profiles: ours, and the original's for whoever must stay within it.

All in seconds. The vault's setting ``profile`` chooses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from homeport.domain.units import DAY, HOUR, MINUTE


class Profile(StrEnum):
    DEFAULT = "default"
    STRICT = "strict"
    """The limits of the original system (reference 4 and 8)."""


LEAST_RPO_THRESHOLD = MINUTE
"""Reference 4: whole minutes, at least one."""
MOST_RPO_THRESHOLD = 30 * DAY
"""Ours: beyond, nobody is warned of anything."""
LEAST_INTERVAL = 1
"""Ours: a point needs a few tenths of a second of the source's time."""
MOST_INTERVAL = 15 * MINUTE
"""Ours: the longest replication frequency of the original's (900 s, reference 4)."""
STRICT_INTERVAL = 5 * MINUTE
"""Reference 3: crash-consistent points every five minutes, not configurable; nothing rarer is promised."""
STRICT_RETENTION = 15 * DAY
"""Reference 3 and 4: 0 to 15 days."""
MOST_RETENTION = 3650 * DAY
"""Ours, ten years: what the law asks of bookkeeping in most countries; a point costs what changed, not its age."""
LEAST_APP_CONSISTENT = MINUTE
"""Ours: a freeze holds the guest's writes for up to 10 s."""
STRICT_LEAST_APP_CONSISTENT = HOUR
STRICT_MOST_APP_CONSISTENT = 12 * HOUR
"""Reference 3 and 4: off, or 1 to 12 hours."""
MOST_APP_CONSISTENT = 7 * DAY
"""Ours: one a week."""
GROUP_MEMBERS = 64
"""Ours: all of them are held at one instant, and wait for the slowest."""
STRICT_GROUP_MEMBERS = 16
"""Reference 8."""
NAME_LENGTH = 63
"""Ours: names stand in paths and in names of hosts (RFC 1123)."""
STRICT_NAME_LENGTH = 50
"""The original's rule for the names of vaults; its documents tell none for policies (reference 4: "inferred")."""


@dataclass(frozen=True)
class Limits:
    """``retention``, ``group_members``: the most; the others: from, to."""

    name_form: str
    name_rule: str
    rpo_threshold: tuple[int, int]
    retention: int
    app_consistent: tuple[int, int]
    interval: tuple[int, int]
    group_members: int

    def name_fits(self, name: str) -> bool:
        return re.fullmatch(self.name_form, name) is not None


LIMITS = {
    Profile.DEFAULT: Limits(
        name_form=rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}",
        name_rule=f"letters, digits, dots, dashes and underscores, at most {NAME_LENGTH}",
        rpo_threshold=(LEAST_RPO_THRESHOLD, MOST_RPO_THRESHOLD),
        retention=MOST_RETENTION,
        app_consistent=(LEAST_APP_CONSISTENT, MOST_APP_CONSISTENT),
        interval=(LEAST_INTERVAL, MOST_INTERVAL),
        group_members=GROUP_MEMBERS,
    ),
    Profile.STRICT: Limits(
        name_form=rf"[A-Za-z][A-Za-z0-9-]{{0,{STRICT_NAME_LENGTH - 2}}}[A-Za-z0-9]",
        name_rule=f"letters, digits and dashes, 2 to {STRICT_NAME_LENGTH}, a letter first, no dash last",
        rpo_threshold=(LEAST_RPO_THRESHOLD, MOST_RPO_THRESHOLD),
        retention=STRICT_RETENTION,
        app_consistent=(STRICT_LEAST_APP_CONSISTENT, STRICT_MOST_APP_CONSISTENT),
        interval=(LEAST_INTERVAL, STRICT_INTERVAL),
        group_members=STRICT_GROUP_MEMBERS,
    ),
}
