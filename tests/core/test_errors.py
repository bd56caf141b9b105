"""Messages are one line that a terminal can show, whatever they quote."""

from __future__ import annotations

import pickle
import time

from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import LONGEST_MESSAGE, UserError, one_line, printable


@given(st.text() | st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=0x2030)))
def test_any_text_is_one_line(text: str) -> None:
    line = str(UserError(text))
    assert line.isprintable() and len(line) <= LONGEST_MESSAGE
    assert one_line(line) == line
    line.encode()  # halves of surrogate pairs are spelt out


def test_harmless_text_stays_as_it_is() -> None:
    for text in ("a.txt:3: got 'é', need “x” → 漢字 🙂", "", " two  blanks "):
        assert str(UserError(text)) == text


def test_what_moves_the_cursor_is_spelt_out() -> None:
    assert one_line("a\x1b[2Kb\r\nc\td\u202ee\udcffe\x00") == r"a\x1b[2Kb c d\u202ee\udcffe\x00"


def test_a_models_words_cannot_steer_the_terminal() -> None:
    assert printable("é 😀\n\tok", keep="\n\t", unseen=None) == "é 😀\n\tok"
    assert printable("\x1b[2J\x07\r\u202e", keep="\n\t", unseen=None) == "\\x1b[2J\\x07\\x0d\\x202e"
    assert printable("a\x1bb\nc") == "a b c"


def test_long_texts_lose_their_middle() -> None:
    start = time.perf_counter()
    line = one_line("start " + "\x1b" * 30_000_000 + " end")
    assert time.perf_counter() - start < 1
    assert line.startswith("start ") and line.endswith(" end") and " … " in line and len(line) <= LONGEST_MESSAGE


def test_errors_go_through_a_pickle_and_need_no_message() -> None:
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"
    assert str(UserError()) == ""
