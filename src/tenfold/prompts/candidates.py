"""Prompts that a search has met: a tree with where each came from, what it scored and why it was dropped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tenfold.core.statistics import wilson
from tenfold.prompts.examples import Example

# Why a proposal is no candidate.
Drop = Literal[
    "no_tags",
    "empty",
    "same",
    "seen",
    "too_long",
    "null_byte",
    "placeholder",
    "digits",
    "answer_pasted",
    "not_followed",
    "context_length",
    "cut_short",
    "less_likely",
]
PASTED = 8  # characters from which a question of the training split inside a prompt counts as pasted


@dataclass(frozen=True)
class Proposal:
    """A prompt that an optimizer suggests.

    Args:
        text: the prompt.
        op: how it was made: init, induce, paraphrase, edit, history, form, refine, ….
        parent: the candidate it was made from; None: from nothing.
        reflection: the reason given for it.
        extra: what the method keeps beside the text (JSON data).
        shown: ids of examples that the prompt may quote: a demonstration's own.
        dropped: why it is no candidate, where the method knows.
    """

    text: str
    op: str
    parent: int | None = None
    reflection: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    dropped: Drop | None = None


@dataclass
class Candidate:
    """A node of the tree. `scores` has, by split, mean, low, high (Wilson, 95 %), n, format_errors and scorer_errors."""

    id: int
    text: str
    op: str
    step: int
    parent: int | None = None
    reflection: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: str | None = None

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class State:
    """Where a search stands; JSON data throughout.

    Args:
        step: steps taken.
        beam: ids of the candidates that the next step starts from, best first.
        candidates: all of them; a candidate's id is its place.
        stalled: steps in a row that brought no candidate.
        curve: one row a step: target calls and best mean on val so far.
        notes: what the method remembers.
        ended: why the search is over; None while it goes on.
    """

    step: int = 0
    beam: list[int] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    stalled: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    ended: str | None = None

    def texts(self, ids: Sequence[int]) -> list[str]:
        return [self.candidates[id].text for id in ids]

    def add(self, proposal: Proposal, dropped: str | None = None) -> Candidate:
        """A new node."""
        candidate = Candidate(
            len(self.candidates),
            proposal.text,
            proposal.op,
            self.step,
            proposal.parent,
            proposal.reflection,
            dict(proposal.extra),
            dropped=dropped,
        )
        self.candidates.append(candidate)
        return candidate


def same_words(text: str) -> str:
    """A prompt by which two spellings of one are found: case, spacing and Unicode's variants make no difference."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def reason_to_drop(
    proposal: Proposal,
    seen: Mapping[str, int],
    parent: str | None,
    train: Sequence[Example],
    most_chars: int,
    *,
    forbid: Sequence[str] = (),
    no_digits: bool = False,
) -> Drop | None:
    """Why a proposal cannot be a candidate; None where it can.

    Args:
        proposal: what was suggested.
        seen: prompts met before, by `same_words`.
        parent: the text it was made from.
        train: examples whose answers must not be pasted.
        most_chars: of a prompt.
        forbid: marks that may not stand in it, such as a placeholder's.
        no_digits: refuse digits.
    """
    text = proposal.text
    if not text.strip():
        return "empty"
    if "\0" in text:
        return "null_byte"
    if len(text) > most_chars:
        return "too_long"
    if any(mark in text for mark in forbid):
        return "placeholder"
    if no_digits and re.search(r"\d", text):
        return "digits"
    if parent is not None and same_words(text) == same_words(parent):
        return "same"
    if same_words(text) in seen:
        return "seen"
    plain = same_words(text)
    for example in train:
        if example.id not in proposal.shown and len(example.input) >= PASTED and same_words(example.input) in plain:
            return "answer_pasted"
    return None


def summary(values: Sequence[float], format_errors: int = 0, scorer_errors: int = 0) -> dict[str, Any]:
    """Mean and 95 % interval of scores: Wilson's, with the sum of graded scores as the count."""
    n = len(values)
    if n == 0:
        return {
            "mean": None,
            "low": None,
            "high": None,
            "n": 0,
            "format_errors": format_errors,
            "scorer_errors": scorer_errors,
        }
    mean = sum(values) / n
    interval = wilson(round(sum(values)), n)
    return {
        "mean": mean,
        "low": interval.low,
        "high": interval.high,
        "n": n,
        "format_errors": format_errors,
        "scorer_errors": scorer_errors,
    }
