"""Laws of what a stranger may send."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.demo import limits

HOSTILE = "<script>alert(1)</script>\x1b[31m\x00\u202eabc"


def test_a_text_loses_control_characters_and_outer_blanks() -> None:
    assert limits.text("caption", "  a\r\nb\tc \x1b[0m ", 20) == "a\nb c  [0m"
    kept = limits.text("caption", HOSTILE, 100)
    assert kept.startswith("<script>") and not any(c != "\n" and not c.isprintable() for c in kept)
    assert limits.text("note", None, 5, empty=True) == ""


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, "caption: got nothing, write something"),
        ("", "caption: got nothing, write something"),
        (" \x00\t ", "caption: got nothing, write something"),
        ("a" * 11, "caption: got 11 characters, need at most 10"),
        (3, "caption: got int, need a text"),
        (["a"], "caption: got list, need a text"),
        ({"a": 1}, "caption: got dict, need a text"),
    ],
)
def test_a_bad_text_is_one_line(value: Any, line: str) -> None:
    with pytest.raises(UserError) as error:
        limits.text("caption", value, 10)
    assert str(error.value) == line


@pytest.mark.parametrize("value", [None, "3", "", True, float("nan"), float("inf"), -0.1, 10.1, [], {}])
def test_a_bad_number_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"steps: got .*, need a number from 0 to 10"):
        limits.number("steps", value, 0, 10)


def test_whole_numbers() -> None:
    assert limits.whole("steps", 3.0, 0, 10) == 3
    assert isinstance(limits.whole("steps", 3, 0, 10), int)
    with pytest.raises(UserError, match=r"steps: got 2\.5, need a whole number"):
        limits.whole("steps", 2.5, 0, 10)


@pytest.mark.parametrize("value", ["c", None, [], ["a"], {"a": 1}, "a" * 10_000])
def test_a_choice_is_one_of_the_list(value: Any) -> None:
    assert limits.choice("task", "a", ("a", "b")) == "a"
    with pytest.raises(UserError) as error:
        limits.choice("task", value, ("a", "b"))
    assert len(str(error.value)) < 120
