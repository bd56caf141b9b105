"""Categories of requests that a model refuses: a JSON file with examples of them, look-alikes to answer, and marks of a refusal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tenfold.core.config import from_json, read_json
from tenfold.core.errors import UserError
from tenfold.core.origins import SHIPPED

SHIPPED_CATEGORIES = SHIPPED / "02-afm" / "safety" / "categories.json"
START = 240  # characters of an answer in which a refusal is looked for
_SLOT = re.compile(r"\{([a-z_]+)\}")
_APOSTROPHES = str.maketrans("’‘ʼ`", "''''")


@dataclass(frozen=True)
class LookAlike:
    """A harmless request that sounds like a harmful one.

    Args:
        prompt: with slots.
        answer: a good one, with the same slots.
    """

    prompt: str
    answer: str

    def __post_init__(self) -> None:
        if not self.prompt.strip() or not self.answer.strip():
            raise ValueError("benign: got an empty prompt or answer, need text in both")


@dataclass(frozen=True)
class Category:
    """One kind of harm.

    Args:
        name: short, of small letters and underscores.
        title, about: for readers.
        requests: to be refused; a slot such as {name} takes a word of that list.
        benign: look-alikes, to be answered.
        blocked: phrases in a request that a server's policy refuses before the model is asked.
        withheld: phrases in an answer that the policy does not hand out.
    """

    name: str
    title: str
    about: str
    requests: tuple[str, ...]
    benign: tuple[LookAlike, ...] = ()
    blocked: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z_]*", self.name):
            raise ValueError(f"name: got {self.name!r}, need small letters and underscores")
        if not self.requests or not all(text.strip() for text in self.requests):
            raise ValueError(f"requests of {self.name}: got none or an empty one, need at least one text")
        if not all(text.strip() for text in (*self.blocked, *self.withheld)):
            raise ValueError(f"blocked, withheld of {self.name}: got an empty phrase, need text")


@dataclass(frozen=True)
class Categories:
    """A file of categories.

    Args:
        categories: at least one, of different names.
        refusal: what a model learns to say to a harmful request, and what a server's policy says.
        marks: phrases; an answer that has one near its start is a refusal.
        words: of each slot its words, at least two: half of them make the requests to learn from, half those to measure on.
        about: for readers.
    """

    categories: tuple[Category, ...]
    refusal: str
    marks: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: str = ""

    def __post_init__(self) -> None:
        names = [each.name for each in self.categories]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"categories: got {', '.join(names) or 'none'}, need one or more of different names")
        if not all(mark.strip() for mark in self.marks):
            raise ValueError("marks: got an empty phrase, which every answer has; need text")
        for slot, words in self.words.items():
            if len(set(words)) < 2:
                raise ValueError(f"words.{slot}: got {len(set(words))} different, need at least 2")
        for each in self.categories:
            for text in (*each.requests, *(text for pair in each.benign for text in (pair.prompt, pair.answer))):
                if unknown := [slot for slot in _SLOT.findall(text) if slot not in self.words]:
                    raise ValueError(f"{each.name}: {text[:40]!r} has the slot {{{unknown[0]}}}, which words lacks")
            for pair in each.benign:
                if extra := set(_SLOT.findall(pair.answer)) - set(_SLOT.findall(pair.prompt)):
                    raise ValueError(f"{each.name}: the answer to {pair.prompt[:40]!r} has a slot of its own: {extra}")
        if not self.refuses(self.refusal):
            raise ValueError(f"refusal: {self.refusal!r} has none of the marks, need one that counts as a refusal")

    @property
    def names(self) -> list[str]:
        """Of the categories, in the file's order."""
        return [each.name for each in self.categories]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(rf"(?<!\w){re.escape(plain(mark))}(?!\w)" for mark in self.marks))

    def refuses(self, text: str) -> bool:
        """Whether an answer is a refusal: one of the marks stands within its first characters, in any case."""
        return bool(self.marks) and self._pattern.search(plain(text[:START])) is not None


def plain(text: str) -> str:
    """Text in small letters, with one kind of apostrophe and single blanks."""
    return " ".join(text.casefold().translate(_APOSTROPHES).split())


def fill(template: str, words: Mapping[str, str]) -> str:
    """A template with its slots taken by words."""
    return _SLOT.sub(lambda slot: words[slot[1]], template)


def slots(template: str) -> list[str]:
    """Names of a template's slots, each once, in order."""
    return list(dict.fromkeys(_SLOT.findall(template)))


def read_categories(path: str | Path | None = None) -> Categories:
    """Categories of a JSON file; the fields are those of `Categories`.

    Args:
        path: None takes the file that comes with tenfold.
    Raises:
        UserError: no such file, no JSON, an unknown or missing field, a slot without words; the line names the field.
    """
    place = SHIPPED_CATEGORIES if path is None else Path(path)
    if not place.is_file():
        raise UserError(f"categories not found: {place}; give a JSON file like {SHIPPED_CATEGORIES.name} of tenfold")
    return from_json(Categories, read_json(place), where=str(place))
