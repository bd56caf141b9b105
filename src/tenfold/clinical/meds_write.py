"""A data set and its predictions as parquet of the Medical Event Data Standard; see `meds` for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from tenfold import __version__
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.errors import UserError

CONTEXT_START = "CONTEXT_START"  # where `write_meds` says that a grid begins
CENSORED, NOT_AT_RISK = "CENSORED//", "NOT_AT_RISK//"  # before the name of an event, where `write_meds` says so
SPLITS = {"train": "train", "tuning": "valid", "held_out": "test"}
_EPOCH = np.datetime64("2000-01-01T00:00:00", "us")  # where a data set has no clock times

DATA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
    ]
)
LABELS = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
    ]
)


def write_meds(dataset: EventTimeDataset, root: str | Path, *, step_hours: float = 1.0) -> None:
    """Write a data set as a MEDS folder that `read_meds` reads back: data, splits, codes and labels.parquet.

    Observations, interventions, static values and events keep their names as codes; values are in their own units where
    the data set knows its scaling. `CENSORED//name` says when follow-up of an event ended, `NOT_AT_RISK//name` that
    there was none. The clock begins in 2000 where the data set has no clock times.

    Args:
        dataset: its ids are whole numbers, one row a subject.
        root: a folder that does not exist yet, or an empty one.
        step_hours: length of a step of its grid.
    Raises:
        UserError: ids that MEDS cannot hold, or a folder with content.
    """
    folder = Path(root)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name another")
    subject = _whole_ids(dataset.ids)
    if len(set(dataset.ids)) != len(dataset):
        raise UserError("ids: a subject has several rows; MEDS keeps one history a subject, write them apart")
    trigger = dataset.prediction_time
    if trigger is None:
        trigger = np.full(len(dataset), _EPOCH + span(np.float64(dataset.x.shape[1] * step_hours)))
    rows, times, codes, values = _as_records(dataset, trigger, step_hours)
    unknown_last = np.where(np.isnat(times), np.iinfo(np.int64).min, times.astype("M8[us]").astype(np.int64))
    order = np.lexsort((unknown_last, subject[rows]))
    table = pa.table(
        {
            "subject_id": subject[rows][order],
            "time": pa.array(times[order], pa.timestamp("us")),
            "code": pa.array(codes[order].tolist(), pa.string()),
            "numeric_value": pa.array(values[order], pa.float32(), from_pandas=True),
        },
        schema=DATA,
    )
    used = sorted(set(codes.tolist()))
    splits = {row: name for name, part in SPLITS.items() for row in dataset.split()[part].tolist()}
    _write_parquet(table, folder / "data" / "0.parquet")
    _write_parquet(
        pa.table({"subject_id": subject, "prediction_time": trigger}, schema=LABELS), folder / "labels.parquet"
    )
    _write_parquet(
        pa.table(
            {
                "subject_id": pa.array(subject, pa.int64()),
                "split": pa.array([splits[row] for row in range(len(dataset))], pa.string()),
            }
        ),
        folder / "metadata" / "subject_splits.parquet",
    )
    _write_parquet(
        pa.table(
            {
                "code": pa.array(used, pa.string()),
                "description": pa.nulls(len(used), pa.string()),
                "parent_codes": pa.nulls(len(used), pa.list_(pa.string())),
            }
        ),
        folder / "metadata" / "codes.parquet",
    )
    about = {"dataset_name": "tenfold", "etl_name": "tenfold", "etl_version": __version__, "meds_version": "0.4.1"}
    write_atomic(folder / "metadata" / "dataset.json", json.dumps(about) + "\n")


def write_predictions(
    path: str | Path,
    ids: Sequence[str],
    prediction_time: ArrayLike,
    survival: Mapping[str, ArrayLike],
    events: Sequence[EventSpec],
) -> None:
    """Write the probability of each event by the end of each slot, one row a (subject, event, horizon).

    Args:
        path: a parquet file with subject_id, prediction_time, event, horizon_hours and probability.
        ids: subjects [N], written as they are: a column of whole numbers, as in MEDS, where each of them is the plain
            spelling of one, else of text.
        prediction_time: datetime64 [N]; NaT where there is no clock.
        survival: S of each event at the ends of its slots [N, K+1], S[:, 0] = 1.
        events: grids of these events.
    Raises:
        ValueError: shapes that do not fit, or values that are no survival probabilities.
    """
    try:
        subject: NDArray[Any] = _whole_ids(ids)
    except UserError:
        subject = np.array(ids, dtype=object)
    times = np.asarray(prediction_time, dtype="M8[us]")
    tables = []
    for event in events:
        curve = np.asarray(survival[event.name], dtype=np.float64)
        if curve.shape != (len(subject), event.n_slots + 1):
            raise ValueError(
                f"survival[{event.name!r}]: got shape {curve.shape}, need {(len(subject), event.n_slots + 1)}"
            )
        if not ((curve >= 0) & (curve <= 1)).all():
            raise ValueError(f"survival[{event.name!r}]: got values outside 0..1")
        horizons = event.slot_hours * np.arange(1, event.n_slots + 1)
        tables.append(
            pa.table(
                {
                    "subject_id": np.repeat(subject, event.n_slots),
                    "prediction_time": pa.array(np.repeat(times, event.n_slots), pa.timestamp("us")),
                    "event": pa.array([event.name] * (len(subject) * event.n_slots), pa.string()),
                    "horizon_hours": np.tile(horizons, len(subject)),
                    "probability": (1.0 - curve[:, 1:]).ravel(),
                }
            )
        )
    _write_parquet(pa.concat_tables(tables), Path(path))


def _as_records(
    dataset: EventTimeDataset, trigger: NDArray[np.datetime64], step_hours: float
) -> tuple[NDArray[np.int64], NDArray[np.datetime64], NDArray[np.str_], NDArray[np.float32]]:
    """Row, time, code and value of everything a data set holds; the order is left to the caller."""
    scaling = dataset.scaling
    x = scaling["observations"].undo(dataset.x) if "observations" in scaling else dataset.x
    static = scaling["static"].undo(dataset.static) if "static" in scaling else dataset.static
    steps = np.arange(x.shape[1]) < dataset.length[:, None]
    begin = trigger - span(dataset.length * step_hours)
    out: list[tuple[NDArray[Any], ...]] = []
    for values, kept, names in (
        (x, dataset.mask & steps[..., None], dataset.observation_names),
        (dataset.u, (dataset.u != 0) & steps[..., None], dataset.intervention_names),
    ):
        row, step, column = np.nonzero(kept)
        out.append((row, begin[row] + span(step * step_hours), np.array(names, dtype=object)[column], values[kept]))
    # A scaled 0 stands for a missing value, not for the mean.
    row, column = np.nonzero(dataset.static != 0 if "static" in scaling else np.ones(static.shape, dtype=bool))
    nat = np.full(len(row), np.datetime64("NaT", "us"))
    out.append((row, nat, np.array(dataset.static_names, dtype=object)[column], static[row, column]))
    # Says where the grid begins, also where its first step holds nothing.
    row = np.flatnonzero(dataset.length)
    out.append((row, begin[row], np.full(len(row), CONTEXT_START, dtype=object), np.full(len(row), np.nan)))
    for number, event in enumerate(dataset.events):
        seen, risk = dataset.observed[:, number], dataset.at_risk[:, number]
        code = np.where(~risk, NOT_AT_RISK, np.where(seen, "", CENSORED)).astype(object) + event.name
        row = np.arange(len(dataset))
        out.append((row, trigger + span(dataset.time_hours[:, number]), code, np.full(len(row), np.nan)))
    row, time, code, value = (np.concatenate(column) for column in zip(*out, strict=True))
    return row, time.astype("M8[us]"), code, value.astype(np.float32)


def span(hours: Any) -> Any:
    """Hours as whole microseconds."""
    return np.rint(np.asarray(hours) * 3.6e9).astype(np.int64).astype("m8[us]")


def _whole_ids(ids: Sequence[str]) -> NDArray[np.int64]:
    """Ids as numbers, of which each has one spelling: 001 and 1_0 are other subjects than 1 and 10."""
    try:
        numbers = np.array([int(identifier) for identifier in ids], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"ids: MEDS needs whole numbers ({error})") from error
    for identifier, number in zip(ids, numbers.tolist(), strict=True):
        if str(number) != identifier:
            raise UserError(f"ids: MEDS needs whole numbers in their plain spelling, got {identifier!r} for {number}")
    return numbers


def _write_parquet(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
