"""The experiment: cohorts, every method with every seed, what they show."""

from __future__ import annotations

import os

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.mesh import is_main
from tenfold.core.run import Run
from tenfold.recipes.deep_ssm.cohorts import build_cohort
from tenfold.recipes.deep_ssm.config import Config
from tenfold.recipes.deep_ssm.training import Job, Row, references, train_one


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: data that are absent, damaged or too few; what
            several processes cannot do together.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        _check_world(config, world)
    for name in config.cohorts:
        build_cohort(name, config, config.seeds[0])


def _check_world(config: Config, world: int) -> None:
    """Refuse what cannot be split over processes."""
    if config.workers > 1:
        raise UserError(f"workers: got {config.workers} under torchrun, need 1; its processes train one model together")
    if config.training.batch % world:
        raise UserError(
            f"training.batch: got {config.training.batch}, need a multiple of {world}, the number of processes"
        )
    if "deephit" in config.methods and config.rivals.rank_weight:
        raise UserError("methods: got deephit under torchrun, need rivals.rank-weight 0; its loss pairs all patients")


def train(config: Config, run: Run) -> Result:
    """One latent state for several events, beside a model for each event and the usual rivals.

    Source: Xue et al. 2020, arXiv 2407.19371.
    """
    # 1. Every method on the same patients, the longest first.
    jobs = plan(config)
    rows = run_jobs(
        train_one,
        [(config, str(run.path), job) for job in jobs],
        workers=config.workers,
        expected_seconds=sum(_steps(config, job) for job in jobs),
        title="models",
    )

    # 2. What no training gives: one curve for all, and the simulator's own law.
    if is_main():
        rows += reference_rows(config, run)

        # 3. What they show.
        from tenfold.recipes.deep_ssm.reporting import report

        report(config, run, rows)
    return run.finish()


def plan(config: Config) -> list[Job]:
    """All jobs; methods of one cohort and seed stand together, since they share patients."""
    order = sorted(config.methods, key=lambda method: method != "dssm-single")
    return [
        Job(cohort, method, seed) for cohort in config.cohorts for seed in config.seeds for method in order
    ]  # fmt: skip


def reference_rows(config: Config, run: Run) -> list[Row]:
    """Kaplan–Meier and oracle of every cohort and seed."""
    rows: list[Row] = []
    for cohort in config.cohorts:
        for seed in config.seeds:
            name = f"{cohort}-references-seed{seed}"
            if not run.done(name):
                run.save_stage(name, references(config, cohort, seed))
            rows += run.load_stage(name)
    return rows


def _steps(config: Config, job: Job) -> int:
    """What a job reports to the bar, if its cohort has as many events as usual."""
    events = len(config.data.events) or (6 if job.cohort in ("icu12", "mimic3") else 3)
    return config.steps(job.cohort) * (events if job.method == "dssm-single" else 1)
