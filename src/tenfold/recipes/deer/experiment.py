"""The experiment, in the paper's order: tools and samples, training, decisions on tools never seen, beside the floors."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import advance, run_jobs
from tenfold.core.run import Run
from tenfold.recipes.deer import learners
from tenfold.recipes.deer.config import ArmName, Config
from tenfold.recipes.deer.learners import Decider
from tenfold.recipes.deer.world import (
    UNSEEN,
    World,
    calibration_samples,
    encoder,
    evaluations,
    open_world,
    training_samples,
)
from tenfold.tools.baselines import AlwaysRefuse, TfidfDecider
from tenfold.tools.decider import ChatDecider
from tenfold.tools.metrics import Prediction, evaluate_decisions
from tenfold.tools.ranker import Likeness, SearchHead
from tenfold.tools.retrieval import BM25, Embedding, Hybrid, Retriever, retrieval_report
from tenfold.tools.samples import DecisionSample, write_samples

Row = dict[str, Any]
FIELDS = ("stage", "seed", "sets")
FLOORS, RETRIEVAL = "floors", "retrieval"
SHOWN = 40  # decisions of a set that a run keeps as examples


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: absent data or models; several processes under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("deer runs in one process; seeds train side by side with --workers")
    open_world(config, config.seeds[0])
    from tenfold.lm.pretrained import find

    for name in (config.ranking.embed, config.candidates.embed, config.tuning.base if config.learner == "lora" else None):  # fmt: skip
        if name is not None and name != "tfidf-svd":
            find(name)


def train(config: Config, run: Run) -> Result:
    """Build samples, learn to decide, decide on unseen tools.

    Source: Gui et al. 2024, arXiv 2402.16696.
    """
    rows: list[list[Row]] = run_jobs(
        train_seed,
        [(config, str(run.path), seed) for seed in config.seeds],
        workers=min(config.workers, len(config.seeds)),
        expected_seconds=float(len(config.seeds) * (len(config.arms) + 1)),
        title="decisions",
    )
    from tenfold.recipes.deer.reporting import report

    report(config, run, [row for each in rows for row in each])
    return run.finish()


def train_seed(config: Config, run_path: str, seed: int) -> list[Row]:
    """The floors and every arm of one seed, or what a killed process left of them."""
    run = Run.open(run_path)
    known = _Known(config, seed)
    rows = []
    with _threads(1 if config.learner != "lora" else torch.get_num_threads()):
        for stage in (FLOORS, *config.arms):
            name = f"seed{seed}-{stage}"
            if not run.done(name):
                row = floors(run, known) if stage == FLOORS else learn(run, known, cast(ArmName, stage))
                run.save_stage(name, {"stage": stage, "seed": seed, "source": known.world.source, **row})
                shutil.rmtree(run.path / "checkpoints" / name, ignore_errors=True)
            rows.append(run.load_stage(name, FIELDS))
            advance(1.0)
    run.close()
    return rows


class _Known:
    """What all stages of a seed share, made when it is first needed."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed

    @cached_property
    def world(self) -> World:
        return open_world(self.config, self.seed)

    @cached_property
    def sets(self) -> dict[str, list[DecisionSample]]:
        return evaluations(self.config, self.world, self.seed)

    @cached_property
    def likeness(self) -> Likeness:
        return learners.fitted_likeness(self.config, self.world)


def model_folder(run_path: Path, seed: int, stage: str) -> Path:
    """Where an arm of a seed leaves its model."""
    return run_path / "models" / f"seed{seed}-{stage}"


def learn(run: Run, known: _Known, arm: ArmName) -> Row:
    """Train an arm and measure it."""
    config, world, seed = known.config, known.world, known.seed
    samples, report, sampler = training_samples(config, world, arm, seed)
    label, folder = f"seed{seed}-{arm}", model_folder(run.path, seed, arm)
    task = learners.Task(config, run, label, seed, samples, calibration_samples(config, world, seed), folder)
    row: Row = {"samples": len(samples), "kept": dict(report.kept), "dropped": dict(report.dropped), "filled": dict(sampler.report.filled)}  # fmt: skip
    if config.learner == "ranker":
        ranker, row["seconds"] = learners.train_ranker(task, known.likeness)
        row["bias"] = ranker.bias
        return row | measured(run, label, {arm: ranker}, known.sets, seed)
    row["seconds"], row["learned_tokens"] = learners.train_language_model(task)
    with learners.chat_model(folder, label) as chat:
        return row | measured(run, label, {arm: ChatDecider(chat)}, known.sets, seed)


def floors(run: Run, known: _Known) -> Row:
    """Everything that is not trained on decisions, on the same samples; and how well tools are found."""
    config, world, seed = known.config, known.world, known.seed
    samples, _, _ = training_samples(config, world, "random", seed)
    asked = [sample.query for sample in samples if sample.branch != "no_search"]
    general = [sample.query for sample in samples if sample.branch == "no_search"]
    head = SearchHead.fit(known.likeness, asked, general, letters=False)
    threshold = TfidfDecider(known.likeness, head)
    threshold.tune(samples)
    deciders: dict[str, Decider] = {
        "always refuse": AlwaysRefuse(),
        "always call (marker token)": TfidfDecider(known.likeness),
        "TF-IDF threshold": threshold,
    }
    label = f"seed{seed}-{FLOORS}"
    row = measured(run, label, deciders, known.sets, seed)
    row["threshold"] = threshold.threshold
    if config.learner == "lora":
        shown = learners.demonstrations(samples, config.tuning.demonstrations)
        with learners.chat_model(config.tuning.base) as chat:
            untuned = {f"{config.tuning.base}, {count} demonstrations": ChatDecider(chat, shown[:count]) for count in dict.fromkeys((0, len(shown)))}  # fmt: skip
            row["sets"] |= measured(run, label, untuned, known.sets, seed)["sets"]
            marker = {f"{config.tuning.base}, marker token alone": ChatDecider(chat, decides=False)}
            row["sets"] |= measured(run, label, marker, {UNSEEN: known.sets[UNSEEN]}, seed)["sets"]
    if seed == config.seeds[0]:
        row[RETRIEVAL] = retrieval(config, world)
        write_samples(run.path / "samples.jsonl", samples[:1000])
    return row


def retrieval(config: Config, world: World) -> Row:
    """Recall of the retrievers over the unseen tools."""
    tools = [entry.tool for entry in world.unseen]
    queries = [(query, entry.tool.name) for entry in world.unseen for query, _ in entry.examples]
    words, svd = BM25(tools), Embedding(tools, "tfidf-svd")
    found: dict[str, Retriever] = {"BM25": words, "TF-IDF SVD": svd, "hybrid of these": Hybrid([words, svd])}
    if config.ranking.embed is not None:
        meaning = Embedding(tools, encoder(config.ranking.embed))
        found |= {config.ranking.embed: meaning, f"hybrid of BM25 and {config.ranking.embed}": Hybrid([words, meaning])}  # fmt: skip
    return {name: retrieval_report(each, queries, (1, 2, 3, 5, 7, 10)) for name, each in found.items()}


def measured(
    run: Run, label: str, deciders: Mapping[str, Decider], sets: Mapping[str, Sequence[DecisionSample]], seed: int
) -> Row:
    """Figures of every decider on every set, and some decisions to look at.

    A language model takes minutes for a set: the run keeps each under `label`, and a killed one goes on behind it.
    """
    found: Row = {}
    examples: list[Row] = []
    for name, each in deciders.items():
        for kind, samples in sets.items():
            part = f"{label}-{re.sub(r'[^A-Za-z0-9.]+', '-', name)[-60:]}-{kind}"
            if isinstance(each, ChatDecider) and run.done(part):
                figures, shown = run.load_stage(part)
            else:
                predictions, seconds = learners.timed(each, samples, arguments=kind == UNSEEN)
                figures = {**evaluate_decisions(samples, predictions, seed=seed), "seconds": seconds}
                decided = list(zip(samples, predictions, strict=True))[: SHOWN if kind == UNSEEN else 0]
                shown = [_example(name, sample, guess) for sample, guess in decided]
                if isinstance(each, ChatDecider):
                    run.save_stage(part, (figures, shown))
            found.setdefault(name, {})[kind] = figures
            examples += shown
    return {"sets": found, "examples": examples}


def _example(name: str, sample: DecisionSample, guess: Prediction) -> Row:
    said = "answer" if not guess.search else guess.choice or "none"
    right = {"no_search": "answer", "no_call": "none"}.get(sample.branch) or sample.target
    return {"decider": name, "query": sample.query, "candidates": list(sample.names), "right": right, "said": said, "sure": guess.p_choice}  # fmt: skip


@contextmanager
def _threads(count: int) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
