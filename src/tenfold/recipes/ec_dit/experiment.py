"""The experiment, in the paper's order: pictures, the model beside its rivals, what they draw, where the compute goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.mesh import is_main, on_main
from tenfold.core.run import Run
from tenfold.recipes.ec_dit.config import Config
from tenfold.recipes.ec_dit.measures import write_classifier
from tenfold.recipes.ec_dit.pictures import codec_shape, find_encoder, find_pictures, try_pictures, write_corpus
from tenfold.recipes.ec_dit.training import Job, Row, judges_distance, step_cost, train_one


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: data or encoders that are absent, or do not fit the model; a picture that cannot be read; workers
            under torchrun.
    """
    _check_fit(config)
    try_pictures(config.data, config.model.image_size * codec_shape(config.data)[1])


def _check_fit(config: Config) -> None:
    """What of `check` takes no time."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and config.workers > 1:
        raise UserError(
            f"--workers: got {config.workers} under torchrun, need 1; its processes train one model together"
        )
    (channels, factor), model = codec_shape(config.data), config.model
    if model.in_channels != channels:
        raise UserError(f"--model.in-channels: got {model.in_channels}, need {channels} (of the codec)")
    if config.data.text != "words" and model.text_dim != (width := find_encoder(config.data).dim):
        raise UserError(f"--model.text-dim: got {model.text_dim}, need {width} (of the text encoder)")
    find_pictures(config.data, model.image_size * factor)


def train(config: Config, run: Run) -> Result:
    """A diffusion transformer whose experts choose their tokens, beside models that do without that.

    Source: Sun et al. 2024, arXiv 2410.02098.
    """
    _check_fit(config)

    # 1. Pictures and captions, gathered and encoded once.
    if not run.done("corpus"):
        on_main(write_corpus, config.data, config.model.image_size, run.path / "corpus")
        if judges_distance(config):
            on_main(write_classifier, run.path / "corpus")
        run.save_stage("corpus")

    # 2. The learning rate of each kind of model, tried on the first seed.
    trials = train_all(config, run, "rates", rate_trials(config))

    # 3. The model and its rivals, every seed: same pictures, same order, same noise.
    rates = best_rates(config, trials)
    rows = train_all(
        config,
        run,
        "models",
        [Job(model, seed, rates[model], config.training.steps) for seed in config.seeds for model in config.models],
    )

    # 4. What they show.
    if is_main():
        from tenfold.recipes.ec_dit.reporting import report

        report(config, run, rows, trials)
    return run.finish()


def rate_trials(config: Config) -> list[Job]:
    """Short trainings, one a kind of model and rate."""
    training = config.training
    return [
        Job(model, config.seeds[0], lr, training.rate_steps, trial=True)
        for model in config.models
        for lr in training.rates
    ]


def best_rates(config: Config, trials: Sequence[Row]) -> dict[str, float]:
    """The rate of each kind of model with the lowest held-out loss; the config's where none was tried."""
    best = dict.fromkeys(config.models, config.training.lr)
    for model in config.models:
        own = [row for row in trials if row["model"] == model]
        if own:
            best[model] = min(own, key=lambda row: row["loss"])["lr"]
    return best


def train_all(config: Config, run: Run, title: str, jobs: Sequence[Job]) -> list[Row]:
    """Trainings side by side, in the order of `jobs`; the longest start first."""
    cost = {job: job.steps * step_cost(config, job.model) for job in jobs}
    ordered = sorted(jobs, key=lambda job: -cost[job])
    rows: list[dict[str, Any]] = run_jobs(
        train_one,
        [(config, str(run.path), job) for job in ordered],
        workers=config.workers,
        expected_seconds=sum(cost.values()),
        title=title,
    )
    done = dict(zip(ordered, rows, strict=True))
    return [done[job] for job in jobs]
