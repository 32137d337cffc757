"""Which language somebody reads, from what they say of it."""

from __future__ import annotations

from collections.abc import Mapping

ENGLISH = "en"
LANGUAGES = (ENGLISH, "ja")
VARIABLES = ("HOMEPORT_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
"""Of a process's environment, the first that is set."""


def known(tag: str) -> str | None:
    """The language of a tag or a locale, such as "ja", "ja-JP" or "ja_JP.UTF-8"; None for one that isn't spoken."""
    language = tag.strip().replace("_", "-").partition(".")[0].partition("-")[0].lower()
    return language if language in LANGUAGES else None


def of_environment(environment: Mapping[str, str]) -> str:
    """What a terminal's reader reads; English where nothing known is named."""
    for variable in VARIABLES:
        if value := environment.get(variable):
            return known(value) or ENGLISH
    return ENGLISH


def negotiated(accepted: str) -> str:
    """The language for an ``Accept-Language`` (RFC 9110, 12.5.4): of those spoken the one that is wanted most, of
    several wanted alike the first named. English where none of them is wanted."""
    wanted: dict[str, float] = {}
    rest = 0.0
    for part in accepted.split(","):
        tag, _, parameters = part.partition(";")
        quality = _quality(parameters)
        if tag.strip() == "*":
            rest = quality
        elif (language := known(tag)) is not None:
            wanted[language] = max(quality, wanted.get(language, 0.0))
    if rest > 0:
        for language in LANGUAGES:
            wanted.setdefault(language, rest)
    best = max(wanted.values(), default=0.0)
    return next((language for language, quality in wanted.items() if quality == best > 0), ENGLISH)


def _quality(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0
