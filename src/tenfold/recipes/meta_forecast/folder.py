"""A trained model with all that it needs to read new subjects: weights, variables, scaling, grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.clinical.events import MOST_HOURS
from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.mimic3_items import Item
from tenfold.clinical.physionet2012 import HOURLY
from tenfold.clinical.series import Rule
from tenfold.clinical.task_selection import AutoSelect
from tenfold.clinical.task_weighting import WEIGHTS, FixedWeights, read_weights_csv
from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, need, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.recipes.meta_forecast.cohorts import Cohort
from tenfold.recipes.meta_forecast.config import MOST_STEPS, OWN_GRID, SIMULATED, CohortName, Data

INPUTS = "inputs.json"


@dataclass(frozen=True)
class Inputs:
    """Where a model finds in a source what it reads of a subject; how it reads that, its `reading` says.

    Args:
        cohort: whose subjects it was trained on.
        target: what it predicts.
        variables: names, in the order of the columns.
        history: steps that it reads, T.
        gap: steps between these and the trigger, from which the outcome is counted.
        step_hours: length of a step.
        rules: of a step, by name.
        codes: MEDS codes, by name; a name that is absent is its own code.
        columns: of a long table.
        items: of MIMIC-III.
    """

    cohort: CohortName
    target: str
    variables: tuple[str, ...]
    history: int
    gap: int = 0
    step_hours: float = 1.0
    rules: dict[str, Rule] = field(default_factory=dict)
    codes: dict[str, list[str]] = field(default_factory=dict)
    columns: LongColumns = field(default_factory=LongColumns)
    items: tuple[Item, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.variables)) != len(self.variables):
            raise ValueError(f"variables: got {', '.join(self.variables)}, need names that differ"[:300])
        need("history", self.history, 1, MOST_STEPS)
        need("gap", self.gap, 0, MOST_STEPS)
        need("step_hours", self.step_hours, 0, MOST_HOURS, above=True)

    @classmethod
    def of(cls, cohort: Cohort, data: Data, target: str) -> Inputs:
        """Those of a cohort."""
        own = cohort.name in OWN_GRID
        return cls(
            cohort.name,
            target,
            cohort.data.features,
            cohort.data.x.shape[1],
            cohort.gap,
            data.step_hours if own else 1.0,
            data.rule_of if own else dict(HOURLY) if cohort.name == "death48" else {},
            data.meds_codes() if cohort.name == "meds" else {},
            data.columns,
            cohort.items,
        )


@dataclass(frozen=True)
class Opened:
    """A model folder in memory."""

    model: AutoSelect
    inputs: Inputs
    path: Path


def write_model(folder: Path, model: AutoSelect, inputs: Inputs) -> None:
    """Write config.json, model.safetensors (the encoder's names begin with "encoder."), weights.csv and inputs.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / INPUTS, json.dumps(to_json(inputs), indent=1) + "\n")
    model.save(folder)


def read_model(folder: Path) -> Opened:
    """Read a folder that `write_model` wrote.

    Raises:
        UserError: missing or damaged files.
    """
    inputs = from_json(Inputs, read_object(folder / INPUTS), where=str(folder / INPUTS))
    model = AutoSelect.load(folder)
    if model.names != inputs.variables or tuple(model.weights_) not in ((), inputs.variables):
        raise UserError(f"{folder / INPUTS}: its variables are not those of the weights; the file is damaged")
    scaling = model.reading_.scaling
    if (scaling is None) != (inputs.cohort in SIMULATED):
        raise UserError(f"{folder / CONFIG}: its scaling is not that of cohort {inputs.cohort}; the file is damaged")
    if scaling is not None and not set(inputs.variables) <= set(scaling.names):
        raise UserError(f"{folder / CONFIG}: its scaling lacks variables; the file is damaged")
    return Opened(model, inputs, folder)


def read_weights(path: Path | None) -> Mapping[str, float]:
    """The last weights of a weights.csv, of a model folder, or of a run's own model.

    Raises:
        UserError: none there, or a damaged file.
    """
    assert path is not None
    file = path
    if path.is_dir():
        from tenfold.recipes.meta_forecast.runs import model_folder

        file = (path if (path / WEIGHTS).is_file() else model_folder(path)) / WEIGHTS
    names, history = read_history(file)
    try:
        FixedWeights(torch.from_numpy(history[-1]).float())
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    return dict(zip(names, history[-1].tolist(), strict=True))


def read_history(file: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Tasks, and their weights before each round and after the last, [rounds + 1, F].

    Raises:
        UserError: none there, or a damaged file.
    """
    try:
        names, history = read_weights_csv(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: no weights of tasks, need columns task, weight, round ({reason})") from error
    if not names:
        raise UserError(f"{file}: no weights of tasks, need columns task, weight, round (it is empty)")
    return names, history
