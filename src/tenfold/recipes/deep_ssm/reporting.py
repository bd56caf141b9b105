"""The report of a run: summary, tables, learning curves, what the joint model says of patients, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenfold.clinical.events import EventTimeDataset
from tenfold.clinical.icu12 import free_events
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_metrics import d_calibration
from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.deep_ssm import figures, findings, together
from tenfold.recipes.deep_ssm.cohorts import Cohort, build_cohort
from tenfold.recipes.deep_ssm.config import Config
from tenfold.recipes.deep_ssm.evaluation import FollowUp, predict
from tenfold.recipes.deep_ssm.folder import read_model
from tenfold.recipes.deep_ssm.subgroups import subgroup_table
from tenfold.recipes.deep_ssm.training import Job

Row = dict[str, Any]
HEAT_ROWS = 60  # patients of a heat-map


def report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    run.text("summary", findings.summary(config, rows))
    run.figure(
        "scores", figures.score_figure(rows, config.cohorts), caption="Harrell's C of the risk within the horizon."
    )
    curves = learning_curves(config, run)
    if any(curves.values()):
        run.figure("learning", figures.learning_figure({name: each for name, each in curves.items() if each}),
                   caption="The weights of the least validation loss are kept.")  # fmt: skip
    for cohort in config.cohorts:
        note = findings.note(config, cohort)
        run.table(f"{cohort}, {findings.MEAN}", findings.result_table(rows, cohort), note=note)
        events = select(rows, cohort=cohort)[0]["events"]
        lines = [line for event in events for line in findings.result_table(rows, cohort, event)]
        run.table(f"{cohort}, each event", lines, note=note)
        if "dssm" in config.methods:
            show_model(config, run, build_cohort(cohort, config, config.seeds[0]))
    if forced := findings.forced_table(rows):
        run.table("what if", forced, note="Simulator. Policy and state go together in the data; the law under a forced treatment was never shown to the model.")  # fmt: skip
    run.table("cost", findings.cost_table(rows), note="Validation NLL is the sum over events.")
    for claim in findings.make_claims(config, rows):
        run.claim(claim)


def learning_curves(config: Config, run: Run) -> dict[str, dict[str, list[Any]]]:
    """cohort -> method -> (steps, validation losses) of each seed; single-event models add up."""
    by_name: dict[str, list[Row]] = {}
    for row in run.rows():
        if "valid_nll" in row:
            by_name.setdefault(row["model"], []).append(row)
    curves: dict[str, dict[str, list[Any]]] = {cohort: {} for cohort in config.cohorts}
    for cohort in config.cohorts:
        events = build_cohort(cohort, config, config.seeds[0]).events
        for method in config.trained:
            lines = []
            for seed in config.seeds:
                parts = [by_name[name] for name in Job(cohort, method, seed).parts(events) if name in by_name]
                if parts:
                    losses = np.sum([[row["valid_nll"] for row in part] for part in parts], axis=0)
                    lines.append((np.array([row["step"] for row in parts[0]]), losses))
            if lines:
                curves[cohort][method] = lines
    return curves


def show_model(config: Config, run: Run, cohort: Cohort) -> None:
    """The joint model of the first seed, on the test patients."""
    name, first = cohort.name, Job(cohort.name, "dssm", config.seeds[0])
    model = read_model(run.path / "models" / first.name).model
    assert isinstance(model, DeepStateSpace)
    laws, events = predict(model, cohort.test), cohort.events
    survival = {event.name: laws[event.name].survival for event in events}
    risk = torch.stack([1 - curve[:, -1] for curve in survival.values()]).mean(0)
    order = risk.argsort(descending=True)
    label = f"{name}, joint model of the first seed, test patients."

    picked = order[[int(share * (len(order) - 1)) for share in (0.02, 0.25, 0.75)]]
    chosen = cohort.test.subset(picked)
    truth = None if cohort.truth is None else {key: curve[picked.numpy()] for key, curve in cohort.truth.items()}
    figure = figures.patient_figure(
        events,
        only_at_risk({key: curve[picked].numpy() for key, curve in survival.items()}, chosen),
        only_at_risk(draw(model, chosen.batch(), config.samples), chosen),
        [f"patient {name}" for name in chosen.ids],
        truth,
    )
    caption = f"{label} Three of high, middle and low risk. Lines: from the mean of the state at the trigger; bands: 90 % of {config.samples} draws of it."
    run.figure(f"{name}-patients", figure, caption if truth is None else f"{caption} Dashed: the simulator's law.")
    heat = order[torch.linspace(0, len(order) - 1, min(HEAT_ROWS, len(order))).round().long()]
    hazards = {event.name: laws[event.name].hazard[heat].numpy() for event in events}
    run.figure(
        f"{name}-hazards",
        figures.hazard_figure(events, only_at_risk(hazards, cohort.test.subset(heat))),
        caption=f"{label} Evenly picked by their mean risk over events. White: had the event before.",
    )
    if len(events) > 1:
        show_together(config, run, cohort, model, survival, label)
    if lines := subgroup_table(laws, cohort.test):
        run.table(f"{name}, groups of patients", lines, note=f"{label} Those at risk whose group is recorded. predicted: mean risk within the horizon; seen: Kaplan–Meier. 95 % intervals: bootstrap over the group's patients, the model as it is.")  # fmt: skip
    risks, tests = {}, {}
    for event in events:
        follow = FollowUp.of(cohort.test, event)
        curve = survival[event.name][follow.rows].numpy().clip(0, 1)
        risks[event.name] = (follow, 1 - curve[:, -1])
        tests[event.name] = d_calibration(
            follow.slot, follow.observed, curve, np.arange(event.n_slots + 1.0), slots=True
        )
    run.figure(f"{name}-calibration", figures.calibration_figure(events, risks, tests),
               caption=f"{label} Those at risk, in tenths by predicted risk within the horizon.")  # fmt: skip
    if cohort.test.intervention_names and config.network.rolls_out:
        show_what_if(run, cohort, model, label)


def draw(model: DeepStateSpace, batch: dict[str, Tensor], samples: int) -> dict[str, Any]:
    """Curves from draws of the state at the trigger: event -> [samples, patients, K + 1]."""
    with torch.no_grad():
        each = [
            model.survival(batch, n_samples=1, generator=torch.Generator().manual_seed(number))
            for number in range(samples)
        ]
    return {event.name: torch.stack([one[event.name] for one in each]).numpy() for event in model.events}


def only_at_risk(curves: Mapping[str, Any], dataset: EventTimeDataset) -> dict[str, Any]:
    """Curves [..., patients, slots] by event, NaN where the event came before the trigger."""
    return {
        event.name: np.where(dataset.at_risk[:, column, None], curves[event.name], np.nan)
        for column, event in enumerate(dataset.events)
    }


def show_together(
    config: Config, run: Run, cohort: Cohort, model: DeepStateSpace, survival: Mapping[str, Tensor], label: str
) -> None:
    """How the events go together, with intervals; on the simulator beside its law."""
    name, names = cohort.name, [event.name for event in cohort.events]
    matrices = together.correlations(survival, cohort.truth)
    what = "Pearson's correlation: of log cumulative hazards over patients; of hazards over slots, within a patient, on average."
    how = "95 % intervals: bootstrap over patients, the model as it is."
    run.figure(f"{name}-correlation", figures.correlation_figure(names, matrices), caption=f"{label} {what} {how}")
    run.table(
        f"{name}, correlation of events", together.correlation_table(names, matrices), note=f"{label} {what} {how}"
    )
    if cohort.truth is not None:
        note = f"{label} P(none of the events by the horizon), mean over patients; mean |error| is per patient. Events are independent given the state at the trigger, of which {config.samples} draws are shared by all. {how}"
        run.table(f"{name}, several events at once", together.joint_table(model, cohort, config.samples), note=note)


def show_what_if(run: Run, cohort: Cohort, model: DeepStateSpace, label: str) -> None:
    """All test patients under treatment and without it, on average; not for events that are a treatment themselves."""
    events = free_events(cohort.events, cohort.test.intervention_names)
    if not events:
        return
    slots, test = max(event.n_slots for event in cohort.events), cohort.test
    batch, width = test.batch(), len(test.intervention_names)
    plans = {"always": torch.ones(slots, width), "never": torch.zeros(slots, width)}
    with torch.no_grad():
        curves = {"as forecast": model.survival(batch)} | {plan: model.simulate(batch, u) for plan, u in plans.items()}
    at_risk = {event.name: test.at_risk[:, column] for column, event in enumerate(test.events)}
    lines = {
        plan: {name: curve[at_risk[name]].mean(0).numpy() for name, curve in each.items()}
        for plan, each in curves.items()
    }
    truth = None
    if cohort.truth is not None:
        simulator = HmmIcuSim()
        laws = {"as forecast": cohort.truth} | {
            plan: simulator.true_survival(test.x, test.mask, test.u, do=u[:, 0].numpy()) for plan, u in plans.items()
        }
        truth = {plan: {name: curve.mean(0) for name, curve in each.items()} for plan, each in laws.items()}
    what = " and ".join(test.intervention_names)
    words = (
        f"{label} Mean survival of those at risk where {what} is given always, never, or as the model forecasts it. "
    )
    words += "Dashed: the simulator's law." if truth else "A model of such data shows association; no trial stands behind it."  # fmt: skip
    run.figure(f"{cohort.name}-what-if", figures.whatif_figure(events, lines, truth), caption=words)
