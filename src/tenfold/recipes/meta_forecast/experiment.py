"""The experiment: cohorts, every mode with every share of labels and every seed, what they show."""

from __future__ import annotations

import os

import torch

from tenfold.clinical.binary_metrics import binary_metrics
from tenfold.clinical.forecast_model import TaskWeights
from tenfold.clinical.task_weighting import subset_weights, top_weights
from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.run import Run
from tenfold.recipes.meta_forecast.cohorts import Cohort, build_cohort, known_target, target_of
from tenfold.recipes.meta_forecast.config import Config
from tenfold.recipes.meta_forecast.folder import read_weights
from tenfold.recipes.meta_forecast.training import Job, Row, train_one, transfer_jobs


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: data that are absent, damaged or without both outcomes, several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "meta-forecast: many small trainings; start it without torchrun, with --workers as many as cores"
        )
    for name in config.cohort:
        cohort = build_cohort(name, config, config.seed[0])
        try:
            _check_labels(config, cohort)
            _check_tasks(config, cohort)
        except ValueError as error:
            raise error if isinstance(error, UserError) else UserError(f"{name}: {error}") from error


def _check_labels(config: Config, cohort: Cohort) -> None:
    """Both outcomes in every part, whatever the share of labels and the target."""
    data, name = cohort.data, cohort.name
    for target in (target_of(config, cohort), *(known_target(other, cohort) for other in config.transfers(name))):
        test = data.split(target)["test"]
        kinds = set(data.label(target, test).tolist())
        if kinds != {False, True}:
            raise UserError(f"{name}: target {target!r} needs both outcomes among its {len(test)} test subjects")
        for seed in config.seed if cohort.oracle is None else config.seed[:1]:
            for percent in config.percents(name):
                for part in ("train", "valid"):
                    data.labelled(target, percent, part=part, seed=seed)
    if not data.y_mask[data.split()["train"]].any():
        raise UserError(f"{name}: no variable is observed in the future of any training subject")
    if config.transfer_from is not None and list(read_weights(config.transfer_from)) != list(data.features):
        raise UserError(f"transfer_from: {config.transfer_from} weighs other variables than those of {name}")


def _check_tasks(config: Config, cohort: Cohort) -> None:
    """Settings that name tasks or count them, which the library would refuse in the middle of a run."""
    names, future = cohort.data.features, cohort.data.y.shape[1]
    for mode in config.modes(cohort.name):
        kind, settings = config.settings(cohort.name, mode, target_of(config, cohort), 100.0, 0)
        if (settings.horizon or 1) > future:
            raise ValueError(f"horizon: got {settings.horizon}, need 1..{future} (steps of the future in the data)")
        if kind == "autoselect":
            if settings.inner_opt != "sgd" and settings.hypergradient in ("official_hessian", "hessian_fixed"):
                raise ValueError(f"inner_opt: got {settings.inner_opt!r}, need 'sgd' for {mode}")
            TaskWeights(len(names), settings.normalization, settings.init)
        elif kind == "pretrain_subset":
            subset_weights(names, settings.include, settings.exclude)
        elif kind in ("random_subset", "top_k_of_weights", "correlation_filter"):
            top_weights(torch.zeros(len(names)), settings.top_k)


def train(config: Config, run: Run) -> Result:
    """Learn which forecasts serve an outcome, beside everything that does not learn it.

    Source: Xue et al. 2020, arXiv 2407.19359.
    """
    # 1. Every mode on the same subjects and labels.
    rows = _all(config, run, plan(config), "models")

    # 2. The weights of one outcome, used for another.
    rows += _all(config, run, transfer_plan(config), "transfers")

    # 3. What the simulator's own law reaches, and what all of it shows.
    from tenfold.recipes.meta_forecast.reporting import report

    report(config, run, rows + oracle_rows(config))
    return run.finish()


def _all(config: Config, run: Run, jobs: list[Job], title: str) -> list[Row]:
    arguments = [(config, str(run.path), job) for job in jobs]
    return run_jobs(
        train_one, arguments, workers=config.workers, expected_seconds=sum(job.size for job in jobs), title=title
    )


def plan(config: Config) -> list[Job]:
    """All jobs but transfers; those of one cohort and seed stand together, since they share subjects."""
    return [
        Job(cohort, mode, percent, seed)
        for cohort in config.cohort
        for seed in config.seed
        for percent in config.percents(cohort)
        for mode in sorted(config.modes(cohort), key=lambda mode: mode != "unrolled")  # the longest first
    ]


def transfer_plan(config: Config) -> list[Job]:
    """What a transfer is and what it is held against, on every other outcome."""
    return [
        job
        for cohort in config.cohort
        for target in config.transfers(cohort)
        for seed in config.seed
        for percent in config.percents(cohort)
        for job in transfer_jobs(config, cohort, target, percent, seed)
    ]


def oracle_rows(config: Config) -> list[Row]:
    """The simulator's own law on every seed's test subjects."""
    rows: list[Row] = []
    for name in config.cohort:
        for seed in config.seed:
            cohort = build_cohort(name, config, seed)
            if cohort.oracle is None:
                continue
            target = target_of(config, cohort)
            label = cohort.data.label(target, cohort.data.split()["test"])
            rows += [
                {"name": f"{name}-oracle-seed{seed}", "cohort": name, "target": target, "mode": "oracle", "seed": seed,
                 "percent": percent, "scores": {"law": binary_metrics(label, cohort.oracle)}, "weights": {}}
                for percent in config.percents(name)
            ]  # fmt: skip
    return rows
