"""The Medical Event Data Standard (MEDS 0.4): parquet of (subject, time, code, value), read, written, and predicted to.

Source: medical-event-data-standard.github.io; the columns are those of its schemas for data, labels, splits and codes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tenfold.clinical.cohort import DataNotFound, Outcome, before_trigger, event_cohort
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.meds_write import (
    CENSORED,
    CONTEXT_START,
    NOT_AT_RISK,
    SPLITS,
    span,
    write_meds,
    write_predictions,
)
from tenfold.clinical.onset import at_trigger, first_where
from tenfold.clinical.series import Rule, Scaling, Series, check_rules
from tenfold.clinical.tables import read_blocks, read_columns
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError

__all__ = ["read_labels", "read_meds", "write_meds", "write_predictions"]

DEATH = EventSpec("death", 24.0, 30)
DEATH_CODE = "MEDS_DEATH"
_HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True, eq=False)
class _Records:
    """The records that were asked for, and when each subject was last heard of."""

    subject: NDArray[np.int64]  # sorted, each once
    last: NDArray[np.datetime64]
    row: NDArray[np.int64]  # of the subject, sorted
    time: NDArray[np.datetime64]  # NaT: static
    name: NDArray[np.int16]
    value: NDArray[np.float32]  # NaN: none was given
    codes: frozenset[str]  # all in the data

    def first(self, names: Sequence[int]) -> NDArray[np.datetime64]:
        """Time of the first timed record of these names, of each subject; NaT without any."""
        first = np.full(len(self.subject), np.iinfo(np.int64).max)
        own = ~np.isnat(self.time) & np.isin(self.name, names)
        np.minimum.at(first, self.row[own], self.time[own].astype(np.int64))
        return _moments(first, first < np.iinfo(np.int64).max)


def read_meds(
    root: str | Path,
    codes: Mapping[str, Sequence[str]],
    events: Sequence[EventSpec] = (DEATH,),
    *,
    interventions: Sequence[str] = (),
    statics: Sequence[str] = (),
    labels: str | Path | None = None,
    steps: int = 24,
    step_hours: float = 1.0,
    rules: Mapping[str, Rule] | None = None,
    scaling: Mapping[str, Scaling] | None = None,
    need_all: bool = False,
) -> EventTimeDataset:
    """Subjects of a MEDS folder with the `steps` before their prediction time, and the events after it.

    Records without a time are static, others lie on a grid that ends at the prediction time; records at or after it are
    never part of the inputs. A subject's grid begins with its first observation or intervention: birth and other codes
    that are not read do not move it. An event is the first record of one of its codes; follow-up ends with the subject's
    last record of any code. A record without a number counts 1.

    Args:
        root: holds data/**/*.parquet, perhaps metadata/subject_splits.parquet, whose split is then kept.
        codes: the MEDS codes of each name; names that are neither event nor intervention nor static are observations.
        events: their names are in `codes`; by default death, in slots of a day, whose code is MEDS_DEATH.
        interventions, statics: names in `codes`.
        labels: parquet with subject_id and prediction_time (of several rows of a subject each is one); None: `steps`
            after each subject's first observation or intervention; subjects without any are left out, with a warning.
        steps, step_hours: of the grid; a subject whose observations and interventions begin later has fewer steps.
        rules: of a step by name, see `Series.grid`; interventions are "any" by default.
        scaling: kept from training; None fits it to the training part.
        need_all: refuse names without a record, from which a model would learn nothing, and rules of no name.
    Raises:
        DataNotFound: no such folder or no parquet in it.
        UserError: a damaged file (names file, row and column), no subject, or what `need_all` refuses.
        ValueError: a name without codes.
    """
    folder = Path(root)
    if DEATH in events:
        codes = {DEATH.name: [DEATH_CODE], **codes}
    named = [*(event.name for event in events), *interventions, *statics]
    unknown = [name for name in named if name not in codes]
    if unknown:
        raise ValueError(f"codes: no codes for {unknown[0]!r}; there are some for {', '.join(codes)}")
    marks = [mark + event.name for event in events for mark in (CENSORED, NOT_AT_RISK)] + [CONTEXT_START]
    names = {**codes, **{mark: [mark] for mark in marks}}
    records = _records(folder, names)
    observations = [name for name in codes if name not in named]
    if need_all:
        check_rules(rules, [*observations, *interventions])
        _check_codes(folder, records, codes, statics)
    own = [list(names).index(name) for name in (*observations, *interventions, CONTEXT_START)]
    first = records.first(own)
    if labels is None and np.isnat(first).all():
        some = ", ".join([*observations, *interventions][:5])
        raise UserError(f"{folder}: holds no record with a time of any variable ({some}, ...); are the codes right?")
    subject, trigger = _prediction_times(records, first, labels, steps * step_hours)
    series = _around(records, subject, trigger, tuple(names))
    begin, last = ((time[subject] - trigger) / _HOUR for time in (first, records.last))
    measured, length = before_trigger(series, np.where(np.isnan(begin), np.inf, begin), steps, step_hours)
    last = np.where(np.isnan(last), -np.inf, last)
    return event_cohort(
        [str(number) for number in records.subject[subject]],
        measured.only(*observations, *interventions),
        _static(records, tuple(names), statics)[subject],
        statics,
        {event: _outcome(series, event.name, last) for event in events},
        steps=steps,
        step_hours=step_hours,
        rules={**dict.fromkeys(interventions, "any"), **(rules or {})},
        interventions=interventions,
        parts=_parts(folder, records.subject[subject]),
        prediction_time=trigger,
        length=length,
        scaling=scaling,
    )


def read_labels(path: str | Path) -> tuple[NDArray[np.int64], NDArray[np.datetime64]]:
    """Subjects and prediction times of a MEDS label file, or of all label files of a folder."""
    place = Path(path)
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise DataNotFound(f"no *.parquet with labels in {place}")
    blocks = [read_columns(file, ("subject_id", "prediction_time")) for file in files]
    times = np.concatenate([block.times("prediction_time") for block in blocks])
    if not len(times):
        raise UserError(f"{place}: holds no row, need a subject_id and a prediction_time in each")
    if np.isnat(times).any():
        raise UserError(f"{place}, column prediction_time: got an empty entry, need a time in each row")
    return np.concatenate([block.integers("subject_id") for block in blocks]), times


def _records(folder: Path, names: Mapping[str, Sequence[str]]) -> _Records:
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataNotFound(f"MEDS data/**/*.parquet not found in {folder}; pass the folder that holds data/")
    chosen: list[tuple[NDArray[Any], ...]] = [
        (np.zeros(0, np.int64), np.zeros(0, "M8[us]"), np.zeros(0, np.int16), np.zeros(0, np.float32))
    ]
    ends: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    wanted = pa.array([code for several in names.values() for code in several], pa.string())
    codes: set[str] = set()
    warned = False
    for file in files:
        for block in read_blocks(file, ("subject_id", "time", "code"), ("numeric_value",)):
            subject, time = block.integers("subject_id"), block.times("time")
            timed = ~np.isnat(time)
            ends.append(_last(subject, time, timed))
            same = subject[timed][1:] == subject[timed][:-1]
            if not warned and (np.diff(time[timed])[same] < np.timedelta64(0)).any():
                warnings.warn(f"{file}: times of a subject are not in order; they are sorted here", stacklevel=4)
                warned = True
            code = pc.cast(block.columns["code"], pa.string())
            codes.update(filter(None, code.unique().to_pylist()))
            kept = pc.is_in(code, value_set=wanted)
            block, code = block.where(kept), code.filter(kept)  # what is not asked for need not be right
            subject, time = block.integers("subject_id"), block.times("time")
            numbers = block.numbers("numeric_value") if "numeric_value" in block.columns else np.full(len(time), np.nan)
            for number, several in enumerate(names.values()):
                hit = pc.is_in(code, value_set=pa.array(list(several), pa.string()))
                rows = np.flatnonzero(hit.to_numpy(zero_copy_only=False))
                chosen.append(
                    (subject[rows], time[rows], np.full(len(rows), number, np.int16), numbers[rows].astype(np.float32))
                )
    subjects = np.unique(np.concatenate([end[0] for end in ends]))
    if len(subjects) == 0:
        raise UserError(f"{folder}: its data hold no subject")
    last = np.full(len(subjects), np.iinfo(np.int64).min)
    for some, end in ends:
        np.maximum.at(last, np.searchsorted(subjects, some), end)
    subject, time, name, value = (np.concatenate(column) for column in zip(*chosen, strict=True))
    order = np.lexsort((time, subject))
    row = np.searchsorted(subjects, subject[order])
    known = last > np.iinfo(np.int64).min
    return _Records(subjects, _moments(last, known), row, time[order], name[order], value[order], frozenset(codes))


def _last(
    subject: NDArray[np.int64], time: NDArray[np.datetime64], timed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each subject of a block with its latest time in microseconds, the least number without any."""
    several, row = np.unique(subject, return_inverse=True)
    last = np.full(len(several), np.iinfo(np.int64).min)
    np.maximum.at(last, row[timed], time[timed].astype(np.int64))
    return several, last


def _moments(stamps: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.datetime64]:
    """Microseconds as times, NaT where unknown."""
    return np.where(known, stamps, np.iinfo(np.int64).min).astype("M8[us]")


def _check_codes(folder: Path, records: _Records, codes: Mapping[str, Sequence[str]], statics: Sequence[str]) -> None:
    """UserError for a name without a record."""
    static = np.isnat(records.time)
    for number, (name, several) in enumerate(codes.items()):
        if not ((records.name == number) & (static == (name in statics))).any():
            hint = did_you_mean(several[0], sorted(records.codes)) if several else ""
            kind = "without" if name in statics else "with"
            listed = ", ".join(several)[:200]
            raise UserError(f"{folder}: no record {kind} a time has a code of {name!r} ({listed}){hint}")


def _prediction_times(
    records: _Records, first: NDArray[np.datetime64], labels: str | Path | None, context_hours: float
) -> tuple[NDArray[np.int64], NDArray[np.datetime64]]:
    """Row of the subject and trigger of each row of the data set."""
    if labels is None:
        timed = np.flatnonzero(~np.isnat(first))  # without any time there is no moment to predict at
        if len(timed) < len(first):
            left_out = len(first) - len(timed)
            warnings.warn(
                f"{left_out} of {len(first)} subjects have no observation or intervention to count from: left out",
                stacklevel=3,
            )
        return timed, first[timed] + span(np.float64(context_hours))
    wanted, times = read_labels(labels)
    row = np.minimum(np.searchsorted(records.subject, wanted), len(records.subject) - 1)
    unknown = wanted[records.subject[row] != wanted]
    if len(unknown):
        raise UserError(f"{labels}: subject {unknown[0]} is not in the data")
    return row, times


def _around(
    records: _Records, subject: NDArray[np.int64], trigger: NDArray[np.datetime64], names: tuple[str, ...]
) -> Series:
    """Timed records in hours from the trigger."""
    begin, end = (np.searchsorted(records.row, subject, side=side) for side in ("left", "right"))
    count = end - begin
    place = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(count.sum())
    row = np.repeat(np.arange(len(subject)), count)
    timed = ~np.isnat(records.time[place])
    place, row = place[timed], row[timed]
    value = np.where(np.isfinite(records.value[place]), records.value[place], 1.0)
    hours = (records.time[place] - trigger[row]) / _HOUR
    return Series.of(row, hours, records.name[place], value, names, len(subject))


def _outcome(series: Series, name: str, last: NDArray[np.float64]) -> Outcome:
    def first(code: str) -> NDArray[np.float64]:
        return first_where(series, (code,), lambda value: np.ones(len(value), dtype=bool))

    censored = first(CENSORED + name)
    time, observed, at_risk = at_trigger(first(name), np.where(np.isfinite(censored), censored, last), 0.0)
    at_risk &= ~np.isfinite(first(NOT_AT_RISK + name))
    return np.where(at_risk, time, 0.0), observed & at_risk, at_risk


def _static(records: _Records, names: tuple[str, ...], statics: Sequence[str]) -> NDArray[np.float64]:
    """Values without a time [subjects, G]; NaN where there is none, but 0 for a name that never has a number."""
    table = np.full((len(records.subject), len(statics)), np.nan)
    for number, name in enumerate(statics):
        here = np.isnat(records.time) & (records.name == names.index(name))
        value = records.value[here]
        flag = not np.isfinite(value).any()
        if flag:
            table[:, number] = 0.0
        table[records.row[here], number] = np.where(np.isfinite(value), value, 1.0)
    return table


def _parts(folder: Path, subject: NDArray[np.int64]) -> tuple[str, ...]:
    """The split that the folder brings, () where it brings none or not for all."""
    file = folder / "metadata" / "subject_splits.parquet"
    if not file.is_file():
        return ()
    table = read_columns(file, ("subject_id", "split"))
    split = dict(zip(table.integers("subject_id").tolist(), table.texts("split"), strict=True))
    parts = [SPLITS.get(split.get(number, ""), "") for number in subject.tolist()]
    if "" in parts:
        number = subject[parts.index("")]
        raise UserError(f"{file}: subject {number} has split {split.get(int(number))!r}, need {', '.join(SPLITS)}")
    return tuple(parts)
