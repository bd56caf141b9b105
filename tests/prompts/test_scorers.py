"""Patterns of a user's that never end, and those that do."""

from __future__ import annotations

import time

import pytest

from tenfold.core.errors import UserError
from tenfold.prompts.evaluation import evaluate
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import RegexMatch
from tenfold.prompts.task import Task
from tenfold.text.chat import ScriptedChatModel

ENDLESS = r"(a|a|aa)+$"
EXAMPLE = Example("x", "What?", "7")


def test_a_pattern_that_never_ends_is_an_error_of_the_scorer() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"took more than 0\.5 s on a reply of 61 characters"):
        RegexMatch(ENDLESS)(EXAMPLE, "a" * 60 + "b")
    assert time.monotonic() - start < 5


def test_a_search_stops_at_the_share_of_failures_and_not_after_all_of_them(task: Task) -> None:
    slow = Task("sums", task.train, task.val, task.test, RegexMatch(ENDLESS))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"scorer: gave up on 3 replies \(scorer: TimeoutError: pattern"):
        evaluate(["add"], slow, "val", ScriptedChatModel(lambda *_: "a" * 60 + "b"))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("pattern", "reply", "answer"),
    [
        (r"\d+", "1 then 7", "7"),
        (r"answer: (\w)?", "answer: ", ""),
        (r"[[a]", "[a", "a"),
        (r"(?i)THE (\d)", "the 7", "7"),
    ],
)
def test_patterns_mean_what_they_mean_to_python(pattern: str, reply: str, answer: str) -> None:
    assert RegexMatch(pattern)(EXAMPLE, reply).answer == answer


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"pattern: got '\(', need a regular expression"):
        RegexMatch("(")
