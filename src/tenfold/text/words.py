"""Words as texts are compared by: case, punctuation and Unicode's several spellings of a character make no difference."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def normalised_words(text: str) -> list[str]:
    """Runs of letters and digits in lower case; everything else, symbols included, separates.

    A script written without spaces gives one word a clause.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())
