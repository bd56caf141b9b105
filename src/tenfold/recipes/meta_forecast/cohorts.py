"""The subjects that are learned from and tested on: simulated, in intensive care, or the user's own."""

# Shape legend: N subjects, T history steps, F variables

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.death48 import death48
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.forecast_data import ForecastDataset, forecast_from_events
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_meds
from tenfold.clinical.mimic3 import frequent_items, read_mimic3
from tenfold.clinical.mimic3_items import GCS_PARTS, INTERVENTIONS, ITEMS, Item
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.core.atomic import checked_name
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError
from tenfold.recipes.meta_forecast.config import SIMULATED, CohortName, Config, Data


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects with history, future and outcomes.

    Args:
        name: of the cohort.
        data: all of them, in three parts.
        gap: steps between what is read and the trigger, from which outcomes are counted.
        items: of MIMIC-III.
        oracle: chance of the outcome of every test subject by the law that made it; None outside the simulator.
    """

    name: CohortName
    data: ForecastDataset
    gap: int = 0
    items: tuple[Item, ...] = ()
    oracle: NDArray[np.float64] | None = None


def build_cohort(name: CohortName, config: Config, seed: int) -> Cohort:
    """The subjects of a cohort; only those of a simulator depend on the seed.

    Raises:
        UserError: data that are absent or damaged.
    """
    return _built(name, config.data, seed if name in SIMULATED else 0)


@lru_cache(maxsize=2)  # a worker does all jobs of a cohort and seed in a row
def _built(name: CohortName, data: Data, seed: int) -> Cohort:
    if name in SIMULATED:
        return simulated(name, data, seed)
    data.check_path()
    if name == "death48":
        return Cohort(name, death48(data.path))
    try:
        return _mimic3(data) if name == "mimic3" else _own(name, data)
    except ValueError as error:  # names that fit nothing; the readers' own messages say which
        raise error if isinstance(error, UserError) else UserError(f"data: {error}") from error


def simulated(name: CohortName, data: Data, seed: int) -> Cohort:
    """New subjects for every seed, and what the simulator's own law says of the tested ones."""
    simulator = PlantedForecast("sim" if name == "sim" else "sim_raw", data.history, data.horizon)
    drawn = simulator.sample(data.subjects, data.labelled, data.tested, labelled=data.labelled, seed=seed)
    test = drawn.split()["test"]
    return Cohort(name, drawn, oracle=simulator.oracle_proba(drawn.x[test], drawn.mask[test]))


def _mimic3(data: Data) -> Cohort:
    assert data.path is not None
    wanted = chosen_items(data)
    known = {(item.table, item.itemid) for item in ITEMS}
    items = (*ITEMS, *(item for item in wanted if (item.table, item.itemid) not in known))
    steps = data.history + data.horizon
    dataset = read_mimic3(data.path, data.specs() or ["death30"], items=items, context_hours=steps)
    read = forecast_from_events(dataset, data.horizon)
    return Cohort("mimic3", only(read, variables_of(wanted, read.features)), data.horizon, items)


def chosen_items(data: Data) -> list[Item]:
    """The items that are forecast, charted or of the laboratory."""
    assert data.path is not None
    if not data.items:
        return frequent_items(data.path)
    found = {item.itemid: item for item in [*frequent_items(data.path, share=0.0, limit=100_000), *ITEMS]}
    absent = [number for number in data.items if number not in found]
    if absent:
        raise UserError(f"data.items: item {absent[0]} has no number in CHARTEVENTS or LABEVENTS")
    return [found[number] for number in data.items]


def variables_of(items: Sequence[Item], features: Sequence[str]) -> tuple[str, ...]:
    """Names of what the items measure; several items may measure one variable."""
    names = {item.itemid: item.variable for item in ITEMS}
    named = ["GCS" if name in GCS_PARTS else name for name in (names.get(i.itemid, i.variable) for i in items)]
    kept = tuple(dict.fromkeys(name for name in named if name in features and name not in INTERVENTIONS))
    if not kept:
        raise UserError(
            "mimic3: no item with numbers in the first 48 hours of 5 % of the stays; name some by data.items"
        )
    return kept


def only(data: ForecastDataset, names: Sequence[str]) -> ForecastDataset:
    """Some of the variables."""
    columns = [data.features.index(name) for name in names]
    arrays = {name: getattr(data, name)[:, :, columns] for name in ("x", "mask", "y", "y_mask")}
    return replace(data, features=tuple(names), **arrays)


def _own(name: CohortName, data: Data) -> Cohort:
    events = [event for event in data.specs() if isinstance(event, EventSpec)]
    steps = data.history + data.horizon
    grid = {"steps": steps, "step_hours": data.step_hours, "rules": data.rule_of, "need_all": True}
    assert data.path is not None
    dataset: EventTimeDataset
    if name == "meds":
        dataset = read_meds(data.path, data.meds_codes(), events, labels=data.labels, **grid)  # type: ignore[arg-type]
    else:
        dataset = read_long_table(
            data.path,
            events,
            data.outcomes,
            columns=data.columns,
            observations=data.variables or None,
            **grid,  # type: ignore[arg-type]
        )
    if not dataset.observation_names:
        raise UserError(f"data.path: {data.path} holds no measurement")
    if not dataset.mask.any():
        raise UserError(
            f"data.path: {data.path}: nothing lies in the {steps} steps before a trigger; are their times on one clock?"
        )
    flags = [variable for variable, rule in data.rule_of.items() if rule == "any"]
    return Cohort(name, forecast_from_events(dataset, data.horizon, flags=flags), data.horizon)


def target_of(config: Config, cohort: Cohort) -> str:
    """What is predicted.

    Raises:
        UserError: an outcome that the cohort does not have.
    """
    return known_target(config.target or cohort.data.targets[0], cohort)


def known_target(name: str, cohort: Cohort) -> str:
    """The name of an outcome, if the cohort has it."""
    targets = cohort.data.targets
    if name not in targets:
        raise UserError(f"target: got {name!r}{did_you_mean(name, targets)}; {cohort.name} has {', '.join(targets)}")
    try:
        return checked_name(name)  # files will bear it
    except ValueError as error:
        raise UserError(f"target: {str(error).removeprefix('name: ')}") from error
