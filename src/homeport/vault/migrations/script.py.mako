"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from homeport.vault.migrations.types import UTC_TIME

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades}
