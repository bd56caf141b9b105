"""The experiment, in the paper's order: words, imitation, epochs of self-play, what they show."""

from __future__ import annotations

import os

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.run import Run
from tenfold.games.reasoning import BBH
from tenfold.recipes.spag.config import Config
from tenfold.recipes.spag.training import Row, stages, train_seed
from tenfold.recipes.spag.world import open_pack, open_world, sft_path


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: absent words, wordings, fine-tuning rows, tasks or models; several processes under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("spag runs in one process; seeds train side by side with --workers")
    open_world(config.words)
    open_pack(config.table.pack)
    if config.words.sft is not None:
        sft_path(config.words.sft)
    if config.model.base is not None:
        from tenfold.lm.pretrained import find

        find(config.model.base)
    if config.reasoning.tasks:
        from tenfold.core.data import path as data_path

        for task in config.reasoning.tasks:
            data_path(f"10-abo/bbh/{task.removeprefix(BBH)}.jsonl" if task.startswith(BBH) else task)


def train(config: Config, run: Run) -> Result:
    """Imitation, then self-play: play, credit, learn; an arena after every stage.

    Source: Cheng et al. 2024, arXiv 2404.10642.
    """
    seeds = len(config.seeds)
    rows: list[list[Row]] = run_jobs(
        train_seed,
        [(config, str(run.path), seed) for seed in config.seeds],
        workers=min(config.workers, seeds),
        expected_seconds=float(seeds * len(stages(config))),
        title="self-play",
    )
    from tenfold.recipes.spag.reporting import report

    report(config, run, [row for each in rows for row in each])
    return run.finish()
