"""Endless small instructions with an exact checker: prompts on which a tiny model can show that it learned to follow.

The words are made up of syllables, so that there are a million of them and none is learned by heart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.text.messages import Message

CONSONANTS, VOWELS = "bcdfghjklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Item:
    """One instruction.

    Args:
        messages: the prompt.
        checker: the kind of instruction, a name in `CHECKERS`.
        arguments: what the checker needs, plain JSON data.
        answer: a right answer.
    """

    messages: tuple[Message, ...]
    checker: str
    arguments: Mapping[str, Any]
    answer: str


def toy_instruct(seed: int, checkers: Sequence[str] | None = None) -> Iterator[Item]:
    """Endless instructions; the i-th depends on (seed, i) alone.

    Args:
        seed: different ones give different words and numbers.
        checkers: kinds to draw from; None: all.
    Raises:
        ValueError: an unknown kind.
    """
    names = list(CHECKERS) if checkers is None else list(checkers)
    if not names or not set(names) <= set(CHECKERS):
        raise ValueError(f"checkers: got {names}, need names of {', '.join(CHECKERS)}")
    return _items(seed, names)


def check(item: Item, text: str) -> float:
    """1 where a text answers the instruction exactly, else 0; blanks around the text do not count."""
    return float(CHECKERS[item.checker].right(text.strip(), **item.arguments))


def _items(seed: int, names: Sequence[str]) -> Iterator[Item]:
    index = 0
    while True:
        draw = random.Random(f"{seed}/{index}")
        name = draw.choice(names)
        arguments, prompt, answer = CHECKERS[name].make(draw)
        yield Item((Message("user", prompt),), name, arguments, answer)
        index += 1


Made = tuple[dict[str, Any], str, str]  # arguments, prompt, answer


@dataclass(frozen=True)
class Checker:
    """A kind of instruction: how one is made, and whether a stripped text answers it."""

    make: Callable[[random.Random], Made]
    right: Callable[..., bool]


def _word(draw: random.Random) -> str:
    syllables = draw.choice((2, 2, 3))
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(syllables))


def _words(draw: random.Random, count: int) -> list[str]:
    return [_word(draw) for _ in range(count)]


def _equals(text: str, answer: str) -> bool:
    return text == answer


def _exactly(make: Callable[[random.Random], tuple[str, str]]) -> Checker:
    """A kind with one right answer."""

    def whole(draw: random.Random) -> Made:
        prompt, answer = make(draw)
        return {"answer": answer}, prompt, answer

    return Checker(whole, _equals)


def _copy(draw: random.Random) -> tuple[str, str]:
    word = _word(draw)
    return f"Copy the word {word}.", word


def _reverse(draw: random.Random) -> tuple[str, str]:
    word = _word(draw)
    return f"Write the word {word} backwards.", word[::-1]


def _upper(draw: random.Random) -> tuple[str, str]:
    word = _word(draw)
    return f"Write the word {word} in capital letters.", word.upper()


def _repeat(draw: random.Random) -> tuple[str, str]:
    word, times = _word(draw), draw.randint(2, 5)
    return f"Write the word {word} {times} times.", " ".join([word] * times)


def _count_letters(draw: random.Random) -> tuple[str, str]:
    word = _word(draw) + draw.choice(("", draw.choice(CONSONANTS)))
    return f"How many letters has the word {word}?", str(len(word))


def _last_letters(draw: random.Random) -> tuple[str, str]:
    words = _words(draw, draw.randint(2, 4))
    return f"Write the last letter of each word: {' '.join(words)}.", " ".join(word[-1] for word in words)


def _add(draw: random.Random) -> tuple[str, str]:
    a, b = draw.randrange(100), draw.randrange(100)
    return f"Add {a} and {b}.", str(a + b)


def _sort_digits(draw: random.Random) -> tuple[str, str]:
    digits = [str(draw.randrange(10)) for _ in range(draw.randint(3, 5))]
    return f"Sort the digits {' '.join(digits)}.", " ".join(sorted(digits))


def _exact_words(draw: random.Random) -> Made:
    count = draw.randint(2, 6)
    return {"count": count}, f"Answer with exactly {count} words.", " ".join(_words(draw, count))


def _is_words(text: str, count: int) -> bool:
    words = text.split()
    return len(words) == count and all(re.fullmatch("[A-Za-z]{2,}", word) for word in words)


def _avoid_letter(draw: random.Random) -> Made:
    letter, count = draw.choice(CONSONANTS + VOWELS), draw.randint(2, 4)
    words: list[str] = []
    while len(words) < count:
        word = _word(draw)
        if letter not in word:
            words.append(word)
    prompt = f"Answer with exactly {count} words. Do not use the letter {letter}."
    return {"count": count, "letter": letter}, prompt, " ".join(words)


def _avoids(text: str, count: int, letter: str) -> bool:
    return _is_words(text, count) and letter not in text.lower()


CHECKERS: dict[str, Checker] = {
    "copy": _exactly(_copy),
    "reverse": _exactly(_reverse),
    "upper": _exactly(_upper),
    "repeat": _exactly(_repeat),
    "count_letters": _exactly(_count_letters),
    "last_letters": _exactly(_last_letters),
    "add": _exactly(_add),
    "sort_digits": _exactly(_sort_digits),
    "exact_words": Checker(_exact_words, _is_words),
    "avoid_letter": Checker(_avoid_letter, _avoids),
}
