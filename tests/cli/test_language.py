"""The command line in Japanese: what people read is translated, what programs read is not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from homeport.cli import consequences, japanese_lines, speech
from tests.cli.conftest import Homeport
from tests.cli.fake_vault import FakeVault, item, point

PROBLEM = {
    "code": "source.machine-gone",
    "cause": "The last changes of web1 at site 'home' could not be taken: the guest agent does not answer: timed out.",
    "remedy": "Remove what keeps them (see the cause), then try again; or fail over without --planned.",
    "details": {},
}


@pytest.fixture(autouse=True)
def _english_again() -> object:
    yield
    speech.speak("en")


def test_the_overview_is_japanese_with_the_commands_as_they_are_typed(homeport: Homeport) -> None:
    out = homeport("--lang", "ja", "--help").out
    for text in (
        "使用法: homeport",
        "─ フェールバック ─",
        "─ オプション ─",
        "次の手順:",
        "$ homeport up",
        "test-failover",
    ):
        assert text in out
    for text in ("Usage:", "Options", "Show this message", "Next:", "Come home"):
        assert text not in out


@pytest.mark.parametrize("command", ["failover", "job list", "store restore", "vault backup", "protect"])
def test_a_command_s_help_is_japanese(homeport: Homeport, command: str) -> None:
    out = homeport(*command.split(), "--help", "--lang=ja").out
    assert "例:" in out
    assert f"$ homeport {command}" in out
    assert "このメッセージを表示して終了します。" in out
    for text in ("Show this message", "default:", "Example", "[required]"):
        assert text not in out


def test_after_japanese_english_is_spoken_again(homeport: Homeport) -> None:
    homeport("failover", "--help", "--lang", "ja")
    assert "Show this message and exit." in homeport("failover", "--help").out
    assert homeport("points").err.startswith("Usage:")


def test_status_is_japanese(homeport: Homeport, vault: FakeVault) -> None:
    vault.items["web1"] = item(
        state="FailoverCommitPending",
        health="critical",
        health_reasons=["RPO 2000 s exceeds the critical threshold of 1200 s"],
        direction="forward",
    )
    out = homeport("--lang", "ja", "status", "web1").out
    for text in (
        "フェールオーバーのコミット待ち",
        "重大; RPO 2000 秒が、重大のしきい値 1200 秒を超えています",
        "最新の復旧ポイント",
        "(順方向)",
        "4.0 MiB 中 1.0 MiB",
        "復旧パスフレーズがまだ確認されていません。",
        "test-failover, failover, resync, point, disable",
    ):
        assert text in out, out
    table = homeport("--lang", "ja", "status").out
    assert "正常性" in table
    assert "Health" not in table


def test_the_columns_of_a_table_stand_below_each_other(homeport: Homeport, vault: FakeVault) -> None:
    vault.items["db"] = item(id="item-2", name="db", state="TestFailoverCleanupPending")
    lines = homeport("--lang", "ja", "status").out.splitlines()
    head = next(line for line in lines if "状態" in line)
    rows = [line for line in lines if "home → away" in line]
    assert len(rows) == 2
    for row in rows:
        assert cell_len(row[: row.index("home →")]) == cell_len(head[: head.index("方向")])


def test_a_name_that_is_a_word_of_ours_stays(homeport: Homeport, vault: FakeVault) -> None:
    vault.items = {"Points": item(name="Points", policy="Error")}
    out = homeport("--lang", "ja", "status", "Points").out
    assert "Points (item-1)" in out
    assert "Error" in out


def test_a_refusal_is_japanese_and_its_code_is_not(homeport: Homeport, vault: FakeVault) -> None:
    answer = homeport("commit", "web1", "--yes", "--lang", "ja")
    assert answer.status == 1
    assert "エラー item.operation-not-allowed" in answer.err
    assert "アイテムの状態が 保護済み の間、コミット は許可されません。" in answer.err
    assert "現在許可されている操作: test-failover, failover" in answer.err


def test_a_failed_job_tells_its_cause_in_japanese(homeport: Homeport, vault: FakeVault) -> None:
    vault.outcome, vault.error = "failed", PROBLEM
    answer = homeport("failover", "web1", "--yes", "--lang", "ja")
    assert answer.status == 1
    assert (
        "サイト 'home' の web1 の最後の変更を取得できませんでした: ゲスト エージェントが応答しません: timed out"
        in answer.err
    )
    assert "もう一度実行できます: homeport job restart job1" in answer.err
    assert "失敗" in answer.err


def test_json_keeps_its_keys_codes_and_states(homeport: Homeport, vault: FakeVault) -> None:
    english = homeport("status", "web1", "--json").json
    assert homeport("--lang", "ja", "status", "web1", "--json").json.keys() == english.keys()
    assert homeport("--lang", "ja", "status", "web1", "--json").json["item"]["state"] == "Protected"
    vault.outcome, vault.error = "failed", PROBLEM
    told = homeport("failover", "web1", "--yes", "--json", "--lang", "ja")
    assert told.json["error"]["code"] == "source.machine-gone"
    assert told.json["error"]["remedy"].startswith("妨げになっているものを取り除いて")
    assert "妨げ" in told.out  # readable as it is


def test_the_environment_chooses_and_the_option_chooses_over_it(
    homeport: Homeport, vault: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEPORT_LANG", "ja")
    assert "状態" in homeport("status").out
    assert "State" in homeport("status", "--lang", "en").out
    monkeypatch.delenv("HOMEPORT_LANG")
    monkeypatch.setenv("LC_ALL", "ja_JP.UTF-8")
    assert "状態" in homeport("status").out


def test_a_language_that_is_not_spoken_is_wrong_use(homeport: Homeport) -> None:
    answer = homeport("status", "--lang", "fr")
    assert answer.status == 2
    assert "--lang takes one of en, ja." in answer.err
    assert homeport("status", "--lang", "fr", "--json").json["error"]["code"] == "cli.wrong-use"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["statu"], "コマンド 'statu' はありません。'status' の誤りではありませんか?"),
        (["undo"], "引数 'ITEM' がありません。"),
        (["status", "--jsn"], "オプション --jsn はありません (候補: --json)"),
        (["failover", "x", "--point", "zz"], "'--point' の値が正しくありません: 'zz' は復旧ポイントではありません"),
        (["points"], "使い方は 'homeport points --help' で確認できます。"),
    ],
)
def test_what_was_typed_wrongly_is_told_in_japanese(homeport: Homeport, arguments: list[str], told: str) -> None:
    answer = homeport(*arguments, "--lang", "ja")
    assert answer.status == 2
    assert told in answer.err


def test_the_vault_is_asked_to_answer_in_the_language(homeport: Homeport, vault: FakeVault) -> None:
    homeport("status", "--lang", "ja")
    homeport("status")
    assert vault.languages[0] == "ja"
    assert vault.languages[-1] == "en"


def test_a_command_that_is_carried_out_without_typer_speaks_it_too(homeport: Homeport, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a passphrase\n")
    arguments = ["--store", f"file://{tmp_path}/none", "--passphrase-file", str(tmp_path / "secret")]
    answer = homeport("store", "restore", *arguments, "--to", str(tmp_path / "x.raw"), "--lang", "ja")
    assert answer.status == 1
    assert answer.err.startswith("エラー ")
    assert "対処方法: " in answer.err


def test_english_loads_no_catalogue() -> None:
    code = (
        "import sys; from homeport.cli import main; main(['--help']); "
        "sys.exit(' '.join(n for n in ('homeport.language.translator', 'babel') if n in sys.modules) or 0)"
    )
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_lines_of_japanese_break_between_letters_but_not_before_a_mark() -> None:
    japanese_lines.allow()
    text = (
        "復旧ポイントは、ポリシーの保持期間 (例: 24h) のあいだ保持されます。--erase-points を指定すると破棄されます。"
    )
    console = Console(width=24, legacy_windows=False)
    lines = [str(line).rstrip() for line in Text(text).wrap(console, 24)]
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cell_len(line) <= 24 for line in lines)
    assert not any(line[0] in "、。)" for line in lines)
    assert not any(line.endswith("(") for line in lines)
    assert len(lines) <= 6  # little room is given away
    assert any("--erase-points" in line for line in lines)


def test_lines_of_english_break_as_before() -> None:
    english = Text("Nothing is protected yet, so there is nothing (at all) to check.")
    console = Console(width=20, legacy_windows=False)
    before = [str(line) for line in english.wrap(console, 20)]
    japanese_lines.allow()
    assert [str(line) for line in english.wrap(console, 20)] == before


def test_what_an_operation_loses_or_ends_is_said_in_japanese_with_the_item_s_facts() -> None:
    speech.speak("ja")
    one: Any = item(
        active_site="away",
        recovery_machine={"name": "web1-r"},
        failover_point="5f0c2d9a7b31e846/2",
        test={"machine": "t"},
    )
    home: Any = item(rpo_seconds=4000.0)
    points: Any = [point(1), point(3, offered_as=["latest"])]
    said = [
        *consequences.failover(home, points, "latest", True),
        *consequences.failover(home, points, "latest", True, planned=True),
        *consequences.failover(home, points, points[0]["id"], False),
        *consequences.failover(home, [], "latest-processed", True),
        *consequences.commit_policy(home, "auto-commit", 3600),
        *consequences.commit_policy(home, "auto-rollback", 3600),
        *consequences.undo(one),
        *consequences.complete_migration(one),
        *consequences.change_point(one, points, "latest"),
        *consequences.commit(one),
        *consequences.commit(one, erase_points=True),
        *consequences.commit(item(state=consequences.ON_THE_WAY_HOME)),
        *consequences.failback(one, points, "latest"),
        *consequences.failback(one, points, points[0]["id"]),
        *consequences.disable(one),
        *consequences.disable(one, purge=True),
        *consequences.cleanup(one),
    ]
    for line in said:
        told = speech.told(line)
        assert told.endswith(("。", "。)")) or "(homeport item list --deleted)。" in told, told
        assert not re.search(r"\b(the|is|are|its|from|to|of|and|at)\b", told), told
    first = speech.told(said[0])
    assert first.startswith("web1 をフェールオーバーします: away で 最新の復旧ポイント (現在は ")
    assert first.endswith(f"前) の {points[1]['id']}、クラッシュ整合性) から起動します。")
