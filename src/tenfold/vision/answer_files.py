"""Questions, people's answers and captions of VQAv2 and COCO in; a model's answers and captions out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.core.atomic import write_atomic
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.vision.rows import check_keys

Id = int | str


@dataclass(frozen=True)
class VqaQuestion:
    """A question of VQAv2 with people's answers."""

    question_id: Id
    image_id: Id
    question: str
    answers: tuple[str, ...]


def read_vqa(questions: str | Path, annotations: str | Path) -> list[VqaQuestion]:
    """VQAv2: {"questions": [{question_id, image_id, question}]} and {"annotations": [{question_id, answers: [{answer}]}]}.

    Raises:
        UserError: fields that are missing, questions without answers; named.
    """
    asked = _rows(questions, "questions", {"question_id": int | str, "image_id": int | str, "question": str})
    told = _rows(annotations, "annotations", {"question_id": int | str, "answers": list})
    answers: dict[Any, tuple[str, ...]] = {}
    for number, row in enumerate(told):
        for answer in row["answers"]:
            if not isinstance(answer, dict) or not isinstance(answer.get("answer"), str):
                raise UserError(f'{annotations}: annotation {number}: answers need objects with a text under "answer"')
        answers[row["question_id"]] = tuple(answer["answer"] for answer in row["answers"])
    if lacking := [row["question_id"] for row in asked if not answers.get(row["question_id"])]:
        raise UserError(f"{annotations}: no answers to {len(lacking)} questions, first {lacking[0]}")
    return [VqaQuestion(r["question_id"], r["image_id"], r["question"], answers[r["question_id"]]) for r in asked]


def read_coco_captions(path: str | Path) -> dict[Id, list[str]]:
    """COCO: {"annotations": [{image_id, caption}]} to the captions of each image."""
    found: dict[Id, list[str]] = {}
    for row in _rows(path, "annotations", {"image_id": int | str, "caption": str}):
        found.setdefault(row["image_id"], []).append(row["caption"])
    return found


def write_captions(path: str | Path, captions: Mapping[Id, str]) -> None:
    """[{"image_id", "caption"}], as COCO's evaluation reads it."""
    _write(path, [{"image_id": key, "caption": text} for key, text in captions.items()])


def write_answers(path: str | Path, answers: Mapping[Id, str]) -> None:
    """[{"question_id", "answer"}], as VQA's evaluation reads it."""
    _write(path, [{"question_id": key, "answer": text} for key, text in answers.items()])


def _write(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def _rows(path: str | Path, name: str, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = read_object(Path(path), **{name: list})[name]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: {name} {number}: got {type(row).__name__}, need an object")
        check_keys(row, keys, f"{path}: {name} {number}", f"it needs {', '.join(keys)}")
    return list(rows)
