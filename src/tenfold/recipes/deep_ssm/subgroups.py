"""Is the model as good for women as for men, for the old as for the young? Figures of a model by groups of patients."""

# Shape legend: N patients, n of a group at risk, R draws, K slots

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventTimeDataset
from tenfold.clinical.survival_bootstrap import (
    Spread,
    concordance_of_draws,
    draws,
    mean_of_draws,
    spread,
    survival_of_draws,
)
from tenfold.recipes.deep_ssm.evaluation import FollowUp

Row = dict[str, Any]
DRAWS = 1000  # of the bootstrap
AGES = {"under 50": (0, 50), "50 to 64": (50, 65), "65 to 79": (65, 80), "80 and over": (80, np.inf)}
SEXES = {"female": 0.0, "male": 1.0}  # as the readers of PhysioNet 2012 and MIMIC-III code it
UNITS = {"ICUType1": "coronary care", "ICUType2": "cardiac surgery", "ICUType3": "medical ICU", "ICUType4": "surgical ICU"}  # fmt: skip


def groups_of(dataset: EventTimeDataset) -> dict[str, NDArray[np.bool_]]:
    """Patients [N] of each sex, age band and kind of intensive care that the static columns tell of; everybody first.

    A value that was not recorded is 0 after scaling, which puts a patient in no group of it.
    """
    everybody = {"all": np.ones(len(dataset), dtype=bool)}
    if "static" not in dataset.scaling:
        return everybody
    values = dataset.scaling["static"].undo(dataset.static).astype(np.float64).round(3)  # 65, not 64.99999
    known = dataset.static != 0
    columns = {name: (values[:, place], known[:, place]) for place, name in enumerate(dataset.static_names)}
    found = dict(everybody)
    if "Gender" in columns:
        value, there = columns["Gender"]
        found |= {name: there & (value == code) for name, code in SEXES.items()}
    if "Age" in columns:
        value, there = columns["Age"]
        found |= {name: there & (value >= low) & (value < high) for name, (low, high) in AGES.items()}
    for flag, name in UNITS.items():
        if flag in columns:
            value, there = columns[flag]
            found[name] = there & (value == 1)
    return found


def subgroup_table(laws: Mapping[str, EventLaw], dataset: EventTimeDataset, seed: int = 0) -> list[Row]:
    """C-index and calibration-in-the-large of each event and group, with intervals over patients.

    Args:
        laws: of all patients of the data set.
        dataset: whose static columns say who belongs where.
        seed: of the bootstrap.
    Returns:
        a line an event and group; none where no group is known.
    """
    groups = groups_of(dataset)
    if len(groups) == 1:
        return []
    lines = []
    for number, event in enumerate(dataset.events):
        follow = FollowUp.of(dataset, event)
        risk = 1 - laws[event.name].survival[follow.rows, -1].numpy()
        for place, (name, members) in enumerate(groups.items()):
            inside = members[follow.rows]
            generator = np.random.default_rng([seed, number, place])
            at_end = float(event.n_slots)
            figures = group_figures(follow.time[inside], follow.observed[inside], risk[inside], at_end, generator)
            lines.append({"event": event.name, "group": name} | figures)
    return lines


def group_figures(
    time: NDArray[np.float64],
    observed: NDArray[np.bool_],
    risk: NDArray[np.float64],
    horizon: float,
    generator: np.random.Generator,
) -> Row:
    """The figures of one group and event.

    Args:
        time, observed, risk: of the patients at risk [n].
        horizon: at which the risk is meant, in the unit of time.
        generator: of the bootstrap.
    """
    line: Row = {"patients": len(time), "events": int(observed.sum())}
    if len(time) < 2:
        return line | dict.fromkeys(("C Harrell", "predicted", "seen", "predicted / seen"), "—")
    # The first row is the group itself, each patient once.
    counts = np.concatenate([np.ones((1, len(time))), draws(len(time), DRAWS, generator)])
    concordance = concordance_of_draws(time, observed, risk, counts)
    predicted, seen = mean_of_draws(risk, counts), 1 - survival_of_draws(time, observed, counts, horizon)
    with np.errstate(divide="ignore"):
        ratio = predicted / np.where(seen > 1e-12, seen, 0.0)
    return line | {
        "C Harrell": interval(spread(concordance[0], concordance[1:])),
        "predicted": f"{predicted[0]:.3f}",
        "seen": f"{seen[0]:.3f}",
        "predicted / seen": interval(spread(ratio[0], ratio[1:]), 2),
    }


def interval(found: Spread, digits: int = 3) -> str:
    """A figure with its interval in words."""
    if not np.isfinite(found.value):
        return "—"
    low, high = (f"{end:.{digits}f}" if np.isfinite(end) else "∞" for end in (found.low, found.high))
    return f"{found.value:.{digits}f} ({low} to {high})"
