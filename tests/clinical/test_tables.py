"""Blocks of CSV and parquet tables: the same columns from each, and faults named by file, row and column."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenfold.clinical import tables
from tenfold.clinical.tables import find_table, read_blocks, read_columns
from tenfold.core.errors import UserError


def test_the_same_from_csv_gzip_and_parquet(tmp_path: Path) -> None:
    text = 'Id,WHEN,"value",note\n1,2101-10-20 19:08:00,1.5,"a, b"\n2,,,x\n3,2101-10-21,-2,\n'
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    times = pa.array(["2101-10-20T19:08:00", None, "2101-10-21T00:00:00"]).cast(pa.timestamp("us"))
    table = pa.table({"Id": [1, 2, 3], "WHEN": times, "value": [1.5, None, -2.0], "note": ["a, b", "x", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    for name in ("t.csv", "t.csv.gz", "t.parquet"):
        block = read_columns(tmp_path / name, ("id", "when", "value"), ("NOTE", "absent"))
        assert set(block.columns) == {"id", "when", "value", "NOTE"}
        assert block.integers("id").tolist() == [1, 2, 3]
        assert np.array_equal(block.numbers("value"), [1.5, np.nan, -2.0], equal_nan=True)
        when = block.times("when")
        assert when.dtype == "M8[us]"
        assert [str(time)[:16] for time in when] == ["2101-10-20T19:08", "NaT", "2101-10-21T00:00"]
        hours = block.hours("when")
        assert hours[2] - hours[0] == pytest.approx(4 + 52 / 60)
        assert np.array_equal(block.hours("value"), [1.5, np.nan, -2.0], equal_nan=True)


def test_small_blocks_are_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(2000)))
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1 << 10)
    blocks = list(read_blocks(path, ("b",)))
    assert len(blocks) > 5
    assert np.concatenate([block.integers("b") for block in blocks]).tolist() == [i * i for i in range(2000)]
    assert np.concatenate([block.rows for block in blocks]).tolist() == list(range(1, 2001))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n3,x\n", "t.csv row 2, column b: got 'x', need a number"),
        ("t.csv", b"a,b\n1,inf\n", "t.csv row 1, column b: got 'inf', need a finite number"),
        ("t.csv", b"a,b\n1,-4e38\n", r"t.csv row 1, column b: got '-4e38', need a finite number \(single precision\)"),
        ("t.csv", b"a,b\n1,nan\n", "t.csv row 1, column b: got 'nan', need a finite number"),
        ("t.csv", b"a,B,B\n1,2,3\n", "t.csv: columns B, B: need one column b"),
        ("t.csv", b"a,b,b\n1,2,3\n", "t.csv: columns b, b: need one column b"),
        ("t.csv", b"A,AA,b,A\n1,2,3,4\n", "t.csv: columns A, A: need one column a"),
        ("t.csv", b"a\n1\n", "t.csv: no column b; it has a"),
        ("t.csv", b"a,b\n1,2\n3\n", r"t.csv: cannot be read \(.*Row #3"),
        ("t.csv", b"", "t.csv: cannot be read"),
        ("t.csv", b"a,b\n1,\xff\n", "t.csv: cannot be read"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "t.csv: not UTF-8; save it as UTF-8"),
        ("t.csv.gz", b"no gzip", "t.csv.gz is not a whole gzip file"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9999, mtime=0)[:-20], "t.csv.gz is not a whole gzip file"),
        ("t.parquet", b"PAR1 and no more", "t.parquet: cannot be read"),
        ("t.xlsx", b"", r"t.xlsx: need a .csv, .csv.gz or .parquet file"),
    ],
)
def test_faults_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_columns(tmp_path / name, ("a", "b")).numbers("b")
    assert "\n" not in str(caught.value)


def test_the_row_is_right_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.csv"
    path.write_text("a\n" + "5\n" * 1500 + "five\n" + "5\n" * 10)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1 << 10)
    blocks = list(read_blocks(path, ("a",)))
    assert len(blocks) > 1
    with pytest.raises(UserError, match=r"long.csv row 1501, column a: got 'five', need a whole number"):
        [block.integers("a") for block in blocks]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("integers", "row 3, column a: got '2020-01-01', need a whole number"),
        ("texts", "row 2, column a: got an empty entry, need text"),
        ("times", "row 1, column a: got '1', need a date and time without a time zone"),
        ("hours", "row 3, column a: got '2020-01-01', need a number"),
    ],
)
def test_empty_and_mixed_entries(kind: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,1\n,1\n2020-01-01,1\n")
    with pytest.raises(UserError, match=message):
        getattr(read_columns(tmp_path / "t.csv", ("a",)), kind)("a")
    (tmp_path / "t.csv").write_text("a,b\n1,1\n,1\n")
    with pytest.raises(UserError, match="row 2, column a: got an empty entry, need a whole number"):
        read_columns(tmp_path / "t.csv", ("a",)).integers("a")


@pytest.mark.parametrize("text", ["2020-01-01T00:00:00Z", "2020-01-01 00:00:00+01:00"])
def test_a_time_zone_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"a,b\n{text},1\n")
    with pytest.raises(UserError, match=r"row 1, column a: got '2020.*', need a date and time without a time zone"):
        read_columns(tmp_path / "t.csv", ("a",)).hours("a")


def test_what_parquet_holds_as_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": [1, 2], "value": [np.nan, 2.0], "odd": [np.inf, 2.0]}), tmp_path / "t.parquet")
    block = read_columns(tmp_path / "t.parquet", ("time", "value", "odd"))
    assert np.array_equal(block.numbers("value"), [np.nan, 2.0], equal_nan=True)  # as some writers say empty
    with pytest.raises(UserError, match="row 1, column odd: got 'inf', need a finite number"):
        block.numbers("odd")
    with pytest.raises(UserError, match="column time: got int64, need a date and time without a time zone in each row"):
        block.times("time")


def test_of_columns_that_differ_in_case_the_one_spelt_alike_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ID,id,Id\n1,2,3\n")
    for name, value in (("ID", 1), ("id", 2), ("Id", 3)):
        assert read_columns(tmp_path / "t.csv", (name,)).integers(name).tolist() == [value]
    with pytest.raises(UserError, match=r"t.csv: columns ID, id, Id: need one column iD"):
        read_columns(tmp_path / "t.csv", ("iD",))


def test_a_table_of_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    assert len(read_columns(tmp_path / "t.csv", ("a",)).numbers("a")) == 0


def test_tables_are_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "icustays.CSV").write_text("a\n")
    assert find_table(tmp_path, "ICUSTAYS").name == "icustays.CSV"
    with pytest.raises(
        FileNotFoundError, match=r"table PATIENTS not found in .*: need PATIENTS.csv or PATIENTS.csv.gz"
    ):
        find_table(tmp_path, "PATIENTS")
    with pytest.raises(FileNotFoundError, match=r"none.csv not found"):
        read_columns(tmp_path / "none.csv", ("a",))
