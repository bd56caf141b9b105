"""A trained model with all that it needs to read new subjects: weights, variables, scaling, grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.mimic3_items import Item
from tenfold.clinical.physionet2012 import HOURLY
from tenfold.clinical.series import Rule, Scaling
from tenfold.clinical.task_selection import AutoSelect, read_weights_csv
from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.recipes.meta_forecast.cohorts import Cohort
from tenfold.recipes.meta_forecast.config import OWN_GRID, CohortName, Data

INPUTS = "inputs.json"
WEIGHTS = "weights.csv"


@dataclass(frozen=True)
class Inputs:
    """What a model reads of a subject.

    Args:
        cohort: whose subjects it was trained on.
        target: what it predicts.
        variables: names, in the order of the columns.
        history: steps that it reads, T.
        step_hours: length of a step.
        rules: of a step, by name.
        codes: MEDS codes, by name; a name that is absent is its own code.
        columns: of a long table.
        scaling: of all that the source is read with; None for the simulator, whose values are as they are.
        items: of MIMIC-III.
    """

    cohort: CohortName
    target: str
    variables: tuple[str, ...]
    history: int
    step_hours: float = 1.0
    rules: dict[str, Rule] = field(default_factory=dict)
    codes: dict[str, list[str]] = field(default_factory=dict)
    columns: LongColumns = field(default_factory=LongColumns)
    scaling: Scaling | None = None
    items: tuple[Item, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort, data: Data, target: str) -> Inputs:
        """Those of a cohort."""
        own = cohort.name in OWN_GRID
        return cls(
            cohort.name,
            target,
            cohort.data.features,
            cohort.data.x.shape[1],
            data.step_hours if own else 1.0,
            data.rule_of if own else dict(HOURLY) if cohort.name == "death48" else {},
            data.meds_codes() if cohort.name == "meds" else {},
            data.columns,
            cohort.scaling,
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
    if model.names is None or tuple(model.names) != inputs.variables:
        raise UserError(f"{folder / INPUTS}: its variables are not those of the weights; the file is damaged")
    if inputs.scaling is not None and not set(inputs.variables) <= set(inputs.scaling.names):
        raise UserError(f"{folder / INPUTS}: its scaling lacks variables; the file is damaged")
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
    try:
        names, history = read_weights_csv(file.read_text(encoding="utf-8"))
        return dict(zip(names, history[-1].tolist(), strict=True))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{file}: no weights of tasks, need columns task, weight, round ({type(error).__name__})"
        ) from error
