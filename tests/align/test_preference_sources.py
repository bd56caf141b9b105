"""Preferences out of graded reviews and of published solutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenfold.align.preference_sources import level_of, review_preferences, solution_preferences
from tenfold.core.errors import UserError


def write(path: Path, rows: list) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_levels_by_the_gap_of_the_scores() -> None:
    names = {1: "negligibly", 2: "slightly", 3: "better", 4: "better", 5: "significantly", 20: "significantly"}
    assert {gap: level_of(gap) for gap in names} == names


def test_pairs_of_one_product_and_apart_from_the_held_out(tmp_path: Path) -> None:
    rows = [{"product": p, "score": i % 9 - 4, "text": f"{p} {i}"} for p in ("pen", "cup") for i in range(40)]
    path = write(tmp_path / "reviews.jsonl", rows)
    scores = {row["text"]: row["score"] for row in rows}
    train, test = review_preferences(path, held_out=0.25, uses=3, seed=1)
    sides = [{text for each in part for text in (each.chosen, each.rejected)} for part in (train, test)]
    assert sides[0].isdisjoint(sides[1])
    assert len(test) > 10
    for each in train + test:
        gap = scores[each.chosen] - scores[each.rejected]
        assert gap > 0
        assert each.level == level_of(gap)
        assert each.chosen[:3] == each.rejected[:3]
        assert each.chosen[:3] in each.prompt[0].content
    uses = [text for each in train for text in (each.chosen, each.rejected)]
    assert max(map(uses.count, uses)) <= 3
    assert review_preferences(path, held_out=0.25, uses=3, seed=1) == (train, test)
    assert review_preferences(path, held_out=0.25, uses=3, seed=2) != (train, test)


def test_right_over_wrong_solutions(tmp_path: Path) -> None:
    def said(right: bool, text: str) -> dict:
        return {"is_correct": right, "solution": text}

    rows = [
        {"question": "1+2?", "a": said(True, "so\nA: 3"), "b": said(False, "no\nA: 4"), "c": said(True, "yes\nA: 3")},
        {"question": "all right", "a": said(True, "A: 3")},
        {"question": "all wrong", "a": said(False, "A: 3")},
    ]
    found = solution_preferences(write(tmp_path / "s.jsonl", rows))
    assert [(each.chosen, each.rejected) for each in found] == [
        ("so\n#### 3", "no\n#### 4"),
        ("yes\n#### 3", "no\n#### 4"),
    ]
    assert found[0].level == "significantly"
    assert found[0].prompt[0].content.startswith("1+2?")


def test_the_prepared_files(data_dir: Path) -> None:
    train, test = review_preferences()
    assert len(train) > 3000
    assert len(test) > 500
    assert {each.level for each in test} == {"significantly", "better", "slightly", "negligibly"}
    assert len(solution_preferences()) > 300


@pytest.mark.parametrize(
    ("read", "row"),
    [(review_preferences, {"product": "pen", "score": "3", "text": "a"}), (solution_preferences, {"question": 3})],
)
def test_bad_rows(read, row: dict, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"x\.jsonl:1: need a "):
        read(write(tmp_path / "x.jsonl", [row]))
    with pytest.raises(UserError, match=r"data not found: .*none"):
        read(tmp_path / "none")


def test_a_held_out_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="held_out: got 1"):
        review_preferences(held_out=1)
