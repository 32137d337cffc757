"""Stored English becomes Japanese; what people wrote and what programs read does not."""

from __future__ import annotations

from typing import Any

import pytest

from homeport.domain.choice import PointNotAvailable
from homeport.domain.health import Condition, health
from homeport.domain.operations import Operation as Op
from homeport.domain.operations import OperationNotAllowed, require_allowed
from homeport.domain.states import Direction, State
from homeport.language.languages import known, negotiated, of_environment
from homeport.language.translator import translator

JA = translator("ja")


def test_an_error_as_the_rules_raise_it() -> None:
    with pytest.raises(OperationNotAllowed) as raised:
        require_allowed(Op.FAILOVER, State.TEST_FAILOVER_CLEANUP_PENDING, Direction.FORWARD, has_points=True)
    told = JA.json(raised.value.to_json())
    assert told["code"] == raised.value.code
    assert told["cause"].startswith(
        "アイテムの状態が テスト フェールオーバーのクリーンアップ待ち の間、フェールオーバー は許可されません。"
    )
    assert told["remedy"] == (
        "先にテスト フェールオーバーをクリーンアップしてください: `homeport cleanup ITEM`。"
        "現在許可されている操作: cleanup。"
    )
    assert PointNotAvailable.remedy != JA.text(PointNotAvailable.remedy)


def test_an_item_s_health_in_words() -> None:
    _, reasons = health(
        Condition(State.PROTECTED, 2000.0, 600.0, 40.0, "the retention drive is locked against writing")
    )
    told = [JA.text(reason) for reason in reasons]
    assert "RPO 2000 秒が、重大のしきい値 1200 秒を超えています" in told
    assert any("構成サーバーから応答がありません" in each for each in told)
    assert any("リテンション ドライブが書き込みに対してロックされています" in each for each in told)


def test_a_text_of_several_messages_piece_by_piece() -> None:
    text = "Site 'oslo' sees no machine web. See `homeport site list`."
    assert JA.text(text) == "サイト 'oslo' からマシン web が見えません。`homeport site list` を参照してください。"
    assert (
        JA.text("the folder of web is not there; nobody wrote this")
        == "web のフォルダーがありません; nobody wrote this"
    )
    assert JA.text("  Start replication ...") == "  レプリケーションの開始 ..."


def test_a_message_in_the_hole_of_another() -> None:
    text = "The configuration server of site 'oslo' was not heard of for 30 s."
    assert JA.text(text) == "サイト 'oslo' の構成サーバーは30 秒間応答がありませんでした。"


def test_what_people_wrote_and_programs_read_stays() -> None:
    answer: dict[str, Any] = {
        "name": "Nothing was done.",
        "tags": ["Nothing was done."],
        "state": "Protected",
        "result": {"notes": "Nothing was done."},
        "comments": [{"comment": "Nothing was done.", "prompt": "Nothing was done."}],
        "title": "Start replication",
        "display_name": "Test failover",
        "number": 3,
        "none": None,
    }
    told = JA.json(answer)
    assert told == {
        **answer,
        "comments": [{"comment": "Nothing was done.", "prompt": "何も実行されませんでした。"}],
        "title": "レプリケーションの開始",
        "display_name": "テスト フェールオーバー",
    }


def test_notes_that_a_site_took_are_translated() -> None:
    told = JA.json({"notes": ["the guest of web did not shut down in time and was powered off"]})
    assert told == {"notes": ["web のゲストは時間内にシャットダウンしなかったため、電源をオフにしました"]}


def test_a_language_that_is_not_spoken_says_everything_as_it_is() -> None:
    assert translator("xx").json({"cause": "Nothing was done."}) == {"cause": "Nothing was done."}


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("ja", "ja"),
        ("ja-JP", "ja"),
        ("JA-jp;q=0.4", "ja"),
        ("en, ja", "en"),
        ("ja, en", "ja"),
        ("en;q=0.5, ja;q=0.9", "ja"),
        ("ja;q=0.5, en-GB;q=0.9", "en"),
        ("fr, de;q=0.9", "en"),
        ("fr, ja;q=0.1", "ja"),
        ("ja;q=0", "en"),
        ("ja;q=0, *", "en"),
        ("en;q=0, *;q=0.3", "ja"),
        ("*", "en"),
        ("ja;q=nonsense", "en"),
        ("ja;q=7", "ja"),
        (",;,q=1,", "en"),
    ],
)
def test_accept_language(accepted: str, language: str) -> None:
    assert negotiated(accepted) == language


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "ja_JP"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "HOMEPORT_LANG": "en"}, "en"),
        ({"LANG": "sv_SE.UTF-8", "HOMEPORT_LANG": ""}, "en"),
    ],
)
def test_the_environment_s_language(environment: dict[str, str], language: str) -> None:
    assert of_environment(environment) == language


def test_only_languages_with_a_catalogue_are_known() -> None:
    assert known("ja") == "ja"
    assert known("fr") is None
    assert translator("ja").text("Nothing was done.") != "Nothing was done."
