"""The Japanese catalogue is whole, holds to the glossary, and is read as gettext's own tools read it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from homeport.language.po import read
from tests.language import update

ASKED = update.wanted()
JAPANESE = update.translations("ja")

DOCUMENTED = (
    *("再保護", "フェールバック", "コミット", "計画されていないフェールオーバー"),
    *("テスト フェールオーバーのクリーンアップ", "レプリケートされたアイテム", "コンテナー", "構成サーバー"),
    *(
        "プロセス サーバー",
        "マスター ターゲット サーバー",
        "リテンション ドライブ",
        "復旧計画",
        "最後に処理があった時点",
    ),
    "最新のアプリ整合性",
)
GLOSSARY = {
    r"\bretention drive\b": "リテンション ドライブ",
    r"\b[Cc]onfiguration servers?\b": "構成サーバー",
    r"\b[Pp]rocess servers?\b": "プロセス サーバー",
    r"\b[Mm]aster targets?\b": "マスター ターゲット サーバー",
    r"(?<!no )\b[Rr]ecovery points?\b(?!')": "復旧ポイント",
    r"\b[Rr]ecovery machine\b": "復旧マシン",
    r"\b[Tt]est machines?\b": "テスト マシン",
    r"\b[Rr]ecovery (store|stores)\b": "復旧ストア",
    r"\b[Gg]uest agent\b": "ゲスト エージェント",
    r"\b[Pp]assphrase\b": "パスフレーズ",
    r"\b[Ff]ail(s|ed)? ?over\b|\b[Ff]ailovers?\b": "フェールオーバー",
    r"\b[Ff]ail(s|ed)? back\b|\b[Ff]ailbacks?\b": "フェールバック",
    r"\b[Rr]eprotect(s|ed)?\b": "再保護",
    r"\bthe vault\b": "コンテナー",
    r"\b[Aa]pp-consistent\b(?! --)": "アプリ整合性",
    r"\b[Cc]rash-consistent\b": "クラッシュ整合性",
}
"""By what is said in English, what stands in its translation."""
_TYPED = re.compile(
    r"`[^`]*`|--[a-z-]+|homeport [a-z-]+( [a-z-]+)*|latest-app-consistent|\{\w+\}|[A-Za-z0-9/_.-]*/[A-Za-z0-9/_.-]*"
)
"""Commands, options and paths: the same in every language."""


def test_every_message_of_the_source_is_translated() -> None:
    """If this fails: `scripts/update-messages`, then fill in what it names."""
    assert not update.faults(JAPANESE, ASKED)


def test_the_documents_terms_are_the_catalogue_s() -> None:
    told = list(JAPANESE.values())
    for term in DOCUMENTED:
        assert any(term in text for text in told), term


@pytest.mark.parametrize("said", sorted(GLOSSARY))
def test_one_term_for_one_thing(said: str) -> None:
    term, wrong, used = GLOSSARY[said], [], 0
    for (message, context), text in JAPANESE.items():
        if context is None and re.search(said, _TYPED.sub("", message)):
            used += 1
            if term not in text and not re.search(said, text):  # or it is what is typed
                wrong.append((message, text))
    assert not wrong
    assert used


def test_katakana_words_of_a_term_stand_apart_and_marks_are_half_width() -> None:
    for text in JAPANESE.values():
        for together in (
            "リテンションドライブ",
            "プロセスサーバー",
            "テストフェールオーバー",
            "ゲストエージェント",
            "サーバ ",
            "ユーザ ",
        ):
            assert together not in text
        assert not re.search("[\uff01-\uff5e]", text), text


def test_what_is_typed_stays_as_it_is() -> None:
    for (message, context), text in JAPANESE.items():
        if context is None:
            for command in re.findall(r"`homeport [^`]*`", message):
                assert command in text, message


def test_a_message_that_is_new_changed_or_gone_is_noticed() -> None:
    asked = {("Nothing was {done}.", None): ["a.py"], ("It is {well}.", None): ["a.py"]}
    known = {("Nothing was {said}.", None): "何も {said}。", ("Gone for good.", None): "なし"}
    now = update.updated(known, asked)
    assert now == {("Nothing was {done}.", None): "何も {done}。", ("It is {well}.", None): ""}
    assert update.faults(now, asked) == ["not translated: 'It is {well}.' (a.py)"]
    wrong = update.faults({("It is {well}.", None): "{good}", **known}, asked)
    assert wrong[:2] == [
        "not translated: 'Nothing was {done}.' (a.py)",
        "other holes than the message has: 'It is {well}.': '{good}'",
    ]
    assert sorted(wrong[2:]) == sorted(f"no longer in the source: {message!r}" for message, _ in known)


def test_the_catalogue_is_read_as_babel_reads_it() -> None:
    ours = {
        (message, context): text
        for message, text, context in read(update.place("ja").read_text(encoding="utf-8"))
        if message
    }
    assert ours == JAPANESE


def test_writing_the_catalogue_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = update.place("ja").read_text(encoding="utf-8")
    copy = tmp_path / "homeport.po"
    copy.write_text(before, encoding="utf-8")
    monkeypatch.setattr(update, "place", lambda language: copy)
    update.write("ja", update.updated(JAPANESE, ASKED), ASKED)
    assert copy.read_text(encoding="utf-8") == before
