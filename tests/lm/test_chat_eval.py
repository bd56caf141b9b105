"""Evaluations on chat models: what is asked, kept and asked again; scores of IFEval, BFCL and GSM8K."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.lm import bfcl, ifeval
from tenfold.lm.chat_eval import GREEDY, TOO_LONG, Question, ask, last_number, run_bfcl, run_gsm8k, run_ifeval
from tenfold.lm.tasks import TASKS, load, parse_row
from tenfold.text.chat import Message, Reply, Sampling, ScriptedChatModel, ToolCall, Usage
from tenfold.text.endpoint_errors import ContextLengthError

QUESTIONS = [Question(f"q{i}", (Message("user", f"word {i}"),)) for i in range(12)]


class Echo:
    """Says the question again, later questions sooner; counts what it is asked, and how much of it at once."""

    name = "echo"

    def __init__(self, fail_at: int | None = None, too_long: str = "") -> None:
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self.fail_at, self.too_long = fail_at, too_long
        self.now = self.most = 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling = GREEDY, n: int = 1) -> list[Reply]:
        if len(self.asked) == self.fail_at:
            raise RuntimeError("out of order")
        content = messages[-1].content
        self.asked.append(content)
        self.samplings.append(sampling)
        if self.too_long and self.too_long in content:
            raise ContextLengthError("echo: too long")
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001 * (13 - len(self.asked) % 13))
        self.now -= 1
        return [Reply(content.upper(), "stop", Usage(3, 2), (ToolCall("1", "f", '{"a": 1}'),))] * n


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_replies_come_in_order_and_are_kept_as_they_come(tmp_path: Path) -> None:
    model, results = Echo(), tmp_path / "new" / "replies.jsonl"
    replies = ask(model, QUESTIONS, results=results, concurrency=3)
    assert [reply.text for reply in replies] == [f"WORD {i}" for i in range(12)]
    assert model.most == 3 and set(model.samplings) == {GREEDY}
    assert {(row["id"], row["text"]) for row in rows(results)} == {(f"q{i}", f"WORD {i}") for i in range(12)}
    assert ask(model, QUESTIONS) == replies  # without a file all are asked
    assert len(model.asked) == 24


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    results, first, second = tmp_path / "replies.jsonl", Echo(), Echo()
    asked = [*QUESTIONS[:3], QUESTIONS[0]]
    replies = ask(first, asked, results=results)
    assert len(first.asked) == 3 and replies[0] == replies[3]
    again = ask(second, QUESTIONS[1:5], results=results)
    assert sorted(second.asked) == ["word 3", "word 4"]
    assert [(r.text, r.tool_calls, r.usage, r.cached) for r in again[:2]] == [
        (r.text, r.tool_calls, r.usage, True) for r in replies[1:3]
    ]
    ask(second, QUESTIONS[:1], Sampling(temperature=0.5), results=results)  # another request
    assert second.asked[-1] == "word 0"
    second.name = "other"
    ask(second, QUESTIONS[:1], results=results)  # another model
    assert len(second.asked) == 4


def test_a_failure_keeps_what_came_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    results = tmp_path / "replies.jsonl"
    with pytest.raises(RuntimeError, match="out of order"):
        ask(Echo(fail_at=5), QUESTIONS, results=results, concurrency=1)
    assert [row["id"] for row in rows(results)] == [f"q{i}" for i in range(5)]
    results.write_bytes(results.read_bytes()[:-20])  # killed while it wrote
    model = Echo()
    replies = ask(model, QUESTIONS, results=results)
    assert [reply.text for reply in replies] == [f"WORD {i}" for i in range(12)]
    assert len(model.asked) == 8 and len(rows(results)) == 12


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"text": "a"}', '{"request": "k", "text": "a", "finish_reason": "stop", "usage": {"prompt": 1}, "tool_calls": []}', "[" * 10_000])  # fmt: skip
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    results = tmp_path / "replies.jsonl"
    ask(Echo(), QUESTIONS[:1], results=results)
    results.write_text(results.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"replies.jsonl:2: no reply of an evaluation"):
        ask(Echo(), QUESTIONS, results=results)


def test_what_the_model_cannot_read_counts_as_wrong(tmp_path: Path) -> None:
    items = [ifeval.Item(str(i), f"word {i}", ("punctuation:no_comma",), ({},)) for i in range(4)]
    for _ in range(2):  # the second time from the file
        scores = run_ifeval(Echo(too_long="word 2"), items, results=tmp_path / "replies.jsonl")
        assert scores.right == [True, True, False, True] and scores.too_long == 1 and scores.cut == 0
        assert scores.replies[2].finish_reason == TOO_LONG and scores.replies[2].text == ""


def test_ifeval_on_a_model() -> None:
    items = [
        ifeval.Item("1", "Say yes.", ("startend:quotation", "punctuation:no_comma"), ({}, {})),
        ifeval.Item("2", "Say no.", ("punctuation:no_comma",), ({},)),
    ]
    said = {"Say yes.": 'Sure!\n"yes"', "Say no.": "no, no"}
    model = ScriptedChatModel(lambda messages, sampling, i: said[messages[0].content])
    scores = run_ifeval(model, items)
    assert {name: share.value for name, share in scores.shares.items()} == {
        "prompt_strict": 0,
        "prompt_loose": 0.5,
        "instruction_strict": pytest.approx(1 / 3),
        "instruction_loose": pytest.approx(2 / 3),
    }
    assert scores.right == [False, False]
    assert {name: share.value for name, share in scores.parts.items()} == {
        "punctuation:no_comma": 0.5,
        "startend:quotation": 0,
    }


FUNCTION = {
    "name": "math.f",
    "description": "",
    "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


def test_bfcl_on_a_model_with_and_without_tools() -> None:
    items = [bfcl.Item(str(i), (Message("user", f"f of {i}?"),), FUNCTION, {"a": [i]}) for i in range(3)]

    def answer(messages: Sequence[Message], sampling: Sampling, index: int) -> str | Reply:
        number = messages[-1].content[5]
        if not sampling.tools:
            assert json.dumps(FUNCTION) in messages[0].content
            return f"[math.f(a={number})]" if number != "1" else "one"
        assert sampling.tools == bfcl.tools(items[0]) and len(messages) == 1
        return Reply("", "tool_calls", Usage(1, 1), (ToolCall("1", "math_f", json.dumps({"a": int(number) % 2})),))

    model = ScriptedChatModel(answer)
    scores = run_bfcl(model, items)
    assert scores.right == [True, True, False] and scores.shares["ast"].value == pytest.approx(2 / 3)
    assert run_bfcl(model, items, tools=False).right == [True, False, True]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 and 1,234.50", "1234.5"),
        ("$-7.", "-7"),
        ("#### 18", "18"),
        ("18.00 dollars", "18"),
        ("1, 2, 3,", "3"),
        ("none", None),
        ("", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_gsm8k_on_a_model(tmp_path: Path) -> None:
    row = {"question": "Two and two?", "answer": "It is 4.\n#### 4"}
    examples = [parse_row(TASKS["gsm8k"], row | {"question": f"{i}: Two and two?"}, "x") for i in range(4)]
    said = ["2+2=4\n#### 4", "It is 4.00", "#### 5, not 4", "no idea"]
    model = ScriptedChatModel(lambda messages, sampling, i: said[int(messages[0].content[0])])
    scores = run_gsm8k(model, examples, results=tmp_path / "replies.jsonl")
    assert scores.right == [True, False, False, False]
    assert {name: share.value for name, share in scores.shares.items()} == {"exact": 0.25, "last": 0.75}
    assert scores.shares["exact"].low < 0.25 < scores.shares["exact"].high
    contents: list[str] = []
    run_gsm8k(ScriptedChatModel(lambda messages, sampling, i: contents.append(messages[0].content) or ""), examples[:1])
    assert contents[0].startswith("0: Two and two?\n\n") and "Answer:" not in contents[0] and "####" in contents[0]


def test_published_solutions_of_gsm8k_are_scored_as_published(data_dir: Path) -> None:
    """The file tells which solutions of a model are right; they end in "A: N" where the problems have "#### N"."""
    examples = load("gsm8k", data_dir)
    with gzip.open(data_dir / "02-afm" / "gsm8k_solutions_a.jsonl.gz", "rt", encoding="utf-8") as file:
        solved = {row["question"]: row["175b_verification"] for row in map(json.loads, file)}

    def answer(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        return solved[messages[0].content.rsplit("\n\n", 1)[0]]["solution"].replace("\nA: ", "\n#### ")

    scores = run_gsm8k(ScriptedChatModel(answer), examples)
    published = [row["is_correct"] for row in solved.values()]
    wrong = [i for i, (ours, theirs) in enumerate(zip(scores.right, published, strict=True)) if ours != theirs]
    assert (len(published), wrong) == (660, [])
    assert scores.shares["last"].value >= scores.shares["exact"].value
