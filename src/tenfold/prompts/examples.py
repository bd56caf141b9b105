"""One question and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A question, its answer and a name that no other example of the task has."""

    id: str
    input: str
    target: str

    def __post_init__(self) -> None:
        for name in ("id", "input", "target"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"{name}: got {type(value).__name__}, need text")
        if not self.id or not self.input.strip():
            raise ValueError(f"id, input: got {self.id!r}, {self.input[:40]!r}, need text that is not empty")


def as_example(row: Any, id: str) -> Example:
    """An `Example`, a mapping with input and target (or x and y, question and answer), or a pair."""
    if isinstance(row, Example):
        return row
    if isinstance(row, Mapping):
        for asked, answer in (("input", "target"), ("x", "y"), ("question", "answer")):
            if asked in row and answer in row:
                return Example(str(row.get("id", id)), str(row[asked]), str(row[answer]))
        raise ValueError(f"example {id}: got {', '.join(map(str, row))}, need input and target")
    if isinstance(row, tuple | list) and len(row) == 2:
        return Example(id, str(row[0]), str(row[1]))
    raise ValueError(f"example {id}: got {type(row).__name__}, need input and target")
