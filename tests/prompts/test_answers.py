"""What is read in replies."""

from __future__ import annotations

import pytest

from tenfold.prompts.answers import (
    canonical_number,
    extract,
    letter_of,
    normalised,
    number_in,
    one_of,
    same_text,
    whole_text,
)
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import ExactMatch, MultipleChoice, NumberMatch, scorer_for

OPTIONS = {"A": "a cat", "B": "a dog", "C": "a cat and a dog"}


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("So the answer is 14.", "14"),
        ("The answer is 3 + 5 = 8.", "8"),
        ("Answer: 1,234", "1234"),
        ("the answer is \u22128", "-8"),
        ("the answer is -8.", "-8"),
        ("I count 3 and 4, so 7 in all", "7"),
        ("I count eight", "8"),
        ("that makes twenty-one", "21"),
        ("the answer is 8.0", "8"),
        ("the answer is 2.50", "2.5"),
        (r"Thus \boxed{12} apples, not 13", "12"),
        (r"\boxed{\text{so } {5}}", "5"),
        ("<answer>9</answer> or was it 10?", "9"),
        ("<answer>3</answer> no, <answer>4</answer>", "4"),
        ("The answer is unclear, perhaps. 6", "6"),
        ("first the answer is 3. No: the answer is 4.", "4"),
        ("5-3", "3"),
        ("nothing to see", None),
        ("", None),
        ("<answer>9", "9"),
    ],
)
def test_numbers(reply: str, answer: str | None) -> None:
    assert extract(reply, number_in) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("(B)", "(B)"),
        ("B", "(B)"),
        ("B)", "(B)"),
        ("**B.**", "(B)"),
        ("The answer is (C).", "(C)"),
        ("the answer is B because it barks", "(B)"),
        ("The answer is A.", "(A)"),
        ("The answer is a dog", "(B)"),
        ("The answer is a cat and a dog", "(C)"),
        ("A dog barks", "(B)"),
        ("A strange question", None),
        ("(A) or (B)", None),
        ("I think (A). The answer is (B).", "(B)"),
        ("The answer is (A) or (B)", None),
        ("", None),
    ],
)
def test_options(reply: str, answer: str | None) -> None:
    assert extract(reply, letter_of(OPTIONS)) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("yes", "Yes"),
        ("YES!", "Yes"),
        ("not yes", None),
        ("Yesterday was nothing", None),
        ("yes and no", None),
        ("It is so. The answer is No.", "No"),
        ("Yes, I think the answer is no", "No"),
    ],
)
def test_labels(reply: str, answer: str | None) -> None:
    assert extract(reply, one_of(("Yes", "No"))) == answer


def test_valid_is_not_found_in_invalid() -> None:
    read = one_of(("valid", "invalid"))
    assert extract("The argument is invalid.", read) == "invalid" and extract("valid", read) == "valid"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("built, poland, swab", "built poland swab"),
        ("1. built\n2. poland", "built poland"),
        ("])", "] )"),
        ("] ) >", "])>"),
        ('"Quoted."', "quoted"),
    ],
)
def test_free_text_is_compared_spelt_alike(one: str, other: str) -> None:
    assert same_text(one, other)
    assert normalised(normalised(one)) == normalised(one)


def test_a_long_reply_is_no_free_answer_without_a_clause() -> None:
    assert extract("first\nsecond", whole_text) is None
    assert extract("first\nthe answer is a b c.", whole_text) == "a b c"


def test_canonical_numbers() -> None:
    assert [canonical_number(t) for t in ("1,000", "-0", "7.10", "eight", "x")] == ["1000", "0", "7.1", "8", None]


def test_none_is_a_format_error_and_not_a_wrong_answer() -> None:
    example = Example("e", "Which?\nOptions:\n(A) a cat\n(B) a dog", "(B)")
    for reply, value, error in (("(B)", 1.0, False), ("(A)", 0.0, False), ("who knows", 0.0, True)):
        score = MultipleChoice()(example, reply)
        assert (float(score), score.format_error) == (value, error)
    assert (
        NumberMatch(0.5)(Example("n", "?", "2"), "2.4") == 1.0 and NumberMatch()(Example("n", "?", "2"), "2.4") == 0.0
    )


def test_the_scorer_fits_the_targets() -> None:
    letters = [Example(str(i), "?\nOptions:\n(A) x\n(B) y", "(A)") for i in range(3)]
    assert isinstance(scorer_for(letters), MultipleChoice)
    assert isinstance(scorer_for([Example("a", "?", "-3"), Example("b", "?", "1,200")]), NumberMatch)
    assert scorer_for([Example(str(i), "?", "yes" if i % 2 else "no") for i in range(4)]) == ExactMatch(("no", "yes"))
    assert scorer_for([Example(str(i), "?", f"word {i}") for i in range(4)]) == ExactMatch()
