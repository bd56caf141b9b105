"""Tasks with a judge: toy instructions and arithmetic problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenfold.align.rollout import Response
from tenfold.align.samples import Sample
from tenfold.align.verifiers import gsm8k_prompt, gsm8k_tasks, number_correct, read_tasks, toy_tasks, verify
from tenfold.core.errors import UserError
from tenfold.lm.chat_eval import run_gsm8k
from tenfold.lm.tasks import Example
from tenfold.text.chat import ScriptedChatModel


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("so it is 18\n#### 18", "18", 1),
        ("#### $1,800.", "1800", 1),
        ("#### 18.0", "18", 1),
        ("the last number is 1,800 dollars", "1800", 1),
        ("#### 17, not 18", "18", 0),
        ("18 and then 19", "18", 0),
        ("#### -3", "3", 0),
        ("no number", "3", 0),
        ("", "3", 0),
        ("#### 72", "48/2 = 24\n#### 72", 1),
    ],
)
def test_numbers(text: str, answer: str, right: float) -> None:
    assert number_correct(text, answer) == right


def test_arithmetic_problems_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "1 + 2?", "answer": "1 + 2 = 3\n#### 3"}))
    (task,) = gsm8k_tasks(path)
    assert task.messages == (gsm8k_prompt("1 + 2?"),)
    assert task.check(task.answer) == 1
    assert task.check("#### 4") == 0
    path.write_text(json.dumps({"question": "1 + 2?", "answer": "three"}))
    with pytest.raises(UserError, match=r"problems\.jsonl:1: need a question and an answer"):
        gsm8k_tasks(path)
    with pytest.raises(UserError, match=r"data not found: .*none"):
        gsm8k_tasks(tmp_path / "none")


def test_it_trains_on_the_prompt_that_the_evaluation_asks() -> None:
    seen = []
    model = ScriptedChatModel(lambda messages, sampling, index: seen.append(messages) or "#### 3")  # type: ignore[func-returns-value]
    run_gsm8k(model, [Example("0", ("Question: 1 + 2?\nAnswer:",), answers=("3",))])
    assert list(seen[0]) == [gsm8k_prompt("1 + 2?")]


def test_the_training_problems_are_read(data_dir: Path) -> None:
    tasks = gsm8k_tasks()
    assert len(tasks) == 7473
    assert all(task.check(task.answer) == 1 for task in tasks)


def test_scores_of_all_responses() -> None:
    tasks = toy_tasks(0, 5)
    assert len({task.kind for task in tasks}) > 1
    right = [Response(task.answer or "", Sample.of([0], [1]), True) for task in tasks]
    wrong = Response("?", Sample.of([0], [1]), True)
    assert verify(tasks, [[good, wrong] for good in right]) == [[1, 0]] * 5


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        ({"prompt": "Copy ab.", "answer": " ab "}, "ab\n", "abc"),
        ({"prompt": [{"role": "user", "content": "1 + 2?"}], "solution": "so\n#### 3"}, "it is 3", "4"),
        ({"prompt": "1 + 2?", "ground_truth": 3}, "3", "3.5"),
        ({"prompt": "Hi?", "completion": [{"role": "assistant", "content": "Hi."}]}, "Hi.", "Ho."),
    ],
)
def test_tasks_of_the_user_are_checked_by_their_answer(row: dict[str, object], right: str, wrong: str) -> None:
    (task,) = read_tasks([row])
    assert task.messages[-1].role == "user"
    assert (task.check(right), task.check(wrong)) == (1.0, 0.0)


def test_a_task_without_an_answer_has_no_check() -> None:
    (task,) = read_tasks([{"prompt": "Say something."}])
    assert task.answer is None and task.check("something") == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "tasks: got none"),
        ([{"question": "a"}], "row 0: got question, need prompt"),
        ([{"prompt": ""}], "row 0: prompt: got str"),
        ([{"prompt": "a", "answer": {"b": 1}}], "row 0: answer: got dict"),
        ("none.jsonl", "tasks not found: none.jsonl"),
    ],
)
def test_bad_tasks_are_named(rows: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_tasks(rows)  # type: ignore[arg-type]
