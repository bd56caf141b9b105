"""Chosen rows of ToolDEER's and BFCL's files, in the order that is listed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenfold.core.catalogue_deer import order
from tenfold.core.deer_conversion import every_second, general_queries, three_of_four, tools


def _rows(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.decode().splitlines()]


def test_tools_in_the_listed_order() -> None:
    origin = json.dumps([{"api_name": name} for name in "abcd"]).encode()
    assert [row["api_name"] for row in _rows(tools([2, 0, 3])([origin]))] == ["c", "a", "d"]


def test_general_queries_count_through_three_files() -> None:
    turn = {"conversations": [{"from": "human", "value": "x" * 1300}, {"from": "gpt", "value": "#Begin#"}]}
    seed = {"instruction": "Sum.", "instances": [{"input": "1 ü", "output": ""}]}
    task = {"instruction": "y" * 1300, "instances": [{"input": "", "output": ""}]}
    lines = [json.dumps(each).encode() for each in (seed, task)]
    rows = _rows(general_queries([2, 0, 1])([json.dumps([turn]).encode(), *lines]))
    assert [row["source"] for row in rows] == ["self_instruct_user", "tooldeer_valid", "self_instruct_seed"]
    assert [len(row["query"]) for row in rows] == [1200, 1300, 8]  # a query of ToolDEER's stays whole
    assert rows[2]["query"] == "Sum.\n1 ü"


def test_every_second_and_three_of_four() -> None:
    lines = "".join(json.dumps({"id": i, "text": "ü "}, ensure_ascii=False) + "\n" for i in range(9)).encode()
    assert [row["id"] for row in _rows(three_of_four([lines]))] == [0, 1, 2, 4, 5, 6, 8]
    assert [row["id"] for row in _rows(every_second([json.dumps([{"id": i} for i in range(5)]).encode()]))] == [0, 2, 4]


@pytest.mark.parametrize(("name", "rows", "places"), [("tools_train", 820, 977), ("tools_dev_unseen", 80, 977), ("nosearch_train", 409, 1492), ("nosearch_dev", 105, 1492)])  # fmt: skip
def test_listed_places(name: str, rows: int, places: int) -> None:
    listed = order(name)
    assert len(set(listed)) == len(listed) == rows
    assert 0 <= min(listed) <= max(listed) < places


def test_trained_and_unseen_tools_are_apart() -> None:
    assert not set(order("tools_train")) & set(order("tools_dev_unseen"))
    assert not set(order("nosearch_train")) & set(order("nosearch_dev"))
