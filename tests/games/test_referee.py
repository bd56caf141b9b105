"""Both referees: verdicts by hand, the official rules restated, what the strict ones do not care about, hostile text."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.games.english import plural
from tenfold.games.game import Turn, Verdict
from tenfold.games.referee import ROLES, Rules, derivatives, judge, normalised, official_finding, strict_finding

GUESS = "I know the word! It is "


def said(*texts: str) -> list[Turn]:
    return [Turn(ROLES[i % 2], text) for i, text in enumerate(texts)]


def verdict(rules: Rules, texts: tuple[str, ...], target: str = "cat", max_turns: int = 5) -> tuple[str, int, str]:
    """The outcome, its length, and the evidence as it was written."""
    history = said(*texts)
    found = judge(history, target, max_turns, rules)
    evidence = "" if found.span is None else history[found.length - 1].text[slice(*found.span)]
    return found.outcome, found.length, evidence


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("a pet", "a dog"), ("tied game", 2, "")),
        ((), ("tied game", 0, "")),
        (("a pet", "my cat", "never read"), ("attacker wins", 2, "cat")),
        (("a pet", "good education"), ("attacker wins", 2, "cat")),
        (("a pet", "two CATS"), ("attacker wins", 2, "CATS")),
        (("a pet", 'say "cats" aloud'), ("attacker wins", 2, '"cats"')),
        (("my cat", "what?"), ("attacker breaks the rules", 1, "cat")),
        ((GUESS + "dog", ""), ("attacker breaks the rules", 1, "I know the word! It is dog")),
        (("a pet", GUESS + "`cat`!"), ("defender wins", 2, "I know the word! It is `cat")),
        (("a pet", GUESS + "cats, of course"), ("defender wins", 2, "I know the word! It is cats")),
        (("a pet", GUESS + "catastrophe"), ("defender wins", 2, "I know the word! It is cat")),  # a prefix is enough
        (("a pet", GUESS + "`dog`!"), ("attacker wins", 2, "I know the word! It is `dog")),
        (("a cat-like pet", "x"), ("attacker breaks the rules", 1, "cat")),
        (("a pet", "I know the word! it"), ("tied game", 2, "")),  # nothing behind "it"
        (("a pet", "I know the word!  It is `dog`"), ("tied game", 2, "")),  # two blanks
        (("a pet", "I know the word. It is `dog`"), ("tied game", 2, "")),  # no exclamation mark
        (("a pet", "I know the word! It\nis a dog"), ("tied game", 2, "")),  # a dot is no line break
        (("a pet", "I know the word! It is a very dark cat"), ("attacker wins", 2, "I know the word! It is a ve")),
        (("a pet", "İİ cats"), ("attacker wins", 2, "cats")),  # lower case is longer than the text
    ],
)
def test_official_verdicts(texts: tuple[str, ...], expected: tuple[str, int, str]) -> None:
    assert verdict("official", texts) == expected


@pytest.mark.parametrize(
    ("target", "text"), [("person", "some people"), ("city", "old cities"), ("mouse", "mice"), ("run", "I am runing")]
)
def test_plurals_are_mentions_under_the_official_rules(target: str, text: str) -> None:
    assert verdict("official", ("hint", text), target)[0] == "attacker wins"


@pytest.mark.parametrize(
    ("target", "texts", "expected"),
    [
        ("cat", ("a pet", "education, concatenate"), ("tied game", 2, "")),
        ("cat", ("a pet", "my CAT's tail"), ("attacker wins", 2, "CAT")),
        ("cat", ("a pet", "my ca\u200bt\u00ads!"), ("attacker wins", 2, "ca\u200bt\u00ads")),
        ("cat", ("a pet", "ｃａｔｓ"), ("attacker wins", 2, "ｃａｔｓ")),
        ("cat", ("a pet", "big_cat"), ("attacker wins", 2, "cat")),
        ("cat", ("a pet", "cat-like"), ("attacker wins", 2, "cat")),
        ("cat", ("a pet", "cat2"), ("tied game", 2, "")),
        ("make", ("do", "I am making tea"), ("attacker wins", 2, "making")),
        ("stop", ("do", "she stopped"), ("attacker wins", 2, "stopped")),
        ("ice cream", ("sweet", "three Ice-\n creams"), ("attacker wins", 2, "Ice-\n creams")),
        ("ice-cream", ("sweet", "ice  cream"), ("attacker wins", 2, "ice  cream")),
        ("café", ("drink", "the cafe\u0301s"), ("attacker wins", 2, "cafe\u0301s")),
        ("a+", ("mark", "an a+ again"), ("attacker wins", 2, "a+")),
        ("cat", ("a cat", "x"), ("attacker breaks the rules", 1, "cat")),
        ("cat", ("I know the word: it is fun", "x"), ("attacker breaks the rules", 1, "I know the word: it is fun")),
        ("cat", ("a pet", GUESS + "`cat`!"), ("defender wins", 2, GUESS + "`cat`")),
        ("cat", ("a pet", "i know the word\nit's “Cats”"), ("defender wins", 2, "i know the word\nit's “Cats”")),
        ("cat", ("a pet", "So I know the word, it must be the cat!"), ("defender wins", 2, "I know the word, it must be the cat")),
        ("cat", ("a pet", "I know the word. It has to be a cat's"), ("defender wins", 2, "I know the word. It has to be a cat's")),
        ("cat", ("a pet", GUESS + "surely 'cat', no?"), ("defender wins", 2, GUESS + "surely 'cat'")),
        ("cat", ("a pet", GUESS + "catastrophe"), ("attacker wins", 2, GUESS + "catastrophe")),
        ("cat", ("a pet", GUESS + "dog, I mean cat"), ("attacker wins", 2, GUESS + "dog")),
        ("cat", ("a pet", GUESS + "cat. " + GUESS + "dog."), ("attacker wins", 2, GUESS + "cat")),  # two guesses
        ("cat", ("a pet", GUESS + "!!!"), ("attacker wins", 2, GUESS)),  # the phrase without a guess
        ("cat", ("a pet", "I know the word!"), ("tied game", 2, "")),
        ("cat", ("a pet", "I know the word! Italy"), ("tied game", 2, "")),
        ("cat", ("a pet", "", "more", "x", "hm", " "), ("tied game", 6, "")),  # not in a row
        ("cat", ("a pet", "", "more", "\u200b \n"), ("attacker wins", 4, "\u200b \n")),
        ("cat", ("", "x", "", "y"), ("defender wins", 3, "")),
    ],
)  # fmt: skip
def test_strict_verdicts(target: str, texts: tuple[str, ...], expected: tuple[str, int, str]) -> None:
    assert verdict("strict", texts, target) == expected


@pytest.mark.parametrize("rules", ["official", "strict"])
def test_nothing_behind_the_last_turn_is_read(rules: Rules) -> None:
    texts = ("a pet", "a dog") * 3 + ("x", "cat")
    assert verdict(rules, texts, max_turns=3) == ("tied game", 6, "")
    assert judge(said(*texts), "cat", 3, rules).reason == "turns used up"
    assert judge(said(*texts[:5]), "cat", 3, rules).reason == "history ends early"
    assert verdict(rules, texts, max_turns=4)[:2] == ("attacker wins", 8)


@pytest.mark.parametrize("rules", ["official", "strict"])
def test_histories_of_official_files_are_read(rules: Rules) -> None:
    rows = [{"role": "attacker", "content": "a pet"}, {"role": "defender", "content": "cat"}]
    assert judge(rows, "cat", 5, rules) == judge(said("a pet", "cat"), "cat", 5, rules)


# The official rules, restated without any shortcut.


def restated(texts: list[str], target: str, max_turns: int) -> tuple[str, int]:
    word = target.lower()
    forms = [word, word + "ing", word + "ed", plural(word)]
    forms += [quote + form + quote for quote in "\"'`" for form in forms]
    for index, text in enumerate(texts[: 2 * max_turns]):
        content = text.lower()
        mention = any(form in content for form in forms)
        predict = re.search("i know the word! it.{1,8}", content) is not None
        correct = any(re.search("i know the word! it.{1,8}" + re.escape(form), content) for form in forms)
        if index % 2 == 0 and (mention or predict):
            return "attacker breaks the rules", index + 1
        if index % 2 == 1 and predict:
            return ("defender wins" if correct else "attacker wins"), index + 1
        if index % 2 == 1 and mention:
            return "attacker wins", index + 1
    return "tied game", min(len(texts), 2 * max_turns)


PIECES = [
    "cat",
    "cats",
    "Cat",
    "ing",
    "i know the word!",
    "I Know The Word! It is ",
    " it",
    "`",
    '"',
    "\n",
    " ",
    "dog",
    "İ",
]
texts_of_pieces = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@settings(deadline=None)
@given(st.lists(texts_of_pieces | st.text(max_size=20), max_size=8), st.sampled_from(["cat", "dog", "(", "Know"]))
def test_the_official_rules_restated(texts: list[str], target: str) -> None:
    found = judge(said(*texts), target, 3)
    assert (found.outcome, found.length) == restated(texts, target, 3)


def test_sixteen_derivatives() -> None:
    assert len(derivatives("Cat")) == 16
    assert {"cat", "cating", "cated", "cats", '"cats"', "'cating'", "`cat`"} <= set(derivatives("Cat"))


# What the strict rules do not care about.

plain_texts = st.text(alphabet=st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=30)
mixed_texts = st.lists(st.sampled_from(PIECES) | plain_texts, max_size=6).map("".join)


def decided(text: str) -> tuple[bool, bool, bool]:
    found = strict_finding(text, "cat")
    return found.mention is not None, found.guess is not None, found.correct


@settings(deadline=None)
@given(mixed_texts)
def test_strict_rules_ignore_unicode_form_and_case(text: str) -> None:
    assert decided(unicodedata.normalize("NFKC", text)) == decided(text)
    assert decided(re.sub("[a-z]", lambda letter: letter[0].upper(), text)) == decided(text)


@settings(deadline=None)
@given(mixed_texts, st.integers(0, 30), st.sampled_from(["\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad"]))
def test_strict_rules_ignore_invisible_characters(text: str, place: int, invisible: str) -> None:
    # Between two characters that would compose, an invisible one is no longer invisible to NFKC's reordering.
    if all(unicodedata.combining(char) == 0 for char in unicodedata.normalize("NFKD", text)):
        assert decided(text[:place] + invisible + text[place:]) == decided(text)


@settings(deadline=None)
@given(texts_of_pieces)
def test_strict_rules_ignore_curly_quotes(text: str) -> None:
    curly = text.replace('"', "\u201d").replace("'", "\u2019")
    assert decided(curly) == decided(text)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_normalised_text_stays(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


# Untrusted text.

any_text = st.text(alphabet=st.characters(codec=None), max_size=200)  # lone surrogates too


@settings(deadline=None)
@given(
    st.lists(any_text | mixed_texts, max_size=6),
    st.text(min_size=1, max_size=12),
    st.sampled_from(["official", "strict"]),
)
def test_any_text_is_judged_and_the_evidence_lies_in_it(texts: list[str], target: str, rules: Rules) -> None:
    history = said(*texts)
    if len(target.splitlines()) > 1 or not normalised(target).strip():
        with pytest.raises(ValueError, match="target: got"):
            judge(history, target, 2, rules)
        return
    found = judge(history, target, 2, rules)
    assert found == judge(history, target, 2, rules)
    assert 0 <= found.length <= min(4, len(texts))
    if found.span is not None:
        start, end = found.span
        assert 0 <= start <= end <= len(texts[found.length - 1])


@pytest.mark.parametrize(
    "piece", ["i know the word! it is ", " \t", "\ufdfa", "cat_", "'", "I know the word it's \"", "e\u0301"]
)
def test_long_texts_take_linear_time(piece: str) -> None:
    """A quadratic referee would need an hour for these."""
    text = piece * (100_000 // len(piece)) + "é"
    for find in (official_finding, strict_finding):
        find(text, "zebra crossing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": ""}, "target: got ''"),
        ({"target": " \u200b"}, "need a word, on one line"),
        ({"target": "a\nb"}, "target: got 'a"),
        ({"target": 3}, "target: got '3'"),
        ({"max_turns": 0}, "max_turns: got 0, need a whole number from 1"),
        ({"max_turns": 2.0}, "max_turns: got 2.0"),
        ({"max_turns": True}, "max_turns: got True"),
        ({"rules": "lenient"}, "rules: got 'lenient', need one of official, strict"),
        ({"history": [{"role": "attacker"}]}, "need role and content, both text"),
        ({"history": [{"role": "attacker", "content": None}]}, "need role and content, both text"),
        ({"history": ["text"]}, "history: got 'text'"),
        ({"history": [{"role": "judge", "content": ""}]}, "utterance 1: got role 'judge', need 'attacker'"),
        ({"history": said("a", "b")[::-1]}, "utterance 1: got role 'defender', need 'attacker'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        judge(**{"history": [], "target": "cat", "max_turns": 5, **arguments})


def test_winner_and_offender_of_a_verdict() -> None:
    assert Verdict("attacker wins", 1).winner == "attacker"
    assert Verdict("attacker breaks the rules", 1).offender == "attacker"
    assert Verdict("tied game", 1).winner is Verdict("error", 0).offender is None
