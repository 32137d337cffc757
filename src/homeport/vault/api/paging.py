"""Lists in pages: ``limit`` entries, from ``after`` on; the answer's ``next`` is the next page's ``after``.

A cursor holds the sort key of the last entry that was told, so that what comes and goes meanwhile neither repeats nor
skips any other. Without ``limit``, all.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, AwareDatetime
from sqlalchemy import Select, and_, or_

from homeport.domain.errors import HomeportError
from homeport.vault.database import UtcTime

T = TypeVar("T")
Key = tuple[str, ...]


class CursorInvalid(HomeportError):
    code = "request.cursor-invalid"
    remedy = "Give `after` what `next` of the page before said, for the same list; or leave it out to begin anew."


@dataclass(frozen=True)
class Page:
    limit: int | None
    after: str | None

    def key(self, parts: int) -> Key | None:
        """The sort key after which the page begins. Raises :class:`CursorInvalid`."""
        if self.after is None:
            return None
        try:
            found = json.loads(base64.urlsafe_b64decode(self.after.encode("ascii")))
        except (ValueError, binascii.Error):
            found = None
        if not isinstance(found, list) or len(found) != parts or not all(isinstance(part, str) for part in found):
            raise CursorInvalid(f"{self.after!r} is no place in this list.")
        return tuple(found)

    def cut(self, rows: Sequence[T], key: Callable[[T], Key]) -> tuple[list[T], str | None]:
        """The page's entries of ``rows``, which begin where it does, and the cursor of the next page: None at the
        list's end."""
        if self.limit is None or len(rows) <= self.limit:
            return list(rows), None
        kept = list(rows[: self.limit])
        return kept, base64.urlsafe_b64encode(json.dumps(key(kept[-1])).encode()).decode()


def _page(
    limit: Annotated[int | None, Query(ge=1, le=1000, description="At most so many; without it, all")] = None,
    after: Annotated[str | None, Query(max_length=1000, description="`next` of the page before")] = None,
) -> Page:
    return Page(limit, after)


ThePage = Annotated[Page, Depends(_page)]


def keyset(wanted: Select[Any], page: Page, *columns: Any, descending: bool = False) -> Select[Any]:
    """``wanted`` in the order of ``columns`` (the last one unique), from where the page begins, with one row more than
    it holds. A column of instants is compared as such."""
    key = page.key(len(columns))
    if key is not None:
        values = [_value(column, text) for column, text in zip(columns, key, strict=True)]
        beyond = [
            and_(
                *(column == value for column, value in zip(columns[:place], values[:place], strict=True)),
                columns[place] < values[place] if descending else columns[place] > values[place],
            )
            for place in range(len(columns))
        ]
        wanted = wanted.where(or_(*beyond))
    wanted = wanted.order_by(*(column.desc() if descending else column.asc() for column in columns))
    return wanted if page.limit is None else wanted.limit(page.limit + 1)


def _value(column: Any, text: str) -> Any:
    if not isinstance(column.type, UtcTime):
        return text
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError as error:
        raise CursorInvalid(f"{text!r} is no instant in this list.") from error


def in_utc(instant: datetime) -> datetime:
    """Raises ValueError for one that has no time zone, or lies outside of the calendar."""
    if instant.tzinfo is None:
        raise ValueError("the instant has no time zone")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the instant lies outside of the calendar") from error


Instant = Annotated[AwareDatetime, AfterValidator(in_utc)]
"""A parameter: ISO 8601 with a time zone; in UTC."""
