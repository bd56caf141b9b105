"""JSON Lines with the keys that every line needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.vision.rows import read_rows

KEYS = {"name": str, "size": int, "note": str | None}


def test_rows_come_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"name": "a", "size": 1}\n\n{"name": "b", "size": 2, "note": "c", "more": []}\n')
    assert list(read_rows(file, KEYS)) == [
        (f"{file}:1", {"name": "a", "size": 1}),
        (f"{file}:3", {"name": "b", "size": 2, "note": "c", "more": []}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.jsonl not found; need JSON Lines, every line needs name, size, note"),
        ("", "x.jsonl: got no lines, need at least one"),
        ('{"name": "a", "size": 1}\n{"size": 1}\n', 'x.jsonl:2: "name" is missing'),
        ('{"name": 3, "size": 1}\n', "x.jsonl:1: name: got 3, need str"),
        ('{"name": "a", "size": 1, "note": 2}\n', r"x.jsonl:1: note: got 2, need str \| None"),
        ('{"name": "a", "size": 1}\nrest\n', "x.jsonl:2: not JSON"),
    ],
)
def test_faulty_files_are_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(tmp_path / "x.jsonl", KEYS))
