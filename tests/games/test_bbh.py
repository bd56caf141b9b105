"""Tasks of choice from BIG-Bench Hard's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.games.bbh import choice_rows


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("question", "target", "choices"),
    [
        ("Which?\nOptions:\n(A) one (B) of two\n(B) two", "(B)", ["(A)", "(B)"]),
        ("Back?\nOptions:\n- Yes\n- No", "No", ["Yes", "No"]),
        ("Valid?\nOptions:\n- valid \n- invalid", "valid", ["valid", "invalid"]),
        ("not True is", "False", ["False"]),
    ],
)
def test_options_are_listed_lettered_or_those_of_the_task(
    question: str, target: str, choices: list[str], tmp_path: Path
) -> None:
    (row,) = choice_rows(written(tmp_path, [{"input": question, "target": target}]))
    assert row == {
        "id": "0",
        "context": f"Q: {question}\nA:",
        "choices": choices,
        "gold": choices.index(target),
    }


def test_a_target_that_is_no_option_is_left_out(tmp_path: Path) -> None:
    rows = [{"input": "?\nOptions:\n(A) a\n(B) b", "target": target} for target in ("(A)", "b", "(C)", "(B)")]
    assert [row["gold"] for row in choice_rows(written(tmp_path, rows))] == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input": "Sort", "target": str(n)} for n in range(4)], "4 different answers and no options"),
        ([{"input": "a", "target": 1}], "need input and target, both text"),
        ([{"question": "a", "target": "b"}], "need input and target, both text"),
    ],
)
def test_bad_files_are_one_line(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        choice_rows(written(tmp_path, rows))


def test_the_prepared_tasks(data_dir: Path) -> None:
    folder = data_dir / "10-abo" / "bbh"
    for task, count, choices in (("navigate", 150, 2), ("date_understanding", 150, 6), ("web_of_lies", 150, 2)):
        rows = choice_rows(folder / f"{task}.jsonl")
        assert len(rows) == count and len(rows[0]["choices"]) == choices
    with pytest.raises(UserError, match="no options"):
        choice_rows(folder / "word_sorting.jsonl")
