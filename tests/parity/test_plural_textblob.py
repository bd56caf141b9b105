"""Our plurals against textblob's on the paper's whole word list, as far as a referee can tell them apart."""

from __future__ import annotations

from pathlib import Path

from tenfold.games.english import plural
from tenfold.games.files import load_target_words


def test_a_referee_sees_the_same_words(data_dir: Path) -> None:
    """Equal, or both contain the word and so are found with it; the rest are words that have no plural or two."""
    from textblob.en.inflect import pluralize

    words = load_target_words(data_dir / "07-spag" / "target_words.txt")
    apart = []
    for word in words:
        ours, theirs = plural(word), pluralize(word)
        if ours != theirs and not (word in ours and word in theirs):
            apart.append((word, ours, theirs))
    assert len(apart) <= 0.002 * len(words), apart
