"""What a model's curves are worth on patients that it has not seen."""

# Shape legend: n patients at risk of an event, K slots

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.clinical.curves import rmst
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_metrics import (
    NoComparablePairs,
    concordance_index,
    concordance_ipcw,
    concordance_td,
    d_calibration,
    event_time_error,
    integrated_brier_score,
    kaplan_meier,
    window_auc,
)
from tenfold.clinical.survival_model import SurvivalModel
from tenfold.recipes.deep_ssm.cohorts import Cohort

Floats = NDArray[np.float64]
Scores = dict[str, float]
WINDOWS = (24, 48)  # hours after the trigger
METRICS = {"c_td": "C Antolini", "c_ipcw": "C IPCW", "c": "C Harrell", "ibs": "IBS", "auc24": "AUC 24 h",
           "auc48": "AUC 48 h", "mae": "MAE h", "nll": "NLL nat", "d_p": "D-cal. p ≤"}  # fmt: skip


@dataclass(frozen=True)
class FollowUp:
    """The patients at risk of one event.

    A patient censored in slot k survived it, so it stands half a slot later: events come before censorings without ties.

    Args:
        rows: of the data set [n].
        slot: int64 [n] in 1..K.
        observed: bool [n].
        hours: from the trigger [n].
    """

    rows: NDArray[np.int64]
    slot: NDArray[np.int64]
    observed: NDArray[np.bool_]
    hours: Floats

    @classmethod
    def of(cls, dataset: EventTimeDataset, event: EventSpec) -> FollowUp:
        column = dataset.events.index(event)
        rows, batch = np.flatnonzero(dataset.at_risk[:, column]), dataset.batch()
        slot, observed = (batch[name][rows, column].numpy() for name in ("slot", "observed"))
        return cls(rows, slot, observed, dataset.time_hours[rows, column])

    @property
    def time(self) -> Floats:
        """Slots from the trigger to the event, or half a slot past the one that was survived [n]."""
        return np.where(self.observed, self.slot, self.slot + 0.5)


def predict(model: SurvivalModel, dataset: EventTimeDataset) -> dict[str, EventLaw]:
    """The law of each event for all patients of a data set, in double precision."""
    batch = dataset.batch()
    with torch.no_grad():
        laws = model.eval().laws(batch)
    return {name: EventLaw(law.log_hazard.double(), law.log_stay.double()) for name, law in laws.items()}


def kaplan_meier_laws(cohort: Cohort) -> dict[str, EventLaw]:
    """One curve for all: that of the training part."""
    laws = {}
    for event in cohort.events:
        train, patients = FollowUp.of(cohort.train, event), len(cohort.test)
        curve = kaplan_meier(train.time, train.observed).at(np.arange(event.n_slots + 1.0))
        laws[event.name] = law_of(np.tile(curve, (patients, 1)))
    return laws


def law_of(survival: Floats) -> EventLaw:
    """The law of survival curves [n, K + 1]."""
    log_survival = torch.from_numpy(np.log(np.maximum(survival, np.finfo(np.float64).tiny)))
    return EventLaw.from_log_stay(log_survival.diff(dim=1))


def score(laws: Mapping[str, EventLaw], cohort: Cohort) -> dict[str, Scores]:
    """All measures of every event on the test part; NaN where one is undefined.

    Args:
        laws: of the test patients.
    """
    found = {}
    for event in cohort.events:
        law, test = laws[event.name], FollowUp.of(cohort.test, event)
        survival = law.survival.numpy().clip(0, 1)
        found[event.name] = score_event(event, survival[test.rows], test, FollowUp.of(cohort.train, event))
        slot, observed = torch.from_numpy(test.slot), torch.from_numpy(test.observed)
        own = EventLaw(law.log_hazard[test.rows], law.log_stay[test.rows])
        found[event.name]["nll"] = -float(own.log_likelihood(slot, observed).mean())
        if cohort.truth is not None:
            found[event.name]["error"] = float(np.abs(survival - cohort.truth[event.name])[:, 1:].mean())
    return found


def score_event(event: EventSpec, survival: Floats, test: FollowUp, train: FollowUp) -> Scores:
    """The measures that need curves alone.

    Args:
        survival: S at the end of slot k = 0..K of the patients at risk [n, K + 1].
        test: those patients.
        train: whose censoring weighs them.
    """
    time, slots = test.time, np.arange(event.n_slots + 1.0)
    risk = 1 - survival[:, -1]  # within the horizon
    known = (train.time, train.observed)
    scores = {
        "events": float(test.observed.sum()),
        "c": _defined(concordance_index, time, test.observed, risk),
        "c_td": _defined(concordance_td, time, test.observed, survival, slots),
        "c_ipcw": _defined(concordance_ipcw, *known, time, test.observed, risk, tau=train.time.max()),
    }
    inside = (slots >= max(1.0, time.min())) & (slots < min(time.max(), train.time.max()))
    scores["ibs"] = np.nan
    if inside.sum() > 1:
        scores["ibs"] = integrated_brier_score(
            *known, time, test.observed, survival[:, inside], slots[inside], left_limit=True
        )
    for hours in WINDOWS:
        slot = hours / event.slot_hours
        if slot.is_integer() and 1 <= slot <= event.n_slots:
            chance = 1 - survival[:, int(slot)]
            with warnings.catch_warnings(action="ignore"):  # one class alone: NaN says it
                scores[f"auc{hours}"] = window_auc(
                    test.slot * event.slot_hours, test.observed, chance, (0.0, float(hours))
                )
    expected = rmst(torch.from_numpy(survival), event.slot_hours).numpy()
    scores["mae"] = event_time_error(test.hours, test.observed, expected)
    scores["d_p"] = d_calibration(test.slot, test.observed, survival, slots, slots=True).p_value
    return scores


def _defined(measure: Any, *arguments: Any, **options: Any) -> float:
    try:
        return float(measure(*arguments, **options))
    except NoComparablePairs:
        return float("nan")


def mean_over_events(scores: Mapping[str, Scores]) -> Scores:
    """The mean of each measure over the events that have it; NaN where one of them is NaN."""
    names = dict.fromkeys(name for each in scores.values() for name in each)
    return {name: float(np.mean([each[name] for each in scores.values() if name in each])) for name in names}


def forced_error(model: DeepStateSpace, cohort: Cohort) -> Scores:
    """The simulator's law under a forced treatment beside the model's: the what-if that no data show.

    Returns:
        "do_error": mean |S - S*| over test patients, slots, events, always and never treated; "do_ignored": that of the
        model's curves without a plan; "do_effect": S(K) if always treated less S(K) if never, mean over patients and
        events; "do_effect_true": that of the law.
    """
    simulator, test = HmmIcuSim(), cohort.test
    batch, horizon = test.batch(), max(event.n_slots for event in cohort.events)
    errors, ignored, ends, true_ends = [], [], [], []
    plain = predict(model, test)
    for treated in (0.0, 1.0):
        truth = simulator.true_survival(test.x, test.mask, test.u, do=np.full(horizon, treated))
        with torch.no_grad():
            found = model.eval().simulate(batch, torch.full((horizon, 1), treated))
        for event in cohort.events:
            mine = found[event.name].double().numpy()
            errors.append(np.abs(mine - truth[event.name])[:, 1:].mean())
            ignored.append(np.abs(plain[event.name].survival.numpy() - truth[event.name])[:, 1:].mean())
            ends.append((2 * treated - 1) * mine[:, -1].mean())
            true_ends.append((2 * treated - 1) * truth[event.name][:, -1].mean())
    events = len(cohort.events)
    return {
        "do_error": float(np.mean(errors)),
        "do_ignored": float(np.mean(ignored)),
        "do_effect": float(np.sum(ends)) / events,
        "do_effect_true": float(np.sum(true_ends)) / events,
    }
