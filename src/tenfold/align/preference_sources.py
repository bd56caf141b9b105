"""Preferences out of public data: graded sentences of reviews, and right and wrong solutions of arithmetic problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.align.preference_data import Level, Preference
from tenfold.align.verifiers import gsm8k_prompt
from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.lm.tasks import read_lines
from tenfold.text.messages import Message

REVIEWS = "02-afm/graded_reviews.jsonl"
SOLUTIONS = "02-afm/gsm8k_solutions_a.jsonl.gz"


def review_preferences(
    path: str | Path | None = None, *, held_out: float = 0.15, uses: int = 4, seed: int = 0
) -> tuple[list[Preference], list[Preference]]:
    """Pairs of sentences about one product, of which the kinder one is chosen; the gap of their scores gives the level.

    A gap of 5 or more is "significantly", 3 or 4 "better", 2 "slightly", 1 "negligibly" better.

    Args:
        path: JSON Lines with product, score and text; None takes the 3201 graded sentences among the data sets.
        held_out: share of each product's sentences that is kept apart; no sentence is on both sides.
        uses: rounds of random pairing; each sentence stands in at most so many pairs.
        seed: of split and pairing.
    Returns:
        pairs to learn from, pairs held out.
    Raises:
        UserError: absent, or a row without its fields.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: got {held_out}, need a share in (0, 1)")
    products: dict[str, list[tuple[int, str]]] = {}
    for where, row in _rows(path, REVIEWS):
        product, score, text = row.get("product"), row.get("score"), row.get("text")
        if not isinstance(product, str) or not isinstance(score, int) or not isinstance(text, str):
            raise UserError(f"{where}: need a product, a score (integer) and a text")
        products.setdefault(product, []).append((score, text))
    generator = np.random.default_rng(seed)
    learned: list[Preference] = []
    kept: list[Preference] = []
    for product, sentences in products.items():
        order = generator.permutation(len(sentences))
        cut = round(held_out * len(sentences))
        for pairs, part in ((kept, order[:cut]), (learned, order[cut:])):
            pairs += _paired(product, [sentences[i] for i in part], uses, generator)
    return learned, kept


def solution_preferences(path: str | Path | None = None) -> list[Preference]:
    """Right over wrong solutions of one problem, every right one with a wrong one in turn; all "significantly" better.

    The problems are those of GSM8K's test part: a model that learned from them must not be scored on GSM8K.

    Args:
        path: JSON Lines of published solutions; None takes the file among the data sets.
    Raises:
        UserError: absent, or a row without its fields.
    """
    pairs = []
    for where, row in _rows(path, SOLUTIONS):
        question = row.get("question")
        solutions = [value for value in row.values() if isinstance(value, Mapping) and "is_correct" in value]
        if not isinstance(question, str) or not all(isinstance(each.get("solution"), str) for each in solutions):
            raise UserError(f"{where}: need a question and solutions with is_correct and solution")
        sides: dict[bool, list[str]] = {True: [], False: []}
        for each in solutions:
            sides[bool(each["is_correct"])].append(re.sub(r"\nA: (.*)\Z", r"\n#### \1", each["solution"]))
        for i, right in enumerate(dict.fromkeys(sides[True])):
            wrong = sides[False][i % len(sides[False])] if sides[False] else right
            if wrong != right:
                pairs.append(Preference((gsm8k_prompt(question),), right, wrong, "significantly"))
    return pairs


def level_of(gap: float) -> Level:
    """The level of a difference of opinion scores."""
    if gap >= 5:
        return "significantly"
    return "better" if gap >= 3 else "slightly" if gap >= 2 else "negligibly"


def _paired(
    product: str, sentences: Sequence[tuple[int, str]], uses: int, generator: np.random.Generator
) -> list[Preference]:
    prompt = Message("user", f"Write what a happy customer says about the {product.replace('_', ' ')}.")
    pairs: dict[tuple[str, str], Preference] = {}
    for _ in range(uses):
        order = generator.permutation(len(sentences)).tolist()
        for i, j in zip(order[::2], order[1::2], strict=False):
            (worse, low), (better, high) = sorted((sentences[i], sentences[j]))
            if better > worse and low != high:
                pairs[low, high] = Preference((prompt,), high, low, level_of(better - worse))
    return list(pairs.values())


def _rows(path: str | Path | None, name: str) -> list[tuple[str, dict[str, Any]]]:
    source = data.path(name) if path is None else Path(path)
    if not source.is_file():
        raise UserError(f"data not found: {source}")
    return [(f"{source}:{line}", row) for line, row in read_lines(source)]
