"""MIMIC-III v1.4 from its CSV tables (or the open demo), streamed: the first 48 hours of adults in intensive care."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tenfold.clinical.cohort import DataNotFound, Outcome, chosen_events, event_cohort
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import DEFAULT_EVENTS, EVENTS
from tenfold.clinical.mimic3_items import GCS_PARTS, INTERVENTIONS, ITEMS, Item, Table
from tenfold.clinical.onset import COLUMNS, ONSETS, at_trigger
from tenfold.clinical.series import Rule, Scaling, Series
from tenfold.clinical.tables import Block, find_table, read_blocks, read_columns
from tenfold.core.errors import UserError

TABLES = ("PATIENTS", "ADMISSIONS", "ICUSTAYS", *get_args(Table))
MIN_AGE, MAX_AGE = 18, 90  # years; dates of birth of people over 89 lie 300 years back
MIN_STAY = 48.0  # hours
FOLLOW_UP = 36.0  # hours after the trigger in which organ events are looked for
DEATH_DAYS = 30.0  # after the trigger
RULES: dict[str, Rule] = dict.fromkeys(INTERVENTIONS, "any")


@dataclass(frozen=True, eq=False)
class _Stays:
    """First stays in intensive care, sorted by subject; times are datetime64[us]."""

    subject: NDArray[np.int64]
    begin: NDArray[np.datetime64]
    hours: NDArray[np.float64]  # from begin to the end of the stay
    death: NDArray[np.float64]  # hours from begin, inf where none is known
    static: NDArray[np.float64]  # age, gender

    def __len__(self) -> int:
        return len(self.subject)


def read_mimic3(
    root: str | Path,
    events: Sequence[str | EventSpec] | None = None,
    *,
    items: Sequence[Item] = ITEMS,
    context_hours: int = 48,
    scaling: Mapping[str, Scaling] | None = None,
) -> EventTimeDataset:
    """Adults (18 or older) in their first stay of at least 48 hours; the trigger is at its hour `context_hours`.

    Tables may be .csv or .csv.gz, their names and columns in any case. They are read a block at a time; what is kept
    are the chosen items up to 36 hours after the trigger, so that memory stays below 2 GB.

    Args:
        root: the folder with PATIENTS, ADMISSIONS, ICUSTAYS, CHARTEVENTS, LABEVENTS, INPUTEVENTS_CV, INPUTEVENTS_MV
            and PROCEDUREEVENTS_MV.
        events: of kidney, circulatory, neuro, coagulation, ventilation, death30 (the default: all); organ events in
            slots of 2 hours up to the end of the stay, 36 hours at most; death in slots of 24 hours up to day 30 after
            the trigger.
        items: what is read and under which name. Variables MechVent and Vasopressor are interventions, all others
            observations.
        context_hours: steps of one hour before the trigger; subjects who left before it are left out.
        scaling: kept from training; None fits it to the training part.
    Raises:
        DataNotFound: the folder or a table is not there.
        UserError: a damaged table (names file, row, column), no subject left, an unknown event.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataNotFound(f"MIMIC-III folder {folder} not found; pass its path or use the 'sim' preset")
    if context_hours < 1:
        raise ValueError(f"context_hours: got {context_hours}, need at least 1")
    known = {name: EVENTS[name] for name in DEFAULT_EVENTS}
    specs = chosen_events(list(known) if events is None else events, known)
    files = {name: find_table(folder, name) for name in TABLES}  # all are found before the long read begins
    stays = _stays(files, max(MIN_STAY, float(context_hours)))
    series = _series(files, stays, items, float(context_hours), context_hours + FOLLOW_UP)
    observations = [name for name in series.columns if name not in INTERVENTIONS]
    follow_up = np.minimum(stays.hours, context_hours + FOLLOW_UP)
    outcomes: dict[EventSpec, Outcome] = {}
    for spec in specs:
        first = ONSETS[spec.name](series) if spec.name in ONSETS else _within(stays.death, context_hours)
        last = follow_up if spec.name in ONSETS else np.full(len(stays), context_hours + 24 * DEATH_DAYS)
        # Beyond the end of the stay nobody looks: a value charted later is another stay's.
        outcomes[spec] = at_trigger(np.where(first <= last, first, np.inf), last, float(context_hours))
    return event_cohort(
        [str(subject) for subject in stays.subject],
        series.only(*observations, *INTERVENTIONS),
        stays.static,
        ("Age", "Gender"),
        outcomes,
        steps=context_hours,
        rules=RULES,
        interventions=INTERVENTIONS,
        prediction_time=stays.begin + np.timedelta64(context_hours, "h"),
        scaling=scaling,
    )


def frequent_items(root: str | Path, *, share: float = 0.05, limit: int = 96) -> list[Item]:
    """The chart and laboratory items with numbers, in the first 48 hours of at least a `share` of the stays, the most frequent first.

    Args:
        root: as for `read_mimic3`.
        share: of the stays, 0..1.
        limit: the most items.
    Returns:
        Items named by their number, to pass to `read_mimic3` together with those of events and interventions.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataNotFound(f"MIMIC-III folder {folder} not found; pass its path or use the 'sim' preset")
    files = {name: find_table(folder, name) for name in TABLES}
    stays = _stays(files, MIN_STAY)
    stays_with: Counter[Item] = Counter()
    tables: tuple[Table, ...] = ("CHARTEVENTS", "LABEVENTS")
    for table in tables:
        seen: dict[int, NDArray[np.bool_]] = {}
        for block in _of_stays(files[table], stays, ("itemid", "charttime", "valuenum")):
            row, hours = _placed(block, stays, "charttime")
            kept = (hours >= 0) & (hours < MIN_STAY) & np.isfinite(block.numbers("valuenum"))
            itemid = np.where(kept, block.integers("itemid"), -1)
            for number in np.unique(itemid[kept]).tolist():
                seen.setdefault(number, np.zeros(len(stays), dtype=bool))[row[itemid == number]] = True
        stays_with.update({Item(str(number), table, number): int(rows.sum()) for number, rows in seen.items()})
    return [item for item, count in stays_with.most_common(limit) if count >= share * len(stays)]


def _stays(files: Mapping[str, Path], min_hours: float) -> _Stays:
    """The cohort: the first stay of each subject, if it is long enough and the subject old enough."""
    icu = read_columns(files["ICUSTAYS"], ("subject_id", "hadm_id", "intime", "outtime"))
    subject, admission = icu.integers("subject_id"), icu.integers("hadm_id")
    begin, end = icu.times("intime"), icu.times("outtime")
    order = np.lexsort((begin, subject))
    first = order[np.unique(subject[order], return_index=True)[1]]
    subject, admission, begin, end = subject[first], admission[first], begin[first], end[first]

    people = read_columns(files["PATIENTS"], ("subject_id", "gender", "dob", "dod"))
    person = _matching(people, people.integers("subject_id"), subject, files["ICUSTAYS"])
    genders = np.array(people.texts("gender"))[person]
    admitted = read_columns(files["ADMISSIONS"], ("hadm_id", "deathtime"))
    visit = _matching(admitted, admitted.integers("hadm_id"), admission, files["ICUSTAYS"])
    # In hospital the hour of death is known, outside only the day.
    in_hospital, day = admitted.times("deathtime")[visit], people.times("dod")[person]
    death = np.where(np.isnat(in_hospital), day, in_hospital)

    born = people.times("dob")[person]
    age = np.minimum(_years(born, begin), MAX_AGE)
    hours = _hours(end - begin)
    kept = (hours >= min_hours) & (age >= MIN_AGE)  # False for NaN: a stay without an end
    if not kept.any():
        raise UserError(
            f"{files['ICUSTAYS']}: none of {len(kept)} first stays is of an adult and {min_hours:g} hours long"
        )
    until_death = np.where(np.isnat(death), np.inf, _hours(death - begin))
    gender = np.where(genders == "M", 1.0, np.where(genders == "F", 0.0, np.nan))
    static = np.stack([age, gender], axis=1)
    return _Stays(subject[kept], begin[kept], hours[kept], until_death[kept], static[kept])


def _series(files: Mapping[str, Path], stays: _Stays, items: Sequence[Item], context: float, until: float) -> Series:
    """The chosen items of all tables, in hours from the beginning of the stay: all up to `context`, then those of events."""
    names = tuple(dict.fromkeys(item.variable for item in items))
    of_events = np.array([name in (*COLUMNS, *GCS_PARTS) for name in names])
    parts: list[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int16], NDArray[np.float32]]] = []
    for table in get_args(Table):
        wanted = {item.itemid: item for item in items if item.table == table}
        for row, hours, itemid, value in _measurements(table, files[table], stays, wanted, until):
            column = np.zeros(len(row), dtype=np.int16)
            for number in np.unique(itemid):
                item, here = wanted[int(number)], itemid == number
                column[here] = names.index(item.variable)
                if item.unit == "fahrenheit":
                    value[here] = (value[here] - 32) / 1.8
                elif item.unit == "percent":
                    value[here] /= 100
            wanted_until = np.where(of_events[column], until, context)
            kept = (hours >= 0) & (hours < wanted_until) & np.isfinite(value)
            parts.append(
                (
                    row[kept].astype(np.int32),
                    hours[kept].astype(np.float32),
                    column[kept],
                    value[kept].astype(np.float32),
                )
            )
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 4
    del parts  # a large hospital's measurements are not held twice
    series = Series.of(columns[0], columns[1], columns[2], columns[3], names, len(stays))
    return _with_gcs(series) if set(GCS_PARTS) <= set(names) else series


def _measurements(
    table: Table, file: Path, stays: _Stays, wanted: Mapping[int, Item], until: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]]:
    """Stay, hour, item and value of the wanted rows; what lasts from a start to an end has a 1 in each hour of it."""
    if not wanted:
        return
    if table in ("CHARTEVENTS", "LABEVENTS"):
        for block in _of_stays(file, stays, ("itemid", "charttime", "valuenum"), ("error",), wanted):
            if "error" in block.columns:  # a value that the staff marked as wrong
                block = block.where(pc.not_equal(pc.cast(block.columns["error"], pa.string()).fill_null("0"), "1"))
            itemid = block.integers("itemid")
            flags = np.array([wanted[number].unit == "flag" for number in itemid.tolist()], dtype=bool)
            yield *_placed_items(block, stays, "charttime", itemid), np.where(flags, 1.0, block.numbers("valuenum"))
    elif table == "INPUTEVENTS_CV":  # a row without a rate and without an amount says that it was stopped
        for block in _of_stays(file, stays, ("itemid", "charttime", "amount", "rate"), (), wanted):
            given = (np.nan_to_num(block.numbers("amount")) > 0) | (np.nan_to_num(block.numbers("rate")) > 0)
            value = np.where(given, 1.0, np.nan)
            yield *_placed_items(block, stays, "charttime", block.integers("itemid")), value
    else:
        for block in _of_stays(file, stays, ("itemid", "starttime", "endtime"), ("statusdescription",), wanted):
            if "statusdescription" in block.columns:  # a rewritten order stands in another row as it was carried out
                status = pc.fill_null(block.columns["statusdescription"], "")
                block = block.where(pc.not_equal(pc.utf8_lower(status), "rewritten"))
            row, start, itemid = _placed_items(block, stays, "starttime", block.integers("itemid"))
            end = _hours(block.times("endtime") - stays.begin[row])
            yield _each_hour(row, start, np.where(np.isfinite(end), end, start), itemid, until)


def _each_hour(
    row: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    itemid: NDArray[np.int64],
    until: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """A 1 at the start of an interval and at each whole hour within it."""
    start, end = np.clip(start, 0.0, until), np.clip(end, -1.0, until)
    inside = np.isfinite(start) & (end >= 0)
    row, start, end, itemid = row[inside], start[inside], np.maximum(end, start)[inside], itemid[inside]
    count = np.maximum(np.ceil(end).astype(np.int64) - np.floor(start).astype(np.int64), 1)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    hours = np.where(step == 0, np.repeat(start, count), np.floor(np.repeat(start, count)) + step)
    return np.repeat(row, count), hours, np.repeat(itemid, count), np.ones(len(hours))


def _with_gcs(series: Series) -> Series:
    """Where the three parts of the Glasgow coma scale were charted together, their sum becomes a GCS."""
    parts = series.only(*GCS_PARTS)
    minute = np.rint(parts.hours * 60).astype(np.int64)
    key = parts.subject.astype(np.int64) * (1 << 32) + minute
    moments, place = np.unique(key, return_inverse=True)
    values = np.full((len(moments), 3), np.nan)
    values[place, parts.column] = parts.value
    whole = np.isfinite(values).all(axis=1)
    names = tuple(dict.fromkeys((*(name for name in series.columns if name not in GCS_PARTS), "GCS")))
    rest = series.only(*names)
    added = int(whole.sum())
    return Series.of(
        np.concatenate([rest.subject, (moments[whole] >> 32).astype(np.int32)]),
        np.concatenate([rest.hours, (moments[whole] & ((1 << 32) - 1)) / 60.0]),
        np.concatenate([rest.column, np.full(added, names.index("GCS"), dtype=np.int16)]),
        np.concatenate([rest.value, values[whole].sum(axis=1).astype(np.float32)]),
        names,
        series.subjects,
    )


def _of_stays(
    file: Path,
    stays: _Stays,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    wanted: Mapping[int, Item] | None = None,
) -> Iterator[Block]:
    """Rows of the cohort's subjects, and of the wanted items, picked as text: most rows never become numbers."""
    subjects = pa.array([str(subject) for subject in stays.subject])
    items = None if wanted is None else pa.array([str(itemid) for itemid in wanted])
    for block in read_blocks(file, ("subject_id", *columns), optional):
        keep = pc.is_in(block.columns["subject_id"], value_set=subjects)
        if items is not None:
            keep = pc.and_(keep, pc.is_in(block.columns["itemid"], value_set=items))
        kept = block.where(keep)
        if len(kept.rows):
            yield kept


def _placed_items(
    block: Block, stays: _Stays, time: str, itemid: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    return *_placed(block, stays, time), itemid


def _placed(block: Block, stays: _Stays, time: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Row of the stay, and hours from its beginning (NaN without a time)."""
    row = np.searchsorted(stays.subject, block.integers("subject_id"))
    return row, _hours(block.times(time) - stays.begin[row])


def _matching(table: Block, keys: NDArray[np.int64], wanted: NDArray[np.int64], source: Path) -> NDArray[np.int64]:
    """Row in `table` of each wanted key."""
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], wanted)
    found = place < len(keys)
    found[found] = keys[order][place[found]] == wanted[found]
    if not found.all():
        raise UserError(f"{source}: {wanted[~found][0]} is not in {table.file.name}; do the tables belong together?")
    return order[place]


def _within(death: NDArray[np.float64], trigger: float) -> NDArray[np.float64]:
    """Deaths from the trigger on; one known by its day alone may seem to precede it and counts an hour after."""
    return np.where(np.isfinite(death), np.maximum(death, trigger + 1.0), np.inf)


def _hours(span: NDArray[np.timedelta64]) -> NDArray[np.float64]:
    """NaT becomes NaN."""
    return span / np.timedelta64(1, "h")


def _years(born: NDArray[np.datetime64], now: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Completed years by the calendar; a difference of 300 years does not fit into nanoseconds."""
    months = now.astype("M8[M]").astype(np.int64) - born.astype("M8[M]").astype(np.int64)
    day_born, day_now = (time.astype("M8[D]") - time.astype("M8[M]").astype("M8[D]") for time in (born, now))
    years = (months - (day_now < day_born)) // 12
    return np.where(np.isnat(born), np.nan, years.astype(np.float64))
