"""One job of the experiment: a mode trained for an outcome with a share of its labels, its models kept and scored."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tenfold.clinical.binary_metrics import binary_metrics
from tenfold.clinical.forecast_data import ForecastDataset
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.task_selection import AutoSelect, Result, fit_mode
from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json
from tenfold.core.errors import UserError
from tenfold.core.jobs import advance
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.recipes.meta_forecast.cohorts import build_cohort, known_target, target_of
from tenfold.recipes.meta_forecast.config import ALONE, LEARNED, CohortName, Config, Mode, shown
from tenfold.recipes.meta_forecast.evaluation import METRICS
from tenfold.recipes.meta_forecast.folder import Inputs, read_weights, write_model

Row = dict[str, Any]
_SLOW = {"unrolled": 12.0, "implicit": 20.0, "official_hessian": 15.0, "hessian_fixed": 10.0}


@dataclass(frozen=True)
class _Kept:
    """The fields of a job's row; `scores` by use of the encoder and measure, `weights` by task."""

    name: str
    cohort: CohortName
    percent: float
    seed: int
    transfer: bool
    mode: Mode | Literal["transferred", "random_draw"]
    target: str
    seconds: float
    labels: dict[str, float]
    scores: dict[str, dict[str, float]]
    weights: dict[str, float]

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("scores: got none, need those of one use or more")
        for use, scores in self.scores.items():
            if not set(METRICS) <= {name for name, value in scores.items() if math.isfinite(value)}:
                raise ValueError(f"scores.{use}: got {scores}, need finite {', '.join(METRICS)}")
        if not {"train", "valid"} <= self.labels.keys():
            raise ValueError(f"labels: got {self.labels}, need train and valid")


def read_row(run: Run, name: str) -> Row:
    """The row of a finished job.

    Raises:
        UserError: a damaged file.
    """
    row: Row = run.load_stage(name)
    try:
        if from_json(_Kept, row, where=str(run.stage(name))).name != name:
            raise UserError(f"{run.stage(name)}: name: got {row['name']!r}, need {name!r}")
    except UserError as error:
        raise UserError(f"{error}; delete the file, and --resume does its part again") from error
    return row


@dataclass(frozen=True)
class Job:
    """One mode on one cohort, with a share of the labels and a seed.

    Args:
        target: an outcome that the weights of another are used for; None is the experiment's own.
        source: the job that these weights are of.
        draw: of a random selection of as many tasks as `source` makes use of.
    """

    cohort: CohortName
    mode: Mode
    percent: float
    seed: int
    target: str | None = None
    source: str | None = None
    draw: int | None = None

    @property
    def name(self) -> str:
        """What its files are called."""
        mode = self.mode if self.source is None else "transferred" if self.draw is None else f"draw{self.draw}"
        return "-".join(filter(None, (self.cohort, self.target, mode, f"{shown(self.percent)}pct", f"seed{self.seed}")))

    @property
    def size(self) -> float:
        """About how many seconds it takes."""
        return _SLOW.get(self.mode, 5.0 if self.mode in LEARNED else 1.0)


class JobFolder:
    """The part of a run that one job writes to: its checkpoints stand apart, its log rows bear its name."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name, self.path = run, name, run.path / "models" / name

    def log(self, step: int, **metrics: Any) -> None:
        self.run.log(step, **metrics | {"model": f"{self.name}-{metrics['model']}"})

    def rewind(self, step: int, name: str | None = None) -> None:
        if step:  # rows come after the first checkpoint
            self.run.rewind(step, f"{self.name}-{name}")


def train_one(config: Config, run_path: str, job: Job) -> Row:
    """Do one job, or what a killed process left of it.

    Returns:
        its row: what it is, seconds, labels, "scores" by the use made of its encoder, "weights" of the tasks; read back
        where it was finished before.
    """
    run = Run.open(run_path)
    if run.done(job.name):
        advance(job.size)
        return read_row(run, job.name)
    cohort = build_cohort(job.cohort, config, job.seed)
    target = known_target(job.target, cohort) if job.target else target_of(config, cohort)
    mode, settings = config.settings(job.cohort, job.mode, target, job.percent, job.seed)
    weights = None
    if job.mode == "given_weights":
        weights = read_row(run, job.source)["weights"] if job.source else read_weights(config.transfer_from)
    if job.draw is not None and job.source is not None:
        count = effective_size(read_row(run, job.source)["weights"])
        drawn = np.random.default_rng([job.seed, job.draw]).permutation(len(cohort.data.features))[:count]
        settings = replace(settings, include=tuple(sorted(drawn.tolist())), exclude=())
    folder = JobFolder(run, job.name)
    begin = time.perf_counter()
    result = fit_mode(mode, cohort.data, settings, weights=weights, run=folder, device=device_type())
    seconds = time.perf_counter() - begin
    models, scores, proba = used(config, job, cohort.data, settings, result)
    inputs = Inputs.of(cohort, config.data, target)
    for use, model in models.items():
        write_model(folder.path / use, model, inputs)
    label = cohort.data.label(target, result.rows)
    write_predictions(folder.path, [cohort.data.ids[row] for row in result.rows], label, proba)
    row = {
        **{name: getattr(job, name) for name in ("name", "cohort", "percent", "seed")},
        "transfer": job.target is not None,
        "mode": job.mode if job.source is None else "transferred" if job.draw is None else "random_draw",
        "target": target,
        "seconds": seconds,
        "labels": result.labels,
        "scores": scores,
        "weights": result.weights,
    }
    write_atomic(folder.path / "metrics.json", json.dumps(row, indent=1) + "\n")
    run.save_stage(job.name, row)
    advance(job.size)
    shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    run.close()
    return row


def used(
    config: Config, job: Job, data: ForecastDataset, settings: SelectConfig, result: Result
) -> tuple[dict[str, AutoSelect], dict[str, dict[str, float]], dict[str, Any]]:
    """The models, the scores and the test predictions of every use of what was trained."""
    models: dict[str, AutoSelect] = {}
    if job.mode in ALONE:
        use = str(ALONE[job.mode])
        if result.estimator is not None:
            models[use] = result.estimator
        return models, {use: result.metrics}, {use: result.proba}
    assert result.estimator is not None
    scores: dict[str, dict[str, float]] = {}
    proba: dict[str, Any] = {}
    test = data.batch(result.rows)
    label = data.label(str(settings.target), result.rows)
    for use in config.use:
        models[use] = result.estimator if use == "frozen" else finetuned(data, settings, result.estimator)
        proba[use] = models[use].predict_proba(test)[:, 1]
        scores[use] = binary_metrics(label, proba[use])
    return models, scores, proba


def finetuned(data: ForecastDataset, settings: SelectConfig, estimator: AutoSelect) -> AutoSelect:
    """A classifier trained together with the encoder, from the labels that the head on the frozen one had."""
    target, percent, seed = str(settings.target), settings.label_percent, settings.seed
    labelled = data.labelled(target, percent, seed=seed)
    valid = data.labelled(target, percent, part="valid", seed=seed, minimum=1)
    if settings.outer_labels == "full":
        valid = data.split(target)["valid"]
    return estimator.transfer(data.batch(labelled, target), data.batch(valid, target), freeze_encoder=False)


def write_predictions(path: Path, ids: list[str], label: Any, proba: dict[str, Any]) -> None:
    """Chance of the outcome of every test subject, by use."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=np.array(ids), label=label, **proba)
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / "predictions.npz", buffer.getvalue())


def effective_size(weights: dict[str, float]) -> int:
    """How many tasks of equal weight have the same entropy, rounded."""
    return max(1, round(math.exp(-sum(w * math.log(w) for w in weights.values() if w > 0))))


def transfer_jobs(config: Config, cohort: CohortName, target: str, percent: float, seed: int) -> list[Job]:
    """The weights of the experiment's target on another one, random selections of as many tasks, and the usual ways."""
    source = Job(cohort, "first_order", percent, seed).name
    plain: tuple[Mode, ...] = ("supervised", "pretrain", "first_order")
    return [
        *(Job(cohort, mode, percent, seed, target) for mode in plain),
        Job(cohort, "given_weights", percent, seed, target, source),
        *(Job(cohort, "pretrain_subset", percent, seed, target, source, draw) for draw in range(config.draws)),
    ]
