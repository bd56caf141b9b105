"""From measurements and event times to the arrays of a dataset: the steps that every source takes alike."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.events import EventSpec, EventTimeDataset, rows_of_parts
from tenfold.clinical.series import Rule, Scaling, Series
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError

# time_hours, observed, at_risk of one event, each [N]
Outcome = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]


class DataNotFound(UserError, FileNotFoundError):
    """A file or folder of data that is not where it was looked for."""


def event_cohort(
    ids: Sequence[str],
    series: Series,
    static: NDArray[Any],
    static_names: Sequence[str],
    outcomes: Mapping[EventSpec, Outcome],
    *,
    steps: int,
    start: float = 0.0,
    step_hours: float = 1.0,
    rules: Mapping[str, Rule] | None = None,
    interventions: Sequence[str] = (),
    parts: Sequence[str] = (),
    prediction_time: NDArray[np.datetime64] | None = None,
    length: NDArray[np.int64] | None = None,
    scaling: Mapping[str, Scaling] | None = None,
) -> EventTimeDataset:
    """Grid the measurements before the trigger, scale them by the training part, add what is static and the outcomes.

    Args:
        ids: patient of each subject [N].
        series: measurements; columns not named in `interventions` are observations.
        static: [N, G], NaN where missing.
        static_names: of its columns.
        outcomes: of each event.
        steps, start, step_hours, rules: of the grid, see `Series.grid`.
        interventions: columns that become u, unscaled and 0 where not recorded.
        parts, prediction_time: see `EventTimeDataset`.
        length: steps of each subject; None: all of them.
        scaling: kept from training; None fits it to the training part; a kind that it lacks stays as it is.
    Raises:
        UserError: `scaling` is of other columns.
    """
    names = tuple(name for name in series.columns if name not in interventions)
    x, mask = series.only(*names).grid(steps, start=start, step_hours=step_hours, rules=rules)
    u, _ = series.only(*interventions).grid(steps, start=start, step_hours=step_hours, rules=rules)
    if length is None:
        length = np.full(len(x), steps, dtype=np.int64)
    mask &= np.arange(steps)[:, None] < length[:, None, None]
    known = np.isfinite(static)
    static = np.where(known, static, 0.0)
    if scaling is None:
        train = rows_of_parts(ids, parts)["train"]
        if len(train) == 0:
            warnings.warn(f"none of {len(ids)} subjects is in the training part: scaled by all of them", stacklevel=3)
            train = np.arange(len(ids))
        scaling = {
            "observations": Scaling.fit(x[train], mask[train], names),
            "static": Scaling.fit(static[train], known[train], static_names),
        }
    for kind, needed in (("observations", names), ("static", tuple(static_names))):
        if kind in scaling and scaling[kind].names != needed:
            raise UserError(
                f"scaling: {kind} are {', '.join(needed)}, it was fitted to {', '.join(scaling[kind].names)}"
            )
    if "observations" in scaling:
        x = scaling["observations"].apply(x, mask)
    if "static" in scaling:
        static = scaling["static"].apply(static, known)
    times, observed, at_risk = (np.stack(columns, axis=1) for columns in zip(*outcomes.values(), strict=True))
    return EventTimeDataset(
        x=x,
        mask=mask,
        u=u,
        length=length,
        static=static.astype(np.float32),
        time_hours=times,
        observed=observed,
        at_risk=at_risk,
        events=tuple(outcomes),
        ids=list(ids),
        observation_names=names,
        intervention_names=tuple(interventions),
        static_names=tuple(static_names),
        parts=tuple(parts),
        prediction_time=prediction_time,
        scaling=scaling,
    )


def before_trigger(
    series: Series, first: NDArray[np.float64], steps: int, step_hours: float
) -> tuple[Series, NDArray[np.int64]]:
    """Measurements before the trigger, on a clock on which each subject's grid begins at hour 0 and ends at the trigger.

    Args:
        series: hours are counted from the trigger, which is 0.
        first: hour of each subject's first record [N]; inf without any.
        steps, step_hours: of the grid; a subject whose records begin later has fewer steps.
    Returns:
        The measurements of the grid, and the steps of each subject (int64 [N], 0 without a record before the trigger).
    """
    length = np.clip(np.ceil(-np.minimum(first, 0.0) / step_hours), 0, steps).astype(np.int64)
    hours = series.hours + (length * step_hours)[series.subject]
    kept = (series.hours < 0) & (hours >= 0)
    moved = Series(
        series.subject[kept], hours[kept], series.column[kept], series.value[kept], series.columns, series.subjects
    )
    return moved, length


def chosen_events(wanted: Sequence[str | EventSpec], known: Mapping[str, EventSpec]) -> tuple[EventSpec, ...]:
    """The grids of the wanted events; an `EventSpec` brings its own.

    Raises:
        UserError: a name that is not known; the line lists those that are.
    """
    for event in wanted:
        name = event if isinstance(event, str) else event.name
        if name not in known:
            raise UserError(f"event: got {name!r}{did_you_mean(name, list(known))}; known: {', '.join(known)}")
    return tuple(known[event] if isinstance(event, str) else event for event in wanted)
