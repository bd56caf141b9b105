"""The paper's question: does self-play make a model better at reasoning? Its benchmarks, by the harness or here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.core.errors import UserError

Backend = Literal["lm_eval", "builtin"]

# The paper's tasks by the harness's names, with their demonstrations; None takes the harness's own.
SHOTS: dict[str, int | None] = {
    "bbh": None,
    "mutual": 0,
    "arc_easy": 0,
    "arc_challenge": 0,
    "logiqa2": 0,
    "winogrande": 0,
    "piqa": 0,
    "mmlu": 5,
}
PAPER_TASKS = tuple(SHOTS)


def evaluate_reasoning(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str] = PAPER_TASKS,
    backend: Backend = "lm_eval",
    limit: int | None = None,
    *,
    data: str | Path | None = None,
) -> dict[str, dict[str, float | None]]:
    """Score a model on reasoning tasks.

    Args:
        model, tokenizer: as in `tenfold.lm.score.evaluate`.
        tasks: names.
        backend: "lm_eval" runs lm-evaluation-harness, which fetches its data; "builtin" reads NAME.jsonl from `data`.
        limit: rows of each task.
        data: folder of the files; None takes TENFOLD_DATA and the cache.
    Returns:
        task to "acc" and "acc_norm" (None where it has none).
    Raises:
        UserError: lm-eval is not installed, an unknown task, absent data.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend: got {backend!r}, need one of {', '.join(get_args(Backend))}")
    if not tasks:
        raise ValueError("tasks: got none, need at least one")
    found: dict[str, dict[str, float | None]] = {}
    if backend == "builtin":
        from tenfold.lm.score import evaluate

        for task in tasks:
            scores = evaluate(model, tokenizer, [task], SHOTS.get(task) or 0, limit, data)[task]
            found[task] = {"acc": scores["acc"], "acc_norm": scores["acc_norm"]}
        return found
    try:
        from lm_eval import simple_evaluate
    except ImportError as error:
        raise UserError('lm-eval is not installed: pip install "tenfold[eval]"') from error
    from tenfold.lm.harness import harness_model

    wrapped = harness_model(model, tokenizer)
    for task in tasks:
        shots = SHOTS.get(task)
        figures = simple_evaluate(wrapped, tasks=[task], num_fewshot=shots, limit=limit)["results"][task]
        exact = figures.get("exact_match,get-answer", figures.get("exact_match,none"))
        found[task] = {"acc": figures.get("acc,none", exact), "acc_norm": figures.get("acc_norm,none")}
    return found
