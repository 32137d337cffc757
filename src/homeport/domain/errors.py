"""Errors that an operator sees: a code, what was found, what was expected, and what to do."""

from __future__ import annotations

from typing import Any


class HomeportError(Exception):
    """An error with a stable ``code``, a ``cause`` (what was found) and a ``remedy`` (what to do now)."""

    code = "homeport.error"
    remedy = ""

    def __init__(self, cause: str, *, code: str | None = None, remedy: str | None = None, **details: Any) -> None:
        super().__init__(cause)
        self.cause = cause
        if code is not None:
            self.code = code
        if remedy is not None:
            self.remedy = remedy
        self.details = details

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy, "details": self.details}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HomeportError:
        return HomeportError(data["cause"], code=data["code"], remedy=data.get("remedy", ""), **data.get("details", {}))
