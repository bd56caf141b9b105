"""Small tasks, and models that answer by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tenfold.prompts.examples import Example
from tenfold.prompts.task import Task
from tenfold.text.chat import ScriptedChatModel
from tenfold.text.messages import Message, Sampling


def sums(name: str, start: int, count: int) -> tuple[Example, ...]:
    """Questions whose answers are numbers."""
    return tuple(Example(f"{name}-{i}", f"What is {i} plus {start}?", str(i + start)) for i in range(count))


@pytest.fixture
def task() -> Task:
    """A hundred and twenty sums."""
    return Task(
        "sums", sums("train", 100, 40), sums("val", 200, 40), sums("test", 300, 40), description="Add two numbers."
    )


def adder(right: Callable[[str, int], bool], name: str = "adder") -> ScriptedChatModel:
    """A target that adds; `right(prompt, i)` says whether it gets the i-th sum right under a prompt."""

    def reply(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        prompt, _, question = messages[-1].content.rpartition("Q: What is ")
        first, second = (int(part) for part in question.partition("?")[0].split(" plus "))
        return f"The answer is {first + second + (0 if right(prompt.strip(), first) else 1)}."

    return ScriptedChatModel(reply, name)
