"""The options that a question lists, as BIG-Bench Hard writes them."""

from __future__ import annotations

import re

MOST_LABELS = 3  # different answers of a task without listed options that make it a choice, such as True and False

_LETTERED = re.compile(r"^\(([A-Z])\) ?(.*)$", re.MULTILINE)
_LISTED = re.compile(r"^- (.+)$", re.MULTILINE)


def lettered_options(question: str) -> dict[str, str]:
    """Letter to text of the options behind "Options:"; empty where they have no letters."""
    listed = question.partition("Options:\n")[2]
    return {letter: text.strip() for letter, text in _LETTERED.findall(listed)}


def listed_options(question: str) -> list[str]:
    """The options behind "Options:" that stand behind a dash, in their order."""
    return [option.strip() for option in _LISTED.findall(question.partition("Options:\n")[2])]
