"""The patients that are learnt from and tested on: simulated, in intensive care, or the user's own."""

# Shape legend: N patients, K slots

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import DEFAULT_EVENTS, icu12
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_meds
from tenfold.clinical.mimic3 import read_mimic3
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError
from tenfold.recipes.deep_ssm.config import AT_ONCE, SIMULATED, CohortName, Config, Data


@dataclass(frozen=True, eq=False)
class Cohort:
    """Patients in three parts, none in two of them.

    Args:
        name: of the cohort.
        train, valid, test: its parts.
        truth: survival of the test patients by the law that made them, event to [N, K + 1]; None outside the simulator.
    """

    name: CohortName
    train: EventTimeDataset
    valid: EventTimeDataset
    test: EventTimeDataset
    truth: dict[str, NDArray[np.float64]] | None = None

    @property
    def events(self) -> tuple[EventSpec, ...]:
        return self.train.events


def build_cohort(name: CohortName, config: Config, seed: int) -> Cohort:
    """The patients of a cohort; only those of a simulator depend on the seed.

    Raises:
        UserError: data that are absent or damaged, an event that nobody has or that is unknown, an empty part.
    """
    at_once = tuple(method for method in AT_ONCE if method in config.methods)
    return _built(name, config.data, seed if name in SIMULATED else 0, at_once)


@lru_cache(maxsize=2)  # a worker does all jobs of a cohort and seed in a row
def _built(name: CohortName, data: Data, seed: int, at_once: tuple[str, ...]) -> Cohort:
    cohort = simulated(name, data, seed) if name in SIMULATED else _read(name, data)
    for part in ("train", "valid", "test"):
        dataset: EventTimeDataset = getattr(cohort, part)
        for column, event in enumerate(cohort.events):
            at_risk = dataset.at_risk[:, column]
            if not at_risk.any():
                raise UserError(f"{name}, event {event.name!r}: nobody of its {part} part ({len(dataset)}) is at risk")
            if part == "train" and at_once and not (at_risk & dataset.batch()["observed"].numpy()[:, column]).any():
                raise UserError(
                    f"{name}, event {event.name!r}: seen in nobody of the train part; "
                    f"leave {' and '.join(at_once)} out of --methods"
                )
    return cohort


def simulated(name: CohortName, data: Data, seed: int) -> Cohort:
    """New patients for every seed, and what the simulator's own law says of the tested ones."""
    simulator = HmmIcuSim()
    chosen = _columns(data, simulator.events)
    count = data.patients if name == "sim" else data.few
    sizes = {"train": count, "valid": count // 3, "test": data.patients}
    parts = {}
    for number, (part, size) in enumerate(sizes.items()):
        drawn = simulator.dataset(size, np.random.default_rng([seed, number]))
        parts[part] = _with_events(drawn, chosen)
    test = parts["test"]
    truth = simulator.true_survival(test.x, test.mask, test.u)
    return Cohort(name, **parts, truth={event.name: truth[event.name] for event in test.events})


def _read(name: CohortName, data: Data) -> Cohort:
    data.check_path()
    if name == "icu12":
        whole = icu12(data.path, events=data.specs() or DEFAULT_EVENTS, mech_vent=data.mech_vent)
    elif name == "mimic3":
        assert data.path is not None
        whole = read_mimic3(data.path, data.specs() or None, context_hours=data.steps)
    else:
        whole = _own(name, data)
    if not whole.mask.any():
        raise UserError(
            f"data.path: {data.path}: no observation lies in the {whole.x.shape[1]} steps before a prediction; are their "
            "times on one clock?"
        )
    parts = {part: whole.subset(rows) for part, rows in whole.split().items()}
    empty = [part for part, rows in parts.items() if not len(rows)]
    if empty:
        raise UserError(f"{name}: {len(whole)} patients leave the {empty[0]} part empty; give more of them")
    return Cohort(name, parts["train"], parts["valid"], parts["test"])


def _own(name: CohortName, data: Data) -> EventTimeDataset:
    events = [event for event in data.specs() if isinstance(event, EventSpec)]
    shared = {"interventions": data.interventions, "statics": data.statics, "steps": data.steps,
              "step_hours": data.step_hours, "rules": data.rule_of, "need_all": True}  # fmt: skip
    assert data.path is not None
    try:
        if name == "meds":
            return read_meds(data.path, data.meds_codes(), events, labels=data.labels, **shared)  # type: ignore[arg-type]
        return read_long_table(
            data.path,
            events,
            data.outcomes,
            columns=data.columns,
            observations=data.observations or None,
            **shared,  # type: ignore[arg-type]
        )
    except ValueError as error:  # names that fit nothing; the readers' own messages say which
        raise error if isinstance(error, UserError) else UserError(f"data: {error}") from error


def _columns(data: Data, known: tuple[EventSpec, ...]) -> tuple[EventSpec, ...]:
    """The simulator's events that are wanted, on its own grid."""
    names = [event.name for event in known]
    for wanted in data.specs():
        name = wanted if isinstance(wanted, str) else wanted.name
        if name not in names or not isinstance(wanted, str):
            hint = did_you_mean(name, names)
            raise UserError(f"event: got {name!r}{hint}; the simulator has {', '.join(names)}, on its own grid")
    return tuple(event for event in known if event.name in data.specs()) if data.events else known


def _with_events(dataset: EventTimeDataset, chosen: tuple[EventSpec, ...]) -> EventTimeDataset:
    """A data set with some of its events."""
    columns = [dataset.events.index(event) for event in chosen]
    outcome = {name: getattr(dataset, name)[:, columns] for name in ("time_hours", "observed", "at_risk")}
    return replace(dataset, events=chosen, **outcome)
