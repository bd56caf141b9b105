"""Your own data: a long table of measurements, and a table with one row a subject for events and what is static.

Both as .csv, .csv.gz or .parquet. See `read_long_table` for the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.cohort import Outcome, before_trigger, event_cohort
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.meds_write import span
from tenfold.clinical.series import Rule, Scaling, Series, check_rules
from tenfold.clinical.tables import Block, read_blocks, read_columns
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError


@dataclass(frozen=True)
class LongColumns:
    """Names of the columns.

    Attributes:
        subject: in both tables; any text.
        time: hours as numbers, or dates and times; on one clock with `trigger`.
        variable, value: what was measured and its number; an empty value counts 1.
        trigger: of the second table, when the grid ends; may be absent there under this name.
    """

    subject: str = "id"
    time: str = "time"
    variable: str = "variable"
    value: str = "value"
    trigger: str = "trigger"


@dataclass(frozen=True, eq=False)
class _Measurements:
    subject: list[str]
    hours: NDArray[np.float64]
    variable: list[str]
    value: NDArray[np.float64]
    dated: bool  # hours are since 1970


def read_long_table(
    measurements: str | Path,
    events: Sequence[EventSpec],
    outcomes: str | Path | None = None,
    *,
    columns: LongColumns | None = None,
    observations: Sequence[str] | None = None,
    interventions: Sequence[str] = (),
    statics: Sequence[str] = (),
    steps: int = 24,
    step_hours: float = 1.0,
    rules: Mapping[str, Rule] | None = None,
    scaling: Mapping[str, Scaling] | None = None,
    labelled: bool = True,
    need_all: bool = False,
) -> EventTimeDataset:
    """Read measurements, one a row, and outcomes, one subject a row.

    The second table has, for each event, `<event>_hours` (from the trigger to the event or to the end of follow-up;
    empty: not at risk) and `<event>_observed` (0 or 1), and the static columns. Its subjects are those of the data set;
    one without measurements has length 0. Without a column `trigger`, the trigger is `steps` after the first measurement.

    Args:
        measurements: the long table.
        events: grids, by the names in the second table.
        outcomes: the second table; None for prediction: nobody is at risk, and the subjects are those measured.
        columns: their names, where they differ from `LongColumns`.
        observations: variables to use; None takes all that are not interventions, in order of their names.
        interventions: variables that become u.
        statics: columns of numbers in the second table.
        steps, step_hours: of the grid before the trigger; a subject measured for a shorter time has fewer steps.
        rules: of a step by variable, see `Series.grid`; interventions are "any" by default.
        scaling: kept from training; None fits it to the training part.
        labelled: False takes a second table without events, for prediction: nobody is at risk.
        need_all: refuse variables without a row, from which a model would learn nothing, and rules of no variable.
    Returns:
        the data set; with `prediction_time` where the tables have dates.
    Raises:
        DataNotFound: a file is not there.
        UserError: a damaged file (names file, row and column), a missing column, a subject twice, no subject, times of
            two kinds, or what `need_all` refuses.
    """
    named = columns or LongColumns()
    measured = _measurements(Path(measurements), named)
    if observations is None:
        observations = sorted(set(measured.variable) - set(interventions))
    names = (*observations, *interventions)
    if need_all:
        check_rules(rules, names)
        known = set(measured.variable)
        for name in names:
            if name not in known:
                hint = did_you_mean(name, sorted(known))
                raise UserError(f"{measurements}, column {named.variable}: no row is of {name!r}{hint}")
    table = None if outcomes is None else _outcome_table(Path(outcomes), named, events if labelled else (), statics)
    if table is None and statics:
        raise ValueError(f"statics: got {', '.join(statics)}, need the second table that has these columns")
    ids = list(dict.fromkeys(measured.subject)) if table is None else table.texts(named.subject)
    if not ids:
        raise UserError(f"{measurements if outcomes is None else outcomes}: holds no subject")
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    if len(row_of) != len(ids):
        twice = next(identifier for row, identifier in enumerate(ids) if row_of[identifier] != row)
        raise UserError(f"{outcomes}: subject {twice!r} stands in several rows, need one a subject")

    rows = np.array([row_of.get(identifier, -1) for identifier in measured.subject], dtype=np.int64)
    if measured.subject and (rows < 0).all():
        raise UserError(
            f"{outcomes}: none of its subjects is in {measurements}: {ids[0]!r:.40} here, {measured.subject[0]!r:.40} there"
        )
    first = np.full(len(ids), np.inf)
    np.minimum.at(first, rows[rows >= 0], measured.hours[rows >= 0])
    trigger = first + steps * step_hours
    if table is not None and named.trigger in table.columns:
        trigger = _hours(table, named.trigger)
        if measured.subject and table.dated(named.trigger) != measured.dated:
            kinds = ("numbers", "dates and times")
            raise UserError(
                f"{outcomes}, column {named.trigger}: got {kinds[not measured.dated]}, need {kinds[measured.dated]} as in "
                f"{measurements}, column {named.time}"
            )
    number = {name: place for place, name in enumerate(names)}
    column = np.array([number.get(name, -1) for name in measured.variable], dtype=np.int64)
    kept = (rows >= 0) & (column >= 0)
    series = Series.of(
        rows[kept], measured.hours[kept] - trigger[rows[kept]], column[kept], measured.value[kept], names, len(ids)
    )
    seen = np.isfinite(first)
    since_trigger = np.where(seen, np.where(seen, first, 0.0) - np.where(seen, trigger, 0.0), np.inf)
    series, length = before_trigger(series, since_trigger, steps, step_hours)
    static = (
        np.zeros((len(ids), 0)) if table is None or not statics else np.stack([table.numbers(s) for s in statics], 1)
    )
    return event_cohort(
        ids,
        series,
        static,
        statics,
        {event: _outcome(table if labelled else None, event, len(ids)) for event in events},
        steps=steps,
        step_hours=step_hours,
        rules={**dict.fromkeys(interventions, "any"), **(rules or {})},
        interventions=interventions,
        prediction_time=_clock(trigger) if measured.dated else None,
        length=length,
        scaling=scaling,
    )


def _measurements(path: Path, named: LongColumns) -> _Measurements:
    subject: list[str] = []
    variable: list[str] = []
    hours, value, dated = [np.zeros(0)], [np.zeros(0)], False
    for block in read_blocks(path, (named.subject, named.time, named.variable, named.value)):
        if not subject:
            dated = block.dated(named.time)
        subject += block.texts(named.subject)
        variable += block.texts(named.variable)
        hours.append(_hours(block, named.time, dated))
        value.append(np.nan_to_num(block.numbers(named.value), nan=1.0))
    return _Measurements(subject, np.concatenate(hours), variable, np.concatenate(value), dated)


def _outcome_table(path: Path, named: LongColumns, events: Sequence[EventSpec], statics: Sequence[str]) -> Block:
    needed = [column for event in events for column in (f"{event.name}_hours", f"{event.name}_observed")]
    chosen = named.trigger != LongColumns.trigger  # by its name: then it must be there
    wanted = (named.subject, *needed, *statics, *((named.trigger,) if chosen else ()))
    return read_columns(path, wanted, (named.trigger,))


def _outcome(table: Block | None, event: EventSpec, count: int) -> Outcome:
    if table is None:
        return np.zeros(count), np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    hours, observed = table.numbers(f"{event.name}_hours"), table.numbers(f"{event.name}_observed")
    at_risk = np.isfinite(hours)
    for column, bad, need in (
        (f"{event.name}_hours", at_risk & (np.nan_to_num(hours) < 0), "hours >= 0 after the trigger"),
        (f"{event.name}_observed", at_risk & ~np.isin(observed, (0, 1)), "0 or 1"),
    ):
        if bad.any():
            row = table.rows[np.flatnonzero(bad)[0]]
            raise UserError(f"{table.file} row {row}, column {column}: need {need}")
    return np.where(at_risk, hours, 0.0), at_risk & (observed == 1), at_risk


def _clock(hours: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Hours since 1970 as dates and times, NaT where there is no such hour."""
    known = np.isfinite(hours)
    return np.where(known, np.datetime64(0, "us") + span(np.where(known, hours, 0.0)), np.datetime64("NaT", "us"))


def _hours(block: Block, name: str, dated: bool | None = None) -> NDArray[np.float64]:
    """A time column in hours: numbers as they stand, dates and times since 1970; of one kind, by its first entry."""
    hours = block.hours(name, dated)
    if not np.isfinite(hours).all():
        row = block.rows[np.flatnonzero(~np.isfinite(hours))[0]]
        raise UserError(f"{block.file} row {row}, column {name}: got an empty entry, need a time")
    return hours
