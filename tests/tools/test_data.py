"""The data as they are: exact counts of faults, verdicts of BFCL's checker, files that are absent or broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.tools.ast_match import ast_match
from tenfold.tools.data import BFCL, DeerData, Faults, bfcl_items, load, read_tools


def test_faults_are_counted_exactly(deer: DeerData) -> None:
    assert deer.faults == {"train": Faults(7, 91, 65, 3, 8), "unseen": Faults(0, 0, 1, 1, 0)}
    assert (len(deer.train), len(deer.unseen)) == (820, 80)
    assert sum(len(each.examples) for each in deer.train) == 7884
    assert sum(len(each.examples) for each in deer.unseen) == 766
    assert (len(deer.nosearch_train), len(deer.nosearch_dev)) == (409, 105)
    assert not {each.tool.name for each in deer.train} & {each.tool.name for each in deer.unseen}


def test_ready_items(deer: DeerData) -> None:
    for items, count, calls in ((deer.toolbench, 100, 59), (deer.toolcorpus, 63, 38)):
        assert len(items) == count and sum(item.branch == "call" for item in items) == calls
        assert all(len(item.candidates) == 5 for item in items)


def test_verdicts_are_those_of_the_leaderboard(data_dir: Path) -> None:
    items = {item.id: item for category in BFCL for item in bfcl_items(category, data_dir)}
    rows = [json.loads(line) for line in (data_dir / "09-deer/bfcl/ast_cases.jsonl").open()]
    agreed = 0
    for row in rows:
        item = items[row["id"]]
        agreed += bool(ast_match(row["output"], item.truth, item.functions)) == row["valid"]
    assert (agreed, len(rows)) == (400, 400)


def test_no_call_is_right_where_nothing_fits(data_dir: Path) -> None:
    items = bfcl_items("irrelevance", data_dir)
    assert len(items) == 180
    assert all(ast_match([], item.truth, item.functions) for item in items)
    name = items[0].functions[0]["name"]
    assert not ast_match([{name: {}}], items[0].truth, items[0].functions)


@pytest.mark.parametrize("output", [[{"f": {}, "g": {}}], [{"f": [1]}], [3], [{}]])
def test_outputs_of_another_shape_are_wrong_and_do_not_crash(output: list) -> None:
    functions = [{"name": "f", "parameters": {"type": "dict", "properties": {}}}]
    assert not ast_match(output, [{"f": {}}], functions)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("null", "got NoneType, need a list of rows"),
        ("[1]", "x.json:1: got int, need an object with api_name"),
        ('[{"api_name": 3, "description_for_human": "d", "api_function": "f()"}]', "api_name: got int, need text"),
        ('[{"api_name": "f", "description_for_human": null, "api_function": "f()"}]', "description_for_human: got NoneType"),
        ('[{"api_name": "f", "description_for_human": "d", "api_function": "f()", "example": null}]', "example: need a list"),
        ('[{"api_name": "f", "description_for_human": "d", "api_function": "f()", "example": ["q"]}]', "example: need a list"),
        ('[{"api_name": "f", "description_for_human": "d", "api_function": "f()", "example": [{"query": 1, "call": "f()"}]}]', "query and call must be text"),
        ('[{"api_name": "f", "api_function": "f()"}]', "no field 'description_for_human'"),
        ("[" * 100_000, "no JSON"),
    ],
)  # fmt: skip
def test_rows_that_are_no_tools(rows: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(rows)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_tools(tmp_path / "x.json")
    assert "\n" not in str(refused.value)


def test_absent_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"09-deer/tools_train\.jsonl below"):
        load("deer", root=tmp_path)
    for name in ("tools_train", "tools_dev_unseen", "nosearch_train", "nosearch_dev", "toolbench_decision", "toolcorpus_decision"):  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("")
    (tmp_path / "tools_train.jsonl").write_text('{"api_name": "f", "api_function": "f("}\n')
    with pytest.raises(UserError, match=r"tools_train\.jsonl:1: ") as refused:
        load("deer", root=tmp_path)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="need deer or bfcl"):
        load("other")
