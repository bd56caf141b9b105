"""Columns of large CSV and parquet tables, a block of rows at a time, with errors that name file, row and column."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tenfold.clinical.cohort import DataNotFound
from tenfold.clinical.series import LARGEST
from tenfold.core import packed
from tenfold.core.errors import UserError

BLOCK_BYTES = 8 << 20  # of a CSV; of a parquet file BLOCK_ROWS
BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class Block:
    """Some rows of a table: text columns as they stand in a CSV, typed ones from parquet, null where empty.

    Attributes:
        file: for messages.
        rows: number of each row in the file; the first row of data is 1.
        columns: by the names that were asked for.
    """

    file: Path
    rows: NDArray[np.int64]
    columns: Mapping[str, pa.Array]

    def where(self, keep: pa.Array) -> Block:
        """The rows where `keep` is true."""
        chosen = np.flatnonzero(keep.fill_null(False).to_numpy(zero_copy_only=False))
        return Block(
            self.file, self.rows[chosen], {name: part.take(pa.array(chosen)) for name, part in self.columns.items()}
        )

    def texts(self, name: str) -> list[str]:
        """A column as text.

        Raises:
            UserError: an empty entry.
        """
        return self._whole(name, pc.cast(self.columns[name], pa.string()), "text").to_pylist()

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, NaN where empty; a NaN among numbers of parquet is empty too.

        Raises:
            UserError: an entry that is no finite number of single precision.
        """
        column = self._cast(name, pa.float64(), "a number")
        numbers = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
        empty = column.is_null(nan_is_null=pa.types.is_floating(self.columns[name].type))
        bad = ~(np.abs(numbers) <= LARGEST) & ~empty.to_numpy(zero_copy_only=False)
        if bad.any():
            raise self._fault(name, int(np.flatnonzero(bad)[0]), "a finite number (single precision)")
        return numbers

    def integers(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers.

        Raises:
            UserError: an entry that is none, or is empty.
        """
        return self._whole(name, self._cast(name, pa.int64(), "a whole number"), "a whole number").to_numpy()

    def times(self, name: str) -> NDArray[np.datetime64]:
        """A column of dates and times (ISO 8601, without a time zone) as datetime64[us], NaT where empty.

        Raises:
            UserError: an entry that is none.
        """
        need = "a date and time without a time zone"
        if pa.types.is_integer(self.columns[name].type):  # Arrow would count microseconds since 1970
            raise self._of_other_kind(name, need)
        return self._cast(name, pa.timestamp("us"), need).to_numpy(zero_copy_only=False).astype("M8[us]")

    def dated(self, name: str) -> bool:
        """Whether a column holds dates and times, by its first entry."""
        first = self.columns[name].drop_null()[:1]
        if pa.types.is_string(first.type) or pa.types.is_large_string(first.type):
            try:
                pc.cast(first, pa.float64())
            except pa.ArrowInvalid:
                return True
        return pa.types.is_temporal(first.type)

    def hours(self, name: str, dated: bool | None = None) -> NDArray[np.float64]:
        """A column of hours: numbers as they stand, dates and times as hours since 1970; NaN where empty.

        Args:
            name: of the column.
            dated: whether it holds dates and times, as an earlier block said; None: as its first entry says.
        Raises:
            UserError: an entry of the other kind, or of neither.
        """
        if self.dated(name) if dated is None else dated:
            return (self.times(name) - np.datetime64(0, "us")) / np.timedelta64(1, "h")
        return self.numbers(name)

    def _cast(self, name: str, kind: pa.DataType, need: str) -> pa.Array:
        column = self.columns[name]
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            for place in range(len(column)):
                try:
                    pc.cast(column[place : place + 1], kind)
                except pa.ArrowInvalid as error:
                    raise self._fault(name, place, need) from error
            raise
        except pa.ArrowNotImplementedError as error:
            raise self._of_other_kind(name, need) from error

    def _whole(self, name: str, column: pa.Array, need: str) -> pa.Array:
        if column.null_count:
            raise self._fault(name, int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]), need)
        return column

    def _of_other_kind(self, name: str, need: str) -> UserError:
        return UserError(f"{self.file}, column {name}: got {self.columns[name].type}, need {need} in each row")

    def _fault(self, name: str, place: int, need: str) -> UserError:
        entry = self.columns[name][place].as_py()
        got = "an empty entry" if entry is None else repr(str(entry)[:80])
        return UserError(f"{self.file} row {self.rows[place]}, column {name}: got {got}, need {need}")


def find_table(folder: Path, name: str) -> Path:
    """The file NAME.csv or NAME.csv.gz of a folder, in any case.

    Raises:
        DataNotFound: no such file.
    """
    wanted = (f"{name}.csv".lower(), f"{name}.csv.gz".lower())
    found = sorted(file for file in folder.iterdir() if file.name.lower() in wanted)
    if not found:
        raise DataNotFound(f"table {name} not found in {folder}: need {name}.csv or {name}.csv.gz")
    return found[0]


def read_blocks(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Block]:
    """The named columns of a .csv, .csv.gz or .parquet file, block by block; names match in any case.

    Args:
        path: the file.
        required: columns that must be there.
        optional: columns that come along where they are.
    Raises:
        UserError: absent, damaged, or without a required column.
    """
    if not path.is_file():
        raise DataNotFound(f"{path} is a folder, need a file" if path.is_dir() else f"{path} not found")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if suffixes[-1:] == [".parquet"]:
            yield from _parquet_blocks(path, required, optional)
        elif suffixes[-1:] == [".csv"] or suffixes[-2:] == [".csv", ".gz"]:
            yield from _csv_blocks(path, required, optional)
        else:
            raise UserError(f"{path}: need a .csv, .csv.gz or .parquet file")
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:300]})") from error


def read_columns(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Block:
    """All rows of a table that is small enough, as one block."""
    blocks = list(read_blocks(path, required, optional))
    names = blocks[0].columns if blocks else dict.fromkeys(required)
    return Block(
        path,
        np.concatenate([block.rows for block in blocks]) if blocks else np.zeros(0, dtype=np.int64),
        {
            name: pa.chunked_array(
                [b.columns[name] for b in blocks], type=None if blocks else pa.string()
            ).combine_chunks()
            for name in names
        },
    )


def _csv_blocks(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # whose zeros Arrow would take for text
            raise UserError(f"{path}: not UTF-8; save it as UTF-8")
    # One thread, so that rows have numbers in Arrow's own messages and memory stays at a block or two.
    options = pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    with _opened(path) as content, pacsv.open_csv(content, read_options=options) as header:
        present = header.schema.names
    names = _matched(path, present, required, optional)
    convert = pacsv.ConvertOptions(
        include_columns=list(names.values()),
        column_types=dict.fromkeys(names.values(), pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    with (
        _opened(path) as content,
        pacsv.open_csv(content, read_options=options, convert_options=convert) as reader,
    ):
        yield from _numbered(path, reader, names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The content of a table, in files and memory of Arrow's own where that can be: its threads read ahead, and one that wants
    Python's lock while the program ends, to read or to free, would abort it."""
    if path.suffix.lower() != ".gz":
        with pa.OSFile(str(path)) as file:
            yield file
        return
    with packed.opened(path) as content:
        start = content.read(BLOCK_BYTES)
    if len(start) < BLOCK_BYTES:
        copied = pa.BufferOutputStream()
        copied.write(start)
        yield pa.BufferReader(copied.getvalue())
        return
    with packed.opened(path) as content:
        yield content


def _parquet_blocks(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
    with pq.ParquetFile(path) as file:
        names = _matched(path, file.schema_arrow.names, required, optional)
        yield from _numbered(path, file.iter_batches(BLOCK_ROWS, columns=list(names.values())), names)


def _numbered(path: Path, batches: Iterator[pa.RecordBatch], names: Mapping[str, str]) -> Iterator[Block]:
    first = 1
    for batch in batches:
        columns: dict[str, Any] = {}
        for name, actual in names.items():
            column = batch.column(actual)
            columns[name] = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        yield Block(path, np.arange(first, first + batch.num_rows), columns)
        first += batch.num_rows


def _matched(path: Path, present: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """The columns of the file by the names they were asked for; of several that differ in case, the one spelt alike."""
    names = {}
    for name in (*required, *optional):
        alike = [other for other in present if other == name]
        alike = alike or [other for other in present if other.lower() == name.lower()]
        if len(alike) > 1:
            raise UserError(f"{path}: columns {', '.join(alike)}: need one column {name}")
        if alike:
            names[name] = alike[0]
        elif name in required:
            raise UserError(f"{path}: no column {name}; it has {', '.join(present)}"[:400])
    return names
