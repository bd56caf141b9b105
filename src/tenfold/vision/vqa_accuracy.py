"""Accuracy of answers to questions about pictures, beside several people's answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from tenfold.core.errors import UserError

Normalise = Literal["always", "official"]
_DIGITS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_CONTRACTED = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
I'm I've isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"""
_TWICE = """couldn't've hadn't've he'd've I'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've"""


def _contractions() -> dict[str, str]:
    """Spellings that lack an apostrophe, and what they stand for, as the public evaluation lists them."""
    found = {word.replace("'", ""): word for word in _CONTRACTED.split()}
    for word in _TWICE.split():
        found |= {word[:i] + word[i + 1 :]: word for i, letter in enumerate(word) if letter == "'"}
    # Three entries that change nothing or the wrong way stand in the public table; figures are made with them.
    return found | {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
_DIGIT_COMMA = re.compile(r"(\d)(,)(\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the look-behind is mistyped so in the public evaluation: it never hinders
_MOST_PERIODS = 32  # its flag stands where the count of replacements belongs


def vqa_accuracy(prediction: str, answers: Sequence[str], normalise: Normalise = "always") -> float:
    """Mean over leave-one-out sets of the people's answers of min(matches / 3, 1).

    Args:
        prediction: the model's answer.
        answers: people's, ten in VQAv2; of a single one, 1 for an exact match.
        normalise: "always", or "official": punctuation, numbers and articles only where the people differ among themselves.
    Returns:
        in [0, 1].
    Raises:
        UserError: no answers.
    Source: Antol et al. 2015, arXiv 1505.00468, Section 3; the public VQA evaluation.
    """
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise: got {normalise!r}, need always or official")
    if not answers:
        raise UserError("answers: got none, need at least one")
    told, said = [_stripped(answer) for answer in answers], _stripped(prediction)
    if normalise == "always" or len(set(told)) > 1:
        told, said = [normalised_answer(answer) for answer in told], normalised_answer(said)
    if len(told) == 1:
        return float(said == told[0])
    matches = sum(answer == said for answer in told)
    # Without one of the matching answers there is one match fewer.
    scores = [min((matches - (answer == said)) / 3, 1.0) for answer in told]
    return sum(scores) / len(scores)


def normalised_answer(text: str) -> str:
    """Punctuation, number words, articles and contractions as the public evaluation treats them."""
    text = _stripped(text)
    out = text
    commas = bool(_DIGIT_COMMA.search(text))
    for mark in PUNCTUATION:
        glued = f"{mark} " in text or f" {mark}" in text or commas
        out = out.replace(mark, "" if glued else " ")
    out = _PERIOD.sub("", out, count=_MOST_PERIODS)
    words = [NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
