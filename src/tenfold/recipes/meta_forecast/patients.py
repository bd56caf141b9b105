"""New subjects as a trained model reads them, from whatever a user has: MEDS, PhysioNet, MIMIC-III, a long table."""

# Shape legend: N subjects, T history steps, F variables

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.cohort_words import Source
from tenfold.clinical.death48 import death48
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_meds
from tenfold.clinical.mimic3 import read_mimic3
from tenfold.clinical.series import Scaling
from tenfold.core.errors import UserError
from tenfold.recipes.meta_forecast.cohorts import build_cohort
from tenfold.recipes.meta_forecast.config import Config
from tenfold.recipes.meta_forecast.folder import Inputs, Opened


@dataclass(frozen=True, eq=False)
class Histories:
    """What a model reads of new subjects.

    Args:
        x, mask: [N, T, F], as its reading says.
        ids: of the subjects.
        time: the clock time of each prediction, NaT where the source has none.
        empty: how many subjects have no value before it.
    """

    x: NDArray[np.float32]
    mask: NDArray[np.bool_]
    ids: list[str]
    time: NDArray[np.datetime64]
    empty: int


def read_histories(opened: Opened, source: Source) -> Histories:
    """The subjects, on the model's grid, in its variables, read as it was trained.

    Raises:
        UserError: nothing of that kind there, a damaged file, none of the model's variables in it.
    """
    inputs, reading, path, kind = opened.inputs, opened.model.reading_, source.path, source.kind
    if kind in ("physionet", "mimic3") and inputs.cohort != (wanted := "death48" if kind == "physionet" else kind):
        raise UserError(f"patients: {path} holds data of {wanted}, and the model is of cohort {inputs.cohort}")
    try:
        if kind == "physionet":
            stays = death48(path, reading=reading, labelled=False)
            x, mask, ids, time, names = stays.x, stays.mask, stays.ids, None, stays.features
        else:
            read = {"table": _table, "meds": _meds, "mimic3": _mimic3}[kind](opened, source)
            x, mask = reading.grid(read)
            x, mask = x[:, : inputs.history], mask[:, : inputs.history]
            x, ids, time, names = reading.history(x, mask), read.ids, read.prediction_time, read.observation_names
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"patients: {path}: {error}") from error
    columns = [names.index(name) for name in inputs.variables]
    flags = np.isin(inputs.variables, reading.flags)
    x, mask = x[:, :, columns], mask[:, :, columns]
    # A flag that is nowhere set stands for nobody's having written it down.
    seen = (mask & (~flags | (x != reading.unset(names)[columns]))).any((1, 2))
    if len(ids) and not seen.any():
        some = ", ".join(inputs.variables[:5]) + (", ..." if len(inputs.variables) > 5 else "")
        raise UserError(f"patients: {path}: holds none of the model's variables before the prediction ({some})")
    time = np.full(len(ids), np.datetime64("NaT", "us")) if time is None else time
    return Histories(x, mask, ids, time, int((~seen).sum()))


def test_histories(opened: Opened, config: Config) -> tuple[Histories, NDArray[np.bool_]]:
    """The test subjects that a model of a run was scored on, and what became of them, bool [N].

    Args:
        config: of the run that the model stands in.
    Raises:
        UserError: data that are absent by now.
    """
    inputs = opened.inputs
    data = build_cohort(inputs.cohort, config, min(config.seed)).data
    rows = data.split(inputs.target)["test"]
    columns = [data.features.index(name) for name in inputs.variables]
    x, mask = data.x[rows][:, :, columns], data.mask[rows][:, :, columns]
    time = np.full(len(rows), np.datetime64("NaT", "us"))
    ids = [data.ids[row] for row in rows]
    known = data.labels[rows, data.targets.index(inputs.target)]
    return Histories(x, mask, ids, time, int((~mask.any((1, 2))).sum())), known


def _scaling(opened: Opened) -> dict[str, Scaling]:
    """That of the model; a simulator's values are as they are."""
    if opened.model.reading_.scaling is not None:
        return {"observations": opened.model.reading_.scaling}
    names = opened.inputs.variables
    count = len(names)
    return {"observations": Scaling(names, (-np.inf,) * count, (np.inf,) * count, (0.0,) * count, (1.0,) * count)}


def _grid(opened: Opened) -> dict[str, Any]:
    """The grid that ends with the trigger, as in training; the model reads the first part of it."""
    inputs = opened.inputs
    return {
        "steps": inputs.history + inputs.gap,
        "step_hours": inputs.step_hours,
        "rules": inputs.rules,
        "scaling": _scaling(opened),
    }


def _table(opened: Opened, source: Source) -> EventTimeDataset:
    inputs = opened.inputs
    read = read_long_table(
        source.path,
        [EventSpec(inputs.target, 1.0, 1)],
        source.subjects,
        columns=source.columns.over(inputs.columns),
        observations=_scaling(opened)["observations"].names,
        labelled=False,
        **_grid(opened),
    )
    return _before_the_gap(read, inputs)


def _meds(opened: Opened, source: Source) -> EventTimeDataset:
    inputs = opened.inputs
    codes = source.codes_over(inputs.codes, (*_scaling(opened)["observations"].names, inputs.target))
    events = [EventSpec(inputs.target, 1.0, 1)]
    return _before_the_gap(read_meds(source.path, codes, events, labels=source.labels, **_grid(opened)), inputs)


def _before_the_gap(read: EventTimeDataset, inputs: Inputs) -> EventTimeDataset:
    """With the clock time of the prediction, which is where the history ends, in place of the trigger's."""
    if read.prediction_time is None:
        return read
    gap = np.timedelta64(round(inputs.gap * inputs.step_hours * 3.6e9), "us")
    return replace(read, prediction_time=read.prediction_time - gap)


def _mimic3(opened: Opened, source: Source) -> EventTimeDataset:
    # The grid of a stay begins with it, so that the history alone can be read, of stays that last no longer too.
    return read_mimic3(
        source.path,
        ["death30"],
        items=opened.inputs.items,
        context_hours=opened.inputs.history,
        scaling=_scaling(opened),
    )
