"""What a user says of data in words: events and their grids, rules of a step, codes, columns, and what lies at a path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tenfold.clinical.events import EventSpec
from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.series import Rule
from tenfold.core.config import read_object
from tenfold.core.errors import UserError

SourceKind = Literal["table", "meds", "physionet", "mimic3"]
TABLES = (".csv", ".gz", ".parquet")
_EVENT = re.compile(r"([^=\s][^=]*)(?:=(\d+)x(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class TableColumns:
    """Names of a table's columns, where they are not those of the model's own data.

    Args:
        subject: who.
        time: when, hours or dates.
        variable: what was measured.
        value: its number.
        trigger: of the table of subjects: when the prediction is made.
    """

    subject: str = ""
    time: str = ""
    variable: str = ""
    value: str = ""
    trigger: str = ""

    def over(self, own: LongColumns) -> LongColumns:
        """The model's own names, but for those given here."""
        return LongColumns(**{name: getattr(self, name) or getattr(own, name) for name in vars(own)})


SAME_NAMES = TableColumns()


def parse_event(text: str) -> str | EventSpec:
    """NAME, or NAME=24x1.5 for 24 slots of 1.5 hours."""
    found = _EVENT.fullmatch(text)
    if found is None:
        raise ValueError(f"events: got {text!r}, need NAME or NAME=SLOTSxHOURS, such as death=30x24")
    name, slots, hours = found.groups()
    return name if slots is None else EventSpec(name, float(hours), int(slots))


def parse_events(texts: Sequence[str]) -> list[str | EventSpec]:
    """All of them, with names that differ."""
    names = [text.split("=")[0] for text in texts]
    if len(set(names)) != len(names):
        raise ValueError(f"events: got {', '.join(texts)}, need names that differ")
    return [parse_event(text) for text in texts]


def parse_rules(texts: Sequence[str]) -> dict[str, Rule]:
    """{name: rule} of NAME=mean, NAME=sum, NAME=any."""
    found: dict[str, Rule] = {}
    for text in texts:
        name, _, rule = text.rpartition("=")
        if not name or rule not in get_args(Rule):
            raise ValueError(f"rules: got {text!r}, need NAME=mean, NAME=sum or NAME=any")
        found[name] = rule  # type: ignore[assignment]
    return found


def read_codes(file: Path) -> dict[str, list[str]]:
    """A JSON object of names and their MEDS codes."""
    content = read_object(file)
    for name, codes in content.items():
        if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
            raise UserError(f"{file}: {name}: need a list of codes, such as {{{name!r}: ['LAB//1']}}")
    return content


def source_kind(path: Path) -> SourceKind:
    """What patients lie at a path.

    Raises:
        UserError: nothing there, or nothing that is known.
    """
    if not path.exists():
        raise UserError(f"patients: {path} not found")
    if path.is_file() and path.suffix.lower() in TABLES:
        return "table"
    if any((path / "data").rglob("*.parquet")):
        return "meds"
    if any(any(path.glob(pattern)) for pattern in ("*.txt", "set-*/*.txt", "physionet2012_*.npz")):
        return "physionet"
    if path.is_dir() and any(file.name.lower().startswith("icustays.csv") for file in path.iterdir()):
        return "mimic3"
    raise UserError(
        f"patients: got {path}, need a MEDS folder, PhysioNet files, MIMIC-III tables, or a .csv or .parquet table"
    )
