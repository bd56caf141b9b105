"""Reasoning tasks by both backends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.games.reasoning import PAPER_TASKS, evaluate_reasoning, write_tasks
from tenfold.lm.decoder import Decoder
from tenfold.lm.score import evaluate
from tenfold.text.tokenizer import Tokenizer


def test_files_are_scored_here(decoder: Callable[..., Decoder], tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"context": f"the word {i}", "choices": ["apple", "a defender"], "gold": i % 2} for i in range(6)]
    (tmp_path / "arc_easy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = evaluate_reasoning(decoder(), tokenizer, ["arc_easy"], "builtin", 4, data=tmp_path)
    scores = evaluate(decoder(), tokenizer, ["arc_easy"], 0, 4, tmp_path)["arc_easy"]
    assert found == {"arc_easy": {"acc": scores["acc"], "acc_norm": scores["acc_norm"]}}
    assert scores["n"] == 4
    with pytest.raises(UserError, match="task: got 'bbh'"):
        evaluate_reasoning(decoder(), tokenizer, backend="builtin", data=tmp_path)


def test_the_harness_is_asked_with_the_paper_s_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def simple_evaluate(
        model: Any, tasks: list[str], num_fewshot: int | None, limit: int | None, **options: Any
    ) -> dict[str, Any]:
        asked[tasks[0]] = (model, num_fewshot, limit)
        figures = {"exact_match,get-answer": 0.25} if tasks == ["bbh"] else {"acc,none": 0.5, "acc_norm,none": 0.75}
        return {"results": {tasks[0]: figures}}

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=lambda include_defaults: None))
    monkeypatch.setattr("tenfold.lm.harness.harness_model", lambda model, tokenizer: "wrapped")
    found = evaluate_reasoning(None, None, limit=3)
    assert tuple(found) == PAPER_TASKS
    assert found["bbh"] == {"acc": 0.25, "acc_norm": None} and found["piqa"] == {"acc": 0.5, "acc_norm": 0.75}
    assert (
        asked["mmlu"] == ("wrapped", 5, 3) and asked["arc_challenge"] == ("wrapped", 0, 3) and asked["bbh"][1] is None
    )


def test_tasks_on_this_machine_are_gathered_and_scored_without_demonstrations(
    decoder: Callable[..., Decoder], tokenizer: Tokenizer, data_dir: Path, tmp_path: Path
) -> None:
    folder = write_tasks(("bbh_navigate", "piqa"), tmp_path / "tasks")
    assert len((folder / "bbh_navigate.jsonl").read_text().splitlines()) == 150
    found = evaluate_reasoning(decoder(max_len=1024), tokenizer, ("bbh_navigate", "piqa"), "builtin", 2, data=folder)
    assert tuple(found) == ("bbh_navigate", "piqa") and found["bbh_navigate"]["acc"] in (0.0, 0.5, 1.0)
    with pytest.raises(UserError, match="data not found: 10-abo/bbh/chess"):
        write_tasks(("bbh_chess",), tmp_path / "tasks")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="backend: got 'x', need one of lm_eval, builtin"):
        evaluate_reasoning(None, None, backend="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tasks: got none"):
        evaluate_reasoning(None, None, [])
