"""Tasks, their files and their faults."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import MultipleChoice
from tenfold.prompts.task import SPLITS, Task, subset
from tenfold.prompts.task_files import bbh_tasks, few_shot_cot, load_bbh, load_table

A, B, C = (Example(name, f"what is {name}?", name) for name in "abc")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (((), (B,), (C,)), "train: got no examples"),
        (((A,), (B,), ()), "test: got no examples"),
        (((A,), (A,), (C,)), "val: shares 1 ids with train"),
        (((A,), (B,), (Example("z", A.input, "z"),)), r"test: shares 1 inputs with train \(z = a\)"),
        (((A, A), (B,), (C,)), "train: two examples have the id 'a'"),
        (
            ((A,), (Example("o", "?\nOptions:\n(A) x\n(B) y", "(C)"),), (C,)),
            r"val: 1 targets are none of their options \(o\)",
        ),
    ],
)
def test_bad_splits_are_named(splits: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task("t", *splits)


def test_pairs_and_mappings_are_examples() -> None:
    task = Task("t", [("1+1", "2")], [{"input": "2+2", "target": "4"}], [{"question": "3+3", "answer": "6"}])  # type: ignore[arg-type]
    assert [task.split(s)[0].target for s in SPLITS] == ["2", "4", "6"]
    assert task.fingerprint != subset(Task("t", (A, B), (C,), [("x", "y")]), train=1).fingerprint  # type: ignore[arg-type]


HOSTILE = "{x} {{ y }} %s $z \u202eRTL </answer> <prompt> \\n é 🙂"


@pytest.mark.parametrize("placement", ["before_q", "after_q", "system", "answer_start"])
def test_prompts_are_put_in_literally(placement: Any) -> None:
    task = Task("t", (A,), (B,), (C,), placement=placement)
    said = task.render(HOSTILE, A)
    whole = "\n".join(message.content for message in said)
    assert HOSTILE in whole and A.input in whole
    assert task.render("", A)[-1].content.startswith("Q: what is a?\nA:")
    order = whole.index(HOSTILE) < whole.index(A.input)
    assert order == (placement in ("before_q", "system"))
    assert said[0].role == ("system" if placement == "system" else "user")


def test_a_null_byte_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="prompt: holds a null byte at character 2"):
        Task("t", (A,), (B,), (C,)).render("ab\0", A)


def test_every_task_of_the_benchmark_is_scored_right_on_its_own_targets(data_dir: Path) -> None:
    assert len(bbh_tasks()) == 28
    for name in bbh_tasks():
        task = load_bbh(name)
        assert min(len(task.split(split)) for split in SPLITS) >= 29
        for example in task.test:
            for reply in (f"Let us see. So the answer is {example.target}.", example.target):
                assert task.scorer(example, reply) == 1.0, (name, example.id)
    assert isinstance(load_bbh("snarks").scorer, MultipleChoice)
    assert load_bbh("navigate", "val") == load_bbh("bbh/navigate").val


def test_the_canary_is_stripped_from_demonstrations(data_dir: Path) -> None:
    text = few_shot_cot("object_counting")
    assert "canary" not in text.lower() and "-----" not in text and text.count("Q: ") == 3
    with pytest.raises(UserError, match="no demonstrations for this task"):
        few_shot_cot("question_selection")


def test_an_absent_task_is_one_line(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"10-abo/bbh/navigat.jsonl: no such task \(did you mean navigate\?\)"):
        load_bbh("navigat")


def test_absent_data_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    absent = r"data not found: (10-abo/.*/navigate\.\w+) \(looked in .*\); get it: tenfold data get \1$"
    for read in (load_bbh, few_shot_cot):
        with pytest.raises(UserError, match=absent):
            read("navigate")
    assert bbh_tasks() == []
    with pytest.raises(UserError, match="no demonstrations for this task"):
        few_shot_cot("question_selection")


def test_one_task_is_enough(data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in ("bbh/navigate.jsonl", "cot-prompts/navigate.txt"):
        (tmp_path / "10-abo" / file).parent.mkdir(parents=True)
        (tmp_path / "10-abo" / file).write_bytes((data_dir / "10-abo" / file).read_bytes())
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    assert bbh_tasks() == ["navigate"] and len(load_bbh("navigate", "test")) == 50 and few_shot_cot("navigate")


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tables_of_ones_own(tmp_path: Path) -> None:
    text = "frage,antwort\n" + "".join(f'"was ist {i}, bitte?",{i}\n' for i in range(20)) + '"was ist 3, bitte?",3\n'
    task = load_table(table(tmp_path / "t.csv", text), {"input": "frage", "target": "antwort"})
    assert [len(task.split(s)) for s in SPLITS] == [8, 6, 6]
    again = load_table(tmp_path / "t.csv", {"input": "frage", "target": "antwort"}, seed=1)
    assert again.train != task.train
    rows = [
        {"id": f"r{i}", "input": f"q{i}", "target": "yes" if i % 2 else "no", "split": SPLITS[i % 3]} for i in range(9)
    ]
    lines = load_table(table(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert [e.id for e in lines.train] == ["r0", "r3", "r6"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "has no rows"),
        ("t.csv", "a,b\n1,2\n", "has no column 'input'"),
        ("t.csv", "inputs,target\n1,2\n", r"no column 'input' \(did you mean inputs\?\)"),
        ("t.csv", "input,target\n1,2,3\n", "t.csv:2: has another number of columns"),
        ("t.csv", "input,target\n1,\n", "t.csv:2: an empty input or target"),
        ("t.csv", "input,target,split\nq,a,dev\n", "t.csv:2: split: got 'dev'"),
        ("t.csv", "input,target\nq,a\nr,b\n", "2 different questions; need at least 3"),
        ("t.jsonl", "{broken", "t.jsonl:1: not JSON"),
        ("t.jsonl", '{"input": "a\\u0000b", "target": "x"}', "t.jsonl:1: input: holds a null byte; remove it"),
        ("t.csv", "input,target\nq,a\nr,b\ns,c\0\n", "t.csv:4: target: holds a null byte"),
        ("t.csv", "input,target,split\nq,a,train\nr,b,train\ns,c,test\n", r"t\.csv: split: no row has val"),
        ("t.csv", "id,input,target\n1,q,a\n2,r,b\n1,s,c\n", r"t\.csv:4: id: '1' stands in line 2 already"),
        ("t.csv", 'input,target\nq,a\n"r,b\ns,c\nt,d\n', r"t\.csv:3: not CSV: .* begins in this line"),
        (
            "t.csv",
            f"input,target\nq,a\n{'x' * 10_000_001},b\nr,c\n",
            r"t\.csv:3: a cell of more than 10000000 characters",
        ),
        ("t.xlsx", "x", "need .csv, .tsv or .jsonl"),
    ],
)
def test_bad_tables_are_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_table(table(tmp_path / name, text))
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"input,target\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load_table(tmp_path / "t.csv")
    with pytest.raises(UserError, match="file not found"):
        load_table(tmp_path / "absent.csv")


def test_a_long_cell_is_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word " * 40_000  # more than the csv module's own limit
    task = load_table(table(tmp_path / "t.csv", f"input,target\n{long}a,1\n{long}b,2\n{long}c,3\n"))
    assert len(task.train[0].input) > 200_000 and csv.field_size_limit() == before
