"""Tasks: file formats, few-shot prompts, and every kind of bad row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.lm.tasks import (
    PAPER_TASKS,
    TASKS,
    Example,
    NotAvailable,
    Task,
    add_shots,
    final_number,
    find_task,
    load,
    parse_row,
)

CHOICES = {"id": "q1", "context": "Question: sky?\nAnswer:", "choices": ["green", "blue"], "gold": 1}


def write(path: Path, *rows: object) -> Path:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def test_the_papers_thirteen_and_their_shots() -> None:
    shots = {name: TASKS[name].paper_shots for name in PAPER_TASKS}
    assert len(shots) == 13
    assert sorted(name for name, k in shots.items() if k == 0) == [
        "arc_challenge", "arc_easy", "boolq", "copa", "hellaswag", "lambada", "piqa", "sciq", "winogrande",
    ]  # fmt: skip
    assert {name: k for name, k in shots.items() if k} == {"triviaqa": 1, "webqs": 1, "mmlu": 5, "gsm8k": 8}
    assert set(TASKS) - set(PAPER_TASKS) == {"openbookqa", "blimp"}


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "arc_easy",
            CHOICES,
            Example("q1", (CHOICES["context"],) * 2, ("green", "blue"), 1, answer="blue"),
        ),
        (
            "winogrande",
            {"contexts": ["The cat", "The dog"], "continuation": "barked.", "gold": 1},
            Example("7", ("The cat", "The dog"), ("barked.", "barked."), 1, answer="barked."),
        ),
        (
            "lambada",
            {"context": "once upon a", "target": "time"},
            Example("7", ("once upon a",), ("time",), answer="time"),
        ),
        (
            "blimp",
            {"field": "syntax", "paradigm": "p", "good": "He is.", "bad": "He am."},
            Example("7", ("", ""), ("He is.", "He am."), groups={"field": "syntax", "paradigm": "p"}),
        ),
        (
            "triviaqa",
            {"question": "Capital of France?", "answers": ["Paris", "paris"]},
            Example("7", ("Question: Capital of France?\nAnswer:",), answers=("Paris", "paris"), answer="Paris"),
        ),
        (
            "webqs",
            {"context": "Q: who?\nA:", "answers": ["me"]},
            Example("7", ("Q: who?\nA:",), answers=("me",), answer="me"),
        ),
        (
            "gsm8k",
            {"question": "1000 + 1?", "answer": "It is 1,001.\n#### 1,001"},
            Example("7", ("Question: 1000 + 1?\nAnswer:",), answers=("1001",), answer="It is 1,001.\n#### 1,001"),
        ),
        (
            "mmlu",
            {"context": "…Answer:", "choices": ["A", "B"], "gold": 0, "subject": "law"},
            Example("7", ("…Answer:",) * 2, ("A", "B"), 0, answer="A", groups={"subject": "law"}),
        ),
    ],
)
def test_rows_of_every_kind(name: str, row: dict[str, Any], expected: Example) -> None:
    assert parse_row(TASKS[name], row, "file:7", 7) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so #### 18", "18"),
        ("#### 1,234,567", "1234567"),
        ("#### $5.50.", "5.50"),
        ("####-3 apples", "-3"),
        ("first #### 1 then #### 2", "1"),
        ("the answer is 18", None),
        ("#### none", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_a_demonstration_is_context_space_answer() -> None:
    assert parse_row(TASKS["arc_easy"], CHOICES, "").demonstration == "Question: sky?\nAnswer: blue"
    winogrande = parse_row(
        TASKS["winogrande"], {"contexts": ["The cat", "The dog"], "continuation": "barked.", "gold": 1}, ""
    )
    assert winogrande.demonstration == "The dog barked."


def examples(count: int, subjects: int = 1) -> list[Example]:
    return [
        Example(str(i), (f"Q{i}:",) * 2, ("no", "yes"), i % 2, answer=("no", "yes")[i % 2],
                groups={"subject": str(i % subjects)} if subjects > 1 else {})
        for i in range(count)
    ]  # fmt: skip


def test_shots_stand_before_the_query_joined_by_blank_lines() -> None:
    pool = examples(3)
    (shown, *_) = add_shots(pool, pool, 2, seed=0, name="t")
    one, two, query = shown.contexts[0].split("\n\n")
    assert {one, two} == {"Q1: yes", "Q2: no"}
    assert query == "Q0:"
    assert shown.contexts[0] == shown.contexts[1]
    assert (shown.choices, shown.gold, shown.id) == (("no", "yes"), 0, "0")


def test_the_query_is_never_its_own_demonstration() -> None:
    pool = examples(9)
    for seed in range(5):
        for query in add_shots(pool, pool, 8, seed, "t"):
            *shots, last = query.contexts[0].split("\n\n")
            assert len(set(shots)) == 8
            assert not any(shot.startswith(last) for shot in shots)


def test_a_copy_of_the_query_in_the_pool_is_not_shown_either() -> None:
    pool = [*examples(2), Example("copy", ("Q0:",) * 2, ("no", "yes"), 0, answer="no")]
    (shown, *_) = add_shots(pool, pool, 1, 0, "t")
    assert shown.contexts[0] == "Q1: yes\n\nQ0:"


def test_shots_depend_on_seed_and_position_alone() -> None:
    pool = examples(50)
    drawn = add_shots(pool, pool, 4, 1, "t")
    assert add_shots(pool, pool, 4, 1, "t") == drawn
    assert add_shots(pool[:3], pool, 4, 1, "t") == drawn[:3]  # a limit leaves the first queries alone
    assert add_shots(pool, pool, 4, 2, "t") != drawn
    assert add_shots(pool, [], 0, 1, "t") == pool


def test_mmlu_shows_questions_of_the_querys_subject() -> None:
    pool = examples(40, subjects=4)
    for query in add_shots(pool, pool, 5, 0, "mmlu"):
        *shots, last = query.contexts[0].split("\n\n")
        assert {int(shot[1 : shot.index(":")]) % 4 for shot in shots} == {int(last[1:-1]) % 4}


def test_too_few_rows_to_show() -> None:
    with pytest.raises(UserError, match="shots: got 3, need at most 2, the other rows of t to show"):
        add_shots(examples(3), examples(3), 3, 0, "t")
    with pytest.raises(ValueError, match="shots: got -1"):
        add_shots(examples(3), examples(3), -1, 0, "t")


def test_files_are_found_plain_and_compressed(tmp_path: Path) -> None:
    write(tmp_path / "arc_easy.jsonl.gz", CHOICES, "", CHOICES)
    assert len(load("arc_easy", tmp_path)) == 2  # the blank line is none
    assert [e.id for e in load("arc_easy", tmp_path, limit=1)] == ["q1"]
    (tmp_path / "05-moe-vs-dense").mkdir()
    write(tmp_path / "05-moe-vs-dense" / "piqa.jsonl", CHOICES)
    assert len(load("piqa", tmp_path)) == 1
    write(tmp_path / "own.jsonl", CHOICES)
    assert len(load(Task("own", "choices"), tmp_path)) == 1


def test_a_short_limit_sees_every_paradigm(tmp_path: Path) -> None:
    rows = [{"good": f"g{p}{i}", "bad": "b", "paradigm": p} for p in "abc" for i in range(4)]
    write(tmp_path / "blimp.jsonl", *rows)
    assert [e.choices[0] for e in load("blimp", tmp_path, limit=4)] == ["ga0", "gb0", "gc0", "ga1"]
    assert [e.choices[0] for e in load("blimp", tmp_path)] == [row["good"] for row in rows]


def test_absent_data_say_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAvailable, match=r"piqa: no data in .* \(looked for piqa.jsonl, piqa.jsonl.gz, "):
        load("piqa", tmp_path)
    with pytest.raises(NotAvailable, match=r"data: no folder .*absent; pass data=FOLDER that has piqa.jsonl"):
        load("piqa", tmp_path / "absent")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TENFOLD_DATA", raising=False)
    with pytest.raises(NotAvailable, match=r"piqa: no data; get it: tenfold data get 05-moe-vs-dense/piqa\.jsonl"):
        load("piqa")
    with pytest.raises(
        NotAvailable, match=r"hellaswag: no data; bring your own: hellaswag\.jsonl in the folder TENFOLD_DATA"
    ):
        load("hellaswag")
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    write(tmp_path / "hellaswag.jsonl", CHOICES)
    assert len(load("hellaswag")) == 1


BAD_ROWS = [
    ("arc_easy", CHOICES | {"gold": 2}, "gold: got 2, need 0..1 (2 choices)"),
    ("arc_easy", CHOICES | {"gold": -1}, "gold: got -1, need 0..1"),
    ("arc_easy", CHOICES | {"gold": "1"}, "gold: got '1', need 0..1"),
    ("arc_easy", CHOICES | {"gold": True}, "gold: got True, need 0..1"),
    ("arc_easy", {"context": "c", "choices": ["a"]}, "gold: got None, need 0..0"),
    ("arc_easy", CHOICES | {"choices": ["a", " "]}, "choices[1]: got ' ', need a non-empty string"),
    ("arc_easy", CHOICES | {"choices": []}, "choices: got [], need a list of strings"),
    ("arc_easy", CHOICES | {"choices": "ab"}, "choices: got 'ab', need a list of strings"),
    ("arc_easy", CHOICES | {"choices": ["a", 3]}, "choices[1]: got 3, need a non-empty string"),
    ("arc_easy", {"choices": ["a", "b"], "gold": 0}, "context: got None, need a string"),
    ("winogrande", {"contexts": ["a", "b"], "continuation": "", "gold": 0}, "continuation: got '', need a non-empty"),
    ("lambada", {"context": "a"}, "target: got None, need a non-empty string"),
    ("blimp", {"good": "a"}, "bad: got None, need a non-empty string"),
    ("triviaqa", {"question": "q", "answers": []}, "answers: got [], need a list of strings"),
    ("triviaqa", {"answers": ["a"]}, "question: got None, need a non-empty string"),
    ("gsm8k", {"question": "q", "answer": "18"}, 'answer: got no "#### number" in it'),
    ("piqa", "{not json", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
    ("piqa", [1, 2], "got list, need a JSON object"),
]


@pytest.mark.parametrize(("name", "row", "message"), BAD_ROWS)
def test_bad_rows_name_file_line_and_what(tmp_path: Path, name: str, row: object, message: str) -> None:
    good: dict[str, dict[str, Any]] = {
        "arc_easy": CHOICES, "piqa": CHOICES, "winogrande": {"contexts": ["a", "b"], "continuation": "c", "gold": 0},
        "lambada": {"context": "a", "target": "b"}, "blimp": {"good": "a", "bad": "b"},
        "triviaqa": {"question": "a", "answers": ["b"]}, "gsm8k": {"question": "a", "answer": "#### 1"},
    }  # fmt: skip
    path = write(tmp_path / f"{name}.jsonl", good[name], row)
    with pytest.raises(UserError) as caught:
        load(name, tmp_path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task: got 'arc', need one of arc_challenge, arc_easy, .*blimp"):
        find_task("arc")
    with pytest.raises(ValueError, match="limit: got 0"):
        load("piqa", tmp_path, limit=0)
    with pytest.raises(ValueError, match="kind: got 'quiz'"):
        Task("x", "quiz")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        Task("x", "answers")
    write(tmp_path / "piqa.jsonl")
    with pytest.raises(UserError, match=r"piqa.jsonl: got no rows"):
        load("piqa", tmp_path)
    (tmp_path / "copa.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"copa.jsonl is not UTF-8 at line 1"):
        load("copa", tmp_path)
    (tmp_path / "boolq.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(UserError, match=r"boolq.jsonl.gz is not a whole gzip file"):
        load("boolq", tmp_path)


COUNTS = {
    "arc_easy": 1200, "arc_challenge": 600, "piqa": 1000, "openbookqa": 350, "copa": 60, "boolq": 600,
    "winogrande": 800, "lambada": 1200, "blimp": 6700, "gsm8k": 660,
}  # fmt: skip


@pytest.mark.parametrize("name", list(COUNTS))
def test_the_prepared_sets_read_whole(data_dir: Path, name: str) -> None:
    rows = load(name, data_dir)
    assert len(rows) == COUNTS[name]
    if name == "blimp":
        assert len({row.groups["paradigm"] for row in rows}) == 67
    if name == "gsm8k":
        assert len(load(name, data_dir, suffix="_shots")) == 7473
