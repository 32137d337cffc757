"""The tables of the first version of Homeport."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from homeport.vault.migrations.types import UTC_TIME

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.JSON(), nullable=False),
    )
    op.create_table(
        "sites",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("created", UTC_TIME, nullable=False),
        sa.Column("executor", sa.String()),
        sa.Column("gateway", sa.JSON()),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("last_seen", UTC_TIME),
        sa.Column("inventoried", UTC_TIME),
    )
    op.create_table(
        "machines",
        sa.Column("site", sa.String(), sa.ForeignKey("sites.name"), primary_key=True),
        sa.Column("uuid", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("data", sa.JSON(), nullable=False),
    )
    op.create_table(
        "policies",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("rpo_threshold", sa.Integer(), nullable=False),
        sa.Column("retention", sa.Integer(), nullable=False),
        sa.Column("app_consistent", sa.Integer(), nullable=False),
        sa.Column("interval", sa.Integer(), nullable=False),
        sa.Column("generated", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.Column("machine_key", sa.String(), nullable=False),
        sa.Column("home", sa.String(), sa.ForeignKey("sites.name"), nullable=False),
        sa.Column("away", sa.String(), sa.ForeignKey("sites.name"), nullable=False),
        sa.Column("policy", sa.String(), sa.ForeignKey("policies.name"), nullable=False),
        sa.Column("state", sa.String(33), nullable=False),
        sa.Column("direction", sa.String(7), nullable=False),
        sa.Column("active_site", sa.String(), nullable=False),
        sa.Column("store_site", sa.String(), nullable=False),
        sa.Column("timeline", sa.String(), nullable=False),
        sa.Column("lineage", sa.JSON(), nullable=False),
        sa.Column("timelines", sa.JSON(), nullable=False),
        sa.Column("ties", sa.JSON(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("job", sa.String()),
        sa.Column("replicate", sa.JSON()),
        sa.Column("replication", sa.JSON(), nullable=False),
        sa.Column("crossed", sa.JSON(), nullable=False),
        sa.Column("test", sa.JSON()),
        sa.Column("failover_point", sa.String()),
        sa.Column("recovery_machine", sa.JSON()),
        sa.Column("created", UTC_TIME, nullable=False),
        sa.Column("removed", UTC_TIME),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("item", sa.String(), sa.ForeignKey("items.id"), nullable=False),
        sa.Column("item_name", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("before", sa.String(33), nullable=False),
        sa.Column("direction", sa.String(7), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created", UTC_TIME, nullable=False),
        sa.Column("started", UTC_TIME),
        sa.Column("ended", UTC_TIME),
        sa.Column("error", sa.JSON()),
        sa.Column("result", sa.JSON()),
    )
    op.create_index("ix_jobs_item", "jobs", ["item"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "tasks",
        sa.Column("job", sa.String(), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.JSON()),
        sa.Column("started", UTC_TIME, nullable=False),
        sa.Column("ended", UTC_TIME),
        sa.Column("result", sa.JSON()),
        sa.Column("error", sa.JSON()),
    )
    op.create_table(
        "work",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), nullable=False, unique=True),
        sa.Column("site", sa.String(), sa.ForeignKey("sites.name"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("job", sa.String()),
        sa.Column("task", sa.String()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("executor", sa.String()),
        sa.Column("progress", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("created", UTC_TIME, nullable=False),
        sa.Column("changed", UTC_TIME, nullable=False),
    )
    op.create_index("ix_work_site", "work", ["site"])
    op.create_index("ix_work_state", "work", ["state"])
    op.create_table(
        "points",
        sa.Column("timeline", sa.String(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("data", sa.JSON(), nullable=False),
    )
