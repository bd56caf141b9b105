"""The paper's question: does self-play make a model better at reasoning? Its benchmarks, by the harness or here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.games.bbh import choice_rows
from tenfold.games.files import read_rows, write_rows

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

BBH = "bbh_"  # begins the names of BIG-Bench Hard's tasks of choice, such as bbh_navigate

# The rows of `tenfold.lm.tasks` as lm-eval reads them.
_CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
_CONTEXTS = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{contexts}}",
    "doc_to_target": "{{continuation}}",
    "metric_list": [{"metric": "acc"}],
}


def task_path(task: str) -> Path:
    """The file of a task on this machine: a name of the catalogue of data ("piqa"), or "bbh_" and one of BIG-Bench Hard.

    Raises:
        UserError: absent.
    """
    return data_path(f"10-abo/bbh/{task.removeprefix(BBH)}.jsonl" if task.startswith(BBH) else task)


def write_tasks(tasks: Sequence[str], folder: str | Path) -> Path:
    """Gather tasks that are on this machine as NAME.jsonl in one folder, for `evaluate_reasoning`.

    Args:
        tasks: names, see `task_path`.
        folder: made if missing.
    Raises:
        UserError: absent data.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        source = task_path(task)
        rows = choice_rows(source) if task.startswith(BBH) else [row for _, row in read_rows(source)]
        write_rows(rows, folder / f"{task}.jsonl")
    return folder


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
        backend: "lm_eval" runs lm-evaluation-harness, "builtin" our own scoring.
        limit: rows of each task.
        data: folder of NAME.jsonl in the form of `tenfold.lm.tasks`, without demonstrations. None: the harness fetches
            its own data, "builtin" looks in TENFOLD_DATA and the cache.
    Returns:
        task to "acc" and "acc_norm" (None where it has none).
    Raises:
        UserError: lm-eval is not installed, an unknown task, absent data.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend: got {backend!r}, need one of {', '.join(get_args(Backend))}")
    if not tasks:
        raise ValueError("tasks: got none, need at least one")
    score = _builtin if backend == "builtin" else _harness
    return score(model, tokenizer, tasks, limit, None if data is None else Path(data))


def _builtin(
    model: Any, tokenizer: Any, tasks: Sequence[str], limit: int | None, data: Path | None
) -> dict[str, dict[str, float | None]]:
    from tenfold.lm.score import evaluate
    from tenfold.lm.tasks import Task

    found = {}
    for task in tasks:
        known: str | Task = Task(task, "choices") if task.startswith(BBH) else task
        shots = SHOTS.get(task) or 0 if data is None else 0
        scores = evaluate(model, tokenizer, [known], shots, limit, data)[task]
        found[task] = {"acc": scores["acc"], "acc_norm": scores["acc_norm"]}
    return found


def _harness(
    model: Any, tokenizer: Any, tasks: Sequence[str], limit: int | None, data: Path | None
) -> dict[str, dict[str, float | None]]:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError('lm-eval is not installed: pip install "tenfold[eval]"') from error
    from tenfold.lm.harness import harness_model

    wrapped = harness_model(model, tokenizer)
    manager = TaskManager(include_defaults=data is None)  # reading its own thousands of tasks takes half a minute
    found = {}
    for task in tasks:
        asked: Any = task if data is None else _local_task(task, data)
        shots = SHOTS.get(task) if data is None else 0
        out = simple_evaluate(
            wrapped, tasks=[asked], num_fewshot=shots, limit=limit, bootstrap_iters=0, task_manager=manager
        )
        figures = out["results"][task]
        exact = figures.get("exact_match,get-answer", figures.get("exact_match,none"))
        found[task] = {"acc": figures.get("acc,none", exact), "acc_norm": figures.get("acc_norm,none")}
    return found


def _local_task(task: str, data: Path) -> dict[str, Any]:
    """lm-eval's description of a file of ours."""
    file = data / f"{task}.jsonl"
    rows = read_rows(file)
    if not rows:
        raise UserError(f"{file}: no rows, need at least one")
    source = {"data_files": {"test": str(file)}, "cache_dir": str(data / "cache")}
    form = _CONTEXTS if "contexts" in rows[0][1] else _CHOICES
    return {"task": task, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test", **form}
