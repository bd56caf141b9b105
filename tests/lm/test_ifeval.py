"""IFEval: every checker both ways, strict and loose, shares, faults in the data, hostile responses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.lm import ifeval_checks
from tenfold.lm.ifeval import INSTRUCTIONS, Item, check, evaluate, judge, load, variants
from tenfold.lm.ifeval_checks import LONGEST_FOR_LANGUAGE, language

ENGLISH = "This is an ordinary answer in the English language, and it is long enough to be recognised as such"
# instruction, its arguments, responses that follow it, responses that do not
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 3},
        ["ONE TWO THREE", "The USA, NASA and I", "CANNOT STOP"],
        ["ONE TWO", "One Two Three", "O-N-E 2 3"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 2},
        ["none", "ONE word"],
        ["ONE TWO"],
    ),
    (
        "change_case:english_capital",
        {},
        [ENGLISH.upper()],
        [ENGLISH, "12345", "DAS IST EIN GANZ NORMALER DEUTSCHER SATZ MIT VIELEN WÖRTERN UND OHNE SINN"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [ENGLISH.lower()],
        [ENGLISH, "12345", "das ist ein ganz normaler deutscher satz mit vielen wörtern und ohne sinn"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it twice. "},
        ["Say it twice. Hello", "  SAY IT TWICE.\nHello", "say it twice."],
        ["Sure: Say it twice.", "Say it  twice."],
    ),
    (
        "combination:two_responses",
        {},
        ["one ****** two", "one******two", "******\none\n******\ntwo\n******"],
        ["one", "one ****** one", "a ****** b ****** c", "a ****** ****** b", "one *** two", "one ******"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] [address]", "[a] [b] [c]", "[[a] b] [c]", "[][]"],
        ["[name]", "[name\n] [a]", "[[a]]", "no"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye\nP.S. more", "p. s. more", "text P.S.", "P.P. S. x"],
        ["PS more", "P.S more", "p.  s."],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S more", "p. p. s", "P.P.S. x"],
        ["P.S. more", "PPS"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "NB:"}, ["nb: x", "NB: y"], ["N.B. x"]),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is no. Because", "My answer is maybe."],
        ["My answer is yes", "my answer is yes.", "Yes."],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n[]\n```", "3", '"x"', "```JSON\nnull```"],
        ["[" * 100_000, "{a: 1}", 'Here: {"a": 1}', '{"a": 1', "```python\n{}\n```"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3", "Section\n1 Section 22"],
        ["Section 1", "SECTION 1 SECTION 2", "Section one Section two", "Section  1 Section  2"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n- b", "* a\n- b", "text\n  * a\n\n\t- b\n** c", "*a\n-b", "*\n- a"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "1. a\n2. b", "a * b - c"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** **b**", "*a* and **b**", "* a\n*b* c *d*"],
        ["*a*", "** ** * *", "*a\nb* **", "no"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<Poem>>", "text <<a b>> text", "<<<x>>>", "<<a>> <<b>>"],
        ["<Poem>", "<<>>", "<< >>", "<<a\nb>>", "<<<>>>", "a >> b << c"],
    ),
    ("keywords:existence", {"keywords": ["cat", "dog"]}, ["Dogs and CATs", "dogcat"], ["cat", "do g cat"]),
    ("keywords:existence", {"keywords": ["c++ (new)"]}, ["learn C++ (new)"], ["ccc new"]),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["cat", "dog"]},
        ["bird", "catalogue", "a_cat_b"],
        ["A Cat.", "hot-dog"],
    ),
    (
        "keywords:frequency",
        {"keyword": " cat ", "frequency": 2, "relation": "at least"},
        ["cat Cat", "catcat"],
        ["cat"],
    ),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, ["cat", "dog"], ["cat, cats"]),
    (
        "keywords:letter_frequency",
        {"letter": "A", "let_frequency": 3, "let_relation": "at least"},
        ["aAa", "banana"],
        ["aa", "bcd"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 1, "let_relation": "less than"},
        ["calm"],
        ["not calm!"],
    ),
    (
        "language:response_language",
        {"language": "fr"},
        ["Je ne sais pas ce que vous voulez dire, mais c'est une réponse en français.", "123"],
        [ENGLISH],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Once"},
        ["A\n\nOnce more", "A\n\n'\"Once, more", "A\n\n once's\nB", "A\n\nONCE.more"],
        ["Once\n\nA", "A\n\nOnce\n\nB", "A\nOnce", "A\n\n\n\nOnce", "A\n\nOncemore"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "it's"},
        [],
        ["it's"],  # a word ends at its apostrophe
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
        [],
        ["a", "a\n\n"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a *** b", "***\na\n***\nb\n***", "a***b"],
        ["a", "a\n***\nb\n***\nc", "a *** *** b", "a\n\nb"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sections": 9, "num_sentences": 3, "relation": "at least"},
        ["One. Two. Three.", "A! B? C"],
        ["One. Two.", "Dr. Smith met Mr. Jones. Ok?"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["One, two."],
        ["One. Two."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ["one two three", "well-known it", "don't 2", "a_b c d"],
        ["one two", "... --- !!!"],
    ),
    ("length_constraints:number_words", {"num_words": 3.0, "relation": "less than"}, ["one two"], ["one two three"]),
    ("punctuation:no_comma", {}, ["none here", "a، b; c"], ["a, b", ","]),
    (
        "startend:end_checker",
        {"end_phrase": "The End. "},
        ["x The End.", "x the end.\n", '"x THE END."'],
        ["The End. x", "x The End", "x The End.*"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a"\n', '""'], ["a", '"', '"a', "“a”", "'a'"]),
]


@pytest.mark.parametrize(("name", "kwargs", "follow", "fail"), CASES)
def test_every_check_both_ways(name: str, kwargs: dict[str, Any], follow: list[str], fail: list[str]) -> None:
    assert {text: check(name, kwargs, "", text) for text in follow} == dict.fromkeys(follow, True)
    assert {text: check(name, kwargs, "", text) for text in fail} == dict.fromkeys(fail, False)
    # A blank response follows nothing, and the nulls of the public data set change nothing.
    assert not check(name, kwargs, "", " \n")
    nulls = dict.fromkeys(key for _, given, *_ in CASES for key in given)
    assert [check(name, {**nulls, **kwargs}, "", text) for text in follow] == [True] * len(follow)


def test_all_25_instructions_are_tried() -> None:
    assert len(INSTRUCTIONS) == 25 and {name for name, *_ in CASES} == set(INSTRUCTIONS)


def test_a_request_to_repeat_may_be_the_whole_prompt() -> None:
    assert check("combination:repeat_prompt", {"prompt_to_repeat": None}, "Do it.", "Do it. Done.")
    assert not check("combination:repeat_prompt", {}, "Do it.", "Done.")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("length:words", {}, "instruction_id: got 'length:words', need one of change_case"),
        ("length_constraints:number_words", {"relation": "at least"}, "num_words: got None, need a whole number"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "num_words: got True"),
        ("length_constraints:number_words", {"num_words": 2.5, "relation": "at least"}, "num_words: got 2.5"),
        ("length_constraints:number_words", {"num_words": float("inf"), "relation": "at least"}, "num_words: got inf"),
        ("length_constraints:number_words", {"num_words": float("nan"), "relation": "at least"}, "num_words: got nan"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "num_words: got -1"),
        ("length_constraints:number_words", {"num_words": 5, "relation": "at most"}, "relation: got 'at most', need"),
        ("keywords:existence", {"keywords": []}, r"keywords: got \[\], need a list"),
        ("keywords:existence", {"keywords": "cat"}, "keywords: got 'cat', need a list"),
        ("keywords:frequency", {"keyword": " ", "frequency": 1, "relation": "at least"}, "keyword: got ' ', need text"),
        (
            "keywords:letter_frequency",
            {"letter": "ab", "let_frequency": 1, "let_relation": "at least"},
            "letter: got 'ab'",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 0, "first_word": "a"},
            "nth_paragraph: got 0, need 1",
        ),
        ("combination:repeat_prompt", {}, "prompt_to_repeat: got '', need text"),
    ],
)
def test_wrong_arguments_are_named(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(name, kwargs, "", "text")


def test_loose_takes_a_frame_and_stars_away() -> None:
    assert variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]
    item = Item("1", "p", ("startend:quotation", "punctuation:no_comma"), ({}, {}))
    verdict = judge(item, 'Sure, here:\n*"fine"*\nBye')
    assert verdict.strict == (False, False)
    assert verdict.loose == (True, True)


@given(st.text(alphabet='ab"*\n,.[]<> ', max_size=40))
def test_strict_implies_loose(response: str) -> None:
    cases = [(name, kwargs) for name, kwargs, *_ in CASES if not name.startswith(("language", "change_case:english"))]
    item = Item("1", "p", tuple(name for name, _ in cases), tuple(kwargs for _, kwargs in cases))
    verdict = judge(item, response)
    assert all(loose for strict, loose in zip(verdict.strict, verdict.loose, strict=True) if strict)
    if not response.strip():
        assert not any(verdict.loose)


def test_shares_over_prompts_and_instructions() -> None:
    comma, quotes = ("punctuation:no_comma",), ("punctuation:no_comma", "startend:quotation")
    items = [Item("1", "p", comma, ({},)), Item("2", "p", quotes, ({}, {})), Item("3", "p", quotes, ({}, {}))]
    scores = evaluate(items, ["plain", "plain", 'Here, look:\n"plain"'])
    assert scores["prompt_strict"].value == pytest.approx(1 / 3)
    assert scores["prompt_loose"].value == pytest.approx(2 / 3)
    assert scores["instruction_strict"].value == pytest.approx(2 / 5)
    assert scores["instruction_loose"].value == pytest.approx(4 / 5)
    strict, loose = scores["by_instruction"]["startend:quotation"]
    assert (strict.value, loose.value) == (0, 0.5)
    assert strict.low == 0 < strict.high < 1
    assert [verdict.key for verdict in scores["verdicts"]] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="responses: got 1 for 3 items"):
        evaluate(items, ["one"])
    with pytest.raises(ValueError, match="responses: got 0 for 0 items"):
        evaluate([], [])


def test_the_400_prompts_can_be_judged(data_dir: Path) -> None:
    items = load(data_dir / "02-afm" / "ifeval_400.jsonl")
    assert len(items) == 400 and sum(len(item.instruction_ids) for item in items) == 618
    assert {name for item in items for name in item.instruction_ids} == set(INSTRUCTIONS)


ROW = {"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "prompt: got ' ', need a text"),
        (
            {"instruction_id_list": "punctuation:no_comma"},
            "instruction_id_list: got 'punctuation:no_comma', need a list of",
        ),
        ({"instruction_id_list": ["no:such"]}, "instruction_id: got 'no:such'"),
        ({"instruction_id_list": []}, "kwargs: got 1 for 0 instructions"),
        ({"kwargs": []}, "kwargs: got 0 for 1 instructions"),
        ({"kwargs": [None]}, r"kwargs: got \[None\], need a list of dict"),
        ({"instruction_id_list": ["length_constraints:number_words"]}, "num_words: got None"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | change) + "\n")
    with pytest.raises(UserError, match=rf"rows.jsonl:2: {message}"):
        load(file)


def test_absent_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "good.jsonl").write_text(json.dumps(ROW))
    assert load(tmp_path / "good.jsonl") == [Item("7", "p", ("punctuation:no_comma",), ({"num_words": None},))]
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="got no rows"):
        load(tmp_path / "empty.jsonl")
    with pytest.raises(UserError, match=r"data not found: .*none.jsonl"):
        load(tmp_path / "none.jsonl")


def test_language_is_the_same_every_time() -> None:
    mixed = "the der le la und and et il was ist est"
    language.cache_clear()
    first = language(mixed)
    language.cache_clear()
    assert language(mixed) == first
    assert language("12 34 !?") is None
    assert language("a" * 2 * LONGEST_FOR_LANGUAGE) is not None


def test_langdetect_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    language.cache_clear()
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(UserError, match=r"langdetect is not installed: pip install langdetect"):
        check("language:response_language", {"language": "en"}, "", "text")


SIZE = 200_000
HOSTILE = ["[", "<", "<<", "*", "* ", "\n", " ", "\r", "-", "{", '{"a":', "1", "Section ", "p.", "a@", "\0\x1f\u2028\x85", "\ud800", "é\u0301", "'", '"']  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.timeout(60)
def test_hostile_responses_end_in_bounded_time(piece: str) -> None:
    """Each of these makes a regular expression with two repeats walk a quadratic path (SIZE² / 2 steps: minutes)."""
    for name, kwargs, *_ in CASES:
        assert check(name, kwargs, "prompt", "x" + piece * (SIZE // len(piece)) + "x") in (True, False)


def test_registry_and_checks_are_one() -> None:
    assert INSTRUCTIONS is ifeval_checks.INSTRUCTIONS
