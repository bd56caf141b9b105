"""Each limit bites exactly where it says."""

from __future__ import annotations

import dataclasses

import pytest

from tenfold.text.quality import LIMITS, QualityLimits, quality_filter


def words(count: int, *, length: int = 5, stop: tuple[str, ...] = ("the", "and")) -> str:
    """A text of so many different words of one length, stop words first."""
    fill = (f"{chr(97 + i % 26)}{i:b}".translate({48: "o", 49: "l"}).ljust(length, "x")[:length] for i in range(count))
    return " ".join([*stop, *fill][:count])


def test_the_published_numbers() -> None:
    assert dataclasses.astuple(LIMITS) == (50, 100_000, 3.0, 10.0, 0.1, 2, 0.3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too_short"),
        (words(49), "too_short"),
        (words(50), None),
        (words(100_000), None),
        (words(100_001), "too_long"),
        (" ".join(["the", "and"] * 25), None),  # a mean of exactly 3
        (" ".join(["the", "and"] * 24 + ["by", "the"]), "word_length"),
        (words(60, length=10, stop=()), "stop_words"),  # a mean of exactly 10
        (words(58, length=10, stop=()) + " the and " + "x" * 36, "word_length"),
        (words(58, length=10, stop=()) + " the and", None),
        (words(90) + " #" * 9, None),
        (words(90) + " #" * 10, "symbols"),
        (words(90) + " ..." * 9 + " …", "symbols"),
        (words(99) + " " + "#" * 10, "symbols"),
        (words(60, stop=("the",)), "stop_words"),
        (words(58, stop=()) + " The, (AND)", None),
    ],
)
def test_limits(text: str, reason: str | None) -> None:
    verdict = quality_filter(text)
    assert verdict == (reason is None, reason)
    assert bool(verdict) is (reason is None)


def test_duplicate_lines_by_hand() -> None:
    limits = QualityLimits(min_words=1, min_stop_words=0)
    seven = [f"line {name}" for name in ("one", "two", "three", "four", "five", "six", "seven")]
    assert quality_filter("\n\n".join([*seven, *seven[:3]]), limits).reason == "duplicate_lines"  # 3 of 10: 0.3
    assert quality_filter("\n \n".join([*seven, "line eight", *seven[:3]]), limits).keep  # 3 of 11


def test_a_ratio_is_compared_exactly() -> None:
    # 0.1 * 70 is above 7 in floating point; 7 / 70 is not.
    text = words(63) + " #" * 7
    assert len(text.split()) == 70
    assert quality_filter(text).reason == "symbols"


def test_blocked_words() -> None:
    text = words(60) + " Darn, darnit DARN."
    assert quality_filter(text, blocked_words=["dArn"]).reason == "blocked_words"
    assert quality_filter(text, blocked_words=["darn"], max_blocked=2).keep
    assert quality_filter(text, blocked_words=["arn", "it"]).keep


def test_classifier() -> None:
    seen: list[str] = []

    def score(text: str) -> float:
        seen.append(text)
        return 0.7

    good = words(60)
    assert quality_filter(good, classifier=score).keep
    assert quality_filter(good, classifier=score, threshold=0.7).keep
    assert quality_filter(good, classifier=score, threshold=0.71).reason == "classifier"
    assert quality_filter("short", classifier=score).reason == "too_short"
    assert seen == [good] * 3
    with pytest.raises(ValueError, match="classifier: got NaN"):
        quality_filter(good, classifier=lambda text: float("nan"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_words": 10, "max_words": 5}, "min_words, max_words: got 10, 5"),
        ({"min_word_length": -1.0}, "min_word_length, max_word_length: got -1.0"),
        ({"max_symbol_ratio": 0.0}, "max_symbol_ratio: got 0.0, need a ratio > 0"),
        ({"max_duplicate_lines": float("nan")}, "max_duplicate_lines: got nan"),
    ],
)
def test_faulty_limits(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityLimits(**fields)
