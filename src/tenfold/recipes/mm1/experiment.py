"""The experiment, in the paper's order: encoder, pre-training on mixtures, tuning, few-shot evaluation, what the cells show."""

from __future__ import annotations

import os
import shutil
from typing import Any

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.mesh import is_main, on_main
from tenfold.core.run import Run
from tenfold.recipes.mm1.config import Config, of_cell
from tenfold.recipes.mm1.contrastive import train_clip
from tenfold.recipes.mm1.documents import emoji_of, make_tokenizer, mixture
from tenfold.recipes.mm1.network import build
from tenfold.recipes.mm1.reconstructive import train_aim
from tenfold.recipes.mm1.training import Job, Row, steps_of, train_one
from tenfold.vision.instructions import easy_questions


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: data or models that are absent, shapes that cannot be, workers under torchrun.
    """
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and config.workers > 1:
        raise UserError(f"workers: got {config.workers} under torchrun, need 1; its processes train one model together")
    if config.clip.steps:
        emoji_of(config.data)
    tokenizer = None if config.language.base else make_tokenizer(config)
    for cell in config.cells:
        try:
            changed, mix = of_cell(config, cell)
            if changed.vision.start != "random" and not config.clip.steps:
                raise ValueError("clip.steps: got 0, need some: the encoder starts from that stage")
            if changed.language.base is None:
                with torch.device("meta"):
                    build(changed, tokenizer, 0)
        except ValueError as fault:
            raise UserError(f"{cell}: {fault}") from fault
        if changed.pretrain.steps:
            mixture(changed, mix, 0)
        if "easy_vqa" in changed.sft.tasks and changed.sft.training.steps:
            easy_questions(None, "train")


def train(config: Config, run: Run) -> Result:
    """A language model that reads pictures: what it takes, cell by cell.

    Source: McKinzie et al. 2024, arXiv 2403.09611.
    """
    check(config)

    # 1. The words that the decoder knows.
    if config.language.base is None and not run.done("tokenizer"):
        on_main(_write_tokenizer, config, run)
        run.save_stage("tokenizer")

    # 2. The picture encoder, by contrast with texts, or by foretelling its own patches.
    encoders = [train_clip(config, run, seed) for seed in config.seeds] if config.clip.steps else []
    drawers = [train_aim(config, run, seed) for seed in config.seeds] if wants_aim(config) else []

    # 3. Pre-training and tuning of every cell, each seed: same documents, same order.
    rows = train_all(config, run)

    # 4. What they show.
    if is_main():
        from tenfold.recipes.mm1.reporting import report

        report(config, run, rows, encoders, drawers)
    return run.finish()


def wants_aim(config: Config) -> bool:
    """Whether a cell starts from the reconstructive encoder."""
    return any(of_cell(config, cell)[0].vision.start == "aim" for cell in config.cells)


def train_all(config: Config, run: Run) -> list[Row]:
    """Trainings side by side; the longest start first."""
    jobs = [Job(cell, seed) for seed in config.seeds for cell in config.cells]
    cost = {job: float(steps_of(config, job.cell)) for job in jobs}
    ordered = sorted(jobs, key=lambda job: -cost[job])
    rows: list[dict[str, Any]] = run_jobs(
        train_one,
        [(config, str(run.path), job) for job in ordered],
        workers=config.workers,
        expected_seconds=sum(cost.values()),
        title="models",
    )
    done = dict(zip(ordered, rows, strict=True))
    return [done[job] for job in jobs]


def _write_tokenizer(config: Config, run: Run) -> None:
    folder = run.path / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    make_tokenizer(config).save(folder)
