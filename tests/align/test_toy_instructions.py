"""The endless instructions: keyed, answerable, and exactly checked."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from tenfold.align.toy_instructions import CHECKERS, Item, check, toy_instruct


def take(seed: int, count: int = 300, *names: str) -> list[Item]:
    return list(islice(toy_instruct(seed, names or None), count))


def test_every_item_has_a_right_answer_and_wrong_ones() -> None:
    items = take(0, 600)
    assert {item.checker for item in items} == set(CHECKERS)
    for item in items:
        assert check(item, item.answer) == 1
        assert check(item, f"  {item.answer}\n") == 1
        assert check(item, "") == check(item, " \n") == 0
        assert check(item, item.answer + " more") == 0
        assert check(item, "The answer is " + item.answer + ".") == 0
        assert json.loads(json.dumps(item.arguments)) == item.arguments
        assert item.messages[0].role == "user"


def test_items_depend_on_seed_and_index_alone() -> None:
    assert take(1) == take(1)
    assert take(1, 20) == take(1)[:20]
    # A number of it is that of another seed at most by chance: additions, some sorted digits.
    prompts = [{item.messages[0].content for item in take(seed, 300, "copy", "reverse")} for seed in (1, 2)]
    assert len(prompts[0] & prompts[1]) < 10


@pytest.mark.parametrize(
    ("checker", "arguments", "right", "wrong"),
    [
        ("copy", {"answer": "dabo"}, "dabo", "Dabo"),
        ("sort_digits", {"answer": "1 2 2"}, "1 2 2", "122"),
        ("exact_words", {"count": 2}, "one two", "one two three"),
        ("exact_words", {"count": 2}, "One TWO", "one 2"),
        ("exact_words", {"count": 2}, "ab cd", "a b"),
        ("avoid_letter", {"count": 2, "letter": "e"}, "no fog", "no tree"),
        ("avoid_letter", {"count": 2, "letter": "e"}, "no fog", "no TREE"),
        ("avoid_letter", {"count": 2, "letter": "e"}, "no fog", "no"),
    ],
)
def test_checks_by_hand(checker: str, arguments: dict, right: str, wrong: str) -> None:
    item = Item((), checker, arguments, "")
    assert (check(item, right), check(item, wrong)) == (1, 0)


def test_the_kinds_do_what_they_say() -> None:
    first = {name: take(3, 1, name)[0] for name in CHECKERS}
    words = {name: item.messages[0].content.rstrip(".?").split() for name, item in first.items()}
    assert first["copy"].answer == words["copy"][-1]
    assert first["reverse"].answer == words["reverse"][3][::-1]
    assert first["upper"].answer == words["upper"][3].upper()
    assert first["repeat"].answer == " ".join([words["repeat"][3]] * int(words["repeat"][4]))
    assert first["count_letters"].answer == str(len(words["count_letters"][-1]))
    assert first["add"].answer == str(int(words["add"][1]) + int(words["add"][3]))
    assert first["sort_digits"].answer == " ".join(sorted(words["sort_digits"][3:]))
    named = first["last_letters"].messages[0].content.split(": ")[1].rstrip(".").split()
    assert first["last_letters"].answer == " ".join(word[-1] for word in named)


@pytest.mark.parametrize("names", [["sing"], []])
def test_unknown_kinds(names: list[str]) -> None:
    with pytest.raises(ValueError, match="checkers: got"):
        toy_instruct(0, names)
