"""A task: examples in three splits, how a prompt and a question are joined, and the scorer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from tenfold.lm.options import lettered_options, listed_options
from tenfold.prompts.examples import Example, as_example
from tenfold.prompts.scorers import Scorer, scorer_for
from tenfold.text.messages import Message

Split = Literal["train", "val", "test"]
Placement = Literal["before_q", "after_q", "system", "answer_start"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Cause:
    """A kind of error: its name, and a regular expression that finds it in a reflection."""

    name: str
    pattern: str


@dataclass(frozen=True)
class Task:
    """What a prompt is searched for.

    Args:
        name: of the task.
        train: examples that optimizers see; also (question, answer) pairs or mappings with input and target.
        val: examples that prompts are chosen by.
        test: examples that are looked at once, at the end.
        scorer: of replies; None takes the one that fits the targets.
        placement: where the prompt stands: before or after the question, as the system message, or as the answer's start.
        description: what is asked, in a sentence, for optimizers that start without a prompt.
        causes: kinds of errors that reflections are sorted into; "other" is always there.
        max_tokens: of a reply.
    Raises:
        ValueError: an empty split, an example in two splits, or targets that are none of their options.
    """

    name: str
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    scorer: Scorer | None = None
    placement: Placement = "before_q"
    description: str = ""
    causes: tuple[Cause, ...] = ()
    max_tokens: int = 256
    fingerprint: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            raise ValueError(f"placement: got {self.placement!r}, need one of {', '.join(get_args(Placement))}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: got {self.max_tokens}, need at least 1")
        for split in SPLITS:
            rows = tuple(as_example(row, f"{split}-{i}") for i, row in enumerate(getattr(self, split)))
            if not rows:
                raise ValueError(f"{split}: got no examples, need at least one")
            object.__setattr__(self, split, rows)
        _check_apart(self)
        if self.scorer is None:
            object.__setattr__(self, "scorer", scorer_for([*self.train, *self.val, *self.test]))
        _check_targets(self)
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    def split(self, name: Split) -> tuple[Example, ...]:
        """The examples of a split."""
        if name not in SPLITS:
            raise ValueError(f"split: got {name!r}, need train, val or test")
        rows: tuple[Example, ...] = getattr(self, name)
        return rows

    def render(self, prompt: str, x: str | Example) -> list[Message]:
        """The conversation that asks the target: prompt and question joined literally, nothing in them is a template.

        Args:
            prompt: the instruction; empty: the question alone.
            x: a question, or its example.
        Raises:
            ValueError: the prompt holds a null byte.
        """
        check_prompt(prompt)
        question = x.input if isinstance(x, Example) else x
        asked, prompt = f"Q: {question}", prompt.strip()
        if self.placement == "system":
            return [*([Message("system", prompt)] if prompt else []), Message("user", f"{asked}\nA:")]
        parts = {
            "before_q": [prompt + "\n" if prompt else "", asked, "A:"],
            "after_q": [asked, prompt, "A:"],
            "answer_start": [asked, f"A: {prompt}".strip()],
        }[self.placement]
        return [Message("user", "\n".join(part for part in parts if part))]


def check_prompt(prompt: str) -> None:
    """Refuse text that is no prompt.

    Raises:
        ValueError: not text, or a null byte in it.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt: got {type(prompt).__name__}, need text")
    if "\0" in prompt:
        raise ValueError(f"prompt: holds a null byte at character {prompt.index(chr(0))}; remove it")


def _check_apart(task: Task) -> None:
    """No example may stand in two splits, by its id or by its question."""
    for what in ("id", "input"):
        seen: dict[str, tuple[str, str]] = {}
        for split in SPLITS:
            own = [getattr(example, what) for example in task.split(split)]
            if what == "id" and len(set(own)) < len(own):
                twice = next(value for value in own if own.count(value) > 1)
                raise ValueError(f"{split}: two examples have the id {twice!r}, need different ids")
            both = [
                (example, seen[getattr(example, what)])
                for example in task.split(split)
                if getattr(example, what) in seen
            ]
            if both:
                ids = ", ".join(f"{example.id} = {other[1]}" for example, other in both[:3])
                raise ValueError(
                    f"{split}: shares {len(both)} {what}s with {both[0][1][0]} ({ids}); splits must not overlap"
                )
            seen |= {getattr(example, what): (split, example.id) for example in task.split(split)}


def _check_targets(task: Task) -> None:
    for split in SPLITS:
        bad = [example.id for example in task.split(split) if not is_answerable(example)]
        if bad:
            raise ValueError(f"{split}: {len(bad)} targets are none of their options ({', '.join(bad[:3])})")


def is_answerable(example: Example) -> bool:
    """Whether the target is one of the options that the question lists, where it lists some."""
    letters = lettered_options(example.input)
    known = [f"({letter})" for letter in letters] or listed_options(example.input)
    return not known or example.target in (*known, *letters)


def _fingerprint(task: Task) -> str:
    """What makes two tasks the same for a run that goes on."""
    rows = [[split, e.id, e.input, e.target] for split in SPLITS for e in task.split(split)]
    whole = [task.name, task.placement, task.description, task.max_tokens, scorer_name(task.scorer), rows]
    return hashlib.sha256(json.dumps(whole).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def scorer_name(scorer: Any) -> str:
    """A scorer in words that are the same in every process."""
    function = getattr(scorer, "function", None)
    if function is not None:
        return f"{type(scorer).__name__}({getattr(function, '__qualname__', type(function).__name__)})"
    model = getattr(scorer, "model", None)
    if model is not None:
        return f"{type(scorer).__name__}({getattr(model, 'name', '')})"
    return (
        repr(scorer)
        if hasattr(scorer, "__dataclass_fields__")
        else getattr(scorer, "__qualname__", type(scorer).__name__)
    )


def subset(task: Task, train: int | None = None, val: int | None = None, test: int | None = None) -> Task:
    """The same task with the first so many examples of its splits; None keeps all."""
    return replace(task, train=task.train[:train], val=task.val[:val], test=task.test[:test])


def pairs(examples: Sequence[Example]) -> list[dict[str, str]]:
    """Examples as JSON data."""
    return [{"id": e.id, "input": e.input, "target": e.target} for e in examples]
