"""Words are compared without regard to case, punctuation and Unicode spelling."""

from __future__ import annotations

import pytest

from tenfold.text.words import normalised_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("--- !?", []),
        ("Don't STOP_now, 3.5%!", ["don", "t", "stop", "now", "3", "5"]),
        ("a\tb\u2028c\u00a0d", ["a", "b", "c", "d"]),
        ("cafe\u0301 ﬁne Ⅳ １２", ["café", "fine", "iv", "12"]),
        ("你好,世界", ["你好", "世界"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert normalised_words(text) == words
