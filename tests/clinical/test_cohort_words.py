"""Words for events, rules, codes and columns, and what data lie at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenfold.clinical.cohort_words import (  # fmt: skip
    SAME_NAMES,
    Source,
    TableColumns,
    parse_event,
    parse_events,
    parse_rules,
    read_codes,
    source_kind,
)
from tenfold.clinical.events import EventSpec
from tenfold.clinical.long_table import LongColumns
from tenfold.core.errors import UserError


def test_events_with_and_without_their_grid() -> None:
    assert parse_event("death") == "death"
    assert parse_event("renal failure=24x1.5") == EventSpec("renal failure", 1.5, 24)
    assert parse_events(["a=2x3", "b"]) == [EventSpec("a", 3.0, 2), "b"]
    assert parse_rules(["Urine=sum", "a=b=any"]) == {"Urine": "sum", "a=b": "any"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_event("death=5"), "events: got 'death=5', need NAME or NAME=SLOTSxHOURS"),
        (lambda: parse_event("=5x1"), "events: got '=5x1'"),
        (lambda: parse_event("death=0x1"), "n_slots: got 0"),
        (lambda: parse_events(["a", "a=2x1"]), "events: got a, a=2x1, need names that differ"),
        (lambda: parse_rules(["Urine=max"]), "rules: got 'Urine=max', need NAME=mean"),
        (lambda: parse_rules(["=sum"]), "rules: got '=sum'"),
    ],
)
def test_words_that_cannot_be_read(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_columns_that_are_given_replace_the_models() -> None:
    own = LongColumns(subject="pid", value="number")
    assert SAME_NAMES.over(own) == own
    assert TableColumns(time="when").over(own) == LongColumns("pid", "when", "variable", "number", "trigger")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "got list, need a JSON object"), ('{"HR": "x"}', "HR: need a list of codes"), ('{"HR": [1]}', "HR: need")],
)
def test_codes_are_lists_of_text(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "codes.json"
    file.write_text('{"HR": ["LAB//1", "LAB//2"]}')
    assert read_codes(file) == {"HR": ["LAB//1", "LAB//2"]}
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_codes(file)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("labs.csv", "table"),
        ("labs.csv.gz", "table"),
        ("labs.PARQUET", "table"),
        ("x/data/train/0.parquet", "meds"),
        ("x/132539.txt", "physionet"),
        ("x/set-a/132539.txt", "physionet"),
        ("x/physionet2012_a.npz", "physionet"),
        ("x/icustays.csv.gz", "mimic3"),
    ],
)
def test_data_are_known_by_what_lies_there(file: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert source_kind(path if kind == "table" else tmp_path / "x") == kind


def test_data_that_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("")
    for path, message in ((tmp_path / "no", "not found"), (tmp_path, "need a MEDS folder"), (tmp_path / "a.xlsx", "need a MEDS")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            source_kind(path)


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        ("labs.csv", {"labels": Path("l.parquet")}, "--labels: no effect on .*labs.csv, which is read as table"),
        ("labs.csv", {"codes": Path("c.json")}, "--codes: no effect on .*labs.csv, which is read as table"),
        ("meds", {"subjects": Path("s.csv")}, "--subjects: no effect on .*meds, which is read as meds"),
        ("meds", {"columns": TableColumns(time="t")}, r"--columns.time: no effect on .*meds, which is read as meds"),
        ("stays", {"labels": Path("l.parquet")}, "--labels: no effect on .*stays, which is read as physionet"),
        ("ward", {"subjects": Path("s.csv")}, "--subjects: no effect on .*ward, which is read as mimic3"),
    ],
)
def test_what_a_source_does_not_use_is_refused(place: str, given: dict[str, Any], message: str, tmp_path: Path) -> None:
    for file in ("labs.csv", "meds/data/0.parquet", "stays/1.txt", "ward/ICUSTAYS.csv"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    with pytest.raises(UserError, match=message):
        Source(tmp_path / place, **given)
    assert Source(tmp_path / "labs.csv", subjects=Path("s.csv"), columns=TableColumns("who")).kind == "table"


def test_codes_replace_the_models_own_and_name_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.parquet").write_text("")
    own = {"HR": ["LAB//1"], "stroke": ["S"]}  # a model of one event of a run with two
    assert Source(tmp_path).codes_over(own, ["HR", "drug"]) == {"HR": ["LAB//1"], "drug": ["drug"]}
    codes = tmp_path / "codes.json"
    codes.write_text('{"HR": ["LAB//2"], "stroke": ["T"]}')
    assert Source(tmp_path, codes=codes).codes_over(own, ["HR"]) == {"HR": ["LAB//2"]}
    codes.write_text('{"HRR": ["LAB//2"]}')
    with pytest.raises(UserError, match=r"codes.json: got 'HRR' \(did you mean HR\?\), need names of the model: HR"):
        Source(tmp_path, codes=codes).codes_over(own, ["HR"])
