"""What a configuration server hands on: once, to the right server, whoever dies meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homeport.domain.errors import HomeportError
from homeport.servers.relay import SOURCES, Relay
from homeport.servers.relay_errors import (
    GroupTogether,
    NoServer,
    NotAsked,
    ProcessServerCritical,
    ServerAway,
    ServerRemoved,
)
from homeport.servers.work.kinds import SWITCH, Duty, Part

REPLICATE = Part(Duty.PROCESS_SERVER, "replicate")
POINT = Part(Duty.PROCESS_SERVER, "take-point")
DISCARD = Part(Duty.MASTER_TARGET, "discard-journal", needed=False)


def quiet(*arguments: Any, **named: Any) -> None:
    """Progress that nobody looks at."""


class Asked:
    """Somebody asks the relay, in a thread of its own."""

    def __init__(self, relay: Relay, part: Part, id: str = "w.0", **params: Any) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.result: dict[str, Any] | None = None
        self.error: HomeportError | None = None

        def ask() -> None:
            try:
                self.result = relay.carry_out(part, {"item": "i", **params}, lambda *told: self.told.append(told), id)
            except HomeportError as error:
                self.error = error

        self._thread = threading.Thread(target=ask, daemon=True)
        self._thread.start()

    def ended(self) -> Asked:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self


def hello(relay: Relay, name: str, duty: Duty = Duty.PROCESS_SERVER, executor: str = "1", **more: Any) -> None:
    relay.hello(name, duty, {"executor": executor, "version": "1", **more})


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 5
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def test_work_goes_to_its_server_and_the_answer_back(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps")
    asked = Asked(relay, POINT, tag="t")
    taken = until(lambda: relay.take("ps", frozenset()))
    assert [(each["id"], each["kind"], each["params"]["tag"]) for each in taken] == [("w.0", "take-point", "t")]
    assert relay.take("ps", frozenset({"w.0"})) == [], "it has it in hand"
    relay.answer("ps", "w.0", {"state": "running", "progress": {"done": 1, "total": 2, "text": "half"}})
    relay.answer("ps", "w.0", {"state": "done", "result": {"point": "p"}})
    assert asked.ended().result == {"point": "p"}
    assert asked.told == [(1, 2, "half", "bytes")]
    with pytest.raises(NotAsked):
        relay.answer("ps", "w.0", {"state": "done"})


def test_an_error_arrives_as_it_was_raised(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps")
    asked = Asked(relay, POINT)
    until(lambda: relay.take("ps", frozenset()))
    error = HomeportError("busy", code="replication.busy", remedy="Wait.", seconds=3)
    relay.answer("ps", "w.0", {"state": "failed", "error": error.to_json()})
    found = asked.ended().error
    assert found is not None
    assert found.to_json() == error.to_json()


def test_what_a_dead_server_had_in_hand_is_handed_out_again_under_the_same_id(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps", executor="1")
    asked = Asked(relay, POINT)
    until(lambda: relay.take("ps", frozenset()))
    hello(relay, "ps", executor="2")
    assert [each["id"] for each in relay.take("ps", frozenset())] == ["w.0"]
    relay.answer("ps", "w.0", {"state": "done", "result": {}})
    assert asked.ended().result == {}


def test_what_is_not_needed_is_left_out_where_the_site_has_no_such_server(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    assert relay.carry_out(DISCARD, {"item": "i"}, quiet, "w.0") == {}
    with pytest.raises(NoServer):
        relay.carry_out(POINT, {"item": "i"}, quiet, "w.1")


def test_a_server_that_is_away_is_waited_for_as_long_as_the_part_has_patience(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps")
    relay.dropped("ps")
    with pytest.raises(ServerAway):
        relay.carry_out(Part(Duty.PROCESS_SERVER, "planned-stop", patience=0.2), {"item": "i"}, quiet, "w.0")
    assert relay.carry_out(
        Part(Duty.PROCESS_SERVER, "stop-replication", patience=0.2, needed=False), {"item": "i"}, quiet, "w.1"
    ) == {}  # fmt: skip
    asked = Asked(relay, POINT, "w.2")
    assert "away" in until(lambda: asked.told)[0][2], "the job shows what is waited for"
    hello(relay, "ps", executor="2")
    until(lambda: relay.take("ps", frozenset()))
    relay.answer("ps", "w.2", {"state": "done", "result": {"point": "p"}})
    assert asked.ended().result == {"point": "p"}


def test_an_item_has_one_process_server_also_after_a_restart(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    for name in ("ps1", "ps2"):
        hello(relay, name)
    for item in ("i", "j"):  # the one that has fewer
        asked = Asked(relay, REPLICATE, item, item=item)
        name, _ = until(lambda: [(name, taken) for name in ("ps1", "ps2") if (taken := relay.take(name, frozenset()))])[
            0
        ]
        assert name == {"i": "ps1", "j": "ps2"}[item]
        relay.answer(name, item, {"state": "done"})
        asked.ended()
    with pytest.raises(NoServer):
        relay.carry_out(REPLICATE, {"item": "k", "process_server": "ps3"}, quiet, "w")
    again = Relay(tmp_path)
    assert {each["name"]: each["state"] for each in again.servers()} == {"ps1": "away", "ps2": "away"}
    with pytest.raises(NotAsked):  # it must greet the new process first
        again.take("ps1", frozenset())
    for name in ("ps1", "ps2"):
        hello(again, name)
    again.resume([{"item": "i"}, {"item": "j"}])
    assert again.replications("ps1") == [{"item": "i"}]
    assert [each["kind"] for each in again.take("ps2", frozenset())] == ["resume"]
    reports: list[dict[str, Any]] = []
    again.connect(reports.append)
    again.report("ps2", {"item": "i", "phase": "replicating"})
    assert reports == [], "an item is reported by its own process server"
    again.report("ps1", {"item": "i", "phase": "replicating"})
    assert reports == [{"item": "i", "phase": "replicating", "process_server": "ps1"}]


def test_the_vault_is_told_when_a_gateway_moves_and_when_a_server_goes(tmp_path: Path) -> None:
    news: list[str] = []
    relay = Relay(tmp_path, lambda: news.append("news"))
    hello(relay, "ps", gateway={"url": "https://one:9443", "token": "t"})
    assert relay.gateway() == {"url": "https://one:9443", "token": "t"}
    hello(relay, "ps", gateway={"url": "https://one:9443", "token": "t"})
    assert len(news) == 1
    hello(relay, "ps", gateway={"url": "https://two:9443", "token": "t"})
    assert len(news) == 2
    relay.tend()
    relay.tend()
    assert len(news) == 3
    relay.dropped("ps")
    relay.tend()
    assert len(news) == 4
    assert [each["state"] for each in relay.servers()] == ["away"]
    assert relay.gateway() == {"url": "https://two:9443", "token": "t"}, "it comes back there"


def replicated(relay: Relay, name: str) -> None:
    """The item ``i`` is given to ``name``."""
    asked = Asked(relay, REPLICATE, process_server=name)
    until(lambda: relay.take(name, frozenset()))
    relay.answer(name, "w.0", {"state": "done"})
    asked.ended()


def test_an_item_is_switched_to_another_process_server(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    replicated(relay, "ps1")
    asked = Asked(relay, Part(Duty.PROCESS_SERVER, SWITCH), process_server="ps2", timeline="t")
    assert [each["kind"] for each in until(lambda: relay.take("ps1", frozenset()))] == ["stop-replication"]
    assert relay.take("ps2", frozenset()) == [], "the new one begins when the old one has stopped"
    relay.answer("ps1", "w.0.stop", {"state": "done", "result": {}})
    assert [each["kind"] for each in until(lambda: relay.take("ps2", frozenset()))] == ["replicate"]
    relay.answer("ps2", "w.0.go", {"state": "done", "result": {}})
    assert asked.ended().result == {"process_server": "ps2", "before": "ps1"}
    relay.resume([{"item": "i"}])
    assert (relay.replications("ps1"), relay.replications("ps2")) == ([], [{"item": "i"}])


def test_a_process_server_that_was_replaced_while_it_was_away_is_told_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeport.servers.relay.SWITCH_PATIENCE", 0.1)
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    replicated(relay, "ps1")
    relay.dropped("ps1")
    asked = Asked(relay, Part(Duty.PROCESS_SERVER, SWITCH), process_server="ps2")
    until(lambda: relay.take("ps2", frozenset()))
    relay.answer("ps2", "w.0.go", {"state": "done", "result": {}})
    assert asked.ended().result is not None
    hello(relay, "ps1", executor="2", items=["i"])
    assert [(each["kind"], each["params"]["item"]) for each in relay.take("ps1", frozenset())] == [
        ("stop-replication", "i")
    ]


SWITCHES = Part(Duty.PROCESS_SERVER, SWITCH)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.servers.relay.SWITCH_PATIENCE", 0.1)
    monkeypatch.setattr("homeport.servers.relay.SWITCH_LIMIT", 1.0)


def with_three(folder: Path) -> Relay:
    """``ps1`` replicates ``i``."""
    relay = Relay(folder)
    for name in ("ps1", "ps2", "ps3"):
        hello(relay, name)
    relay.resume([])
    for name in ("ps1", "ps2", "ps3"):
        relay.take(name, frozenset())
    replicated(relay, "ps1")
    return relay


def kinds_of(relay: Relay, name: str) -> list[str]:
    return [each["kind"] for each in relay.take(name, frozenset())]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("dies", ["before it takes it", "with it in hand"])
def test_an_item_stays_where_it_was_if_the_new_one_dies_in_the_middle(tmp_path: Path, dies: str) -> None:
    relay = with_three(tmp_path)
    asked = Asked(relay, SWITCHES, "w.1", process_server="ps2", fence=2)
    done(relay, "ps1", "stop-replication")
    until(lambda: "w.1.go" in relay._pieces)
    if dies == "with it in hand":
        assert kinds_of(relay, "ps2") == ["replicate"]
    relay.dropped("ps2")
    error = asked.ended().error
    assert error is not None
    assert (error.code, error.details["process_server"]) == ("process-server.switch-failed", "ps1")
    assert "ps2 has been away" in error.cause
    assert assigned(relay) == assigned(Relay(tmp_path)) == {"ps1": ["i"]}
    (again,) = relay.take("ps1", frozenset())
    assert (again["kind"], [each["item"] for each in again["params"]["replications"]]) == ("resume", ["i"])

    elsewhere = Asked(relay, SWITCHES, "w.2", process_server="ps3", fence=3)
    done(relay, "ps1", "stop-replication")
    done(relay, "ps3", "replicate")
    assert elsewhere.ended().result == {"process_server": "ps3", "before": "ps1"}
    hello(relay, "ps2", executor="2", items=["i"] if dies == "with it in hand" else [])
    assert set(kinds_of(relay, "ps2")) == {"stop-replication"}, "it doesn't begin at last"
    assert assigned(relay) == {"ps3": ["i"]}


@pytest.mark.usefixtures("impatient")
def test_where_the_one_before_is_away_too_the_item_waits_for_the_new_one_or_goes_elsewhere(tmp_path: Path) -> None:
    relay = with_three(tmp_path)
    relay.dropped("ps1")
    asked = Asked(relay, SWITCHES, "w.1", process_server="ps2", fence=2)
    until(lambda: "w.1.go" in relay._pieces)
    relay.dropped("ps2")
    error = asked.ended().error
    assert error is not None
    assert (error.code, error.details["process_server"]) == ("process-server.switch-failed", "ps2")
    assert assigned(relay) == {"ps2": ["i"]}
    hello(relay, "ps2", executor="2")
    assert [each["item"] for each in relay.replications("ps2")] == ["i"], "it takes it up when it is back"
    relay.dropped("ps2")
    elsewhere = Asked(relay, SWITCHES, "w.2", process_server="ps3", fence=3)
    until(lambda: "w.2.go" in relay._pieces)
    done(relay, "ps3", "replicate")
    assert elsewhere.ended().result == {"process_server": "ps3", "before": "ps2"}


@pytest.mark.usefixtures("impatient")
def test_a_switch_does_not_wait_for_one_that_is_there_and_does_not_stop(tmp_path: Path) -> None:
    """The new one's writing fences it."""
    relay = with_three(tmp_path)
    asked = Asked(relay, SWITCHES, "w.1", process_server="ps2", fence=2)
    assert until(lambda: kinds_of(relay, "ps1")) == ["stop-replication"]
    with relay.polling("ps1"), relay.polling("ps2"):
        until(lambda: "w.1.go" in relay._pieces)
        done(relay, "ps2", "replicate")
        assert asked.ended().result == {"process_server": "ps2", "before": "ps1"}
    late = Asked(relay, SWITCHES, "w.2", process_server="ps3", fence=3)
    done(relay, "ps2", "stop-replication")
    with relay.polling("ps1"), relay.polling("ps3"):
        error = late.ended().error
        assert error is not None, "nor for one that is there and does not begin"
        assert (error.code, error.details["process_server"]) == ("process-server.switch-failed", "ps2")


def test_an_item_stays_where_it_was_if_the_new_one_can_not_take_it(tmp_path: Path) -> None:
    relay = with_three(tmp_path)
    asked = Asked(relay, SWITCHES, "w.1", process_server="ps2", fence=2)
    done(relay, "ps1", "stop-replication")
    until(lambda: kinds_of(relay, "ps2"))
    relay.answer("ps2", "w.1.go", {"state": "failed", "error": HomeportError("no folder", code="x.y").to_json()})
    error = asked.ended().error
    assert error is not None
    assert (error.code, error.details["reason"]) == ("process-server.switch-failed", "x.y")
    assert "no folder" in error.cause
    assert (assigned(relay), kinds_of(relay, "ps1")) == ({"ps1": ["i"]}, ["resume"])

    vitals = {"cpu": 0.99, "memory": 0.1, "cache": {"free": 1, "total": 1}, "items": {}}
    hello(relay, "ps3", facts={"process_server": vitals})
    with pytest.raises(ProcessServerCritical):
        relay.carry_out(SWITCHES, {"item": "i", "process_server": "ps3"}, quiet, "w.2")
    assert kinds_of(relay, "ps1") == [], "it is asked to stop for one that takes it"


def test_one_that_gets_an_item_back_is_not_told_to_stop_it(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    replicated(relay, "ps2")
    hello(relay, "ps1", items=["i"])  # and before it takes the word to stop:
    asked = Asked(relay, Part(Duty.PROCESS_SERVER, SWITCH), process_server="ps1")
    until(lambda: relay.take("ps2", frozenset()))
    relay.answer("ps2", "w.0.stop", {"state": "done"})
    until(lambda: "w.0.go" in relay._pieces)
    assert [each["kind"] for each in relay.take("ps1", frozenset())] == ["replicate"]
    relay.answer("ps1", "w.0.go", {"state": "done"})
    assert asked.ended().result == {"process_server": "ps1", "before": "ps2"}


def test_one_that_was_fenced_by_a_process_server_that_it_had_replaced_takes_the_item_up_again(tmp_path: Path) -> None:
    """The replaced one comes back, goes on by itself, and is told to stop: then nobody would replicate."""
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    relay.resume([])
    for name in ("ps1", "ps2"):
        relay.take(name, frozenset())
    replicated(relay, "ps2")
    hello(relay, "ps1", items=["i"])
    assert [each["kind"] for each in relay.take("ps1", frozenset())] == ["stop-replication"]
    hello(relay, "ps1", superseded=["i"])
    assert relay.take("ps1", frozenset()) == []
    hello(relay, "ps2", superseded=["i"])
    (again,) = relay.take("ps2", frozenset())
    assert (again["kind"], [each["item"] for each in again["params"]["replications"]]) == ("resume", ["i"])
    stop = Asked(relay, Part(Duty.PROCESS_SERVER, "stop-replication"))
    until(lambda: relay.take("ps2", frozenset()))
    relay.answer("ps2", "w.0", {"state": "done"})
    stop.ended()
    hello(relay, "ps2", superseded=["i"])
    assert relay.take("ps2", frozenset()) == [], "the vault had it stopped"


def test_a_process_server_that_begins_anew_is_told_what_replicates_now(tmp_path: Path) -> None:
    """Not what the vault told when the configuration server began: paused items would go on, to old addresses."""
    relay = Relay(tmp_path)
    hello(relay, "ps")
    relay.resume([{"item": "i", "timeline": "t", "store": "old"}, {"item": "j", "timeline": "t"}])
    relay.take("ps", frozenset())

    def do(kind: str, **params: Any) -> None:
        asked = Asked(relay, Part(Duty.PROCESS_SERVER, kind), **params)
        until(lambda: relay.take("ps", frozenset()))
        relay.answer("ps", "w.0", {"state": "done"})
        asked.ended()

    do("renew-replication", item="i", timeline="t", store="new")
    do("planned-stop", item="j")
    do("replicate", item="k", timeline="t")
    do("take-point", item="k")
    assert relay.replications("ps") == [
        {"item": "i", "timeline": "t", "store": "new"},
        {"item": "k", "timeline": "t"},
    ]
    away = Asked(relay, Part(Duty.PROCESS_SERVER, "stop-replication"), item="k")
    until(lambda: [each["item"] for each in relay.replications("ps")] == ["i"])
    until(lambda: relay.take("ps", frozenset()))
    relay.answer("ps", "w.0", {"state": "done"})
    away.ended()


def test_what_waits_to_be_taken_up_is_told_as_it_is_when_it_is_taken(tmp_path: Path) -> None:
    """Not as it was when it was queued: what was renewed, paused or throttled meanwhile would be taken back by it."""
    relay = Relay(tmp_path)
    hello(relay, "ps", facts={"process_server": {"throttle": {"rules": "own"}}})
    relay.resume([])
    relay.take("ps", frozenset())
    for item in ("i", "j"):
        given(relay, item, "ps", timeline="t", interval=60, policy_at="1", store={"url": "old"}, fence=1)
    relay.resume(list(relay.replications("ps")))
    hello(relay, "ps", superseded=["i"], facts={"process_server": {"throttle": {"rules": "own"}}})
    Asked(relay, Part(Duty.PROCESS_SERVER, "renew-replication"), timeline="t", interval=5, policy_at="2")
    until(lambda: "w.0" in relay._pieces)
    moved = {"timeline": "t", "interval": 5, "policy_at": "2", "store": {"url": "new"}, "fence": 2}
    Asked(relay, REPLICATE, "w.1", **moved)
    until(lambda: "w.1" in relay._pieces)
    Asked(relay, Part(Duty.PROCESS_SERVER, "stop-replication"), "w.2", item="j", fence=2)
    until(lambda: "w.2" in relay._pieces)
    for limit in ("10M", "20M"):
        relay.throttle({"ps": {"limit": limit}})
    taken = relay.take("ps", frozenset())
    told = [each["params"]["replications"] for each in taken if each["kind"] == "resume"]
    assert len(told) == 2
    for replications in told:
        (only,) = replications
        assert (only["item"], only["interval"], only["store"], only["fence"]) == ("i", 5, {"url": "new"}, 2)
    assert [each["params"] for each in taken if each["kind"] == "throttle"] == [{"throttle": {"limit": "20M"}}]


def test_a_beginning_that_waits_for_its_server_is_by_the_newest_policy(tmp_path: Path) -> None:
    """And what is done at last doesn't bring the policy of its beginning back for one that begins anew."""
    relay = Relay(tmp_path)
    hello(relay, "ps")
    relay.resume([])
    relay.take("ps", frozenset())
    relay.dropped("ps")
    asked = Asked(relay, REPLICATE, timeline="t", interval=60, policy_at="1", store={"url": "one"})
    until(lambda: "w.0" in relay._pieces)
    renew = Asked(relay, Part(Duty.PROCESS_SERVER, "renew-replication"), "w.1", timeline="t", interval=5, policy_at="2")
    until(lambda: "w.1" in relay._pieces)
    hello(relay, "ps", executor="2")
    begun = next(each for each in relay.take("ps", frozenset()) if each["id"] == "w.0")["params"]
    assert (begun["interval"], begun["policy_at"], begun["store"]) == (5, "2", {"url": "one"})
    for id in ("w.1", "w.0"):
        relay.answer("ps", id, {"state": "done"})
    renew.ended()
    asked.ended()
    (kept,) = relay.replications("ps")
    assert (kept["interval"], kept["policy_at"]) == (5, "2")


def test_a_replication_that_was_stopped_while_its_beginning_was_in_hand_is_not_taken_up_again(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps")
    relay.resume([])
    begin = Asked(relay, REPLICATE, timeline="t", fence=1)
    until(lambda: "w.0" in relay._pieces)
    stop = Asked(relay, Part(Duty.PROCESS_SERVER, "stop-replication"), "w.1", fence=2)
    until(lambda: "w.1" in relay._pieces)
    relay.take("ps", frozenset())
    for id, asked in (("w.1", stop), ("w.0", begin)):
        relay.answer("ps", id, {"state": "done"})
        asked.ended()
    assert relay.replications("ps") == []


def assigned(relay: Relay) -> dict[str, list[str]]:
    return {each["name"]: each["items"] for each in relay.servers() if each["items"]}


def given(relay: Relay, item: str, name: str, **more: Any) -> None:
    """The item is replicated by ``name``."""
    asked = Asked(relay, REPLICATE, item, item=item, process_server=name, **more)
    until(lambda: relay.take(name, frozenset()))
    relay.answer(name, item, {"state": "done"})
    asked.ended()


def test_a_removed_server_is_forgotten_and_its_items_go_to_another(tmp_path: Path) -> None:
    news: list[str] = []
    relay = Relay(tmp_path, lambda: news.append("news"))
    hello(relay, "ps1", gateway={"url": "https://one:9443", "token": "t"})
    hello(relay, "ps2")
    hello(relay, "mt", Duty.MASTER_TARGET)
    relay.resume([])
    for name in ("ps1", "ps2"):
        relay.take(name, frozenset())
    given(relay, "i", "ps1")
    given(relay, "j", "ps2")
    assert assigned(relay) == {"ps1": ["i"], "ps2": ["j"]}
    news.clear()
    relay.settle(relay.known(), {"gone": ["ps1", "nobody"], "items": {"i": None, "j": None}})
    assert news, "the vault is told who is left"
    assert [each["name"] for each in relay.servers()] == ["mt", "ps2"]
    assert relay.gateway() is None
    (taken,) = relay.take("ps2", frozenset())
    assert (taken["kind"], [each["item"] for each in taken["params"]["replications"]]) == ("resume", ["i", "j"])
    assert assigned(relay) == {"ps2": ["i", "j"]}
    with pytest.raises(NotAsked):
        relay.take("ps1", frozenset())
    again = Relay(tmp_path)
    assert [each["name"] for each in again.servers()] == ["mt", "ps2"], "after a restart, too"
    assert assigned(again) == {"ps2": ["i", "j"]}


def test_what_a_removed_server_had_in_hand_fails_or_goes_on_without_it(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps")
    needed = Asked(relay, POINT, "a")
    other = Asked(relay, Part(Duty.PROCESS_SERVER, "stop-replication", needed=False), "b")
    until(lambda: len(relay._pieces) == 2)
    relay.forget(["ps"])
    assert isinstance(needed.ended().error, ServerRemoved)
    assert other.ended().result == {}
    with pytest.raises(NoServer):
        relay.carry_out(POINT, {"item": "i"}, quiet, "c")


def test_an_items_process_server_goes_when_the_item_is_forgotten_there(tmp_path: Path) -> None:
    """Not before: where the configuration server dies in between, it is asked again, and must ask the same server."""
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    given(relay, "i", "ps2")
    forget = Part(Duty.PROCESS_SERVER, "forget-replication", needed=False)
    Asked(relay, forget, "gone")
    until(lambda: relay.take("ps2", frozenset()))
    relay.stop()
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    asked = Asked(relay, forget, "again")
    assert [each["id"] for each in until(lambda: relay.take("ps2", frozenset()))] == ["again"]
    assert assigned(relay) == {"ps2": ["i"]}
    relay.answer("ps2", "again", {"state": "done"})
    asked.ended()
    assert assigned(relay) == assigned(Relay(tmp_path)) == {}


def test_items_and_groups_that_the_vault_has_no_more_are_forgotten(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    given(relay, "i", "ps1", group="shop")
    given(relay, "j", "ps2")
    known = relay.known()
    given(relay, "new", "ps2")  # after the vault was asked: it is not in its answer
    relay.settle(known, {})
    assert assigned(relay) == {"ps1": ["i"], "ps2": ["j", "new"]}, "a vault of an earlier version doesn't tell"
    relay.settle(known, {"gone": [], "items": {"i": "shop"}})
    assert assigned(relay) == {"ps1": ["i"], "ps2": ["new"]}
    assert "group:shop" in relay.known()
    relay.settle(relay.known(), {"gone": [], "items": {"new": None}})
    assert relay.known() == {"new"}


def test_the_members_of_a_group_have_one_process_server(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    hello(relay, "ps1")
    hello(relay, "ps2")
    for item in ("i", "j", "k"):
        asked = Asked(relay, REPLICATE, item, item=item, group="shop")
        assert [each["id"] for each in until(lambda: relay.take("ps1", frozenset()))] == [item]
        relay.answer("ps1", item, {"state": "done"})
        asked.ended()
    with pytest.raises(GroupTogether):
        relay.carry_out(
            Part(Duty.PROCESS_SERVER, SWITCH), {"item": "j", "group": "shop", "process_server": "ps2"}, quiet, "w"
        )


def done(relay: Relay, server: str, kind: str) -> None:
    """``server`` carries out what waits for it."""
    taken = until(lambda: [each for each in relay.take(server, frozenset()) if each["kind"] == kind])
    for each in taken:
        relay.answer(server, each["id"], {"state": "done", "result": {}})


def test_a_mobility_service_is_told_which_process_server_has_which_machine(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    for name in ("ps1", "ps2"):
        hello(relay, name, gateway={"url": f"https://{name}", "token": "t"}, dialled=name == "ps1")
    hello(relay, "ms", Duty.MOBILITY_SERVICE)
    with pytest.raises(ServerAway):
        relay.replications("ms")  # not: nobody has any
    relay.resume([])
    assert relay.replications("ms") == []

    asked = Asked(relay, REPLICATE, vm="web", process_server="ps1")
    (told,) = until(lambda: relay.take("ms", frozenset()))
    (source,) = told["params"]["replications"]
    assert (source["vm"], source["process_server"], source["url"]) == ("web", "ps1", "https://ps1")
    done(relay, "ps1", "replicate")
    asked.ended()
    Asked(relay, REPLICATE, "w.1", item="j", vm="db", process_server="ps2")
    done(relay, "ps2", "replicate")
    assert relay.sources() == [source], "one that reads where machines run is dialled by nobody"
    assert Relay(tmp_path).sources() == [source], "also after a restart"

    hello(relay, "ps1", executor="2", gateway={"url": "https://elsewhere", "token": "t"}, dialled=True)
    assert relay.sources()[0]["url"] == "https://elsewhere"
    assert until(lambda: relay.take("ms", frozenset()))[-1]["params"]["replications"] == relay.sources()


def test_whose_the_machines_are_is_known_again_before_any_process_server_is_back(tmp_path: Path) -> None:
    """Of a configuration server whose backup doesn't say: "nobody's" would end what goes on."""
    relay = Relay(tmp_path)
    hello(relay, "ps1", gateway={"url": "https://ps1", "token": "t"}, dialled=True)
    given(relay, "i", "ps1", vm="web")
    (before,) = relay.sources()
    (tmp_path / SOURCES).unlink()
    again = Relay(tmp_path)
    hello(again, "ms", Duty.MOBILITY_SERVICE)
    with pytest.raises(ServerAway):
        again.replications("ms")
    again.resume([{"item": "i", "vm": "web"}])
    (told,) = again.replications("ms")
    assert (told["vm"], told["process_server"], told["url"]) == ("web", "ps1", "https://ps1")
    assert told["fence"] >= before["fence"]
    assert [each["params"]["replications"] for each in again.take("ms", frozenset())] == [[told]]


def test_a_machine_that_gets_another_process_server_gets_a_greater_number(tmp_path: Path) -> None:
    relay = Relay(tmp_path)
    for name in ("ps1", "ps2"):
        hello(relay, name, gateway={"url": f"https://{name}", "token": "t"}, dialled=True)
    asked = Asked(relay, REPLICATE, vm="web", process_server="ps1")
    done(relay, "ps1", "replicate")
    asked.ended()
    (before,) = relay.sources()
    asked = Asked(relay, Part(Duty.PROCESS_SERVER, SWITCH), "w.1", vm="web", process_server="ps2")
    done(relay, "ps1", "stop-replication")
    done(relay, "ps2", "replicate")
    assert asked.ended().error is None
    (after,) = relay.sources()
    assert (after["process_server"], after["fence"] > before["fence"]) == ("ps2", True)
    asked = Asked(relay, Part(Duty.PROCESS_SERVER, "forget-replication"), "w.2", vm="web")
    assert relay.sources() == [after], "while it still has to remove the tracking"
    done(relay, "ps2", "forget-replication")
    asked.ended()
    assert relay.sources() == []
