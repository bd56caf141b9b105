"""Where two prompts differ, word by word."""

from __future__ import annotations

import difflib
import re
from typing import Literal

Piece = tuple[Literal["same", "gone", "new"], str]
MOST_WORDS = 4000  # of a prompt that is compared word by word


def word_diff(old: str, new: str) -> list[Piece]:
    """The pieces of both texts in order; "same" and "new" together are the new text, "same" and "gone" the old."""
    one, two = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    if max(len(one), len(two)) > MOST_WORDS:
        return [("gone", old), ("new", new)]
    pieces: list[Piece] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(("same", "".join(two[c:d])))
            continue
        if b > a:
            pieces.append(("gone", "".join(one[a:b])))
        if d > c:
            pieces.append(("new", "".join(two[c:d])))
    return pieces
