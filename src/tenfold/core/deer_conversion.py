"""From ToolDEER's and BFCL's files to the rows of system 09, byte for byte: chosen rows in a listed order, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tenfold.core.conversions import Conversion

LONGEST_TASK = 1200  # characters that are kept of an instruction with its input


def tools(order: Sequence[int]) -> Conversion:
    """The tools of these places (from 0) in the single origin, a JSON list, in this order."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        rows = _rows(content)
        return _lines(rows[place] for place in order)

    return convert


def general_queries(order: Sequence[int]) -> Conversion:
    """Rows {query, source} of these places, counted through ToolDEER's transcripts, Self-Instruct's seed tasks and its
    user-oriented tasks; an input follows its instruction on a line of its own."""

    def convert(origins: Sequence[bytes]) -> bytes:
        transcripts, seeds, tasks = map(_rows, origins)
        pool = [{"query": row["conversations"][0]["value"], "source": "tooldeer_valid"} for row in transcripts]
        for rows, source in ((seeds, "self_instruct_seed"), (tasks, "self_instruct_user")):
            pool += [{"query": _task(row), "source": source} for row in rows]
        return _lines(pool[place] for place in order)

    return convert


def every_second(origins: Sequence[bytes]) -> bytes:
    """Every second row of the single origin, from the first on."""
    (content,) = origins
    return _lines(_rows(content)[::2])


def three_of_four(origins: Sequence[bytes]) -> bytes:
    """The single origin without every fourth row."""
    (content,) = origins
    return _lines(row for place, row in enumerate(_rows(content)) if place % 4 != 3)


def _task(row: dict[str, Any]) -> str:
    more = row["instances"][0]["input"]
    return (f"{row['instruction']}\n{more}" if more else str(row["instruction"]))[:LONGEST_TASK]


def _rows(content: bytes) -> list[Any]:
    """A JSON list, or JSON Lines."""
    text = content.decode("utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
