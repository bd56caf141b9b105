"""One training of the experiment: a supervised stage, a reinforcement stage, the model kept and ranked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core import checkpoint
from tenfold.core.config import read_object
from tenfold.core.fit import Every, Loss, NonFiniteError, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type, is_main
from tenfold.core.model_folder import read_tensors, write_folder
from tenfold.core.run import Run
from tenfold.graph.embed import KINDS, EmbeddingScorer, Scorer, check_vocabulary, train_scorer
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.losses import HitReward, Reward, ShapedReward
from tenfold.graph.reasoner import Reasoner
from tenfold.recipes.kg_ssrl.config import Arm, Config, GraphName
from tenfold.recipes.kg_ssrl.evaluation import (
    figures_of,
    of_relations,
    rank,
    rewarded_paths,
    valid_triples,
    write_predictions,
)
from tenfold.recipes.kg_ssrl.graphs import graph_file, tag
from tenfold.recipes.kg_ssrl.learning import (
    STAGES,
    Learner,
    Queries,
    build_learner,
    new_state,
    reinforced_loss,
    supervised_loss,
    training_queries,
)
from tenfold.recipes.kg_ssrl.published import Base, Settings

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        graph, base, arm, seed: which.
        value: of the swept field; empty without a sweep.
        start: begins its name; with a sweep, the number of the value.
    """

    graph: GraphName
    base: Base
    arm: Arm
    seed: int
    value: str = ""
    start: str = ""

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.start}{self.graph}-{self.base}-{self.arm}-seed{self.seed}"

    @property
    def shaped(self) -> bool:
        return self.arm.endswith("-shaped")


class StepClock:
    """CPU seconds of this process (seconds, on an accelerator), but for what is done under `paused`."""

    def __init__(self) -> None:
        self._now = time.process_time if device_type() == "cpu" else time.perf_counter
        self._lost = 0.0

    def __call__(self) -> float:
        return self._now() - self._lost

    @contextmanager
    def paused(self) -> Iterator[None]:
        begun = self._now()
        yield
        self._lost += self._now() - begun


@dataclass(frozen=True)
class Trial:
    """A job with all that it works on; `config` is that of its value."""

    config: Config
    run: Run
    job: Job
    kg: KnowledgeGraph
    settings: Settings
    mesh: DeviceMesh | None


def train_one(config: Config, run_path: str, job: Job, scorer: Scorer | None = None) -> Row:
    """Do one training, or what a killed process left of it, keep its model and rank the test triples.

    Returns:
        its row: what it is, its steps and seconds, its scores; read back where it was finished before.
    """
    run, start = Run.open(run_path), tag(config, job.value)
    variant = config.variants()[job.value]
    if run.done(job.name):
        advance(variant.budget.total)
        row: Row = run.load_stage(job.name, ("graph", "base", "arm", "seed", "mrr"))
        return row
    with _threads(1 if variant.budget.unit == "seconds" and device_type() == "cpu" else None):
        kg = KnowledgeGraph.load(graph_file(run.path, start, job.graph)).to(device_type())
        reward: Reward = HitReward()
        if job.shaped:
            scorer = scorer or load_scorer(run.path, start, job.graph)
            check_vocabulary(scorer, kg)
            reward = ShapedReward(scorer, variant.shaping.mu, variant.shaping.threshold)
        trial = Trial(variant, run, job, kg, variant.settings(job.graph, job.base), data_mesh())
        row = _train(trial, reward)
    run.save_stage(job.name, row)
    run.close()
    return row


def _train(trial: Trial, reward: Reward) -> Row:
    """Both stages of a job; its row."""
    config, job, kg, settings, mesh = trial.config, trial.job, trial.kg, trial.settings, trial.mesh
    learner = build_learner(config, job.base, settings, kg, job.seed).to(device_type())
    queries, coordinate = training_queries(config, kg), batch_coordinate(mesh)
    asked = of_relations(kg, "test", config)  # before the training: it may find none
    steps, seconds = dict.fromkeys(STAGES, 0), dict.fromkeys(STAGES, 0.0)
    for stage, amount in config.budget.stages(job.arm).items():
        if stage == "rl" and config.budget.unit == "seconds":
            amount -= seconds["sl"] - (config.budget.total - amount)  # the last supervised step may end late
            if amount <= 0:
                continue
        batches = Queries(queries, settings.batch, job.seed, STAGES.index(stage), *coordinate)
        state = new_state(learner, settings, batches, job.seed)
        if stage == "sl":
            loss = supervised_loss(config, settings, kg, len(queries) // coordinate[1], mesh)
        else:
            loss = reinforced_loss(config, job.base, settings, kg, reward, partial(getattr, state, "step"), mesh)
        run_stage(trial, stage, state, loss, amount)
        steps[stage], seconds[stage] = state.step, state.seconds
    found = rank(learner.policy, kg, asked, config, settings)
    if is_main():
        folder = model_folder(trial.run.path, job)
        Reasoner(
            learner.policy,
            kg.to("cpu"),
            horizon=settings.horizon,
            width=settings.width,
            reduce=config.search.reduce,
            mask_inverse=config.training.mask_inverse,
            trained=queries[:, 1].unique().tolist(),
        ).save(folder)
        write_predictions(folder / "predictions.tsv", kg, found["per_query"])
    return {
        **{name: getattr(job, name) for name in ("name", "graph", "base", "arm", "seed", "value")},
        "parameters": sum(parameter.numel() for parameter in learner.policy.parameters()),
        **{f"{stage}_steps": steps[stage] for stage in STAGES},
        **{f"{stage}_seconds": seconds[stage] for stage in STAGES},
        **figures_of(found),
        "paths": rewarded_paths(learner.policy.eval(), kg, queries, config, settings, job.seed),
    }


def run_stage(trial: Trial, stage: str, state: TrainState, loss: Loss, amount: float) -> None:
    """Train one stage to its end, or on from its last checkpoint, with a point of the learning curve at even shares of it.

    Args:
        amount: what the stage may spend, in the budget's unit.
    Raises:
        NonFiniteError: naming the training and the stage; its last checkpoint stays.
    """
    config, run, kg = trial.config, trial.run, trial.kg
    budget, name, clock = config.budget, f"{trial.job.name}-{stage}", StepClock()
    checkpoint.resume(run, state, name)
    points = max(1, round(config.search.curve_points * amount / budget.total))
    asked = valid_triples(kg, config)

    def share() -> float:
        return state.step / amount if budget.unit == "steps" else state.progress or 0.0

    seen, told = int(share() * points), share() * amount
    advance(told)

    def validate(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, Learner)
        found = rank(model.policy, kg, asked, config, trial.settings)
        return {"valid_mrr": found["mrr"], "valid_hits@1": found["hits@1"], "seconds": state.seconds}

    def after_step(_: TrainState) -> None:
        nonlocal seen, told
        if seen < int(share() * points) < points:  # the last point comes with the last step
            seen = int(share() * points)
            with clock.paused():
                figures = validate(state.model)
                run.log(state.step, model=name, **figures)
        done = share() * amount
        advance(done - told)
        told = done

    try:
        fit(
            state,
            loss,
            run=run,
            steps=int(amount) if budget.unit == "steps" else None,
            seconds=amount if budget.unit == "seconds" else None,
            name=name,
            clip_norm=trial.settings.clip or None,
            mesh=trial.mesh,
            every=Every(log=config.log_every, save=config.save_every),
            evaluate=validate,
            after_step=after_step,
            progress=False,  # the bar over all trainings is enough
            clock=clock,
        )
    except NonFiniteError as error:
        label = {"sl": "supervised", "rl": "reinforcement"}[stage]
        raise NonFiniteError(f"{trial.job.name}, {label} stage: {error}") from error


def train_one_scorer(config: Config, run_path: str, graph: GraphName, value: str) -> Row:
    """Train the embedding model that shapes rewards on one graph, keep it and rank the test triples with it."""
    run, start = Run.open(run_path), tag(config, value)
    name = f"{start}{graph}-scorer"
    if run.done(name):
        row: Row = run.load_stage(name, ("graph", "mrr"))
        return row
    variant = config.variants()[value]
    kg = KnowledgeGraph.load(graph_file(run.path, start, graph))
    begun = time.process_time()
    shaping = variant.shaping
    scorer = train_scorer(kg, shaping.kind, shaping.scorer, run=run, name=name)
    seconds = time.process_time() - begun
    about = {
        "kind": shaping.kind,
        "dim": shaping.scorer.dim,
        "entities": kg.num_entities,
        "relations": kg.num_relations,
    }
    if is_main():
        write_folder(run.path / "scorers" / f"{start}{graph}", about, scorer.state_dict())
    found = rank(scorer, kg, "test", variant, variant.settings(graph, variant.bases[0]))
    row = {"graph": graph, "kind": shaping.kind, "value": value, "seconds": seconds, **figures_of(found)}
    run.save_stage(name, row)
    run.close()
    return row


def load_scorer(run_path: Path, start: str, graph: str) -> EmbeddingScorer:
    """The embedding model that a run trained on a graph, frozen."""
    folder = run_path / "scorers" / f"{start}{graph}"
    about = read_object(folder / "config.json", kind=str, dim=int, entities=int, relations=int)
    generator = torch.Generator().manual_seed(0)
    scorer = KINDS[about["kind"]](about["entities"], about["relations"], about["dim"], generator=generator)
    scorer.load_state_dict(read_tensors(folder))
    return scorer.to(device_type()).eval().requires_grad_(False)


def model_folder(run_path: Path, job: Job) -> Path:
    """Where a training leaves its model."""
    return run_path / "models" / job.name


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute on so many threads; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
