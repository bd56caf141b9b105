"""A trained model with all that it needs to read new patients: weights, columns, scaling, events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tenfold.clinical.boosted_hazards import BoostedHazards
from tenfold.clinical.cox import CoxPH
from tenfold.clinical.events import MOST_HOURS, EventSpec, EventTimeDataset, check_events
from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.physionet2012 import HOURLY
from tenfold.clinical.pretrained import KIND as STATE_SPACE
from tenfold.clinical.pretrained import finite_tensors, with_weights
from tenfold.clinical.series import Rule, Scaling
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_baselines import SurvivalBaseline
from tenfold.clinical.survival_model import SurvivalModel
from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, need, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, whole_state, write_folder
from tenfold.recipes.deep_ssm.config import AT_ONCE, CohortName, Data, Method, Rivals

INPUTS = "inputs.json"
ENCODERS = {"lstm": ("lstm_ds", "hazard"), "deephit": ("lstm_ds", "pmf"), "mlp": ("mlp", "hazard"), "exponential": ("mri", "exponential")}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What a model reads of a patient.

    Args:
        cohort: whose patients it was trained on.
        observations, interventions, statics: names, in the order of the columns.
        steps: T, before the trigger.
        step_hours: length of a step.
        rules: of a step, by name.
        codes: MEDS codes, by name; a name that is absent is its own code.
        columns: of a long table.
        scaling: of "observations" and of "static" values, from the training part.
    Raises:
        ValueError: names that are doubled, sizes out of range, a scaling that is none.
    """

    cohort: CohortName
    observations: tuple[str, ...]
    interventions: tuple[str, ...]
    statics: tuple[str, ...]
    steps: int
    step_hours: float = 1.0
    rules: dict[str, Rule] = field(default_factory=dict)
    codes: dict[str, list[str]] = field(default_factory=dict)
    columns: LongColumns = field(default_factory=LongColumns)
    scaling: dict[str, Scaling] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("observations", "interventions", "statics"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: got {', '.join(values)}, need names that differ"[:300])
        need("steps", self.steps, 1, 10_000)  # as `Data.steps`
        need("step_hours", self.step_hours, 0, MOST_HOURS, above=True)
        for name, scaling in self.scaling.items():
            scaling.check(f"scaling.{name}")

    @classmethod
    def of(cls, cohort: CohortName, dataset: EventTimeDataset, data: Data) -> Inputs:
        """Those of a cohort's training part."""
        own = cohort in ("meds", "files")
        return cls(
            cohort,
            dataset.observation_names,
            dataset.intervention_names,
            dataset.static_names,
            dataset.x.shape[1],
            data.step_hours if own else 1.0,
            data.rule_of if own else dict(HOURLY) if cohort == "icu12" else {},
            data.meds_codes() if cohort == "meds" else {},
            data.columns,
            dict(dataset.scaling),
        )


@dataclass(frozen=True)
class Opened:
    """A model folder in memory."""

    model: SurvivalModel
    inputs: Inputs
    path: Path

    @property
    def events(self) -> tuple[EventSpec, ...]:
        return self.model.events


def build_rival(
    method: Method, sizes: tuple[int, int, int], events: Sequence[EventSpec], rivals: Rivals, seed: int
) -> SurvivalBaseline:
    """A rival that is trained by steps.

    Args:
        sizes: observations, interventions and static values.
    """
    encoder, head = ENCODERS[method]
    n_obs, n_interv, n_static = sizes
    return SurvivalBaseline(
        n_obs,
        n_interv,
        events,
        encoder,  # type: ignore[arg-type]
        head,  # type: ignore[arg-type]
        n_static=n_static,
        z_dim=rivals.width,
        ds_nrl=rivals.layers,
        feed_mask=rivals.feed_mask,
        dropout=rivals.dropout,
        sys_id_weight=rivals.forecast_weight,
        rank_weight=rivals.rank_weight,
        generator=torch.Generator().manual_seed(seed),
    )


def write_model(folder: Path, model: SurvivalModel, method: Method, inputs: Inputs, rivals: Rivals) -> None:
    """Write a model folder; config.json comes last, so one that has it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / INPUTS, json.dumps(to_json(inputs), indent=1) + "\n")
    if isinstance(model, DeepStateSpace):
        model.save_pretrained(folder)
        return
    about = {"kind": method, "events": to_json(model.events), "rivals": to_json(rivals)}
    write_folder(folder, about, whole_state(model))


def read_model(folder: Path) -> Opened:
    """Read a folder that `write_model` wrote.

    Raises:
        UserError: missing or damaged files.
    """
    content = read_object(folder / CONFIG, kind=str)
    inputs = from_json(Inputs, read_object(folder / INPUTS), where=str(folder / INPUTS))
    model = (
        DeepStateSpace.from_pretrained(folder) if content["kind"] == STATE_SPACE else _rival(folder, content, inputs)
    )
    config = model.config
    sizes = (config.n_obs, config.n_interv, config.n_static)
    if sizes != (len(inputs.observations), len(inputs.interventions), len(inputs.statics)):
        raise UserError(f"{folder / INPUTS}: its columns are not those of the weights; the file is damaged")
    return Opened(model.eval(), inputs, folder)


def _rival(folder: Path, content: Mapping[str, Any], inputs: Inputs) -> SurvivalBaseline | CoxPH | BoostedHazards:
    where = str(folder / CONFIG)
    kind = content["kind"]
    if kind not in (*ENCODERS, *AT_ONCE):
        raise UserError(f"{where}: kind: got {kind!r}, need one of {', '.join((STATE_SPACE, *ENCODERS, *AT_ONCE))}")
    read = from_json(_RivalFolder, dict(content), where=where)
    n_obs, n_interv, n_static = sizes = (len(inputs.observations), len(inputs.interventions), len(inputs.statics))
    if kind == "boosting":
        tensors = finite_tensors(folder)
        try:
            return BoostedHazards.from_tensors(n_obs, n_interv, read.events, tensors, n_static=n_static)
        except ValueError as error:
            raise UserError(f"{folder}: tensors do not fit {CONFIG}: {error}") from error
    if kind == "cox":
        return with_weights(folder, lambda: CoxPH(n_obs, n_interv, read.events, n_static=n_static), 1)
    return with_weights(folder, lambda: build_rival(kind, sizes, read.events, read.rivals, 0), read.rivals.layers)


@dataclass(frozen=True)
class _RivalFolder:
    kind: str
    events: tuple[EventSpec, ...]
    rivals: Rivals

    def __post_init__(self) -> None:
        check_events(self.events)
