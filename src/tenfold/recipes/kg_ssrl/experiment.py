"""The experiment, in the paper's order: graphs, embedding models for shaped rewards, every arm at one budget, what they show."""

from __future__ import annotations

import os

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.mesh import is_main, on_main
from tenfold.core.run import Run
from tenfold.graph.embed import Scorer
from tenfold.recipes.kg_ssrl.config import Config, GraphName
from tenfold.recipes.kg_ssrl.graphs import build_graph, find_graph, graph_file, tag
from tenfold.recipes.kg_ssrl.learning import training_queries
from tenfold.recipes.kg_ssrl.training import Job, Row, train_one, train_one_scorer


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: data that are absent or damaged, relations that they lack, what several processes cannot do together.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    for variant in config.variants().values():
        if world > 1:
            _check_world(variant, world)
        for name in variant.graphs:
            if name in ("synthetic", "files") or variant.training.relations:
                training_queries(variant, build_graph(name, variant.data))
            else:
                find_graph(name)


def _check_world(config: Config, world: int) -> None:
    """Refuse what cannot be split over processes."""
    if config.workers > 1:
        raise UserError(
            f"workers: got {config.workers} under torchrun, need 1; its processes train one walker together"
        )
    if config.sl.loss.startswith("official"):
        raise UserError(f"sl.loss: got {config.sl.loss!r} under torchrun, need another; it is no sum over agents")
    if config.rl.baseline == "ema":
        raise UserError("rl.baseline: got 'ema' under torchrun, need another; each process would have its own average")
    for graph in config.graphs:
        for base in config.bases:
            batch = config.settings(graph, base).batch
            if batch % world:
                raise UserError(f"training.batch: got {batch}, need a multiple of {world}, the number of processes")


def train(config: Config, run: Run, scorer: Scorer | None = None) -> Result:
    """Supervised on path labels, then reinforced, beside either alone.

    Args:
        scorer: shapes the reward in place of one trained here, such as `graph.from_pykeen(...)`; with workers 1.
    Source: Ma et al. 2024, arXiv 2405.13640.
    """
    if scorer is not None and config.workers > 1:
        raise ValueError(f"workers: got {config.workers} with a scorer, need 1; it stays in this process")

    # 1. The graphs, each kept in the run.
    if not run.done("graphs"):
        on_main(write_graphs, config, run)
        run.save_stage("graphs")

    # 2. Embedding models, where a reward is shaped by their scores.
    needed = scorers_needed(config) if scorer is None else []
    scorers = [train_one_scorer(config, str(run.path), graph, value) for graph, value in needed]

    # 3. Every arm at the same budget.
    jobs = plan(config)
    variants = config.variants()
    rows: list[Row] = run_jobs(
        train_one,
        [(config, str(run.path), job, *([scorer] if scorer is not None else [])) for job in jobs],
        workers=config.workers,
        expected_seconds=sum(variants[job.value].budget.total for job in jobs),
        title="walkers",
    )

    # 4. What they show.
    if is_main():
        from tenfold.recipes.kg_ssrl.reporting import report

        report(config, run, rows, scorers)
    return run.finish()


def plan(config: Config) -> list[Job]:
    """All trainings; arms of one seed stand together, since they are compared."""
    return [
        Job(graph, base, arm, seed, value, f"v{number}-" if value else "")
        for number, (value, variant) in enumerate(config.variants().items())
        for graph in variant.graphs
        for base in variant.bases
        for seed in variant.seeds
        for arm in variant.arms
    ]


def scorers_needed(config: Config) -> list[tuple[GraphName, str]]:
    """(graph, value) of every embedding model; values that share one count once."""
    found: dict[tuple[str, str], tuple[GraphName, str]] = {}
    for job in plan(config):
        if job.shaped:
            found.setdefault((tag(config, job.value), job.graph), (job.graph, job.value))
    return list(found.values())


def write_graphs(config: Config, run: Run) -> None:
    """Build every graph and keep it in the run, so that its own data may go."""
    for value, variant in config.variants().items():
        for name in variant.graphs:
            file = graph_file(run.path, tag(config, value), name)
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                build_graph(name, variant.data).save(file)
