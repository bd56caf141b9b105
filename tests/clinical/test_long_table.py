"""Tables of a user's own: by hand, and faults named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tenfold.clinical import long_table, tables
from tenfold.clinical.events import EventSpec, EventTimeDataset, part_of
from tenfold.clinical.long_table import LongColumns, read_long_table
from tenfold.core.errors import UserError

DEATH = EventSpec("death", 24.0, 5)
MEASURED = """id,time,variable,value
a,0,HR,80
a,1.5,HR,90
a,1.25,Drug,
a,2,HR,999
a,-1,HR,70
b,1,Temp,37
c,0,HR,60
"""
OUTCOMES = """id,trigger,death_hours,death_observed,age
a,2,30,1,50
b,2,5,0,
c,0,,,70
d,2,1,0,40
"""


def read(folder: Path, measured: str = MEASURED, outcomes: str | None = OUTCOMES, **changed: Any) -> EventTimeDataset:
    (folder / "m.csv").write_text(measured)
    if outcomes is not None:
        (folder / "o.csv").write_text(outcomes)
    options: dict[str, Any] = {"interventions": ["Drug"], "statics": ["age"], "steps": 2, "scaling": {}}
    table = None if outcomes is None else folder / "o.csv"
    return read_long_table(folder / "m.csv", [DEATH], table, **{**options, **changed})


def test_by_hand(tmp_path: Path) -> None:
    data = read(tmp_path)
    assert data.ids == ["a", "b", "c", "d"]
    assert data.observation_names == ("HR", "Temp")
    assert data.length.tolist() == [2, 1, 0, 0]  # b is heard of an hour before its trigger, c and d never
    assert data.x[0].tolist() == [[80.0, 0.0], [90.0, 0.0]]  # neither the value at the trigger nor the one before
    assert data.x[1].tolist() == [[0.0, 37.0], [0.0, 0.0]]
    assert data.u[0].tolist() == [[0.0], [1.0]]
    assert data.mask.sum() == 3
    assert data.time_hours.ravel().tolist() == [30.0, 5.0, 0.0, 1.0]
    assert data.observed.ravel().tolist() == [True, False, False, False]
    assert data.at_risk.ravel().tolist() == [True, True, False, True]
    assert data.static.ravel().tolist() == [50.0, 0.0, 70.0, 40.0]


def test_flags_are_not_observed_before_a_subject_is(tmp_path: Path) -> None:
    data = read(tmp_path, interventions=(), rules={"Drug": "any"})
    flag = data.observation_names.index("Drug")
    assert data.x[:2, :, flag].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert data.mask[:, :, flag].tolist() == [[True, True], [True, False], [False, False], [False, False]]


def test_dates_and_parquet_give_the_same(tmp_path: Path) -> None:
    plain = read(tmp_path)

    def dated(hours: str) -> str:
        return str(np.datetime64("2020-02-28T23:00:00") + np.timedelta64(round(float(hours) * 3600), "s"))

    rows = [line.split(",") for line in MEASURED.splitlines()]
    measured = "\n".join([",".join(rows[0]), *(",".join([i, dated(t), v, x]) for i, t, v, x in rows[1:])])
    rows = [line.split(",") for line in OUTCOMES.splitlines()]
    outcomes = "\n".join([",".join(rows[0]), *(",".join([i, dated(t), *rest]) for i, t, *rest in rows[1:])])
    data = read(tmp_path, measured + "\n", outcomes + "\n")
    for name in ("m", "o"):
        pq.write_table(pacsv.read_csv(tmp_path / f"{name}.csv"), tmp_path / f"{name}.parquet")
    typed = read_long_table(
        tmp_path / "m.parquet",
        [DEATH],
        tmp_path / "o.parquet",
        interventions=["Drug"],
        statics=["age"],
        steps=2,
        scaling={},
    )
    for other in (data, typed):
        for name in ("x", "mask", "u", "length", "static", "time_hours", "observed", "at_risk"):
            assert np.array_equal(getattr(other, name), getattr(plain, name)), name


def test_columns_of_other_names_and_no_trigger(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        MEASURED.replace("id,time,variable,value", "Patient,hour,what,number"),
        OUTCOMES.replace("id,trigger", "PATIENT,ignored"),
        columns=LongColumns("patient", "hour", "what", "number", "trigger"),
    )
    assert data.length.tolist() == [2, 2, 2, 0]
    assert data.x[0, :, 0].tolist() == [70.0, 80.0]  # from the first measurement on
    assert data.mask[0, :, 0].all()


def test_a_trigger_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"o.csv: no column asked_at; it has id, trigger"):
        read(tmp_path, columns=LongColumns(trigger="asked_at"))


def test_prediction_needs_no_outcomes(tmp_path: Path) -> None:
    data = read(tmp_path, outcomes=None, statics=())
    assert data.ids == ["a", "b", "c"]
    assert not data.at_risk.any()
    fitted = read(tmp_path, scaling=None)
    again = read(tmp_path, outcomes=None, statics=(), scaling={"observations": fitted.scaling["observations"]})
    assert again.observation_names == fitted.observation_names
    with pytest.raises(UserError, match="scaling: observations are HR, it was fitted to HR, Temp"):
        read(tmp_path, observations=["HR"], scaling=fitted.scaling)
    with pytest.raises(ValueError, match="statics: got age, need the second table"):
        read(tmp_path, outcomes=None)


@pytest.mark.parametrize(
    ("measured", "outcomes", "message"),
    [
        (MEASURED + "a,x,HR,1\n", OUTCOMES, "m.csv row 8, column time: got 'x', need a number"),
        (MEASURED + "a,,HR,1\n", OUTCOMES, "m.csv row 8, column time: got an empty entry, need a time"),
        (MEASURED + "a,1,HR,fast\n", OUTCOMES, "m.csv row 8, column value: got 'fast', need a number"),
        (MEASURED + ",1,HR,1\n", OUTCOMES, "m.csv row 8, column id: got an empty entry, need text"),
        (MEASURED.replace("value", "val"), OUTCOMES, "m.csv: no column value; it has id, time, variable, val"),
        (MEASURED, OUTCOMES + "e,2,-1,0,1\n", r"o.csv row 5, column death_hours: need hours >= 0 after the trigger"),
        (MEASURED, OUTCOMES + "e,2,1,2,1\n", "o.csv row 5, column death_observed: need 0 or 1"),
        (MEASURED, OUTCOMES + "e,2,1,,1\n", "o.csv row 5, column death_observed: need 0 or 1"),
        (MEASURED, OUTCOMES + "a,2,1,0,1\n", "o.csv: subject 'a' stands in several rows, need one a subject"),
        (MEASURED, OUTCOMES.replace("death_observed", "dead"), "o.csv: no column death_observed"),
        (MEASURED, OUTCOMES.splitlines()[0] + "\n", "o.csv: holds no subject"),
        (
            MEASURED,
            OUTCOMES.splitlines()[0] + "\nx,2,1,0,1\n",
            "o.csv: none of its subjects is in .*m.csv: 'x' here, 'a' there",
        ),
        (MEASURED + "a,1,HR,1e300\n", OUTCOMES, "m.csv row 8, column value: got '1e300', need a finite number"),
        (
            MEASURED,
            "id,trigger,death_hours,death_observed,age\na,2030-01-01T02:00,30,1,50\n",
            "o.csv, column trigger: got dates and times, need numbers as in .*m.csv, column time",
        ),
        (
            "id,time,variable,value\na,2030-01-01T01:00,HR,80\n",
            OUTCOMES,
            "o.csv, column trigger: got numbers, need dates and times as in .*m.csv, column time",
        ),
    ],
)
def test_faults_are_named(measured: str, outcomes: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, measured, outcomes)


def test_all_blocks_of_a_table_are_on_one_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = tmp_path / "later.csv"
    later.write_text("id,time,variable,value\na,2030-01-01T01:00,HR,80\n")
    blocks = lambda path, names: [*tables.read_blocks(path, names), *tables.read_blocks(later, names)]  # noqa: E731
    monkeypatch.setattr(long_table, "read_blocks", blocks)
    with pytest.raises(UserError, match=r"later.csv row 1, column time: got '2030-01-01T01:00', need a number"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": ["HR", "Nope"]}, "m.csv, column variable: no row is of 'Nope'$"),
        ({"observations": ["Tmp"]}, r"m.csv, column variable: no row is of 'Tmp' \(did you mean Temp\?\)"),
        ({"interventions": ["drug"]}, r"m.csv, column variable: no row is of 'drug' \(did you mean Drug\?\)"),
        ({"rules": {"Nope": "sum"}}, "rules: got 'Nope', need one of HR, Temp, Drug"),
    ],
)
def test_names_without_a_row_are_refused_where_all_are_needed(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert len(read(tmp_path, **changed)) == 4
    with pytest.raises(UserError, match=message):
        read(tmp_path, need_all=True, **changed)


def test_without_a_training_part_a_warning_says_what_the_scaling_is_from(tmp_path: Path) -> None:
    subject = next(str(number) for number in range(99) if part_of(str(number)) == "test")
    measured = f"id,time,variable,value\n{subject},0,HR,1\n{subject},1,HR,3\n"
    with pytest.warns(UserWarning, match="none of 1 subjects is in the training part: scaled by all of them"):
        data = read(tmp_path, measured, None, statics=(), interventions=(), scaling=None)
    assert data.scaling["observations"].mean == (2.0,)


def test_for_prediction_the_second_table_needs_no_events(tmp_path: Path) -> None:
    table = "id,trigger,age\nb,2,61\na,2,50\n"
    data = read(tmp_path, outcomes=table, labelled=False)
    whole = read(tmp_path)
    assert data.ids == ["b", "a"] and data.static.ravel().tolist() == [61, 50]
    assert not data.at_risk.any() and data.prediction_time is None
    np.testing.assert_array_equal(data.x, whole.x[[1, 0]])
    with pytest.raises(UserError, match="no column death_hours"):
        read(tmp_path, outcomes=table)


def test_dates_give_the_time_of_prediction(tmp_path: Path) -> None:
    measured = "id,time,variable,value\na,2020-01-01T05:00,HR,80\na,2020-01-01T06:30,HR,81\n"
    data = read(tmp_path, measured=measured, outcomes=None, statics=(), interventions=())
    assert data.prediction_time is not None and str(data.prediction_time[0]) == "2020-01-01T07:00:00.000000"
    unmeasured = read(tmp_path, measured=measured, outcomes="id,age\na,1\nb,2\n", labelled=False, interventions=())
    assert np.isnat(unmeasured.prediction_time).tolist() == [False, True]  # type: ignore[arg-type]
