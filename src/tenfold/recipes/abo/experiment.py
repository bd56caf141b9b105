"""The experiment: every task, method and seed at equal calls, then what the optimizer looks at."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import advance, run_jobs
from tenfold.core.run import Run
from tenfold.prompts.probes import Unreadable, probe_paraphrases, probe_reflections
from tenfold.prompts.selectors import UCB, BruteForce, Pull, Selector, SuccessiveHalving, SuccessiveRejects, select
from tenfold.prompts.task import Task
from tenfold.prompts.task_files import few_shot_cot
from tenfold.recipes.abo.config import LOCAL, SCRIPT, SIM, Config
from tenfold.recipes.abo.models import SERVE, opened
from tenfold.recipes.abo.searches import Row, open_task, run_search
from tenfold.text.chat import run_sync
from tenfold.text.messages import ChatModel

FIELDS = ("kind", "task", "seed")
SELECTORS: dict[str, Selector] = {
    "brute force": BruteForce(),
    "UCB": UCB(),
    "UCB, small pulls": UCB(rounds=32, examples_per_round=8, c=0.5),
    "successive halving": SuccessiveHalving(),
    "successive rejects": SuccessiveRejects(),
}
ARMS, BEST, OTHERS = 40, 0.7, (0.3, 0.65)  # of the simulated bandit


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: absent tasks or models, an endpoint without key, several processes under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("abo runs in one process; searches go side by side with --workers")
    for name in config.data.tasks:
        task = open_task(name, config, config.seeds[0])
        if len(task.test) >= config.search.calls:
            raise UserError(
                f"search.calls: got {config.search.calls}, need more than the {len(task.test)} of the look at test"
            )
        least = least_tokens(task, config)
        if config.search.tokens is not None and config.search.tokens < least:
            raise UserError(
                f"search.tokens: got {config.search.tokens}, need {least} or more on {name}: scoring the given prompt, then the {len(task.test)} of the look at test at the longest prompt there may be"
            )
        if "few-shot-cot" in config.methods and name.startswith("bbh/"):
            few_shot_cot(name)
    for name in (config.models.target, config.models.optimizer):
        if name.startswith(SERVE):
            from tenfold.lm.pretrained import find

            find(name.removeprefix(SERVE))
        elif name not in (SIM, LOCAL, SCRIPT, "target"):
            with opened(name, "target"):
                pass


def least_tokens(task: Task, config: Config) -> int:
    """Tokens that a search keeps back for the look at test, and what the starting prompt's scores may take: as many as bytes."""
    size = config.search
    longest = max(len(example.input.encode()) for example in (*task.val, *task.test)) + 64 + task.max_tokens
    return len(task.test) * (longest + size.max_prompt_chars) + len(task.val) * (longest + len(size.start.encode()))


def train(config: Config, run: Run) -> Result:
    """Search with every method at equal calls, probe the optimizer, say what came of it.

    Source: Ma et al. 2024, arXiv 2402.02101.
    """
    stages = stage_names(config)
    left = [name for name in stages if not run.done(name)]
    if config.simulated:
        run_jobs(
            one_stage,
            [(config, str(run.path), name) for name in left],
            workers=min(config.workers, max(1, len(left))),
            expected_seconds=float(len(left)),
            title="searches",
        )
    else:
        with opened(config.models.target, config.models.optimizer, concurrency=config.models.concurrency, timeout=config.models.timeout, local=config.models.local, whole_replies=config.models.whole_replies) as models:  # fmt: skip
            run_jobs(
                _with_models(models),
                [(config, str(run.path), name) for name in left],
                workers=1,
                expected_seconds=float(len(left)),
                title="searches",
            )
    from tenfold.recipes.abo.reporting import report

    report(config, run, [run.load_stage(name, FIELDS) for name in stages])
    return run.finish()


def stage_names(config: Config) -> list[str]:
    """All parts of a run, searches first by seed, so that an interrupted run has whole seeds."""
    tasks = [(name, short) for short, name in slugs(config).items()]
    names = []
    for seed in config.seeds:
        names += [f"search {short} {method} {seed}" for name, short in tasks for method in config.methods if (method != "few-shot-cot" or name.startswith("bbh/"))]  # fmt: skip
        if config.probes.reflections:
            betas = config.probes.betas if config.simulated else (None,)
            names += [f"reflections {short} {beta} {seed}" for _, short in tasks for beta in betas]
        if config.probes.paraphrases:
            names += [f"paraphrases {short} - {seed}" for _, short in tasks]
    if config.probes.bandit:
        names += [f"bandit {name.replace(' ', '_').replace(',', '')} - 0" for name in SELECTORS]
    return names


def slugs(config: Config) -> dict[str, str]:
    """A short name for every task, for files, to its name."""
    found: dict[str, str] = {}
    for name in config.data.tasks:
        short = re.sub(r"[^\w.]+", "-", Path(name).stem if Path(name).suffix else name).strip("-.") or "task"
        while short in found:
            short += "+"
        found[short] = name
    return found


def _with_models(models: Any) -> Any:
    def job(config: Config, run_path: str, name: str) -> None:
        _stage(config, run_path, name, models)

    return job


def one_stage(config: Config, run_path: str, name: str) -> None:
    """A stage on the simulator, in any process."""
    _stage(config, run_path, name, None)


def _stage(config: Config, run_path: str, name: str, models: Any) -> None:
    run = Run.open(run_path)
    kind, short, what, last = name.split(" ")
    seed = int(last)
    row: Row = {"kind": kind, "task": short, "seed": seed}
    if kind == "bandit":
        row |= _bandit(config.probes.bandit, short)
    else:
        row["task"] = task_name = slugs(config)[short]
        beta = float(what) if kind == "reflections" and config.simulated else config.models.beta
        with (
            opened(config.models.target, config.models.optimizer, seed=seed, beta=beta)
            if models is None
            else nullcontext(models) as pair
        ):
            if kind == "search":
                row |= {"method": what, **run_search(config, what, task_name, seed, run.path / "searches" / name.removeprefix("search ").replace(" ", "--"), pair)}  # type: ignore[arg-type]  # fmt: skip
            else:
                try:
                    row |= _probe(
                        config, kind, task_name, seed, beta, run.path / "probes" / name.replace(" ", "--"), pair
                    )
                except Unreadable as error:  # is a finding, too
                    row |= {"beta": beta if config.simulated else None, "nothing": str(error)}
    run.save_stage(name, row)
    advance(1.0)
    run.close()


def _probe(
    config: Config, kind: str, name: str, seed: int, beta: float, folder: Path, models: tuple[ChatModel, ChatModel]
) -> Row:
    task, start = open_task(name, config, seed), config.search.start
    how: dict[str, Any] = {"seed": seed, "folder": folder, **config.search.writing}
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "paraphrases":
        return run_sync(probe_paraphrases(task, *models, start, m=config.probes.paraphrases, **how))
    probe = run_sync(probe_reflections(task, *models, start, n=config.probes.reflections, **how))
    row: Row = {"beta": beta if config.simulated else None, **probe.to_json()}
    if config.simulated:
        prior = task.causes[-1].name  # what the simulated optimizer always suspects
        row["prior_hits"] = probe.truths.count(prior) / len(probe.truths)
    return row


def _bandit(trials: int, short: str) -> Row:
    """How often a selector finds the best of forty Bernoulli arms, or has it among its first three."""
    name, selector = next((n, s) for n, s in SELECTORS.items() if n.replace(" ", "_").replace(",", "") == short)
    best = top = spent = 0
    firsts = []
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        chance = generator.uniform(*OTHERS, ARMS)
        arm = int(generator.integers(ARMS))
        chance[arm] = BEST

        def pull(asked: Pull, g: np.random.Generator = generator, p: np.ndarray = chance) -> np.ndarray:
            return (g.random((len(asked.arms), len(asked.examples))) < p[list(asked.arms)][:, None]).astype(float)

        found = select(selector, ARMS, 2048, 1, pull, trial)
        firsts.append(float(found.order[0] == arm))
        best, top, spent = best + (found.order[0] == arm), top + (arm in found.order[:3]), max(spent, found.spent)
    return {
        "selector": name,
        "best": best / trials,
        "top3": top / trials,
        "spent": spent,
        "trials": trials,
        "firsts": firsts,
    }
