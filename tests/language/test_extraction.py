"""Messages are found where they are written, whatever form they have."""

from __future__ import annotations

from tests.language.extraction import of_source


def found(source: str, *, words: bool = False) -> list[str]:
    return [message for message, context, _ in of_source(source, words=words) if context is None]


def test_an_error_s_cause_and_remedy_with_its_holes_named() -> None:
    assert found('raise NotThere(f"There is no job {job!r} at {site.name}.", remedy="See `homeport job list`.")') == [
        "There is no job {job} at {site}.",
        "See `homeport job list`.",
    ]


def test_a_remedy_of_a_class() -> None:
    assert found('class E(HomeportError):\n    """Said to nobody."""\n    code = "a.b"\n    remedy = "Try again."') == [
        "Try again."
    ]


def test_a_choice_between_texts_makes_a_message_of_each() -> None:
    assert found("""raise E(f"{name} is {'off' if off else 'on'} since {day} days")""") == [
        "{name} is off since {day} days",
        "{name} is on since {day} days",
    ]


def test_holes_are_named_after_what_they_hold_and_alike_where_they_hold_the_same() -> None:
    source = """raise E(f"{item['name']} at {show_span(rpo)} and {', '.join(names)}; {item['name']} of {other.name}")"""
    assert found(source) == ["{name} at {rpo} and {names}; {name} of {other}"]
    assert found('raise E(f"from {first.id} to {second.id}")') == ["from {id} to {id2}"]


def test_texts_that_are_added_to_each_other_are_one() -> None:
    assert found('raise E("There is no job " + job + " here")') == ["There is no job {job} here"]


def test_braces_of_the_text_are_no_holes() -> None:
    assert found("""raise E(f'give {{"disk0": …}} for {disk}')""") == ['give {{"disk0": …}} for {disk}']


def test_a_text_in_the_hole_of_another_is_found_too() -> None:
    assert found("""raise E(f"The site told: {notes or 'it gives no reason'}")""") == [
        "The site told: {notes}",
        "it gives no reason",
    ]


def test_single_words_count_where_they_are_for_eyes_alone() -> None:
    assert found('table("State", "", "RPO")') == ["State", "RPO"]
    assert found('rows.add_row("Policy", name)') == ["Policy"]
    assert found('STEPS = {"start": "Begin"}') == ["Begin"]
    assert found('SET_UP = "Prepare"', words=True) == ["Prepare"]
    assert found('typer.Option("--watch", help="Refresh.", metavar="A thing")') == ["Refresh."]
    assert found('NAME = "Prepare"') == []


def test_of_a_lesson_what_it_says_but_not_its_examples() -> None:
    source = 'lesson("Show it.", """It shows\n    much.""", "homeport show it --all", then="homeport status")'
    assert found(source) == ["Show it.", "It shows much."]


def test_what_nobody_reads_is_left_alone() -> None:
    for source in (
        '"""A docstring of some words."""',
        'log.info("the vault started well", name=f"it is {name}")',
        'assert found, "this can not be so"',
        'raise TypeError("a fault of the program")',
        're.compile("some words or others")',
        'if text == "some words here":\n    pass',
        'x = {"some key here": 1}["some key here"]',
        'Query(description="Only of this kind")',
        'session.execute(text("SELECT a FROM b"))',
        'x = "PRAGMA journal_mode=WAL"',
        'x = f"{a}: {b}"',
        'x = "homeport status web1 --watch"',
    ):
        assert found(source) == [], source


def test_what_is_asked_for_by_itself_is_kept_apart() -> None:
    assert of_source('fill("{done} of {total}", done=a, total=b)') == [("{done} of {total}", "own", 1)]
