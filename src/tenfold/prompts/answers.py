"""What a reply answers: a tag or box first, then the last "answer is", then the one option it mentions, else nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

LONGEST = 200_000  # characters of a reply that are read, its end: answers stand there

_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.IGNORECASE | re.DOTALL)
_CLAUSE = re.compile(r"\banswer\s*(?:\bis\b|:|=)\s*[:*_]*\s*", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])([-+\u2212\u2013]?)\s?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![\d]|\.\d)")
_NUMBERING = re.compile(r"(?m)^\s*\d+[.)]\s+")
_BRACKETS = set("()[]{}<>")
_SPELT_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNITS = re.findall(r"\w+", _SPELT_UNITS)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_WORDS = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * (i + 2) for i, word in enumerate(_TENS)}
_WORDS |= {f"{ten}{mark}{_UNITS[one]}": _WORDS[ten] + one for ten in _TENS for one in range(1, 10) for mark in "- "}
_SPELT = re.compile(r"\b(?:(minus|negative)\s+)?(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b", re.I)

Reader = Callable[[str, bool], "str | None"]  # (a span, whether it is the whole reply) -> an answer


def extract(reply: str, read: Reader) -> str | None:
    """The answer in a reply.

    Args:
        reply: a model's words.
        read: what a span says in the task's own form, such as `number_in`.
    Returns:
        the answer, or None where none or several could be meant.
    """
    text = reply[-LONGEST:]
    marked = [_boxed(text), *(_TAG.findall(text)[-1:])]
    clauses = [match.end() for match in _CLAUSE.finditer(text)]
    for span in (*marked, text[clauses[-1] :].partition("\n")[0] if clauses else None):
        if span is not None and span.strip() and (answer := read(span.strip(), False)) is not None:
            return answer
    return read(text.strip(), True)


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{…} whose braces close."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 7 : at]
    return None


def number_in(span: str, whole: bool = False) -> str | None:
    """The number that a span names: digits before words; of a whole reply the last, of a clause what it comes to."""
    tail = span if whole else span.rpartition("=")[2]
    found = [_canonical(sign, digits) for sign, digits in _NUMBER.findall(tail)]
    if not found:
        found = [_canonical("-" if minus else "", str(_WORDS[word.lower()])) for minus, word in _SPELT.findall(tail)]
    return found[-1 if whole else 0] if found else None


def canonical_number(text: str) -> str | None:
    """A number as `number_in` writes it; None where the text is not one number."""
    plain = text.strip().replace("\u2212", "-").replace(",", "")
    try:
        return _plain(Decimal(plain))
    except InvalidOperation:
        return number_in(text) if text.strip().lower() in _WORDS else None


def _canonical(sign: str, digits: str) -> str:
    value = Decimal(digits.replace(",", ""))
    return _plain(-value if sign in ("-", "\u2212", "\u2013") else value)


def _plain(value: Decimal) -> str:
    if not value.is_finite():
        return str(value)
    return str(int(value)) if value == int(value) else format(value.normalize(), "f")


def one_of(labels: Iterable[str]) -> Reader:
    """Reads the one label that a span mentions as whole words in any case; "not yes" mentions none."""
    known = {label.casefold(): label for label in labels}
    words = "|".join(re.escape(label) for label in sorted(known, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(not\s+|n't\s+)?({words})(?!\w)", re.IGNORECASE)

    def read(span: str, whole: bool = False) -> str | None:
        named = {known[label.casefold()] for negated, label in pattern.findall(span) if not negated}
        return named.pop() if len(named) == 1 else None

    return read


def letter_of(options: Mapping[str, str]) -> Reader:
    """Reads the option that a span chooses, as "(A)": by its letter in any usual spelling, else by its text.

    The article "A" is no letter: a bare one counts where it stands alone, at a span's end or before punctuation.
    """
    letters = "".join(options)

    def only(found: Iterable[str]) -> str | None:
        named = set(found)
        return f"({named.pop()})" if len(named) == 1 else None

    def read(span: str, whole: bool = False) -> str | None:
        marks = [rf"\(([{letters}])\)", rf"(?<![\w(])([{letters}])\)"]
        marks.append(rf"^\W*([{letters}])\W*$" if whole else rf"^\W*([{letters}])(?=\W*$|\s*[.,;:!])")
        for mark in marks:
            if found := re.findall(mark, span):
                return only(found)
        if not whole and (found := re.findall(rf"(?<!\w)([{letters.replace('A', '').replace('I', '')}])(?!\w)", span)):
            return only(found)
        return only(_named_options(span, options))

    return read if letters else _nothing


def _nothing(span: str, whole: bool) -> None:
    return None


def _named_options(span: str, options: Mapping[str, str]) -> list[str]:
    """Letters of the options whose text stands in a span; one inside a longer named one does not count."""
    said = normalised(span).casefold()
    found = {letter: normalised(text).casefold() for letter, text in options.items()}
    named = {
        letter: text for letter, text in found.items() if text and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", said)
    }
    return [letter for letter, text in named.items() if not any(text != o and text in o for o in named.values())]


def whole_text(span: str, whole: bool = False) -> str | None:
    """A span as a free answer; a whole reply is one only where it is a single line."""
    text = normalised(span)
    return text if text and not (whole and "\n" in span.strip()) else None


def normalised(text: str) -> str:
    """A free answer with one spelling: no commas, numbering, quotes or final stop; brackets one space apart."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    plain = _NUMBERING.sub(" ", plain).replace(",", " ").strip().strip("\"'`*").strip()
    if plain and set(plain) <= _BRACKETS | set(" \n\t."):
        return " ".join(char for char in plain if char in _BRACKETS)
    return " ".join(plain.rstrip(".").split()).strip("\"'`*")


def same_text(one: str, other: str, case: bool = False) -> bool:
    """Whether two free answers are equal when spelt alike."""
    first, second = normalised(one), normalised(other)
    return first == second if case else first.casefold() == second.casefold()


def labels_of(targets: Sequence[str], most: int) -> tuple[str, ...]:
    """The different targets in order of the alphabet, where they are few; else none."""
    different = sorted(set(targets))
    return tuple(different) if len(different) <= most else ()
