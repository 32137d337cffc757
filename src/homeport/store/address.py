"""The address of a store: ``s3://bucket/prefix?region=…``, and what may stand in it.

It is printed in logs and errors, so no secret may: credentials come from the environment or a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from homeport.store.errors import StoreError

_SIZE = re.compile(r"^(\d+)([KMG]i?B?)?$")
_FACTORS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def unsupported(cause: str, remedy: str) -> StoreError:
    return StoreError(cause, code="store.unsupported-url", remedy=remedy)


@dataclass(frozen=True)
class Address:
    """``bucket``: the bucket or container. ``account``: Azure's. ``prefix``: without slashes around, perhaps ""."""

    scheme: str
    bucket: str
    prefix: str
    account: str = ""
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Without options."""
        return "/".join(part for part in (f"{self.scheme}:/", self.account, self.bucket, self.prefix) if part)

    def refuse_others(self, known: set[str]) -> None:
        """Raises StoreError for an option that this kind of storage doesn't have. Its value isn't printed."""
        if others := sorted(set(self.options) - known):
            raise unsupported(
                f"{self} doesn't have the option {', '.join(others)}",
                f"Options of {self.scheme}:// are {', '.join(sorted(known))}; keys and passwords belong in the "
                "environment or in a file (HOMEPORT_STORE_CREDENTIALS).",
            )

    def number(self, option: str, default: int = 0) -> int:
        """A whole number, or a size such as 50M (factors of 1024)."""
        if (text := self.options.get(option)) is None:
            return default
        match = _SIZE.match(text)
        if match is None or (value := int(match[1]) * _FACTORS[match[2] and match[2][0]]) == 0:
            raise unsupported(f"{option} in the store's URL is not a number above 0", f"Give {option}=10, or 50M.")
        return value

    def flag(self, option: str, default: bool) -> bool:
        text = self.options.get(option)
        if text not in (None, "true", "false"):
            raise unsupported(f"{option} in the store's URL is neither true nor false", f"Give {option}=true.")
        return default if text is None else text == "true"


def parse(url: str) -> Address:
    """Raises StoreError (``store.unsupported-url``), which never prints what may be a password."""
    parts = urlsplit(url)
    scheme = {"azure": "az"}.get(parts.scheme, parts.scheme)
    if scheme not in ("s3", "az", "gs"):
        raise unsupported(
            f"there is no store of the kind {parts.scheme or 'without a scheme'!r}",
            "Give file:///path, s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix.",
        )
    if "@" in parts.netloc or parts.fragment:
        raise unsupported(
            f"the {scheme}:// URL of a store carries a user, a password or a fragment",
            "Leave them out: credentials come from the environment or a file (HOMEPORT_STORE_CREDENTIALS).",
        )
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise unsupported(f"the {scheme}:// URL of a store has an option twice", "Give each once.")
    names = [unquote(part) for part in parts.path.split("/") if part]
    account = parts.netloc if scheme == "az" else ""
    bucket = (names.pop(0) if names else "") if scheme == "az" else parts.netloc
    if not bucket or (scheme == "az" and not account) or any(name in (".", "..") for name in names):
        raise unsupported(
            f"the {scheme}:// URL of a store doesn't name a bucket",
            "Give s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix.",
        )
    return Address(scheme, bucket, "/".join(names), account, options)
