"""A formatted text gives its values back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeport.language.catalogue import catalogue
from homeport.language.template import Template, escaped
from homeport.language.translator import translator

TEMPLATES = [template for template, _ in catalogue("ja").templates]
VALUE = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def test_a_text_gives_back_what_was_put_into_it() -> None:
    template = Template("There is no job {job} at {site}.")
    assert template.match("There is no job 'a b' at home.") == {"job": "'a b'", "site": "home"}
    assert template.match("There is no job 'a' at home") is None
    assert template.match("There is no site 'a' at home.") is None


def test_braces_of_the_text_stay() -> None:
    template = Template('give {{"a": {number}}}')
    assert template.holes == ("number",)
    assert template.fill({"number": "1"}) == 'give {"a": 1}'
    assert template.match('give {"a": 1}') == {"number": "1"}
    assert Template(escaped("{a} {{b}}")).fill({}) == "{a} {{b}}"


def test_a_hole_that_stands_twice_holds_the_same_twice() -> None:
    template = Template("{name} runs; {name} is well")
    assert template.match("web runs; web is well") == {"name": "web"}
    assert template.match("web runs; db is well") is None


@given(template=st.sampled_from(TEMPLATES), data=st.data())
@settings(max_examples=300)
def test_any_values_survive_the_way_through_a_text(template: Template, data: st.DataObject) -> None:
    """Whatever is in the holes: what is found makes the same text again, and is what was put in wherever the text can
    be told apart in one way only."""
    values = {hole: data.draw(VALUE, label=hole) for hole in template.holes}
    text = template.fill(values)
    found = template.match(text)
    assert found is None or template.fill(found) == text
    marks = set("".join(template.literals))
    if not marks & set("".join(values.values())):
        assert found == values


@given(template=st.sampled_from(TEMPLATES), data=st.data())
@settings(max_examples=200)
def test_every_text_that_a_message_makes_is_translated_with_its_values(template: Template, data: st.DataObject) -> None:
    plain = st.from_regex(r"[0-9]{3,12}", fullmatch=True)
    values = {hole: data.draw(plain, label=hole) for hole in template.holes}
    told = translator("ja").text(template.fill(values))
    assert not told.isascii()
    for value in values.values():
        assert value in told


def test_of_two_messages_that_fit_the_one_that_says_more_is_taken() -> None:
    weights = [template.weight for template in TEMPLATES]
    assert weights == sorted(weights, reverse=True)
    told = translator("ja").text("the NBD server refused export 'disk0': unknown export (gone)")
    assert told == "NBD サーバーがエクスポート 'disk0' を拒否しました: 不明なエクスポートです (gone)"


@pytest.mark.parametrize("text", ["", " ", "123 %", "Something that nobody wrote", "web1", "日本語 の テキスト"])
def test_what_is_not_known_stays(text: str) -> None:
    assert translator("ja").text(text) == text
