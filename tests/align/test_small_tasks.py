"""Orders and messages: their answers pass their own checks, halves differ, broken answers score what they earn."""

from __future__ import annotations

import json

import pytest

from tenfold.align.small_tasks import CITIES, NAMES, REASONS, TASK_SETS, extraction_tasks, facts_told, fields_right

FACTS = {"name": "Anna", "count": 3, "item": "lamps", "city": "Oslo", "day": "Monday"}


@pytest.mark.parametrize("name", list(TASK_SETS))
def test_answers_are_right_and_depend_on_seed_and_place_alone(name: str) -> None:
    make = TASK_SETS[name]
    tasks = make(3, 40, "held_out")
    for task in tasks:
        assert task.kind == name and task.answer is not None
        assert task.check(task.answer) == 1.0 and task.check("I do not know.") == 0.0
    again = make(3, 10, "held_out")
    assert [task.messages for task in again] == [task.messages for task in tasks[:10]]
    assert len({task.messages for task in tasks}) > 35
    assert [t.messages for t in make(4, 10, "held_out")] != [t.messages for t in again]


def test_what_is_measured_on_has_names_that_nobody_learned() -> None:
    learned, held_out = (
        {word for task in extraction_tasks(0, 200, part) for word in json.loads(task.answer or "").values()}
        for part in ("learned", "held_out")
    )
    assert set(NAMES[::2]) <= learned and not set(NAMES[1::2]) & learned
    assert set(CITIES[1::2]) <= held_out and not set(CITIES[::2]) & held_out
    assert len(set(REASONS)) == len(REASONS)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (json.dumps(FACTS), 1.0),
        (f"Sure!\n```json\n{json.dumps(FACTS)}\n```", 1.0),
        (json.dumps({**FACTS, "count": "3"}), 1.0),
        (json.dumps({**FACTS, "count": 4}), 0.8),
        (json.dumps({**FACTS, "more": 1}), 5 / 6),
        (json.dumps({"name": "Anna"}), 0.2),
        ("[1, 2]", 0.0),
        ('{"name": "Anna"', 0.0),
        ("{" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_fields(text: str, score: float) -> None:
    assert fields_right(FACTS, text) == pytest.approx(score)


def test_facts() -> None:
    facts = ("Anna", "lunch", "Monday", "the road is closed")
    assert facts_told(facts, "anna moves the LUNCH to Monday because the  road is closed.") == 1.0
    assert facts_told(facts, "Anna moves lunch.") == 0.5
    assert facts_told(facts, "Anna moves the lunch to Monday because the road is closed." + " And so on." * 4) == 0.0
