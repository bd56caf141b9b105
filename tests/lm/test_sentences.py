"""Sentence ends and words in capitals: gold by hand, nothing lost, hostile text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.lm.sentences import sentences, words_in_capitals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("no end", ["no end"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Very bad acting!!! I promise.", ["Very bad acting!!!", "I promise."]),
        # abbreviations, initials and numbers
        ("Mr. Smith met Dr. Jones in St. Louis.", ["Mr. Smith met Dr. Jones in St. Louis."]),
        ("She works for Acme Inc. However, he does not.", ["She works for Acme Inc.", "However, he does not."]),
        ("Meet at 5 p.m. on Monday. Bring food.", ["Meet at 5 p.m. on Monday.", "Bring food."]),
        ("The mid-Jan. sale", ["The mid-Jan. sale"]),
        ("J. Doe wrote it.", ["J. Doe wrote it."]),
        ("World War I. We know.", ["World War I.", "We know."]),
        ("Version 2.5 is out. See p. 7.", ["Version 2.5 is out.", "See p. 7."]),
        ("In 1990. the wall", ["In 1990. the wall"]),
        ("In 1990. The wall", ["In 1990.", "The wall"]),
        ("In 1990. Who", ["In 1990. Who"]),
        ("1. First\n2. Second", ["1.", "First\n2.", "Second"]),
        ("It ends in .5. Next.", ["It ends in .5.", "Next."]),
        # ellipses
        ("Well... perhaps", ["Well... perhaps"]),
        ("Well... Finally!", ["Well...", "Finally!"]),
        ("Well . . . finally", ["Well .", ".", ".", "finally"]),
        # what closes a sentence stays with it
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
        ("“Why?” she asked.", ["“Why?”", "she asked."]),
        ("What?! No", ["What?!", "No"]),
        ("example.com is a site. Yes.", ["example.com is a site.", "Yes."]),
        ("  indented. text  ", ["  indented.", "text"]),
    ],
)
def test_sentences_by_hand(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.lists(st.sampled_from(["a", "B", ".", "!", "?", '"', ")", " ", "\n", "\xa0", "Mr.", "1.", "..", "é", "-"])))
def test_sentences_lose_nothing_but_blanks(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("no capitals", 0),
        ("The USA and NASA", 2),
        ("A WELL-KNOWN I", 3),
        ("AND/OR 'TWAS", 2),
        ("NASA'S CANNOT", 4),  # NASA 'S CAN NOT
        ("NASA's TV's", 2),
        ("IT'S I'LL WE'VE DON'T", 8),
        ("GONNA WANNA GIMME LEMME GOTTA", 10),
        ("ABC,DEF 1,000A A:1", 4),
        ("**BOLD** [X] (Y) {Z} <B>", 5),
        ("ONE--TWO ONE—TWO ONE...TWO", 6),
        ('"QUOTED" “QUOTED” ‘QUOTED’ `CODE`', 4),
        ("R&D 50% A@B #TAG $A", 6),
        ("CO.'S I'M.", 4),
        ("U.S. U.K.", 2),
        ("ÉCOLE ßA 漢字 123", 1),
    ],
)
def test_words_in_capitals_by_hand(text: str, count: int) -> None:
    assert words_in_capitals(text) == count


@pytest.mark.parametrize("piece", [".", "!", '."', ". ", "a.", "A. b-", "'", "*", " \n", ". . ", "[", "Mr. A ", "a"])
@pytest.mark.timeout(60)
def test_hostile_text_ends_in_bounded_time(piece: str) -> None:
    """A quadratic path over it would take minutes."""
    assert words_in_capitals("X" + piece * (200_000 // len(piece)) + "X") >= 0
