"""The 25 kinds of instruction of IFEval, each a function that reads its arguments and gives a check of a response.

The checks decide as the published ones do, oddities included, but read words of the data as plain text where those take
them for regular expressions, and take time in proportion to the response whatever stands in it. Instructions about the
language of a response ask langdetect (extra `[eval]`), with a fixed seed.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911, table 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tenfold.core.errors import UserError
from tenfold.lm.sentences import sentences, words_in_capitals

Check = Callable[[str], bool]

LONGEST_FOR_LANGUAGE = 100_000  # characters; the detector itself stops at 10 000, web addresses left out

_WORD = re.compile(r"\w+")
# A bullet may be followed by a line break, and then takes the next line with it.
_BULLETS = (re.compile(r"^[^\S\n]*\*[^*].*", re.MULTILINE), re.compile(r"^[^\S\n]*-", re.MULTILINE))
_STARRED, _DOUBLE_STARRED = re.compile(r"\*[^\n*]*\*"), re.compile(r"\*\*[^\n*]*\*\*")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}


@dataclass(frozen=True)
class Arguments:
    """Checked access to the arguments of one instruction; null is the same as absent.

    Args:
        values: the instruction's kwargs.
        prompt: the whole prompt, which some arguments default to.
    Raises:
        ValueError: from every method, naming the argument that is missing or of another kind.
    """

    values: Mapping[str, Any]
    prompt: str = ""

    def number(self, name: str) -> int:
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or value < 0:
            raise ValueError(f"{name}: got {value!r}, need a whole number, 0 or more")
        return int(value)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: got {value!r}, need text")
        return value.strip()

    def texts(self, name: str) -> list[str]:
        value = self.values.get(name)
        texts = list(value) if isinstance(value, list | tuple) else []
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"{name}: got {value!r}, need a list of texts")
        return texts

    def comparison(self, threshold: str, relation: str = "relation") -> Callable[[int], bool]:
        """`at least` or `less than` the number called `threshold`."""
        bound, word = self.number(threshold), self.values.get(relation)
        if word == "at least":
            return lambda count: count >= bound
        if word == "less than":
            return lambda count: count < bound
        raise ValueError(f"{relation}: got {word!r}, need 'at least' or 'less than'")


# keywords


def _existence(given: Arguments) -> Check:
    patterns = [_anywhere(word) for word in given.texts("keywords")]
    return lambda text: all(pattern.search(text) for pattern in patterns)


def _frequency(given: Arguments) -> Check:
    pattern, enough = _anywhere(given.text("keyword")), given.comparison("frequency")
    return lambda text: enough(_count(pattern, text))


def _forbidden_words(given: Arguments) -> Check:
    patterns = [re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE) for word in given.texts("forbidden_words")]
    return lambda text: not any(pattern.search(text) for pattern in patterns)


def _letter_frequency(given: Arguments) -> Check:
    letter, enough = given.text("letter").lower(), given.comparison("let_frequency", "let_relation")
    if len(letter) != 1:
        raise ValueError(f"letter: got {letter!r}, need one character")
    return lambda text: enough(text.lower().count(letter))


# length


def _number_words(given: Arguments) -> Check:
    enough = given.comparison("num_words")
    return lambda text: enough(_count(_WORD, text))


def _number_sentences(given: Arguments) -> Check:
    enough = given.comparison("num_sentences")
    return lambda text: enough(len(sentences(text)))


def _number_paragraphs(given: Arguments) -> Check:
    """Paragraphs between dividers `***`; only the first and the last part may be empty, and then do not count."""
    wanted = given.number("num_paragraphs")

    def follows(text: str) -> bool:
        filled = [bool(part.strip()) for part in text.split("***")]
        return all(filled[1:-1]) and sum(filled) == wanted

    return follows


def _first_word(given: Arguments) -> Check:
    """Paragraphs between blank lines: their number, and the first word of the nth (empty ones shift the count)."""
    wanted, nth = given.number("num_paragraphs"), given.number("nth_paragraph")
    word = given.text("first_word").lower()
    if nth < 1:
        raise ValueError(f"nth_paragraph: got {nth}, need 1 or more")

    def follows(text: str) -> bool:
        paragraphs = text.split("\n\n")
        filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
        if filled != wanted or nth > filled:
            return False
        opening = paragraphs[nth - 1].split(maxsplit=1)
        return bool(opening) and _bare_word(opening[0]) == word

    return follows


def _bare_word(word: str) -> str:
    """In lower case without opening quotes, up to the first mark of punctuation."""
    return "".join(map(str.lower, re.split("[.,?!'\"]", word.lstrip("'").lstrip('"'), maxsplit=1)[0]))


# content


def _placeholders(given: Arguments) -> Check:
    wanted = given.number("num_placeholders")
    return lambda text: sum(_count_placeholders(line) for line in text.split("\n")) >= wanted


def _count_placeholders(line: str) -> int:
    """Parts from a [ to the next ]."""
    count, end = 0, -1
    while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
    return count


def _postscript(given: Arguments) -> Check:
    marker = given.text("postscript_marker")
    pattern = _POSTSCRIPTS.get(marker) or re.compile(re.escape(marker.lower()))
    return lambda text: bool(pattern.search(text.lower()))


# format


def _bullets(given: Arguments) -> Check:
    wanted = given.number("num_bullets")
    return lambda text: sum(_count(bullet, text) for bullet in _BULLETS) == wanted


def _highlights(given: Arguments) -> Check:
    """Parts between single or double stars on one line."""
    wanted = given.number("num_highlights")

    def follows(text: str) -> bool:
        single = sum(bool(part.strip("*").strip()) for part in _STARRED.findall(text))
        double = sum(bool(part[2:-2].strip()) for part in _DOUBLE_STARRED.findall(text))
        return single + double >= wanted

    return follows


def _sections(given: Arguments) -> Check:
    pattern, wanted = re.compile(rf"{re.escape(given.text('section_spliter'))}\s?\d+"), given.number("num_sections")
    return lambda text: _count(pattern, text) >= wanted


def _constrained(given: Arguments) -> Check:
    return lambda text: any(f"My answer is {answer}." in text for answer in ("yes", "no", "maybe"))


def _json(given: Arguments) -> Check:
    return _is_json


def _is_json(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(given: Arguments) -> Check:
    return lambda text: any(_has_title(line) for line in text.split("\n"))


def _has_title(line: str) -> bool:
    """Something between the first << and the last >> of a line."""
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


# combination, start and end


def _two_responses(given: Arguments) -> Check:
    def follows(text: str) -> bool:
        parts = [part.strip() for part in text.split("******")]
        filled = [part for part in parts if part]
        return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]

    return follows


def _repeat_prompt(given: Arguments) -> Check:
    request = given.text("prompt_to_repeat", default=given.prompt).lower()
    return lambda text: text.strip().lower().startswith(request)


def _end(given: Arguments) -> Check:
    phrase = given.text("end_phrase").lower()
    return lambda text: text.strip().strip('"').lower().endswith(phrase)


def _quotation(given: Arguments) -> Check:
    def follows(text: str) -> bool:
        text = text.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'

    return follows


# case, punctuation, language


def _capital_words(given: Arguments) -> Check:
    enough = given.comparison("capital_frequency", "capital_relation")
    return lambda text: enough(words_in_capitals(text))


def _all_capital(given: Arguments) -> Check:
    return lambda text: text.isupper() and language(text) in ("en", None)


def _all_lowercase(given: Arguments) -> Check:
    return lambda text: text.islower() and language(text) in ("en", None)


def _no_comma(given: Arguments) -> Check:
    return lambda text: "," not in text


def _language(given: Arguments) -> Check:
    wanted = given.text("language")
    return lambda text: language(text) in (wanted, None)


@lru_cache(maxsize=64)
def language(text: str) -> str | None:
    """ISO 639-1 code of the likeliest language ("zh-cn" and "zh-tw" for Chinese); None: no letters to judge by.

    langdetect draws parts of the text at random; the fixed seed gives one text one answer.

    Raises:
        UserError: langdetect is not installed.
    """
    try:
        from langdetect import detector_factory  # type: ignore[import-untyped]
        from langdetect.lang_detect_exception import LangDetectException  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError('langdetect is not installed: pip install langdetect (or "tenfold[eval]")') from error
    detector_factory.init_factory()
    detector = detector_factory._factory.create()
    detector.seed = 0
    detector.append(text[:LONGEST_FOR_LANGUAGE])
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


def _anywhere(word: str) -> re.Pattern[str]:
    return re.compile(re.escape(word), re.IGNORECASE)


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


INSTRUCTIONS: dict[str, Callable[[Arguments], Check]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capital,
    "change_case:english_lowercase": _all_lowercase,
    "combination:repeat_prompt": _repeat_prompt,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_words": _number_words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
}


def make_check(instruction_id: str, kwargs: Mapping[str, Any], prompt: str = "") -> Check:
    """The check of one instruction, ready for many responses.

    Args:
        instruction_id: a key of `INSTRUCTIONS`.
        kwargs: its arguments; nulls and arguments of other instructions are ignored.
        prompt: the whole prompt, for `combination:repeat_prompt` without a `prompt_to_repeat`.
    Raises:
        ValueError: an unknown instruction, an argument missing or of another kind.
    """
    if instruction_id not in INSTRUCTIONS:
        raise ValueError(f"instruction_id: got {instruction_id!r}, need one of {', '.join(INSTRUCTIONS)}")
    follows = INSTRUCTIONS[instruction_id](Arguments(kwargs, prompt))
    return lambda text: bool(text.strip()) and follows(text)
