"""New patients as a trained model reads them, from whatever a user has: MEDS, PhysioNet files, MIMIC-III, a long table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tenfold.clinical.cohort_words import Source
from tenfold.clinical.events import EventTimeDataset
from tenfold.clinical.icu12 import EVENTS as ICU_EVENTS
from tenfold.clinical.icu12 import icu12
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_meds
from tenfold.clinical.mimic3 import read_mimic3
from tenfold.core.errors import UserError
from tenfold.recipes.deep_ssm.folder import Opened


def read_patients(opened: Opened, source: Source) -> EventTimeDataset:
    """The patients, on the model's grid, in its columns and scaled as it was trained.

    Raises:
        UserError: nothing of that kind there, a damaged file, none of the model's variables in it.
    """
    path = source.path
    try:
        if source.kind == "table":
            dataset = _from_table(opened, source)
        elif source.kind == "meds":
            dataset = _from_meds(opened, source)
        elif source.kind == "physionet":
            dataset = _from_physionet(opened, path)
        else:
            dataset = _from_mimic3(opened, path)
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"patients: {path}: {error}") from error
    if not dataset.mask.any() and len(dataset):
        names = ", ".join(opened.inputs.observations[:5])
        when = "; --labels says when that is" if source.kind == "meds" else ""
        raise UserError(
            f"patients: {path}: holds none of the model's variables before the prediction ({names}, ...){when}"
        )
    return dataset


def _from_table(opened: Opened, source: Source) -> EventTimeDataset:
    inputs = opened.inputs
    if inputs.statics and source.subjects is None:
        raise UserError(f"--subjects: the model reads {', '.join(inputs.statics)}; name the table of one row a subject")
    return read_long_table(
        source.path,
        opened.events,
        source.subjects,
        columns=source.columns.over(inputs.columns),
        observations=inputs.observations,
        interventions=inputs.interventions,
        statics=inputs.statics,
        steps=inputs.steps,
        step_hours=inputs.step_hours,
        rules=inputs.rules,
        scaling=inputs.scaling,
        labelled=False,
    )


def _from_meds(opened: Opened, source: Source) -> EventTimeDataset:
    inputs = opened.inputs
    names = [*inputs.observations, *inputs.interventions, *inputs.statics, *(event.name for event in opened.events)]
    return read_meds(
        source.path,
        source.codes_over(inputs.codes, names),
        opened.events,
        interventions=inputs.interventions,
        statics=inputs.statics,
        labels=source.labels,
        steps=inputs.steps,
        step_hours=inputs.step_hours,
        rules=inputs.rules,
        scaling=inputs.scaling,
    )


def _from_physionet(opened: Opened, path: Path) -> EventTimeDataset:
    inputs = opened.inputs
    if inputs.cohort != "icu12":
        raise UserError(
            f"patients: {path} holds PhysioNet files, and the model is of cohort {inputs.cohort}, not icu12"
        )
    events = [event for event in opened.events if event.name in ICU_EVENTS]
    return icu12(
        path, events=events, mech_vent="MechVent" in inputs.interventions, scaling=inputs.scaling, labelled=False
    )


def _from_mimic3(opened: Opened, path: Path) -> EventTimeDataset:
    inputs = opened.inputs
    if inputs.cohort != "mimic3":
        raise UserError(f"patients: {path} holds MIMIC-III tables, and the model is of cohort {inputs.cohort}")
    return read_mimic3(path, opened.events, context_hours=inputs.steps, scaling=inputs.scaling)


def prediction_times(dataset: EventTimeDataset) -> np.ndarray:
    """The clock time of each prediction; NaT where the source has none."""
    if dataset.prediction_time is not None:
        return dataset.prediction_time
    return np.full(len(dataset), np.datetime64("NaT", "us"))
