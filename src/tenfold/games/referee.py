"""The referees of Adversarial Taboo: the paper's own rules, and strict ones that look at words instead of letters.

Both read untrusted text of any length in linear time, and are pure functions of the history.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from tenfold.games.english import inflections, plural
from tenfold.games.game import TIED, Turn, Verdict, as_turn, in_order

Rules = Literal["official", "strict"]
Span = tuple[int, int]

ROLES = ("attacker", "defender")
FOUL = "attacker breaks the rules"

_GUESS = 200  # characters behind the phrase in which a guess is looked for


@dataclass(frozen=True)
class Finding:
    """What a referee sees in one utterance: characters that say the target, that guess, and whether the guess is right."""

    mention: Span | None = None
    guess: Span | None = None
    correct: bool = False


def judge(
    history: Sequence[Turn | Mapping[str, Any]], target: str, max_turns: int, rules: Rules = "official"
) -> Verdict:
    """Who won a game of Adversarial Taboo; the first decisive utterance ends it, what follows is not read.

    Args:
        history: utterances, attacker and defender in turn; `Turn`s or `{"role", "content"}`.
        target: the attacker's word.
        max_turns: T0; after 2 · T0 utterances the game is tied, as it is where the history ends early.
        rules: "official" looks for the target and simple forms of it anywhere in the text, "strict" for whole words
            in any spelling of case, quotes and invisible characters.
    Returns:
        outcome: attacker wins, defender wins, attacker breaks the rules, or tied game.
    Raises:
        ValueError: an empty target or one of several lines, max_turns below 1, roles out of order, other rules.
    Source: Cheng et al. 2024, arXiv 2404.10642, and its code; "strict" is ours.
    """
    check_target(target)
    check_turns(max_turns)
    if rules not in get_args(Rules):
        raise ValueError(f"rules: got {rules!r}, need one of {', '.join(get_args(Rules))}")
    turns = [as_turn(turn) for turn in history[: 2 * max_turns]]
    in_order(turns, ROLES)
    read = official_finding if rules == "official" else strict_finding
    for index, turn in enumerate(turns):
        found = read(turn.text, target)
        decided = _defender(found) if index % 2 else _attacker(found)
        if (
            decided is None
            and rules == "strict"
            and index > 1
            and is_blank(turn.text)
            and is_blank(turns[index - 2].text)
        ):
            decided = f"{ROLES[1 - index % 2]} wins", f"{turn.role} said nothing twice", (0, len(turn.text))
        if decided is not None:
            outcome, reason, span = decided
            return Verdict(outcome, index + 1, reason, span)
    return Verdict(TIED, len(turns), "turns used up" if len(turns) == 2 * max_turns else "history ends early")


def _defender(found: Finding) -> tuple[str, str, Span] | None:
    if found.guess is not None:  # before mention: a right guess says the word
        outcome = "defender wins" if found.correct else "attacker wins"
        return outcome, f"defender guessed {'right' if found.correct else 'wrong'}", found.guess
    if found.mention is not None:
        return "attacker wins", "defender said the word", found.mention
    return None


def _attacker(found: Finding) -> tuple[str, str, Span] | None:
    if found.mention is not None:
        return FOUL, "attacker said the word", found.mention
    if found.guess is not None:
        return FOUL, "attacker used the guessing phrase", found.guess
    return None


def check_target(target: object) -> None:
    """Raises ValueError unless the target is one line of text with something visible."""
    if not isinstance(target, str) or not normalised(target).strip() or len(target.splitlines()) > 1:
        raise ValueError(f"target: got {str(target)[:80]!r}, need a word, on one line")


def check_turns(max_turns: object) -> None:
    """Raises ValueError unless T0 is a whole number from 1."""
    if not isinstance(max_turns, int) or isinstance(max_turns, bool) or max_turns < 1:
        raise ValueError(f"max_turns: got {max_turns!r}, need a whole number from 1")


# The official rules.


def derivatives(target: str) -> tuple[str, ...]:
    """The target in lower case, with -ing and -ed, its plural, and each of the four in three kinds of quotes."""
    word = target.lower()
    plain = dict.fromkeys((word, word + "ing", word + "ed", plural(word)))
    return (*plain, *(f"{quote}{form}{quote}" for form in plain for quote in "\"'`"))


@lru_cache(maxsize=1 << 14)
def _official(target: str) -> tuple[tuple[str, str], re.Pattern[str], re.Pattern[str]]:
    word = target.lower()
    forms = "|".join(re.escape(form) for form in sorted(derivatives(target), key=len, reverse=True))
    return (word, plural(word)), re.compile(forms), re.compile(f"i know the word! it.{{1,8}}(?:{forms})")


_OFFICIAL_GUESS = re.compile("i know the word! it.{1,8}")


def official_finding(text: str, target: str) -> Finding:
    """What the paper's rules see: substrings of the text in lower case, and the exact opening of a guess."""
    lower = text.lower()
    shortest, forms, right = _official(target)
    mention = forms.search(lower) if shortest[0] in lower or shortest[1] in lower else None
    guess = right.search(lower)
    correct = guess is not None
    guess = guess or _OFFICIAL_GUESS.search(lower)
    return Finding(_source(text, lower, mention, str.lower), _source(text, lower, guess, str.lower), correct)


# The strict rules.

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_STRAIGHT = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b"), "'") | dict.fromkeys(
    map(ord, "\u201c\u201d\u201e\u201f"), '"'
)
_NOTHING_BUT_LETTERS = {**_INVISIBLE, **_STRAIGHT}
_LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BREAK = r"[\s_-]+"  # between the words of a target
_STRICT_GUESS = re.compile(r"(?<!\w)i know the word(?!\w)\W{0,3}it(?: is|'s| must be| has to be)?(?!\w)")
_QUOTED = re.compile(r"""(?<!\w)(["'`])(.+?)\1(?!\w)""")
_GUESS_END = re.compile("[.,;!?\n]")
_ARTICLE = re.compile("(?:an?|the) ")


def normalised(text: str) -> str:
    """Text as the strict rules compare it.

    NFKC, case folded, no invisible characters, straight quotes; white space is one blank, or a line break where it has one.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_NOTHING_BUT_LETTERS)
        text = unicodedata.normalize("NFKC", text.casefold())
    return re.sub(r"[^\S ]\s*| \s+", _one_space, text.lower())  # lone blanks stay as they are


def _one_space(run: re.Match[str]) -> str:
    return "\n" if _LINE_BREAK.search(run[0]) else " "


def is_blank(text: str) -> bool:
    """Whether an utterance says nothing visible."""
    return not normalised(text).strip()


@lru_cache(maxsize=1 << 14)
def _strict(target: str) -> tuple[frozenset[str], str, re.Pattern[str]]:
    forms = inflections(_words(normalised(target)))
    low, high = min(forms), max(forms)  # what these two begin with, all begin with
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    start = low[:same].split(" ")[0]  # looked for first: a text without it has no form
    spelt = (_BREAK.join(map(re.escape, form.split(" "))) for form in sorted(forms, key=len, reverse=True))
    # An underscore is a boundary here, though not to \b.
    return forms, start, re.compile(rf"(?<![^\W_])(?:{'|'.join(spelt)})(?![^\W_])")


def _words(text: str) -> str:
    """Words with one blank between them, whatever stands there."""
    return re.sub(_BREAK, " ", text).strip()


def strict_finding(text: str, target: str) -> Finding:
    """What the strict rules see: the target and its inflections as whole words, and a guess in any punctuation."""
    plain = normalised(text)
    forms, start, pattern = _strict(target)
    mention = pattern.search(plain) if start in plain else None
    phrases = _STRICT_GUESS.finditer(plain) if "i know the word" in plain else ()
    guesses = [(match, *_guessed(plain, match.end())) for match in phrases]
    span = None
    if guesses:
        (first, _, end), *_ = guesses
        span = _origin(text, plain, first.start(), end, normalised)
    right = bool(guesses) and all(_is_form(word, forms) for _, word, _ in guesses)
    return Finding(_source(text, plain, mention, normalised), span, right)


def _guessed(plain: str, start: int) -> tuple[str, int]:
    """The word that is guessed behind the phrase, and where it ends: the first quoted words, else those up to a stop."""
    rest = plain[start : start + _GUESS]
    stop = _GUESS_END.search(rest)
    end = stop.start() if stop else len(rest)
    quoted = _QUOTED.search(rest)
    if quoted and quoted.start() < end:
        return quoted[2], start + quoted.end()
    return rest[:end], start + end


def _is_form(guess: str, forms: frozenset[str]) -> bool:
    word = _words(re.sub(r"^[\W_]+|[\W_]+$", "", guess)).removesuffix("'s")
    return word in forms or _ARTICLE.sub("", word, count=1) in forms


# Evidence is found in the folded text and shown in the text as it was said.


def _source(text: str, folded: str, match: re.Match[str] | None, fold: Callable[[str], str]) -> Span | None:
    return None if match is None else _origin(text, folded, *match.span(), fold)


def _origin(text: str, folded: str, start: int, end: int, fold: Callable[[str], str]) -> Span:
    """The characters of `text` that became folded[start:end]: the shortest prefixes that fold to those lengths."""
    if len(folded) == len(text):
        return start, end

    def length(characters: int) -> int:
        return len(fold(text[:characters]))

    prefixes = range(len(text) + 1)
    return bisect_right(prefixes, start, key=length) - 1, bisect_left(prefixes, end, key=length)
