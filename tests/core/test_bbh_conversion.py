"""Rows drawn of BIG-Bench Hard and BIG-bench, and how options are lettered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.bbh_conversion import _drawn, bbh_task, lettered_task
from tenfold.core.catalogue import CATALOGUE, GROUPS

ROWS = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}  # of the origin; 250 in the others
TASKS = [name.removeprefix("bbh_") for name in GROUPS["bbh"] if not name.startswith("bbh_cot_")]


def rows_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().splitlines()]


def origin(examples: list[dict[str, Any]]) -> bytes:
    return json.dumps({"canary": "never train on this", "examples": examples}).encode()


def test_a_fifth_for_each_split_and_no_row_twice() -> None:
    rows = rows_of(bbh_task("t")([origin([{"input": f"q{i} ü", "target": str(i)} for i in range(23)])]))
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    places = [int(row["id"].removeprefix("t-")) for row in rows]
    assert len(set(places)) == 12 and all(places[i : i + 4] == sorted(places[i : i + 4]) for i in (0, 4, 8))
    assert all(
        (row["input"], row["target"]) == (f"q{place} ü", str(place)) for row, place in zip(rows, places, strict=True)
    )


def test_another_name_draws_other_rows_and_never_more_than_fifty_a_split() -> None:
    one, other = (_drawn(name, range(1000)) for name in ("a", "b"))
    assert one != other and len(one) == len(other) == 150
    assert one == _drawn("a", range(1000))


def test_options_are_lettered_in_the_listed_order() -> None:
    fit = [{"input": f" q{i}\n", "target_scores": {"x": 0, "y": 1.0, "z": 0}} for i in range(15)]
    unfit = [
        {"input": "one option", "target_scores": {"x": 1}},
        {"input": "two right", "target_scores": {"x": 1, "y": 1}},
        {"input": "nine options", "target_scores": {str(i): int(i == 0) for i in range(9)}},
    ]
    orders = ["120"] + ["201"] * 7 + ["012"]
    rows = rows_of(lettered_task("t", orders)([origin(unfit + fit)]))
    assert len(rows) == 9
    rows.sort(key=lambda row: int(row["id"].removeprefix("t-")))
    first, second, last = rows[0], rows[1], rows[-1]
    number = int(first["id"].removeprefix("t-")) - 3
    assert first["input"] == f"q{number}\nOptions:\n(A) y\n(B) z\n(C) x" and first["target"] == "(A)"
    assert second["input"].endswith("(A) z\n(B) x\n(C) y") and second["target"] == "(C)"
    assert last["input"].endswith("(A) x\n(B) y\n(C) z") and last["target"] == "(B)"
    with pytest.raises(ValueError, match="shorter"):
        lettered_task("t", orders[:-1])([origin(unfit + fit)])


@pytest.mark.parametrize("task", [task for task in TASKS if task != "question_selection"])
def test_prepared_rows_are_the_rows_drawn(task: str, data_dir: Path) -> None:
    rows = rows_of((data_dir / CATALOGUE[f"bbh_{task}"].file).read_bytes())
    assert [(row["split"], row["id"]) for row in rows] == [
        (split, f"{task}-{place}") for split, place in _drawn(task, range(ROWS.get(task, 250)))
    ]
