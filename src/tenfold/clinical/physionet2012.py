"""The PhysioNet / Computing in Cardiology Challenge 2012: the first 48 hours of stays in intensive care.

Two forms of the same data, read alike: the original text, one file a stay, and .npz files of ragged arrays.
Licence of the data: ODC-By 1.0. Source: Silva et al. 2012, Computing in Cardiology 39, 245-248.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.cohort import DataNotFound
from tenfold.clinical.series import LARGEST, Rule, Series
from tenfold.core import data
from tenfold.core.atomic import replacing
from tenfold.core.errors import UserError
from tenfold.core.packed import read_arrays

VARIABLES = (
    *("Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS"),
    *("Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP", "MechVent", "Mg", "Na", "NIDiasABP", "NIMAP"),
    *("NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI"),
    *("TroponinT", "Urine", "WBC", "Weight"),
)
STATIC = ("Age", "Gender", "Height", "ICUType", "Weight")
OUTCOMES = ("SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death")
HOURLY: dict[str, Rule] = {"Urine": "sum", "MechVent": "any"}  # all others: the mean of the hour

# Dimensions and type of the arrays in a file, and the names that stand beside them.
_KINDS = {
    name: (dimensions, np.dtype(kind))
    for name, dimensions, kind in (
        ("record_id", 1, "i4"),
        ("static", 2, "f4"),
        ("outcomes", 2, "i4"),
        ("offsets", 1, "i4"),
        ("minute", 1, "u2"),
        ("var", 1, "u1"),
        ("value", 1, "f4"),
    )
}
_NAMES = {"variables": VARIABLES, "static_names": STATIC, "outcome_names": OUTCOMES}
_FOLDER = "03-04-clinical"
_ELSEWHERE = "pass its folder (data_dir=…, --data.path) or use the 'sim' preset"
_HEADER = "Time,Parameter,Value"
_LARGEST_ID = 2**31 - 1
_LAST_MINUTE = 48 * 60
_MINUTES = {f"{hour:02d}:{minute:02d}": 60 * hour + minute for hour in range(49) for minute in range(60)}
# Codes of a parameter in the text: a variable, then the descriptors; nameless lines say nothing and are dropped.
_RECORD, _NAMELESS = 100, 101
_DESCRIPTOR = len(VARIABLES)
_CODES = {name: code for code, name in enumerate(VARIABLES)}
_CODES |= {name: _DESCRIPTOR + i for i, name in enumerate(STATIC[:-1])} | {"RecordID": _RECORD, "": _NAMELESS}


@dataclass(frozen=True, eq=False)
class Physionet2012:
    """Stays as ragged arrays: stay i owns the measurements offsets[i]:offsets[i+1], in order of time.

    Attributes:
        record_id: int32 [N].
        static: float32 [N, 5], see `STATIC` (years, 0 female 1 male, cm, 1..4, kg); -1 is not recorded.
        outcomes: int32 [N, 5], see `OUTCOMES` (days; days from admission to death, -1 none recorded; 0 or 1).
        offsets: int32 [N + 1].
        minute: since admission, uint16 [M], 0..2880.
        var: index into `variables`, uint8 [M].
        value: float32 [M], as recorded, artefacts included.
    """

    record_id: NDArray[np.int32]
    static: NDArray[np.float32]
    outcomes: NDArray[np.int32]
    offsets: NDArray[np.int32]
    minute: NDArray[np.uint16]
    var: NDArray[np.uint8]
    value: NDArray[np.float32]
    variables: tuple[str, ...] = VARIABLES
    static_names: tuple[str, ...] = STATIC
    outcome_names: tuple[str, ...] = OUTCOMES

    def __len__(self) -> int:
        return len(self.record_id)

    @property
    def ids(self) -> list[str]:
        return [str(record) for record in self.record_id]

    def series(self) -> Series:
        """The measurements in hours since admission."""
        stay = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))
        return Series(stay, self.minute / 60.0, self.var.astype(np.int16), self.value, self.variables, len(self))

    def outcome(self, name: str) -> NDArray[np.int32]:
        """One column of `outcomes` [N]."""
        return self.outcomes[:, self.outcome_names.index(name)]


def read_physionet2012(
    data_dir: str | Path | None = None, sets: Sequence[str] | None = None, *, labelled: bool = True
) -> Physionet2012:
    """The stays of a folder, sorted by record id within each set.

    Args:
        data_dir: holds `physionet2012_<set>.npz`, or, as the challenge publishes it, `set-<set>/<RecordID>.txt` with
            `Outcomes-<set>.txt`; .npz files win. None: the folder of prepared data (`TENFOLD_DATA`).
        sets: such as ("a", "b1"); None takes all there are, in the order of their names.
        labelled: False takes text without its outcomes, which are -1 then; the files may also lie in `data_dir` itself.
    Raises:
        DataNotFound: the folder or a set is not there.
        UserError: a damaged file; the line names file, row and column.
    """
    root = _root(data_dir)
    packed = {file.stem.removeprefix("physionet2012_"): file for file in root.glob("physionet2012_*.npz")}
    folders = {folder.name.removeprefix("set-"): folder for folder in root.glob("set-*") if folder.is_dir()}
    if not labelled and not folders and any(root.glob("*.txt")):
        folders = {"": root}
    found = packed or folders
    names = sorted(found) if sets is None else list(sets)
    missing = [name for name in names if name not in found] if names else ["a"]
    if missing:
        raise DataNotFound(f"physionet2012_{missing[0]}.npz not found in {root}; {_ELSEWHERE}")
    stays = [_read_npz(packed[name]) if packed else _read_texts(folders[name], labelled) for name in names]
    return _joined(stays)


def write_npz(stays: Physionet2012, path: str | Path) -> None:
    """Write the ragged arrays as one compressed file, which `read_physionet2012` reads in a fraction of the time."""
    fields: dict[str, Any] = {name: np.asarray(getattr(stays, name)) for name in Physionet2012.__dataclass_fields__}
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **fields)


def _root(data_dir: str | Path | None) -> Path:
    if data_dir is None:
        try:
            return data.path(_FOLDER)
        except UserError as error:
            raise DataNotFound(f"{error}; or {_ELSEWHERE}") from error
    root = Path(data_dir)
    if not root.is_dir():
        raise DataNotFound(f"physionet2012_a.npz not found in {root}; {_ELSEWHERE}")
    return root


def _joined(stays: Sequence[Physionet2012]) -> Physionet2012:
    if len(stays) == 1:
        return stays[0]
    starts = np.cumsum([0, *(len(part.value) for part in stays)])
    offsets = [part.offsets[:-1] + start for part, start in zip(stays, starts, strict=False)]
    columns = ("record_id", "static", "outcomes", "minute", "var", "value")
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in stays]) for name in columns}
    return Physionet2012(offsets=np.concatenate([*offsets, starts[-1:]]).astype(np.int32), **joined)


def _read_npz(path: Path) -> Physionet2012:
    try:
        arrays: dict[str, Any] = dict(read_arrays(path, Physionet2012.__dataclass_fields__))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: no file of stays that can be read ({' '.join(str(error).split())[:200]})") from error
    names = {name: tuple(str(text) for text in arrays[name].ravel()) for name in _NAMES}
    if any((arrays[name].ndim, arrays[name].dtype) != kind for name, kind in _KINDS.items()) or names != _NAMES:
        raise UserError(f"{path}: arrays are of other kinds or variables than those of Physionet2012; fetch it again")
    stays = Physionet2012(**arrays | names)
    count, size, offsets = len(stays.record_id), len(stays.value), stays.offsets
    whole = (
        stays.static.shape == (count, len(STATIC))
        and stays.outcomes.shape == (count, len(OUTCOMES))
        and offsets.shape == (count + 1,)
        and offsets[0] == 0
        and offsets[-1] == size
        and (np.diff(offsets) >= 0).all()
        and stays.minute.shape == stays.var.shape == (size,)
        and (size == 0 or stays.var.max() < len(VARIABLES))
        and np.isfinite(stays.value).all()
    )
    if not whole:
        raise UserError(f"{path}: arrays do not fit together (see Physionet2012); fetch it again")
    return stays


def _read_texts(folder: Path, labelled: bool) -> Physionet2012:
    """All stays of one set from their text files."""
    table = folder.with_name(f"Outcomes-{folder.name.removeprefix('set-')}.txt")
    outcomes = _read_outcomes(table) if labelled else {}
    files = sorted(folder.glob("*.txt"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        raise DataNotFound(f"no <RecordID>.txt in {folder}; unpack the set there")
    static = np.full((len(files), len(STATIC)), -1.0, dtype=np.float32)
    records: list[int] = []
    minutes: list[NDArray[np.int64]] = []
    codes: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    for row, file in enumerate(files):
        minute, code, value = _read_text(file)
        records.append(_descriptors(file, minute, code, value, static[row]))
        kept = code < len(VARIABLES)
        weight = np.flatnonzero((code == len(VARIABLES) - 1) & (minute == 0))[:1]
        if len(weight):  # the first weight at 00:00 is the descriptor, not a measurement
            static[row, -1] = value[weight[0]]
            kept[weight] = False
        order = np.argsort(minute[kept], kind="stable")
        minutes.append(minute[kept][order])
        codes.append(code[kept][order])
        values.append(value[kept][order])
    missing = [file for file, record in zip(files, records, strict=True) if record not in outcomes]
    if labelled and missing:
        raise UserError(f"{missing[0]}: no row of this stay in {table.name}")
    unknown = [-1] * len(OUTCOMES)
    return Physionet2012(
        record_id=np.array(records, dtype=np.int32),
        static=static,
        outcomes=np.array([outcomes.get(record, unknown) for record in records], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, values)]).astype(np.int32),
        minute=np.concatenate(minutes).astype(np.uint16),
        var=np.concatenate(codes).astype(np.uint8),
        value=np.concatenate(values).astype(np.float32),
    )


def _read_text(file: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Minute, code of the parameter and value of each line.

    Times and names are looked up whole, which also proves that the commas stand where they should: a misplaced one
    brings a name where a time is due. Only a file that fails is read again line by line, to say where.
    """
    text = file.read_text(encoding="latin-1")
    fields = text.rstrip().replace("\n", ",").split(",")
    try:
        if not text.startswith(_HEADER) or len(fields) % 3 or "_" in text:
            raise ValueError
        minute = np.array([_MINUTES[time] for time in fields[3::3]], dtype=np.int64)
        code = np.array([_CODES[name] for name in fields[4::3]], dtype=np.int64)
        value = np.array([float(number) for number in fields[5::3]])
        if not (np.abs(value) <= LARGEST).all() or (len(minute) and minute.max() > _LAST_MINUTE):
            raise ValueError
    except (KeyError, ValueError) as error:
        raise UserError(_fault(file, text.splitlines())) from error
    return minute, code, value


def _fault(file: Path, lines: list[str]) -> str:
    """What is wrong with the first line that is."""
    if not lines or lines[0].strip() != _HEADER:
        return f"{file} row 1: got {''.join(lines[:1])[:80]!r}, need the header {_HEADER}"
    for number, line in enumerate(lines[1:], 2):
        fields = line.split(",")
        where = f"{file} row {number}"
        if len(fields) != 3:
            return f"{where}: got {line[:80]!r}, need three columns {_HEADER}"
        time, name, text = fields
        if _MINUTES.get(time, _LAST_MINUTE + 1) > _LAST_MINUTE:
            return f"{where}, column Time: got {time[:40]!r}, need HH:MM, 00:00 to 48:00"
        if name not in _CODES:
            return f"{where}, column Parameter: got {name[:40]!r}, need a variable of the challenge, such as HR"
        try:
            usable = abs(float(text)) <= LARGEST and "_" not in text
        except ValueError:
            usable = False
        if not usable:
            return f"{where}, column Value: got {text[:40]!r}, need a number (single precision)"
    return f"{file}: an empty line between rows; remove it"


def _descriptors(
    file: Path,
    minute: NDArray[np.int64],
    code: NDArray[np.int64],
    value: NDArray[np.float64],
    static: NDArray[np.float32],
) -> int:
    """Fill in age, gender, height and ICU type, and give the record id, which the file's name must repeat."""
    rows = np.flatnonzero((code >= _DESCRIPTOR) & (code < _NAMELESS))
    record = None
    for row in rows[::-1]:  # the first line of each wins
        if code[row] == _RECORD:
            record = int(value[row])
        else:
            static[code[row] - _DESCRIPTOR] = value[row]
    if record is None or str(record) != file.stem or abs(record) > _LARGEST_ID:
        raise UserError(f"{file}: got RecordID {record}, need {file.stem}, the name of the file")
    return record


def _read_outcomes(file: Path) -> dict[int, list[int]]:
    """Outcomes by record id."""
    if not file.is_file():
        raise DataNotFound(f"{file} not found; it belongs beside the folder of its stays")
    try:
        with file.open(encoding="latin-1", newline="") as text:
            rows = list(csv.reader(text))
    except csv.Error as error:
        raise UserError(f"{file}: no comma-separated text ({error})") from None
    header = ["RecordID", *OUTCOMES]
    if not rows or [name.strip() for name in rows[0]] != header:
        raise UserError(f"{file} row 1: got {','.join(rows[0] if rows else [])[:80]!r}, need {','.join(header)}")
    outcomes = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(f"{file} row {number}: got {len(row)} columns, need {len(header)}")
        numbers = []
        for name, text_value in zip(header, row, strict=True):
            try:
                numbers.append(int(text_value))
                if abs(numbers[-1]) > _LARGEST_ID:
                    raise ValueError
            except ValueError as error:
                raise UserError(
                    f"{file} row {number}, column {name}: got {text_value[:40]!r}, need a whole number"
                ) from error
        outcomes[numbers[0]] = numbers[1:]
    return outcomes
