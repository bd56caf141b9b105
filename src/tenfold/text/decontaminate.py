"""Training documents that hold part of a benchmark, found by n-grams they share with its items."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.text.words import normalised_words

SHORTEST, LONGEST = 4, 13  # words of an n-gram


@dataclass(frozen=True)
class Contamination:
    """The first n-gram by which a document collides with a benchmark.

    Args:
        benchmark, item: whose n-gram it is; the item's number in its benchmark, from 0.
        ngram: its words, in lower case without punctuation.
        count: how often it occurs in what was counted.
    """

    benchmark: str
    item: int
    ngram: str
    count: int


class Decontaminator:
    """Tells which documents hold part of a benchmark.

    An item of W words lends its n-grams of n = min(13, W) words, and none if W < 4. A document that shares one
    collides, unless the n-gram is common usage: it occurs at least `common_usage` times in the corpus. The corpus is
    counted first (`count`); without that, every shared n-gram collides.

    Args:
        benchmarks: the items of each benchmark by its name, or the items of one.
        common_usage: occurrences in the corpus that make an n-gram common.
        all_orders: take the n-grams of every length from 4 to min(13, W).
    Raises:
        ValueError: no item of at least four words, a single string, common_usage below 1.
    Source: AFM, arXiv 2407.21075 (4- to 13-grams, threshold 1000); which n each item takes is our reading.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Iterable[str]] | Iterable[str],
        *,
        common_usage: int = 1000,
        all_orders: bool = False,
    ) -> None:
        if isinstance(benchmarks, str):
            raise ValueError("benchmarks: got one string, need the items of a benchmark")
        if common_usage < 1:
            raise ValueError(f"common_usage: got {common_usage}, need at least 1")
        named = benchmarks if isinstance(benchmarks, Mapping) else {"benchmark": benchmarks}
        self.common_usage = common_usage
        self._counts: Counter[str] = Counter()
        self._owners: dict[str, tuple[str, int]] = {}
        # The lengths of the n-grams that begin with four given words: one look-up a place rules nearly all out.
        self._lengths: dict[tuple[str, ...], tuple[int, ...]] = {}
        lengths: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for name, items in named.items():
            for number, item in enumerate(items):
                words = normalised_words(item)
                longest = min(LONGEST, len(words))
                for n in range(SHORTEST if all_orders else max(SHORTEST, longest), longest + 1):
                    for at in range(len(words) - n + 1):
                        self._owners.setdefault(" ".join(words[at : at + n]), (name, number))
                        lengths[tuple(words[at : at + SHORTEST])].add(n)
        if not self._owners:
            raise ValueError(f"benchmarks: got no item of at least {SHORTEST} words")
        self._lengths = {start: tuple(sorted(found)) for start, found in lengths.items()}

    def count(self, texts: Iterable[str]) -> None:
        """Count the benchmarks' n-grams in the corpus, or in a further part of it, before documents are checked."""
        for text in texts:
            self._counts.update(self._shared(text))

    def check(self, text: str) -> Contamination | None:
        """The first n-gram a document shares with a benchmark that is not common usage; None if it is clean."""
        for ngram in self._shared(text):
            if (count := self._counts[ngram]) < self.common_usage:
                return Contamination(*self._owners[ngram], ngram, count)
        return None

    def _shared(self, text: str) -> Iterator[str]:
        """The n-grams of a text that are the benchmarks' too, in order, as often as they occur."""
        words = normalised_words(text)
        for at, start in enumerate(zip(words, words[1:], words[2:], words[3:], strict=False)):
            for n in self._lengths.get(start, ()):
                ngram = " ".join(words[at : at + n])
                if at + n <= len(words) and ngram in self._owners:
                    yield ngram


def default_benchmarks() -> dict[str, list[str]]:
    """Questions of the GSM8K test part and prompts of IFEval, from the data folder.

    Raises:
        UserError: a file is absent.
    """
    return {
        "gsm8k": read_items(data.path("gsm8k_test_a"), "question"),
        "ifeval": read_items(data.path("02-afm/ifeval_400.jsonl"), "prompt"),
    }


def read_items(path: str | Path, field: str) -> list[str]:
    """The items of a benchmark file in JSON lines, one a line under `field`.

    Raises:
        UserError: a file that is missing, damaged or empty, or a line without the field.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"benchmark not found: {path}; give a file in JSON lines")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"benchmark: {path} is not UTF-8 (byte {error.start}); convert it first") from error
    if not lines:
        raise UserError(f"benchmark: {path} is empty; give a file with one item a line")
    return [_item(line, field, f"benchmark: {path} line {number}") for number, line in enumerate(lines, 1)]


def _item(line: str, field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    item = row.get(field) if isinstance(row, dict) else None
    if not isinstance(item, str):
        raise UserError(f"{where} has no text under {field!r}")
    return item
