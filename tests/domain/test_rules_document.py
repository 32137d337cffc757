from __future__ import annotations

import re

import pytest

from homeport.domain.states import State
from tests.rules_document import ASKED_FOR, PAGE, refusals_table, shown_states, states_table, with_tables


def test_the_page_has_the_tables_that_the_rules_make() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run `.venv/bin/python -m tests.rules_document`"


def test_a_changed_table_is_noticed() -> None:
    page = PAGE.read_text()
    changed = page.replace("| `Migrated` |", "| `Moved` |", 1)
    assert changed != page
    assert with_tables(changed) == page


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="not once in the page"):
        with_tables("# Operations\n")


def test_every_state_is_in_the_table() -> None:
    named = set(re.findall(r"^\| `(\w+)`", states_table(), re.MULTILINE))
    assert named == {str(state) for state in State} - {str(State.UNPROTECTED)}


def test_every_operation_of_every_state_is_allowed_or_refused_with_a_code() -> None:
    allowed = dict(re.findall(r"^\| (`\w+`(?: \(\w+\))?) \|.*\| ([^|]*) \|$", states_table(), re.MULTILINE))
    refused = dict(re.findall(r"^\| (`\w+`(?: \(\w+\))?) \| ([^|]*) \|$", refusals_table(), re.MULTILINE))
    for name, _, _ in shown_states():
        if name not in refused:
            continue
        told = re.findall(r"`([a-z-]+)`", allowed[name] + refused[name])
        assert set(told) <= {str(each) for each in ASKED_FOR}
        assert len(told) == len(set(told)), f"{name}: allowed and refused"
        assert refused[name].endswith("all others")
