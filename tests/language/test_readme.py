"""README.ja.md says what README.md says: the same commands, sections and links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = (ROOT / "README.ja.md").read_text(encoding="utf-8")
LANGUAGES = "## 言語"
"""A section of the Japanese alone: that the other documents are in English."""


def blocks(text: str) -> list[str]:
    return re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_commands_are_the_same() -> None:
    assert blocks(JAPANESE) == blocks(ENGLISH)


def test_the_sections_are_the_same() -> None:
    ours = [line for line in prose(JAPANESE).splitlines() if line.startswith("#")]
    assert LANGUAGES in ours
    assert len(ours) - 1 == sum(line.startswith("#") for line in prose(ENGLISH).splitlines())
    assert prose(JAPANESE).count("\n* ") == prose(ENGLISH).count("\n* ")


def test_the_links_are_the_same_and_each_leads_to_the_other() -> None:
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) for text in (ENGLISH, JAPANESE)]
    assert links[0] - {"README.ja.md"} == links[1] - {"README.md"}
    assert "README.ja.md" in links[0]
    assert "README.md" in links[1]


def test_what_is_typed_is_the_same() -> None:
    typed = [set(re.findall(r"`([^`\n]+)`", prose(text))) for text in (ENGLISH, JAPANESE.replace(LANGUAGES, "\0"))]
    assert typed[0] <= typed[1]
