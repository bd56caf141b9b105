"""One job of the experiment: a method trained on a cohort with a seed, its models kept and scored."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.clinical.boosted_hazards import BoostedHazards
from tenfold.clinical.cox import CoxPH
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_model import SurvivalModel
from tenfold.core import checkpoint
from tenfold.core.atomic import write_atomic
from tenfold.core.fit import Every, NonFiniteError, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import data_mesh, device_type, is_main
from tenfold.core.run import Run
from tenfold.recipes.deep_ssm.cohorts import Cohort, build_cohort
from tenfold.recipes.deep_ssm.config import AT_ONCE, CohortName, Config, Method
from tenfold.recipes.deep_ssm.evaluation import (
    forced_error,
    kaplan_meier_laws,
    law_of,
    mean_over_events,
    predict,
    score,
)
from tenfold.recipes.deep_ssm.folder import Inputs, write_model
from tenfold.recipes.deep_ssm.learning import Learner, build_model, columns_of, new_state, training_loss, validation

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One method on one cohort with one seed; "dssm-single" trains a model an event."""

    cohort: CohortName
    method: Method
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.cohort}-{self.method}-seed{self.seed}"

    def parts(self, events: tuple[EventSpec, ...]) -> dict[str, tuple[EventSpec, ...]]:
        """The trainings by name, each with its events."""
        if self.method != "dssm-single":
            return {self.name: events}
        return {f"{self.name}-{event.name}": (event,) for event in events}


def train_one(config: Config, run_path: str, job: Job) -> Row:
    """Do one job, or what a killed process left of it.

    Returns:
        its row: what it is, seconds, steps, "events" (scores of each), "mean" (over events); read back where it was
        finished before.
    """
    run = Run.open(run_path)
    cohort = build_cohort(job.cohort, config, job.seed)
    parts = job.parts(cohort.events)
    if run.done(job.name):
        row: Row = run.load_stage(job.name, ("cohort", "method", "seed", "events", "mean"))
        advance(len(parts) * config.steps(job.cohort))
        return row
    mesh = data_mesh()
    laws: dict[str, EventLaw] = {}
    about: list[Row] = []
    forced: dict[str, float] = {}
    for name, events in parts.items():
        model, figures = train_part(config, run, job, name, cohort, events, mesh)
        about.append(figures)
        laws |= predict(model, cohort.test)
        if is_main():
            inputs = Inputs.of(job.cohort, cohort.train, config.data)
            write_model(run.path / "models" / name, model, job.method, inputs, config.rivals)
        if job.method == "dssm" and cohort.truth and config.network.rolls_out:
            assert isinstance(model, DeepStateSpace)
            forced = forced_error(model, cohort)
    scores = score(laws, cohort)
    if job.method == "dssm" and is_main():
        write_curves(run.path / "models" / job.name / "curves.npz", cohort, laws)
    row = {
        **{name: getattr(job, name) for name in ("name", "cohort", "method", "seed")},
        "parameters": sum(each["parameters"] for each in about),
        "seconds": sum(each["seconds"] for each in about),
        "best_step": [each["best_step"] for each in about],
        "valid_nll": sum(each["valid_nll"] for each in about),
        "events": scores,
        "mean": mean_over_events(scores) | forced,
    }
    run.save_stage(job.name, row)
    run.close()
    return row


def train_part(
    config: Config,
    run: Run,
    job: Job,
    name: str,
    cohort: Cohort,
    events: tuple[EventSpec, ...],
    mesh: DeviceMesh | None,
) -> tuple[SurvivalModel, Row]:
    """Train one model to its end, or on from its last checkpoint.

    Returns:
        the model with its best weights on the CPU; parameters, seconds, best step, validation loss.
    """
    steps = config.steps(job.cohort)
    if job.method in AT_ONCE:
        begun = time.process_time()
        model, parameters = fit_at_once(config, job, cohort, events)
        seconds = time.process_time() - begun
        advance(steps)
        return model, _figures(parameters, seconds, 0, score_valid(model, cohort, events))
    measure = validation({key: column.to(device_type()) for key, column in columns_of(cohort.valid, events, tail=False).items()})  # fmt: skip
    tail = config.network.last_slot_loss and job.method.startswith("dssm")
    columns = columns_of(cohort.train, events, tail=tail)
    learner = Learner(build_model(config, job.method, cohort.train, events, job.seed)).to(device_type())
    state = new_state(config, learner, columns, steps, job.seed, mesh)
    checkpoint.resume(run, state, name)
    advance(state.step)

    def validate(learner: nn.Module) -> Mapping[str, float]:
        assert isinstance(learner, Learner)
        figures = measure(learner.model)
        learner.keep_if_better(figures["valid_nll"], state.step)
        return figures

    def after_step(_: TrainState) -> None:
        advance(1)

    every = Every(config.log_every, config.training.eval_every, config.save_every)
    try:
        fit(
            state,
            training_loss(config, state, steps, mesh),
            run=run,
            steps=steps,
            name=name,
            clip_norm=config.training.clip,
            mesh=mesh,
            every=every,
            evaluate=validate,
            after_step=after_step,
            progress=False,  # the bar over all trainings is enough
        )
    except (NonFiniteError, FloatingPointError) as error:
        raise NonFiniteError(f"{name}: {error}") from error
    parameters = sum(parameter.numel() for parameter in learner.model.parameters())
    best = learner.best.cpu()
    return best, _figures(parameters, state.seconds, int(learner.best_step), float(learner.best_loss))


def fit_at_once(config: Config, job: Job, cohort: Cohort, events: tuple[EventSpec, ...]) -> tuple[SurvivalModel, int]:
    """Cox's regression or boosted trees; and the numbers that were estimated: coefficients, or nodes of the trees."""
    rivals, train = config.rivals, columns_of(cohort.train, events, tail=False)
    sizes = [len(getattr(cohort.train, f"{kind}_names")) for kind in ("observation", "intervention", "static")]
    if job.method == "cox":
        cox = CoxPH(sizes[0], sizes[1], events, n_static=sizes[2], ridge=rivals.ridge).fit(train)
        return cox, cox.coefficients.numel()
    boosting = BoostedHazards(sizes[0], sizes[1], events, n_static=sizes[2]).fit(
        train,
        columns_of(cohort.valid, events, tail=False),
        trees=rivals.trees,
        rate=rivals.tree_rate,
        leaves=rivals.leaves,
        rows=rivals.rows,
        seed=job.seed,
    )
    return boosting, sum(len(each) for name, each in boosting.named_buffers() if name.endswith("value"))


def score_valid(model: SurvivalModel, cohort: Cohort, events: tuple[EventSpec, ...]) -> float:
    """The validation loss of a finished model."""
    return validation(columns_of(cohort.valid, events, tail=False))(model)["valid_nll"]


def _figures(parameters: int, seconds: float, best_step: int, valid_nll: float) -> Row:
    return {"parameters": parameters, "seconds": seconds, "best_step": best_step, "valid_nll": valid_nll}


def references(config: Config, cohort_name: CohortName, seed: int) -> list[Row]:
    """What needs no training: one Kaplan–Meier curve for all, and on the simulator its own law."""
    cohort = build_cohort(cohort_name, config, seed)
    laws = {"kaplan-meier": kaplan_meier_laws(cohort)}
    if cohort.truth is not None:
        laws["oracle"] = {name: law_of(curve) for name, curve in cohort.truth.items()}
    rows = []
    for method, law in laws.items():
        scores = score(law, cohort)
        rows.append(
            {"name": f"{cohort_name}-{method}-seed{seed}", "cohort": cohort_name, "method": method, "seed": seed,
             "events": scores, "mean": mean_over_events(scores)}
        )  # fmt: skip
    return rows


def write_curves(path: Path, cohort: Cohort, laws: Mapping[str, EventLaw]) -> None:
    """Survival of the test patients at the end of slot 0..K, by event; their ids; and the law where it is known."""
    arrays: dict[str, Any] = {name: law.survival.float().numpy() for name, law in laws.items()}
    if cohort.truth is not None:
        arrays |= {f"{name}_true": curve.astype(np.float32) for name, curve in cohort.truth.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, ids=np.array(cohort.test.ids), **arrays)
    write_atomic(path, buffer.getvalue())
