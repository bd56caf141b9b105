"""New subjects as a trained model reads them, from whatever a user has: MEDS, PhysioNet, MIMIC-III, a long table."""

# Shape legend: N subjects, T history steps, F variables

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.cohort_words import Source, source_kind
from tenfold.clinical.death48 import death48
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_meds
from tenfold.clinical.mimic3 import read_mimic3
from tenfold.clinical.series import Scaling, forward_fill
from tenfold.core.errors import UserError
from tenfold.recipes.meta_forecast.folder import Inputs, Opened


@dataclass(frozen=True, eq=False)
class Histories:
    """What a model reads: x and mask [N, T, F] in its scaling, the subjects, and the clock time of each prediction."""

    x: NDArray[np.float32]
    mask: NDArray[np.bool_]
    ids: list[str]
    time: NDArray[np.datetime64]


def read_histories(opened: Opened, source: Source) -> Histories:
    """The subjects, on the model's grid, in its variables and scaled as it was trained.

    Raises:
        UserError: nothing of that kind there, a damaged file, none of the model's variables in it.
    """
    inputs, path, kind = opened.inputs, source.path, source_kind(source.path)
    if kind in ("physionet", "mimic3") and inputs.cohort != (wanted := "death48" if kind == "physionet" else kind):
        raise UserError(f"patients: {path} holds data of {wanted}, and the model is of cohort {inputs.cohort}")
    try:
        if kind == "physionet":
            stays = death48(path, scaling=inputs.scaling, labelled=False)
            x, mask, ids, time, names = stays.x, stays.mask, stays.ids, None, stays.features
        else:
            read = {"table": _table, "meds": _meds, "mimic3": _mimic3}[kind](inputs, source)
            x, mask, ids, time = forward_fill(read.x, read.mask), read.mask, read.ids, read.prediction_time
            names = read.observation_names
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"patients: {path}: {error}") from error
    columns = [names.index(name) for name in inputs.variables]
    x, mask = x[:, :, columns], mask[:, :, columns]
    if len(ids) and not mask.any():
        some = ", ".join(inputs.variables[:5])
        raise UserError(f"patients: {path}: holds none of the model's variables before the prediction ({some}, ...)")
    return Histories(x, mask, ids, np.full(len(ids), np.datetime64("NaT", "us")) if time is None else time)


def _scaling(inputs: Inputs) -> dict[str, Scaling]:
    """That of the model; a simulator's values are as they are."""
    if inputs.scaling is not None:
        return {"observations": inputs.scaling}
    count = len(inputs.variables)
    plain = Scaling(inputs.variables, (-np.inf,) * count, (np.inf,) * count, (0.0,) * count, (1.0,) * count)
    return {"observations": plain}


def _names(inputs: Inputs) -> tuple[str, ...]:
    return inputs.variables if inputs.scaling is None else inputs.scaling.names


def _grid(inputs: Inputs) -> dict[str, Any]:
    return {
        "steps": inputs.history,
        "step_hours": inputs.step_hours,
        "rules": inputs.rules,
        "scaling": _scaling(inputs),
    }


def _table(inputs: Inputs, source: Source) -> EventTimeDataset:
    return read_long_table(
        source.path,
        [EventSpec(inputs.target, 1.0, 1)],
        source.subjects,
        columns=source.columns.over(inputs.columns),
        observations=_names(inputs),
        labelled=False,
        **_grid(inputs),
    )


def _meds(inputs: Inputs, source: Source) -> EventTimeDataset:
    codes = source.codes_over(inputs.codes, (*_names(inputs), inputs.target))
    return read_meds(source.path, codes, [EventSpec(inputs.target, 1.0, 1)], labels=source.labels, **_grid(inputs))


def _mimic3(inputs: Inputs, source: Source) -> EventTimeDataset:
    return read_mimic3(
        source.path, ["death30"], items=inputs.items, context_hours=inputs.history, scaling=_scaling(inputs)
    )
