"""From the files of BIG-Bench Hard and BIG-bench to rows {id, split, input, target}: a fifth of a task for each split."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tenfold.core.conversions import Conversion

SPLITS = ("train", "val", "test")
MOST = 50  # rows of a split
LETTERS = "ABCDEFGH"


def bbh_task(name: str) -> Conversion:
    """The rows drawn of a task of BIG-Bench Hard."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        examples = json.loads(content)["examples"]
        rows = _drawn(name, range(len(examples)))
        return _lines(
            name, ((split, place, examples[place]["input"], examples[place]["target"]) for split, place in rows)
        )

    return convert


def lettered_task(name: str, orders: Sequence[str]) -> Conversion:
    """The rows drawn of a task of BIG-bench whose questions have 2 to 8 options and one right one.

    Args:
        name: of the task.
        orders: for each row drawn, in the order of the file, the places of its options as they are lettered, a digit each:
            "201" makes the third option (A).
    """

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        examples = json.loads(content)["examples"]
        scores = [list(example["target_scores"].values()) for example in examples]
        fit = [at for at, values in enumerate(scores) if 2 <= len(values) <= len(LETTERS) and values.count(1) == 1]
        rows = _drawn(name, fit)
        order = dict(zip(sorted(place for _, place in rows), orders, strict=True))
        return _lines(name, ((split, place, *_lettered(examples[place], order[place])) for split, place in rows))

    return convert


def _lettered(example: Mapping[str, Any], order: str) -> tuple[str, str]:
    options = list(example["target_scores"].items())
    shown = [(letter, *options[int(digit)]) for letter, digit in zip(LETTERS, order, strict=False)]
    lines = [f"({letter}) {option}" for letter, option, _ in shown]
    right = next(letter for letter, _, score in shown if score == 1)
    return "\n".join([example["input"].strip(), "Options:", *lines]), f"({right})"


def _drawn(name: str, places: Sequence[int]) -> list[tuple[str, int]]:
    """Split and place of each row: drawn by the task's name alone, each split in the order of the file."""
    places = list(places)
    random.Random(f"abo-{name}").shuffle(places)
    count = min(MOST, len(places) // 5)
    return [
        (split, place)
        for number, split in enumerate(SPLITS)
        for place in sorted(places[number * count : (number + 1) * count])
    ]


def _lines(name: str, rows: Iterable[tuple[str, int, str, str]]) -> bytes:
    made = (
        {"id": f"{name}-{place}", "split": split, "input": asked, "target": answer}
        for split, place, asked, answer in rows
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made).encode()
