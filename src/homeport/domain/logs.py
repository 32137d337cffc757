"""Loggers that cost nothing until something is logged.

structlog takes a fifth of a second to load (with rich and asyncio, which it looks for): too much for a command that is
done in half a second and logs nothing.
"""

from __future__ import annotations

from typing import Any


class LazyLogger:
    """A structlog logger, made at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        return getattr(structlog.get_logger(self._name), method)


def get_logger(name: str) -> LazyLogger:
    """As ``structlog.get_logger``."""
    return LazyLogger(name)
