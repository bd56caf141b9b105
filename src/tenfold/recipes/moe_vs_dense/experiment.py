"""The experiment, in the paper's order: step times, budget, training at equal seconds and equal tokens, the curve."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.steptime import Budget, chinchilla, equal_time_steps
from tenfold.recipes.moe_vs_dense import figures, findings
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Config
from tenfold.recipes.moe_vs_dense.text import load_text
from tenfold.recipes.moe_vs_dense.training import Job, time_steps, train_together
from tenfold.text.corpus import TokenWindows


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: no text, or too little; a mesh that is not the processes' number; a budget below one step.
    """
    text = load_text(config.data)
    TokenWindows(text.train, config.data.sequence, config.data.rows, config.seeds[0])
    processes, world = config.mesh.size, int(os.environ.get("WORLD_SIZE", "1"))
    if processes != world:
        raise UserError(
            f"mesh: data x expert x model: got {processes}, need {world}, the number of processes "
            f"(torchrun --nproc-per-node {processes} starts so many)"
        )
    for width in config.widths:
        token_budget(config, width, text.tokenizer.vocab_size)


def train(config: Config, run: Run) -> Result:
    """Measure complexity by step time, give every model the dense model's seconds, and draw loss against step time.

    Source: Du et al. 2024, arXiv 2405.15052; the protocol is written out in docs/systems/moe-vs-dense.md.
    """
    text = load_text(config.data)  # fails early, and fills the cache for the workers

    # 1. Step time is the measure of a model's complexity: all families of a width take turns.
    step_s = measure_step_times(config, run)

    # 2. Chinchilla's rule on the dense model of each width sets the tokens, and with its step time the seconds.
    jobs = plan_jobs(config, step_s, text.tokenizer.vocab_size)

    # 3. Every model trains for those seconds, and for comparison for those tokens, each with its own end of schedule.
    rows = train_jobs(config, run, jobs)

    # 4. Loss against step time.
    report(config, run, rows, text.source)
    return run.finish()


def measure_step_times(config: Config, run: Run) -> dict[int, dict[str, float]]:
    """{width: {family: seconds of a step}}; kept in the run, so that a resumed run trains the same number of steps."""
    missing = [width for width in config.widths if not run.done(f"step-time-{width}")]
    expected = 0.1 * config.budget.timing_steps * len(config.families) * len(missing)
    found = run_jobs(
        time_steps,
        [(config, width) for width in missing],
        workers=config.side_by_side,
        expected_seconds=expected,
        title="step times",
    )
    for width, times in zip(missing, found, strict=True):
        run.save_stage(f"step-time-{width}", times)
    return {width: run.load_stage(f"step-time-{width}", config.families) for width in config.widths}


def plan_jobs(config: Config, step_s: dict[int, dict[str, float]], vocabulary: int) -> list[Job]:
    """All training runs, longest first; the number of steps of each is fixed here.

    Raises:
        UserError: a budget shorter than one step.
    """
    jobs = []
    for width in config.widths:
        times = step_s[width]
        budget = token_budget(config, width, vocabulary)
        seconds = budget.seconds(times["dense"])
        with _budget_named(width):
            steps = {family: equal_time_steps(seconds, times[family]) for family in config.families}
        for seed in config.seeds:
            for family in config.families:
                jobs.append(Job(family, width, seed, "seconds", steps[family], times[family], seconds))
                # The dense model's own tokens are what its seconds hold: it serves both protocols with one run.
                if "tokens" in config.protocols and FAMILIES[family].same_active:
                    jobs.append(Job(family, width, seed, "tokens", budget.steps, times[family], seconds))
    jobs.sort(key=lambda job: -job.expected_s)
    return [replace(jobs[0], profile=config.profile), *jobs[1:]]


def token_budget(config: Config, width: int, vocabulary: int) -> Budget:
    """Tokens and steps of the dense model of a width."""
    with _budget_named(width):
        params = dense_parameters(config, width, vocabulary)
        return chinchilla(params, config.data.step_tokens, config.budget.tokens_per_param)


@contextmanager
def _budget_named(width: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(
            f"budget at width {width}: {error}; raise --budget.tokens-per-param or shrink --data.rows"
        ) from None


def dense_parameters(config: Config, width: int, vocabulary: int) -> int:
    """N of the Chinchilla rule: all parameters of the dense model of this width."""
    with torch.device("meta"):
        model = Decoder(config.decoder("dense", width, vocabulary), torch.Generator())
    return model.num_params(embedding=True)


def train_jobs(config: Config, run: Run, jobs: list[Job]) -> list[dict[str, Any]]:
    """Train all jobs, then again, with the number of steps mended, those that missed the dense model's seconds.

    The seconds compared are those really used: the models of a width and seed trained in turns, so their pace is comparable.
    """
    rows = _train(config, run, jobs)
    for attempt in range(1, config.budget.repeats + 1):
        again = [
            replace(job, attempt=attempt, steps=max(1, round(row["steps"] / miss)), step_s=row["step_s"] * miss)
            for job in jobs
            if abs((miss := 1 + missed(rows, row := rows[job.run_name])) - 1) > config.budget.tolerance
        ]
        pace = {job.run_name: rows[job.run_name]["seconds"] / rows[job.run_name]["steps"] for job in again}
        for name, row in _train(config, run, again).items():
            # A repeat has no rivals beside it: its seconds are its steps at the pace that they saw.
            rows[name] = {**row, "seconds": row["steps"] * pace[name]}
    return list(rows.values())


def missed(rows: dict[str, dict[str, Any]], row: dict[str, Any]) -> float:
    """Relative difference between a model's seconds and dense's of its width, means over seeds; 0 at equal tokens."""
    if row["protocol"] != "seconds" or row["family"] == "dense":
        return 0.0
    same = [r for r in rows.values() if r["width"] == row["width"] and r["protocol"] == "seconds"]
    own, dense = (
        statistics.fmean(r["seconds"] for r in same if r["family"] == family) for family in (row["family"], "dense")
    )
    return own / dense - 1


def _train(config: Config, run: Run, jobs: list[Job]) -> dict[str, dict[str, Any]]:
    """Rows by run name; the models of a width and seed train in turns."""
    groups: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.width, job.seed), []).append(job)
    longest_first = sorted(groups.values(), key=lambda group: -sum(job.expected_s for job in group))
    found = run_jobs(
        train_together,
        [(config, str(run.path), group) for group in longest_first],
        workers=config.side_by_side,
        expected_seconds=sum(job.expected_s for job in jobs),
        title="training",
    )
    return {
        job.run_name: row
        for group, rows in zip(longest_first, found, strict=True)
        for job, row in zip(group, rows, strict=True)
    }


def report(config: Config, run: Run, rows: list[dict[str, Any]], source: str) -> None:
    """Summary, curve, tables and claims of the run."""
    run.text("summary", findings.summary(config, rows, source))
    run.figure(
        "trade-off",
        figures.trade_off_figure(config, rows),
        caption="One curve a family, one point a width"
        + ("; left what the paper holds equal, right what favours MoE." if "tokens" in config.protocols else ".")
        + (" Bars: 95 % over seeds." if len(config.seeds) > 1 else " One seed: no bars."),
    )
    run.table(
        "protocols",
        findings.protocol_table(config, rows),
        note="'Tokens / dense parameter' stands beside Chinchilla's 20"
        + ("; ± is the 95 % t interval over seeds." if len(config.seeds) > 1 else "; one seed, no interval."),
    )
    if len(config.widths) > 1:
        run.table(
            "speed at equal loss",
            findings.speed_table(config, rows),
            note="Empty: the family's curve does not cross that loss.",
        )
    run.figure(
        "learning", figures.learning_figure(config, run, rows), caption="Training loss, smoothed, at equal seconds."
    )
    loads = figures.load_figure(config, rows)
    if loads is not None:
        run.figure("expert load", loads, caption="Share of validation tokens of each expert; dashed: perfect balance.")
    if config.eval_items:
        run.table(
            "scores",
            findings.score_table(config, rows),
            note="Accuracy in percent at the largest width, at equal seconds.",
        )
    run.table(
        "beside the paper",
        findings.beside_the_paper(config, rows),
        note="The paper's figures are from summaries of it, on accelerators and at billions of parameters; its per-task figures are not public.",
    )
    for claim in findings.make_claims(config, rows):
        run.claim(claim)
