"""A server's policy of phrases: requests and answers that hold one of the categories' phrases are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tenfold.align.safety_categories import Categories, plain
from tenfold.lm.serve_policy import Exchange


class PhrasePolicy:
    """Refuses a request that holds a "blocked" phrase of a category, and an answer that holds a "withheld" one.

    A `lm.serve_policy.Policy`. Phrases are compared word by word, in any case; another wording passes, so it stands beside
    a model that was taught to refuse, not in its place.

    Args:
        categories: with the phrases and the refusal that clients get.
    """

    def __init__(self, categories: Categories) -> None:
        self._refusal = categories.refusal
        self._blocked = _any_of([phrase for each in categories.categories for phrase in each.blocked])
        self._withheld = _any_of([phrase for each in categories.categories for phrase in each.withheld])

    def __call__(self, exchange: Exchange) -> str | None:
        """The refusal, or None."""
        if exchange.answer is not None:
            found = self._withheld.search(plain(exchange.answer))
        else:
            said = "\n".join(turn.content for turn in exchange.messages if turn.role == "user")
            found = self._blocked.search(plain(said))
        return self._refusal if found else None


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds any of the phrases as whole words; of none it finds nothing."""
    return re.compile("|".join(rf"(?<!\w){re.escape(plain(phrase))}(?!\w)" for phrase in phrases) or r"(?!)")
