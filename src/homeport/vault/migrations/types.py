"""Column types as the migrations name them: theirs stay as they were, whatever the models become."""

from __future__ import annotations

from sqlalchemy import DateTime, String

UTC_TIME = String(40).with_variant(DateTime(timezone=True), "postgresql")
"""An instant: ISO 8601 text on SQLite."""
