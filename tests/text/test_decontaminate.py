"""A planted benchmark item is found; common phrases are not taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.text.decontaminate import Contamination, Decontaminator, default_benchmarks, read_items
from tenfold.text.words import normalised_words

LETTERS = "a b c d e f g h i j k l m n o p"  # 16 words
THIRTEEN = "b c d e f g h i j k l m n"


@pytest.mark.parametrize(
    ("item", "text", "ngram"),
    [
        (LETTERS, f"x {THIRTEEN} x", THIRTEEN),
        (LETTERS, "x " + THIRTEEN[:-2] + " x " + THIRTEEN[2:], None),  # twelve words on both sides
        (LETTERS, LETTERS, "a b c d e f g h i j k l m"),
        ("What's 2+2, really?", "so: WHAT'S   2 / 2 -- really!", "what s 2 2 really"),
        ("one two three four five", "one two three four", None),  # n is the item's own length
        ("one two three four", "one\ttwo, three\nfour", "one two three four"),
        ("one two three four", "two three four one two three", None),
        ("ﬁve cafe\u0301s ½ open", "Five cafés 1/2 open", "five cafés 1 2 open"),
    ],
)
def test_collisions_by_hand(item: str, text: str, ngram: str | None) -> None:
    hit = Decontaminator({"other": ["w x y z"], "mine": ["v", item]}).check(text)
    assert hit == (None if ngram is None else Contamination("mine", 1, ngram, 0))


def test_items_below_four_words_are_ignored() -> None:
    decontaminator = Decontaminator(["one two three", "w x y z"])
    assert decontaminator.check("one two three") is None
    with pytest.raises(ValueError, match="benchmarks: got no item of at least 4 words"):
        Decontaminator({"short": ["one two three"], "none": []})


def test_all_orders() -> None:
    decontaminator = Decontaminator([LETTERS], all_orders=True)
    assert decontaminator.check("x d e f g x") == Contamination("benchmark", 0, "d e f g", 0)
    assert decontaminator.check("x d e f x g h i") is None
    # The short n-gram is common, a longer one around it is not.
    decontaminator.count(["d e f g"] * 1000)
    assert decontaminator.check("d e f g") is None
    assert decontaminator.check("d e f g h") == Contamination("benchmark", 0, "d e f g h", 0)


def test_common_usage() -> None:
    decontaminator = Decontaminator({"quiz": ["in the middle of", "at the end of the day we all go home again"]})
    text = "It stood in the middle of the road."
    decontaminator.count([text] * 499 + ["in the middle of in the middle of"] * 250)
    assert decontaminator.check(text) == Contamination("quiz", 0, "in the middle of", 999)
    decontaminator.count([text])
    assert decontaminator.check(text) is None
    planted = "We know: at the end of the day, we all go home again. In the middle of the night."
    assert decontaminator.check(planted) is not None


def test_an_ngram_at_the_end_counts_once() -> None:
    decontaminator = Decontaminator([LETTERS, "a b c d e"], common_usage=2)
    decontaminator.count(["x a b c d e"])
    assert decontaminator.check("a b c d e") == Contamination("benchmark", 1, "a b c d e", 1)


def test_the_threshold_can_be_set() -> None:
    decontaminator = Decontaminator(["in the middle of"], common_usage=2)
    decontaminator.count(["in the middle of"])
    assert decontaminator.check("in the middle of") is not None
    decontaminator.count(["in the middle of"])
    assert decontaminator.check("in the middle of") is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("abc ", max_size=40), max_size=6),
    st.text("abc ", max_size=80),
    st.booleans(),
)
def test_the_same_as_looking_for_every_ngram(items: list[str], text: str, all_orders: bool) -> None:
    items = [*items, "z z z z"]
    expected = False
    for item in items:
        words = normalised_words(item)
        top = min(13, len(words))
        for n in range(4 if all_orders else max(top, 4), top + 1):
            for at in range(len(words) - n + 1):
                expected |= f" {' '.join(words[at : at + n])} " in f" {' '.join(normalised_words(text))} "
    assert (Decontaminator(items, all_orders=all_orders).check(text) is not None) == expected


def test_planted_questions_of_the_default_benchmarks(data_dir: Path) -> None:
    benchmarks = default_benchmarks()
    assert {name: len(items) for name, items in benchmarks.items()} == {"gsm8k": 660, "ifeval": 400}
    decontaminator = Decontaminator(benchmarks)
    alice = (data_dir / "02-afm" / "text" / "book_alice.txt").read_text(encoding="utf-8")
    assert decontaminator.check(alice) is None
    middle = len(alice) // 2
    for name, items in benchmarks.items():
        for number in (0, 7, len(items) - 1):
            hit = decontaminator.check(alice[:middle] + "\n" + items[number].upper() + "\n" + alice[middle:])
            assert hit is not None and (hit.benchmark, hit.item) == (name, number)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"q": "who was\u2028it"}) + "\n\n" + json.dumps({"q": "ç"}, ensure_ascii=False) + "\n")
    assert read_items(path, "q") == ["who was\u2028it", "ç"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "benchmark not found: .*quiz.jsonl"),
        (b"\n \n", "quiz.jsonl is empty"),
        (b"\xff", r"quiz.jsonl is not UTF-8 \(byte 0\)"),
        (b'{"q": "a"}\n{q}\n', "quiz.jsonl line 2 is not JSON"),
        (b"[" * 100_000, "quiz.jsonl line 1 is not JSON"),
        (b'{"question": "a"}\n', "quiz.jsonl line 1 has no text under 'q'"),
        (b'["q"]\n', "line 1 has no text under 'q'"),
        (b'{"q": 5}\n', "line 1 has no text under 'q'"),
    ],
)
def test_faulty_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "quiz.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_items(tmp_path / "quiz.jsonl", "q")
    assert "\n" not in str(caught.value)


def test_faulty_arguments() -> None:
    with pytest.raises(ValueError, match="benchmarks: got one string"):
        Decontaminator("who was it then")
    with pytest.raises(ValueError, match="common_usage: got 0, need at least 1"):
        Decontaminator(["who was it then"], common_usage=0)
