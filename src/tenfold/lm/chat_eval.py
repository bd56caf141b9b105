"""IFEval, BFCL and GSM8K on any chat model: questions out, replies kept as they come, shares with their intervals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tenfold.core.atomic import append_line
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval, wilson
from tenfold.lm import bfcl, ifeval
from tenfold.lm.score import is_answer
from tenfold.lm.tasks import TASKS, Example
from tenfold.text.chat import ChatModel, Message, Reply, Sampling, ToolCall, Usage, complete_all
from tenfold.text.concurrency import Gate
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.reply_store import request_key

GREEDY = Sampling(temperature=0.0, max_tokens=1024)
TOO_LONG = "prompt_too_long"  # the finish reason of a question that the model cannot read


@dataclass(frozen=True)
class Question:
    """What a model is asked, and the tools it may call for it."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ChatScores:
    """How a chat model did.

    Attributes:
        shares: measure to share of right answers, with Wilson's 95 % interval; the first is the one to compare by.
        right: whether each question was answered right by the first measure: pairs for a test between two models.
        replies: to each question.
        parts: shares of named parts of the set.
    """

    shares: dict[str, Interval]
    right: list[bool]
    replies: list[Reply]
    parts: dict[str, Interval] = field(default_factory=dict)

    @property
    def cut(self) -> int:
        """Replies that `max_tokens` ended."""
        return sum(reply.finish_reason == "length" for reply in self.replies)

    @property
    def too_long(self) -> int:
        """Questions longer than the model reads; they count as wrong."""
        return sum(reply.finish_reason == TOO_LONG for reply in self.replies)


def ask(
    model: ChatModel,
    questions: Sequence[Question],
    sampling: Sampling = GREEDY,
    results: Path | None = None,
    *,
    concurrency: int = 64,
) -> list[Reply]:
    """One reply to every question.

    Args:
        model: any chat model.
        questions: what to ask.
        sampling: how replies are drawn; a question's own tools are added.
        results: JSON Lines that each reply is appended to the moment it comes. What the file holds already of the same
            model, messages and sampling is not asked again; a torn last line, left by a crash, is dropped.
        concurrency: questions asked at a time.
    Returns:
        replies in the order of the questions; a question longer than the model reads gets an empty one, marked
        `TOO_LONG`.
    Raises:
        UserError: a results file with a broken line before its last.
    """
    identity = getattr(model, "identity", model.name)
    each = [replace(sampling, tools=question.tools) if question.tools else sampling for question in questions]
    keys = [request_key(identity, q.messages, how).hex() for q, how in zip(questions, each, strict=True)]
    kept = {} if results is None else _read(results)
    missing = {key: i for i, key in enumerate(keys) if key not in kept}
    recorder = _Recorder(model, results, {key: questions[i].id for key, i in missing.items()}, concurrency)
    said = complete_all(
        recorder, [questions[i].messages for i in missing.values()], [each[i] for i in missing.values()]
    )
    kept |= {key: replies[0] for key, replies in zip(missing, said, strict=True)}
    return [kept[key] for key in keys]


class _Recorder:
    """A model whose replies are appended to a file."""

    def __init__(self, inner: ChatModel, path: Path | None, ids: Mapping[str, str], places: int) -> None:
        self.name, self.identity = inner.name, getattr(inner, "identity", inner.name)
        self._inner, self._path, self._ids, self._gate = inner, path, ids, Gate(places)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    async def complete(self, messages: Sequence[Message], sampling: Sampling = GREEDY, n: int = 1) -> list[Reply]:
        async with self._gate:
            try:
                replies = await self._inner.complete(messages, sampling, n)
            except ContextLengthError:
                replies = [Reply("", TOO_LONG, Usage(0, 0))] * n
        if self._path is not None:
            key = request_key(self.identity, messages, sampling).hex()
            append_line(self._path, json.dumps({"id": self._ids[key], "request": key, **_row(replies[0])}))
        return replies


def _row(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "tool_calls": [vars(call) for call in reply.tool_calls],
        "usage": vars(reply.usage),
    }


def _read(path: Path) -> dict[str, Reply]:
    """Request key to reply; behind the last line break stands nothing, or a torn line."""
    if not path.exists():
        return {}
    *lines, _torn = path.read_bytes().split(b"\n")
    kept = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            calls = tuple(ToolCall(**call) for call in row["tool_calls"])
            reply = Reply(str(row["text"]), str(row["finish_reason"]), Usage(**row["usage"]), calls, cached=True)
            kept[str(row["request"])] = reply
        except (KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"{path}:{number}: no reply of an evaluation; give another file or move it away") from None
    return kept


def run_ifeval(model: ChatModel, items: Sequence[ifeval.Item], **asking: Any) -> ChatScores:
    """IFEval: the prompts as they are, strict and loose accuracy over prompts and instructions.

    Args:
        items: from `ifeval.load`.
        asking: sampling, results, concurrency, as in `ask`.
    """
    replies = ask(model, [Question(item.key, (Message("user", item.prompt),)) for item in items], **asking)
    scores = ifeval.evaluate(items, [reply.text for reply in replies])
    shares = {
        "prompt_strict": scores["prompt_strict"],
        "prompt_loose": scores["prompt_loose"],
        "instruction_strict": scores["instruction_strict"],
        "instruction_loose": scores["instruction_loose"],
    }
    right = [all(verdict.strict) for verdict in scores["verdicts"]]
    return ChatScores(shares, right, replies, {name: strict for name, (strict, _) in scores["by_instruction"].items()})


def run_bfcl(model: ChatModel, items: Sequence[bfcl.Item], *, tools: bool = True, **asking: Any) -> ChatScores:
    """BFCL "simple": one call for each question, matched by its syntax tree.

    Args:
        items: from `bfcl.load`.
        tools: offer the function as a tool; False describes it in the prompt and reads the call from the text.
        asking: sampling, results, concurrency, as in `ask`.
    """
    questions = [
        Question(item.id, item.messages, bfcl.tools(item)) if tools else Question(item.id, bfcl.prompt(item))
        for item in items
    ]
    replies = ask(model, questions, **asking)
    scores = bfcl.evaluate(items, replies)
    return ChatScores({"ast": scores["accuracy"]}, [verdict.ok for verdict in scores["verdicts"]], replies)


def run_gsm8k(model: ChatModel, examples: Sequence[Example], **asking: Any) -> ChatScores:
    """GSM8K without demonstrations: the number after #### ("exact"), and the last number of the reply ("last").

    Args:
        examples: from `tenfold.lm.tasks.load("gsm8k")`.
        asking: sampling, results, concurrency, as in `ask`.
    """
    questions = [Question(example.id, (Message("user", _problem(example)),)) for example in examples]
    replies = ask(model, questions, **asking)
    pairs = [(reply.text, example.answers) for reply, example in zip(replies, examples, strict=True)]
    exact = [is_answer(TASKS["gsm8k"], text, answers) for text, answers in pairs]
    last = [last_number(text) in map(last_number, answers) for text, answers in pairs]
    return ChatScores({"exact": _share(exact), "last": _share(last)}, exact, replies)


def _problem(example: Example) -> str:
    question = example.contexts[0].removeprefix("Question: ").removesuffix("\nAnswer:")
    return f"{question}\n\nSolve it step by step. On a last line write #### and the answer as a bare number."


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> Decimal | None:
    """The last number in a text, read without thousands commas; None if there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _share(right: Sequence[bool]) -> Interval:
    return wilson(sum(right), len(right))
