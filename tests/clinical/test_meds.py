"""MEDS folders: there and back, by hand, and faults."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import meds
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import icu12
from tenfold.clinical.meds import read_labels, read_meds, write_meds, write_predictions
from tenfold.clinical.series import Scaling
from tenfold.core.errors import UserError

KIDNEY = EventSpec("kidney", 2.0, 3)
NOON = datetime.datetime(2030, 5, 1, 12)
ARRAYS = ("x", "mask", "u", "length", "static", "time_hours", "observed", "at_risk")


def after(hours: float) -> datetime.datetime:
    return NOON + datetime.timedelta(hours=hours)


RECORDS: list[tuple[int, datetime.datetime | None, str, float | None]] = [
    (1, None, "GENDER//F", None),
    (1, None, "AGE", 50.0),
    (1, after(-1e6), "MEDS_BIRTH", None),
    (1, after(-1e5), "GENDER//F", None),
    (1, after(0), "LAB//HR", 80.0),
    (1, after(0.5), "LAB//HR//new", 90.0),
    (1, after(1.5), "DRUG", None),
    (1, after(2.0), "LAB//HR", 999.0),
    (1, after(5.0), "KIDNEY", None),
    (1, after(9.0), "KIDNEY", None),
    (2, None, "AGE", 60.0),
    (2, after(-1e6), "MEDS_BIRTH", None),
    (2, after(1.0), "LAB//HR", 70.0),
    (2, after(7.0), "OTHER", float("inf")),  # of no code that is read
]
CODES = {
    "HR": ["LAB//HR", "LAB//HR//new"],
    "drug": ["DRUG"],
    "kidney": ["KIDNEY"],
    "age": ["AGE"],
    "female": ["GENDER//F"],
}


def folder_of(root: Path, records: list[Any], *, files: int = 1) -> Path:
    (root / "data" / "deep").mkdir(parents=True)
    for number in range(files):
        rows = [row for row in records if row[0] % files == number]
        columns = list(zip(*rows, strict=True))
        table = pa.table(
            {
                "subject_id": pa.array(columns[0], pa.int64()),
                "time": pa.array(columns[1], pa.timestamp("us")),
                "code": pa.array(columns[2], pa.string()),
                "numeric_value": pa.array(columns[3], pa.float32()),
            }
        )
        pq.write_table(table, root / "data" / "deep" / f"{number}.parquet")
    return root


def labels_of(path: Path, rows: list[tuple[int, datetime.datetime]]) -> Path:
    columns = {"subject_id": [row[0] for row in rows], "prediction_time": [row[1] for row in rows]}
    pq.write_table(pa.table(columns), path)
    return path


def read(root: Path, **changed: Any) -> EventTimeDataset:
    options: dict[str, Any] = {"interventions": ["drug"], "statics": ["age", "female"], "steps": 2, "scaling": {}}
    return read_meds(root, CODES, [KIDNEY], **{**options, **changed})


@pytest.mark.parametrize("files", [1, 2])
def test_by_hand(tmp_path: Path, files: int) -> None:
    data = read(folder_of(tmp_path, RECORDS, files=files))
    assert data.ids == ["1", "2"]
    assert data.observation_names == ("HR",)
    assert data.x[..., 0].tolist() == [[85.0, 0.0], [70.0, 0.0]]
    assert data.u[..., 0].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert data.static.tolist() == [[50.0, 1.0], [60.0, 0.0]]
    assert data.time_hours.ravel().tolist() == [3.0, 4.0]  # from hour 2 and hour 3; follow-up to the last record
    assert data.observed.ravel().tolist() == [True, False]
    assert data.at_risk.all()
    assert data.prediction_time is not None
    assert data.prediction_time.tolist() == [after(2), after(3)]


def test_each_label_is_a_row(tmp_path: Path) -> None:
    folder_of(tmp_path, RECORDS)
    labels = labels_of(tmp_path / "labels.parquet", [(2, after(1.5)), (1, after(7)), (1, after(1)), (2, after(0))])
    data = read(tmp_path, labels=labels)
    assert data.ids == ["2", "1", "1", "2"]
    assert data.length.tolist() == [1, 2, 1, 0]
    assert data.x[..., 0].tolist() == [[70.0, 0.0], [0.0, 0.0], [85.0, 0.0], [0.0, 0.0]]
    assert data.at_risk.ravel().tolist() == [True, False, True, True]
    assert data.time_hours.ravel().tolist() == [5.5, 0.0, 4.0, 7.0]
    assert len({part for part, rows in data.split().items() for row in rows if data.ids[row] == "1"}) == 1


def test_death_is_the_default_event(tmp_path: Path) -> None:
    folder_of(tmp_path, [*RECORDS[:10], (1, after(26.0), "MEDS_DEATH", None), *RECORDS[10:]])
    data = read_meds(tmp_path, {"HR": ["LAB//HR"]}, steps=2, scaling={})
    assert [event.name for event in data.events] == ["death"]
    assert data.observed.ravel().tolist() == [True, False]
    assert data.time_hours.ravel().tolist() == [24.0, 4.0]


def test_times_out_of_order_are_sorted_with_a_warning(tmp_path: Path) -> None:
    plain = read(folder_of(tmp_path / "a", RECORDS))
    with pytest.warns(UserWarning, match="0.parquet: times of a subject are not in order"):
        data = read(folder_of(tmp_path / "b", RECORDS[:10][::-1] + RECORDS[10:]))
    for name in ARRAYS:
        assert np.array_equal(getattr(data, name), getattr(plain, name)), name


@pytest.mark.parametrize("record", [(3, None, "AGE", 30.0), (3, after(-9.0), "MEDS_BIRTH", None)])
def test_a_subject_without_a_record_to_count_from(tmp_path: Path, record: tuple[Any, ...]) -> None:
    folder_of(tmp_path, [*RECORDS, (3, None, "AGE", 30.0), record])
    with pytest.warns(UserWarning, match="1 of 3 subjects have no observation or intervention to count from: left out"):
        assert read(tmp_path).ids == ["1", "2"]
    data = read(tmp_path, labels=labels_of(tmp_path / "l.parquet", [(3, after(0))]))
    assert (data.length.tolist(), data.at_risk.tolist(), data.static[0, 0]) == ([0], [[False]], 30.0)


def test_there_and_back(data_dir: Path, tmp_path: Path) -> None:
    whole = icu12(data_dir / "03-04-clinical", sets=["b1"])
    data = whole.subset(np.arange(150))
    write_meds(data, tmp_path)
    names = (*data.observation_names, *data.intervention_names, *(event.name for event in data.events))
    back = read_meds(
        tmp_path,
        {name: [name] for name in dict.fromkeys((*names, *data.static_names)) if name != "Weight"}
        | {"Weight": ["Weight"]},
        data.events,
        interventions=data.intervention_names,
        statics=(),
        labels=tmp_path / "labels.parquet",
        steps=12,
        scaling={},
    )
    assert back.ids == data.ids
    assert np.array_equal(back.length, data.length)
    for name in ("observed", "at_risk", "u"):
        assert np.array_equal(getattr(back, name), getattr(data, name)), name
    assert np.abs(back.time_hours - data.time_hours).max() < 1e-8
    for part, rows in data.split().items():
        assert np.array_equal(back.split()[part], rows)
    columns = [back.observation_names.index(name) for name in data.observation_names]
    assert np.array_equal(back.mask[..., columns], data.mask)
    assert np.allclose(back.x[..., columns], data.scaling["observations"].undo(data.x) * data.mask, rtol=1e-5)


def small(**changed: Any) -> EventTimeDataset:
    fields: dict[str, Any] = {
        "x": np.random.default_rng(0).normal(size=(4, 3, 2)),
        "mask": np.random.default_rng(1).random((4, 3, 2)) < 0.6,
        "u": np.random.default_rng(2).random((4, 3, 1)) < 0.5,
        "length": [3, 2, 0, 3],
        "static": np.arange(4.0)[:, None],
        "time_hours": [[1.5, 2.0], [0.0, 30.0], [7.0, 1.0], [0.0, 4.0]],
        "observed": [[1, 0], [1, 1], [0, 0], [0, 1]],
        "at_risk": [[1, 1], [1, 1], [1, 1], [0, 1]],
        "events": (KIDNEY, EventSpec("stroke", 24.0, 3)),
        "ids": ["5", "6", "9", "11"],
    }
    fields["mask"][0, 0] = fields["u"][0, 0] = False  # nothing in the first of its steps
    fields["mask"] &= np.arange(3)[:, None] < np.array(fields["length"])[:, None, None]
    fields["u"] = fields["u"] & (np.arange(3)[:, None] < np.array(fields["length"])[:, None, None])
    return EventTimeDataset(**{**fields, **changed})


def test_there_and_back_bit_for_bit(tmp_path: Path) -> None:
    data = small()
    write_meds(data, tmp_path, step_hours=0.5)
    names = ("x0", "x1", "u0", "static0", "kidney", "stroke")
    options: dict[str, Any] = {"interventions": ["u0"], "statics": ["static0"], "steps": 3, "step_hours": 0.5}
    back = read_meds(
        tmp_path, {n: [n] for n in names}, data.events, labels=tmp_path / "labels.parquet", scaling={}, **options
    )
    assert back.ids == data.ids
    for name in ARRAYS:
        assert np.array_equal(getattr(back, name), getattr(data, name)), name


def test_values_are_written_in_their_units_and_missing_ones_not_at_all(tmp_path: Path) -> None:
    scaling = {
        "observations": Scaling(("x0", "x1"), (-9.0, -9.0), (9.0, 9.0), (1.0, 2.0), (0.5, 4.0)),
        "static": Scaling(("static0",), (-99.0,), (99.0,), (50.0,), (10.0,)),
    }
    data = small(scaling=scaling)
    write_meds(data, tmp_path)
    table = pq.read_table(tmp_path / "data" / "0.parquet").to_pylist()
    assert [row["numeric_value"] for row in table if row["code"] == "static0"] == [60.0, 70.0, 80.0]
    assert [row["time"] for row in table if row["code"] == "static0"] == [None] * 3
    written = sorted(row["numeric_value"] for row in table if row["code"] == "x1")
    assert np.allclose(written, np.sort(data.x[..., 1][data.mask[..., 1]] * 4 + 2))


def test_a_static_code_without_numbers_is_a_flag(tmp_path: Path) -> None:
    root = folder_of(tmp_path, RECORDS)
    (root / "metadata").mkdir()
    splits = pa.table({"subject_id": [1, 2], "split": ["train", "train"]})
    pq.write_table(splits, root / "metadata" / "subject_splits.parquet")
    assert read(root, scaling=None).static.tolist() == [[-1.0, 1.0], [1.0, -1.0]]


def test_what_is_written_satisfies_the_schemas(tmp_path: Path) -> None:
    write_meds(small(), tmp_path)
    read_table = lambda name: pq.read_table(tmp_path / name)  # noqa: E731
    meds.DataSchema.validate(read_table("data/0.parquet"))
    meds.LabelSchema.validate(read_table("labels.parquet"))
    meds.SubjectSplitSchema.validate(read_table(meds.subject_splits_filepath))
    meds.CodeMetadataSchema.validate(read_table(meds.code_metadata_filepath))
    table = read_table("data/0.parquet")
    codes = set(table["code"].to_pylist())
    assert codes == set(read_table(meds.code_metadata_filepath)["code"].to_pylist())
    subjects, times = table["subject_id"].to_pylist(), table["time"].to_pylist()
    keys = [(s, datetime.datetime.min if t is None else t) for s, t in zip(subjects, times, strict=True)]
    assert keys == sorted(keys)


def test_nothing_is_overwritten_and_ids_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder; name another"):
        write_meds(small(), tmp_path)
    with pytest.raises(UserError, match=r"ids: MEDS needs whole numbers .*'a'"):
        write_meds(small(ids=["a", "b", "c", "d"]), tmp_path / "new")
    with pytest.raises(UserError, match="ids: MEDS needs whole numbers in their plain spelling, got '01' for 1"):
        write_meds(small(ids=["01", "1", "2", "3"]), tmp_path / "new")
    with pytest.raises(UserError, match="ids: a subject has several rows"):
        write_meds(small(ids=["1", "1", "2", "3"]), tmp_path / "new")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"interventions": ["pump"]}, ValueError, "codes: no codes for 'pump'; there are some for HR, drug"),
        ({"labels": "nowhere.parquet"}, FileNotFoundError, r"nowhere.parquet not found"),
    ],
)
def test_bad_arguments(changed: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    folder_of(tmp_path, RECORDS)
    with pytest.raises(error, match=message):
        read(tmp_path, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"drug": ["DRUGS"]}, r"no record with a time has a code of 'drug' \(DRUGS\) \(did you mean DRUG\?\)"),
        ({"HR": ["AGE"]}, r"no record with a time has a code of 'HR' \(AGE\)"),
        ({"kidney": ["KIDNEYS", "X"]}, r"no record with a time has a code of 'kidney' \(KIDNEYS, X\)"),
        ({"age": ["MEDS_BIRTH"]}, r"no record without a time has a code of 'age' \(MEDS_BIRTH\)"),
        ({"lactate": []}, r"no record with a time has a code of 'lactate' \(\)"),
    ],
)
def test_names_without_a_record_are_refused_where_all_are_needed(
    tmp_path: Path, changed: dict[str, list[str]], message: str
) -> None:
    options: dict[str, Any] = {"interventions": ["drug"], "statics": ["age", "female"], "steps": 2, "scaling": {}}
    folder_of(tmp_path, RECORDS)
    assert read(tmp_path, need_all=True, rules={"drug": "sum"}).u[0, 1].tolist() == [1.0]
    with pytest.raises(UserError, match=message):
        read_meds(tmp_path, CODES | changed, [KIDNEY], need_all=True, **options)
    with pytest.raises(UserError, match=r"rules: got 'drog' \(did you mean drug\?\), need one of HR, drug"):
        read(tmp_path, need_all=True, rules={"drog": "sum"})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"subject_id": pa.array([], pa.int64())}, "its data hold no subject"),
        ({"time": pa.nulls(2, pa.timestamp("us"))}, r"holds no record with a time of any variable \(HR, drug, ...\)"),
        ({"code": pa.array(["a", "b"])}, r"holds no record with a time of any variable \(HR, drug, ...\)"),
        ({"time": pa.array([0, 1])}, "0.parquet, column time: got int64, need a date and time"),
        ({"numeric_value": pa.array(["7", "b"])}, "0.parquet row 2, column numeric_value: got 'b', need a number"),
        ({"numeric_value": pa.array([1.0, np.inf])}, "0.parquet row 2, column numeric_value: got 'inf', need a finite"),
        (
            {"numeric_value": pa.array([1e39, 1.0])},
            r"0.parquet row 1, column numeric_value: got '1e\+39', need a finite",
        ),
    ],
)
def test_faulty_columns_are_named(tmp_path: Path, column: dict[str, pa.Array], message: str) -> None:
    columns = {
        "subject_id": pa.array([1, 1]),
        "time": pa.array([after(0), after(1)], pa.timestamp("us")),
        "code": pa.array(["LAB//HR", "DRUG"]),
        "numeric_value": pa.array([1.0, 2.0]),
    } | column
    (tmp_path / "data").mkdir()
    count = len(columns["subject_id"])
    table = pa.table({name: values[:count] for name, values in columns.items()})
    pq.write_table(table, tmp_path / "data" / "0.parquet")
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_labels_without_a_row(tmp_path: Path) -> None:
    folder_of(tmp_path, RECORDS)
    table = pa.table({"subject_id": pa.array([], pa.int64()), "prediction_time": pa.array([], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "l.parquet")
    with pytest.raises(UserError, match=r"l.parquet: holds no row, need a subject_id and a prediction_time in each"):
        read(tmp_path, labels=tmp_path / "l.parquet")


def test_faulty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MEDS data/\*\*/\*.parquet not found in .*nowhere"):
        read(tmp_path / "nowhere")
    root = folder_of(tmp_path / "meds", RECORDS)
    with pytest.raises(UserError, match=r"l.parquet: subject 77 is not in the data"):
        read(root, labels=labels_of(tmp_path / "l.parquet", [(77, NOON)]))
    (root / "metadata").mkdir()
    splits = root / "metadata" / "subject_splits.parquet"
    pq.write_table(pa.table({"subject_id": [1, 2], "split": ["train", "tuning"]}), splits)
    assert read(root).parts == ("train", "valid")
    pq.write_table(pa.table({"subject_id": [1, 2], "split": ["train", "mine"]}), splits)
    with pytest.raises(UserError, match="subject 2 has split 'mine', need train, tuning, held_out"):
        read(root)
    pq.write_table(pa.table({"subject_id": [1], "code": ["a"]}), root / "data" / "extra.parquet")
    with pytest.raises(UserError, match=r"extra.parquet: no column time; it has subject_id, code"):
        read(root)


def test_labels_of_a_folder(tmp_path: Path) -> None:
    labels_of(tmp_path / "b.parquet", [(2, after(1))])
    labels_of(tmp_path / "a.parquet", [(1, after(2))])
    subjects, times = read_labels(tmp_path)
    assert subjects.tolist() == [1, 2]
    assert times.tolist() == [after(2), after(1)]
    with pytest.raises(FileNotFoundError, match="with labels in"):
        read_labels(tmp_path / "none" if (tmp_path / "none").mkdir() is None else tmp_path)


def test_predictions(tmp_path: Path) -> None:
    times = np.array(["2030-01-01", "2030-01-02"], dtype="M8[us]")
    curve = np.array([[1.0, 0.75, 0.5, 0.5], [1.0, 1.0, 1.0, 0.0]])
    write_predictions(tmp_path / "p.parquet", ["4", "3"], times, {"kidney": curve}, [KIDNEY])
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["subject_id", "prediction_time", "event", "horizon_hours", "probability"]
    assert table["subject_id"].to_pylist() == [4, 4, 4, 3, 3, 3]
    assert table["horizon_hours"].to_pylist() == [2.0, 4.0, 6.0] * 2
    assert table["probability"].to_pylist() == [0.25, 0.5, 0.5, 0.0, 0.0, 1.0]
    assert table["prediction_time"].type == pa.timestamp("us")
    with pytest.raises(ValueError, match=r"survival\['kidney'\]: got shape \(2, 3\), need \(2, 4\)"):
        write_predictions(tmp_path / "p.parquet", ["4", "3"], times, {"kidney": curve[:, 1:]}, [KIDNEY])
    with pytest.raises(ValueError, match=r"survival\['kidney'\]: got values outside 0\.\.1"):
        write_predictions(tmp_path / "p.parquet", ["4", "3"], times, {"kidney": curve + 0.5}, [KIDNEY])


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        (["4", "-3"], [4, -3]),
        (["001", "1"], ["001", "1"]),
        (["1_0", "10"], ["1_0", "10"]),
        (["1", " 1"], ["1", " 1"]),
        (["1", "\u0661"], ["1", "\u0661"]),
        (["1", str(2**63)], ["1", str(2**63)]),
    ],
)
def test_subjects_keep_their_ids(tmp_path: Path, ids: list[str], written: list[Any]) -> None:
    nat, curve = np.full(2, np.datetime64("NaT", "us")), np.ones((2, 4))
    write_predictions(tmp_path / "p.parquet", ids, nat, {"kidney": curve}, [KIDNEY])
    assert pq.read_table(tmp_path / "p.parquet")["subject_id"].to_pylist()[::3] == written


def test_predictions_of_subjects_named_by_text_and_without_a_clock(tmp_path: Path) -> None:
    nat = np.full(2, np.datetime64("NaT", "us"))
    curve = np.array([[1.0, 0.75, 0.5, 0.5], [1.0, 1.0, 1.0, 0.0]])
    write_predictions(tmp_path / "p.parquet", ["4", "p7"], nat, {"kidney": curve}, [KIDNEY])
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["subject_id"].to_pylist() == ["4"] * 3 + ["p7"] * 3
    assert table["prediction_time"].null_count == 6
