"""MIMIC-III from small tables made here: cohort, values, events by hand, and blocks against the whole."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tenfold.clinical import tables
from tenfold.clinical.events import EventTimeDataset
from tenfold.clinical.mimic3 import TABLES, frequent_items, read_mimic3
from tenfold.core.errors import UserError

Rows = list[tuple[object, ...]]

HEADERS = {
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DEATHTIME",
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,INTIME,OUTTIME",
    "CHARTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,ERROR",
    "LABEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM",
    "INPUTEVENTS_CV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,RATE",
    "INPUTEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,AMOUNT,STATUSDESCRIPTION",
    "PROCEDUREEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,VALUE,STATUSDESCRIPTION",
}


def at(hours: float) -> str:
    """A time so many hours after the stays' begin, 2150-03-10 08:00."""
    return str(np.datetime64("2150-03-10T08:00:00") + np.timedelta64(round(hours * 3600), "s")).replace("T", " ")


PATIENTS: Rows = [
    (1, 10, "M", "2090-03-10 00:00:00", ""),  # 60 today
    (2, 20, "F", "1850-01-01 00:00:00", "2150-03-15 00:00:00"),  # 300 years: over 89
    (3, 30, "F", "2140-01-01 00:00:00", ""),  # a child
    (4, 40, "M", "2090-03-11 00:00:00", ""),  # 59 until tomorrow; leaves after 40 hours
    (5, 50, "M", "2100-01-01 00:00:00", ""),
]
ADMISSIONS: Rows = [
    (1, 10, 100, at(-5), ""),
    (2, 20, 200, at(-1), at(130)),
    (3, 30, 300, at(-1), ""),
    (4, 40, 400, at(-1), ""),
    (5, 50, 500, at(-1), ""),
    (6, 10, 101, at(900), ""),
]
STAYS: Rows = [
    (6, 10, 101, 1001, at(1000), at(1100)),  # the second stay of subject 10 stands first in the file
    (1, 10, 100, 1000, at(0), at(80)),
    (2, 20, 200, 2000, at(0), at(60)),
    (3, 30, 300, 3000, at(0), at(90)),
    (4, 40, 400, 4000, at(0), at(40)),
    (5, 50, 500, 5000, at(0), at(200)),
]
CHART: Rows = [
    (1, 10, 100, 1000, 211, at(0.5), "80", 80, ""),
    (2, 10, 100, 1000, 220045, at(0.75), "90", 90, "0"),
    (3, 10, 100, 1000, 211, at(0.8), "500", 500, "1"),  # marked as an error
    (4, 10, 100, 1000, 211, at(-2), "70", 70, ""),  # before the stay
    (5, 10, 100, 1000, 678, at(1), "98.6", 98.6, ""),  # Fahrenheit
    (6, 10, 100, 1000, 223835, at(1), "40", 40, ""),  # per cent
    (7, 10, 100, 1000, 99999, at(1), "1", 1, ""),  # no item of ours
    (8, 30, 300, 3000, 211, at(1), "120", 120, ""),  # not in the cohort
    (9, 20, 200, 2000, 220739, at(50), "2", 2, "0"),  # eyes, verbal and motor together: 7
    (10, 20, 200, 2000, 223900, at(50), "1", 1, "0"),
    (11, 20, 200, 2000, 223901, at(50), "4", 4, "0"),
    (12, 20, 200, 2000, 220739, at(40), "1", 1, "0"),  # alone: no score
    (13, 50, 500, 5000, 720, at(3.2), "CMV", "", ""),  # a ventilator mode has no number
    (14, 20, 200, 2000, 52, at(70), "40", 40, ""),  # after the end of the stay: not followed up
    (15, 50, 500, 5000, 52, at(47.9), "50", 50, ""),  # low pressure before the trigger
]
LABS: Rows = [
    (1, 10, 100, 50912, at(2), "1.0", 1.0),
    (2, 10, 100, 50912, at(60), "1.3", 1.3),
    (3, 10, "", 51265, at(47), "150", 150),
    (4, 50, 500, 51265, at(90), "90", 90),  # after the follow-up of 36 hours
    (5, 50, 500, 50912, at(-1), "0.5", 0.5),  # before the stay: no value to compare with
    (6, 50, 500, 50912, at(50), "1.0", 1.0),
]
CARE_VUE: Rows = [(1, 20, 200, 2000, at(5.5), 30120, "", 0.1), (2, 20, 200, 2000, at(7), 30120, "", 0)]
META_VISION: Rows = [
    (1, 10, 100, 1000, at(10.25), at(12.5), 221906, 5, "FinishedRunning"),
    (2, 10, 100, 1000, at(20), at(22), 221906, 5, "Rewritten"),
]
PROCEDURES: Rows = [(1, 10, 100, 1000, at(-3), at(2), 225792, 5, "FinishedRunning")]
CONTENT = dict(zip(TABLES, (PATIENTS, ADMISSIONS, STAYS, CHART, LABS, CARE_VUE, META_VISION, PROCEDURES), strict=True))


def write(root: Path, name: str, rows: Rows, *, lower: bool = False, packed: bool = False) -> Path:
    header = HEADERS[name].lower() if lower else HEADERS[name]
    text = "\n".join([header, *(",".join(str(field) for field in row) for row in rows)]) + "\n"
    path = root / f"{name}.csv{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, (name, rows) in enumerate(CONTENT.items()):
        write(tmp_path, name, rows, lower=number % 2 == 1, packed=number % 3 == 0)
    return tmp_path


@pytest.fixture
def plain(root: Path) -> EventTimeDataset:
    """The cohort with values in their own units."""
    return read_mimic3(root, scaling={})


def value(data: EventTimeDataset, subject: str, step: int, name: str) -> float | None:
    row, column = data.ids.index(subject), data.observation_names.index(name)
    return float(data.x[row, step, column]) if data.mask[row, step, column] else None


def test_the_cohort_is_first_long_stays_of_adults(plain: EventTimeDataset) -> None:
    assert plain.ids == ["10", "20", "50"]
    assert plain.static.tolist() == [[60.0, 1.0], [90.0, 0.0], [50.0, 1.0]]
    assert plain.prediction_time is not None
    assert str(plain.prediction_time[0]) == "2150-03-12T08:00:00.000000"


def test_age_counts_whole_years(root: Path) -> None:
    write(root, "ICUSTAYS", [*STAYS[1:4], (4, 40, 400, 4000, at(0), at(50)), (9, 40, 400, 4001, at(60), at(99))])
    data = read_mimic3(root, scaling={})
    assert data.static[data.ids.index("40"), 0] == 59.0


def test_values_by_hand(plain: EventTimeDataset) -> None:
    assert plain.x.shape[1] == 48
    assert value(plain, "10", 0, "HR") == 85.0  # both charting systems, without the error
    assert value(plain, "10", 1, "HR") is None
    assert value(plain, "10", 1, "Temp") == pytest.approx(37.0)
    assert value(plain, "10", 1, "FiO2") == pytest.approx(0.4)
    assert value(plain, "10", 2, "Creatinine") == 1.0
    assert value(plain, "50", 47, "MAP") == 50.0
    assert "GCSEyes" not in plain.observation_names
    assert plain.mask.sum() == 6  # with platelets at hour 47 and nothing else


def test_interventions_by_hand(plain: EventTimeDataset) -> None:
    assert plain.intervention_names == ("MechVent", "Vasopressor")
    hours = [[np.flatnonzero(plain.u[row, :, column]).tolist() for column in range(2)] for row in range(3)]
    assert hours == [[[0, 1], [10, 11, 12]], [[], [5]], [[3], []]]


def test_events_by_hand(plain: EventTimeDataset) -> None:
    got = {}
    for row, subject in enumerate(plain.ids):
        for column, event in enumerate(plain.events):
            risk, seen = plain.at_risk[row, column], plain.observed[row, column]
            got[subject, event.name] = (bool(risk), bool(seen), float(plain.time_hours[row, column]))
    assert got["10", "kidney"] == (True, True, 12.0)
    assert got["10", "coagulation"] == (True, False, 32.0)  # to the end of the stay
    assert got["10", "ventilation"] == (False, False, 0.0)
    assert got["10", "death30"] == (True, False, 720.0)
    assert got["20", "neuro"] == (True, True, 2.0)
    assert got["20", "circulatory"] == (True, False, 12.0)
    assert got["20", "death30"] == (True, True, 82.0)  # the hour of death in hospital wins over the day
    assert got["50", "circulatory"] == (False, False, 0.0)
    assert got["50", "kidney"] == (True, False, 36.0)
    assert got["50", "coagulation"] == (True, False, 36.0)


def test_the_day_of_death_counts_outside_hospital(root: Path) -> None:
    write(root, "ADMISSIONS", [row if row[0] != 2 else (2, 20, 200, at(-1), "") for row in ADMISSIONS])
    data = read_mimic3(root, ["death30"], scaling={})
    assert data.time_hours[1, 0] == pytest.approx(4 * 24 + 16 - 48)


def test_blocks_do_not_change_the_result(root: Path, plain: EventTimeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 128)
    data = read_mimic3(root, scaling={})
    for name in ("x", "mask", "u", "static", "time_hours", "observed", "at_risk"):
        assert np.array_equal(getattr(data, name), getattr(plain, name)), name


def test_events_and_context_are_chosen(root: Path) -> None:
    data = read_mimic3(root, ["kidney"], context_hours=70, scaling={})
    assert data.ids == ["10", "50"]
    assert data.x.shape[1] == 70
    assert [event.name for event in data.events] == ["kidney"]
    with pytest.raises(UserError, match="event: got 'sepsis'; known: kidney, circulatory"):
        read_mimic3(root, ["sepsis"])
    with pytest.raises(ValueError, match="context_hours: got 0"):
        read_mimic3(root, context_hours=0)


def test_scaling_is_fitted_to_the_training_part(root: Path) -> None:
    data = read_mimic3(root)
    assert set(data.scaling) == {"observations", "static"}
    train = data.split()["train"]
    heart = data.observation_names.index("HR")
    assert (data.scaling["observations"].mean[heart] == 85.0) == (0 in train)


def test_frequent_items(root: Path) -> None:
    items = frequent_items(root, share=0.6)
    assert [(item.variable, item.table) for item in items] == []
    items = frequent_items(root, share=0.3, limit=99)
    assert {(item.table, item.itemid) for item in items} == {
        *(("CHARTEVENTS", itemid) for itemid in (211, 220045, 678, 223835, 99999, 52, 220739)),
        *(("LABEVENTS", itemid) for itemid in (50912, 51265)),
    }
    assert len(frequent_items(root, share=0.3, limit=2)) == 2


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_table_is_named(root: Path, name: str) -> None:
    next(file for file in root.iterdir() if file.name.startswith(f"{name}.")).unlink()
    with pytest.raises(FileNotFoundError, match=f"table {name} not found in .*: need {name}.csv or {name}.csv.gz"):
        read_mimic3(root)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MIMIC-III folder .*nowhere not found; .*the 'sim' preset"):
        read_mimic3(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("CHARTEVENTS", [*CHART, (16, 10, 100, 1000, 211, at(2), "x", "x", "")], "row 16, column valuenum: got 'x'"),
        ("CHARTEVENTS", [*CHART, (16, 10, 100, 1000, 211, "noon", "1", 1, "")], "row 16, column charttime: got 'noon'"),
        ("ICUSTAYS", [(1, 10, 100, 1000, at(0), at(2))], "none of 1 first stays is of an adult and 48 hours long"),
        ("PATIENTS", PATIENTS[1:], "ICUSTAYS.csv.*: 10 is not in PATIENTS.csv"),
        ("ADMISSIONS", ADMISSIONS[:-2], "ICUSTAYS.csv.*: 500 is not in ADMISSIONS.csv"),
        ("LABEVENTS", [(1, 10, 100)], "LABEVENTS.csv: cannot be read"),
    ],
)
def test_faulty_tables_are_named(root: Path, name: str, rows: Rows, message: str) -> None:
    for file in root.glob(f"{name}.csv*"):
        file.unlink()
    write(root, name, rows)
    with pytest.raises(UserError, match=message):
        read_mimic3(root)
