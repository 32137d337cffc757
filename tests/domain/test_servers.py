"""Names of servers, when certificates are renewed, and who is upgraded first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeport.domain.servers import (
    Installed,
    Role,
    ServerName,
    ServerNameInvalid,
    check_name,
    expires_soon,
    renewal_due,
    skewed,
    upgrade_next,
    upgrade_step,
)

AT = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


@given(vault=st.from_regex(r"[0-9a-f]{32}", fullmatch=True), role=st.sampled_from(Role), site=NAMES, name=NAMES)
def test_a_name_is_read_back_from_its_uri(vault: str, role: Role, site: str, name: str) -> None:
    who = ServerName(vault, role, site, name)
    assert ServerName.parse(who.uri) == who
    own = ServerName(vault, Role.VAULT, "", name)
    assert ServerName.parse(own.uri) == own


@pytest.mark.parametrize(
    "uri",
    [
        "https://v/vault/-/x",
        "homeport://v/vault/-",
        "homeport://v/vault/-/x/y",
        "homeport://v/king/home/x",
        "homeport:///vault/-/x",
        "homeport://v/process-server//x",
        "homeport://v/process-server/home/",
        "homeport://v/process-server/../x",
        "homeport://v/process-server/home/x\n",
    ],
)
def test_another_uri_names_nobody(uri: str) -> None:
    with pytest.raises(ServerNameInvalid):
        ServerName.parse(uri)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a" * 64, "a b", "ä"])
def test_a_name_that_would_not_fit_a_uri(name: str) -> None:
    with pytest.raises(ServerNameInvalid):
        check_name(name)


def test_a_certificate_is_renewed_when_a_third_is_left_and_warned_of_when_it_was_not() -> None:
    end = AT + timedelta(days=90)
    assert not renewal_due(AT, end, AT + timedelta(days=59))
    assert renewal_due(AT, end, AT + timedelta(days=61))
    assert not expires_soon(end, AT + timedelta(days=59))
    assert expires_soon(end, AT + timedelta(days=61))


def test_five_minutes_are_not_yet_too_much() -> None:
    for sign in (1, -1):
        assert not skewed(AT, AT + sign * timedelta(minutes=5))
        assert skewed(AT, AT + sign * timedelta(minutes=5, seconds=1))


def test_nobody_is_upgraded_before_who_tells_it_what_to_do() -> None:
    old = [
        Installed("v", Role.VAULT, "", "1"),
        Installed("cs-a", Role.CONFIGURATION_SERVER, "a", "1"),
        Installed("ps-a", Role.PROCESS_SERVER, "a", "1"),
        Installed("cs-b", Role.CONFIGURATION_SERVER, "b", "1"),
        Installed("mt-b", Role.MASTER_TARGET, "b", None),
    ]
    done: set[str] = set()

    def turn() -> list[str]:
        now = [Installed(s.name, s.role, s.site, "2" if s.name in done else s.version) for s in old]
        return upgrade_next(now, "2")

    assert turn() == ["v"]
    done.add("v")
    assert turn() == ["cs-a", "cs-b"]
    done.add("cs-b")
    assert turn() == ["cs-a", "mt-b"], "site b does not wait for site a"
    done.update({"cs-a", "mt-b"})
    assert turn() == ["ps-a"]
    done.add("ps-a")
    assert turn() == []


def test_every_role_has_a_step() -> None:
    assert {role: upgrade_step(role) for role in Role} == {
        Role.VAULT: 1,
        Role.CONFIGURATION_SERVER: 2,
        Role.PROCESS_SERVER: 3,
        Role.MASTER_TARGET: 3,
        Role.MOBILITY_SERVICE: 4,
    }
