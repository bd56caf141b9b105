"""The experiment, in the paper's order: words, imitation, epochs of self-play, what they show."""

from __future__ import annotations

import os
from importlib.util import find_spec

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.run import Run
from tenfold.games.files import load_sft
from tenfold.games.reasoning import task_path
from tenfold.recipes.spag.config import Config
from tenfold.recipes.spag.training import Row, stages, train_seed
from tenfold.recipes.spag.world import open_pack, open_world, sft_path


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: absent words, wordings, fine-tuning rows, tasks, models or packages; several processes under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("spag runs in one process; seeds train side by side with --workers")
    open_world(config.words)
    open_pack(config.table.pack)
    if config.words.sft is not None:
        load_sft(sft_path(config.words.sft))
    if config.model.base is not None:
        from tenfold.lm.pretrained import find

        find(config.model.base)
    for task in config.reasoning.tasks:
        task_path(task)
    if config.reasoning.tasks and config.reasoning.backend == "lm_eval" and find_spec("lm_eval") is None:
        raise UserError('reasoning.backend: lm-eval is not installed: pip install "tenfold[eval]", or take builtin')


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
