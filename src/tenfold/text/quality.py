"""Which documents read like text worth learning from: counts of words, symbols and lines, word lists, a classifier."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

# Function words of English, without those that other languages spell alike ("in", "do", "an").
_STOP_WORDS = (
    "the and of to that is was are were be been have has had with for from this these those they their which who what "
    "it its he she his her you your not but by on at as or if when there over into about than then"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
_SYMBOL = re.compile(r"#|…|\.\.\.+")


@dataclass(frozen=True)
class QualityLimits:
    """What a document must keep to; words are divided by white space.

    Args:
        min_words, max_words: number of words.
        min_word_length, max_word_length: mean characters of a word.
        max_symbol_ratio: hashes and ellipses a word, exclusive.
        min_stop_words: different words of `STOP_WORDS` that occur.
        max_duplicate_lines: share of lines (blank ones aside) that repeat an earlier one, exclusive.
    Source: the rules are those of Gopher (Rae et al. 2021, arXiv 2112.11446); its stop words are eight of ours.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbol_ratio: float = 0.1
    min_stop_words: int = 2
    max_duplicate_lines: float = 0.3

    def __post_init__(self) -> None:
        for low, high in (("min_words", "max_words"), ("min_word_length", "max_word_length")):
            if not 0 <= getattr(self, low) <= getattr(self, high):
                got = f"{getattr(self, low)}, {getattr(self, high)}"
                raise ValueError(f"{low}, {high}: got {got}, need 0 <= {low} <= {high}")
        for name in ("max_symbol_ratio", "max_duplicate_lines"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, need a ratio > 0")


LIMITS = QualityLimits()


class Quality(NamedTuple):
    """The verdict on a document; true where it is kept.

    Args:
        keep: whether it passes.
        reason: the first limit it breaks: "too_short", "too_long", "word_length", "symbols", "stop_words",
            "duplicate_lines", "blocked_words" or "classifier"; None where it passes.
    """

    keep: bool
    reason: str | None

    def __bool__(self) -> bool:
        return self.keep


def quality_filter(
    text: str,
    limits: QualityLimits = LIMITS,
    *,
    blocked_words: Collection[str] = (),
    max_blocked: int = 0,
    classifier: Callable[[str], float] | None = None,
    threshold: float = 0.5,
) -> Quality:
    """Judge a document by heuristics, a word list and a classifier, in this order.

    Args:
        text: the document.
        limits: of the heuristics.
        blocked_words: profanity or other unsafe words; they count as whole words, in upper or lower case.
        max_blocked: how often they may occur.
        classifier: gives a score, higher is better; called only where all else passes.
        threshold: least score to keep a document.
    Raises:
        ValueError: the classifier gives no number.
    """
    reason = _heuristics(text, limits)
    if reason is None and blocked_words and _occurrences(text, blocked_words) > max_blocked:
        reason = "blocked_words"
    if reason is None and classifier is not None:
        score = float(classifier(text))
        if math.isnan(score):
            raise ValueError("classifier: got NaN, need a score")
        reason = "classifier" if score < threshold else None
    return Quality(reason is None, reason)


def _heuristics(text: str, limits: QualityLimits) -> str | None:
    words = text.split()
    if len(words) < max(limits.min_words, 1):
        return "too_short"
    if len(words) > limits.max_words:
        return "too_long"
    if not limits.min_word_length <= sum(map(len, words)) / len(words) <= limits.max_word_length:
        return "word_length"
    if len(_SYMBOL.findall(text)) / len(words) >= limits.max_symbol_ratio:
        return "symbols"
    if len(STOP_WORDS.intersection(_plain_words(text))) < limits.min_stop_words:
        return "stop_words"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if (len(lines) - len(set(lines))) / len(lines) >= limits.max_duplicate_lines:
        return "duplicate_lines"
    return None


def _occurrences(text: str, words: Collection[str]) -> int:
    counts = Counter(_plain_words(text))
    return sum(counts[word] for word in {word.lower() for word in words})


def _plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())
