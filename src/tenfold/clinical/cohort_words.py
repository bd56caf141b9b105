"""What a user says of data in words: events and their grids, rules of a step, codes, columns, and what lies at a path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tenfold.clinical.events import MOST_HOURS, EventSpec
from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.series import Rule
from tenfold.core.config import did_you_mean, need, read_object
from tenfold.core.errors import UserError

SourceKind = Literal["table", "meds", "physionet", "mimic3"]
TABLES = (".csv", ".gz", ".parquet")
USED: dict[SourceKind, tuple[str, ...]] = {
    "table": ("subjects", "columns"),
    "meds": ("labels", "codes"),
    "physionet": (),
    "mimic3": (),
}  # what says more of a source, by its kind
_EVENT = re.compile(r"([^=\s][^=]*)(?:=(\d+)x(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class TableColumns:
    """Names of a table's columns, where they are not those of the model's own data.

    Args:
        subject: who.
        time: when, hours or dates.
        variable: what was measured.
        value: its number.
        trigger: of the table of subjects: when its grid ends, from when on outcomes are counted.
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


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """How a recipe reads data that a user has; it adds what it needs beyond.

    Args:
        path: of the prepared data of the PhysioNet Challenge 2012: their folder, none takes the one that was fetched; of
            "mimic3": the folder of tables; of "meds": the folder that holds data/; of "files": the long table (.csv,
            .csv.gz, .parquet).
        outcomes: of "files": the table of one row a subject, with NAME_hours and NAME_observed of each event.
        events: NAME takes the cohort's own grid, NAME=24x1.5 has 24 slots of 1.5 hours; "meds" and "files" need the
            second form. None takes all that the cohort defines.
        codes: of "meds": a JSON file, {name: [codes]}.
        labels: of "meds": parquet of subject_id and prediction_time; none takes a time after each first record
            of an observation or intervention.
        step_hours: of "meds" and "files": length of a step, h.
        rules: of "meds" and "files": NAME=sum, NAME=any, NAME=mean, how the values of a step become one.
        columns: of "files": their names.
    """

    path: Path | None = None
    outcomes: Path | None = None
    events: tuple[str, ...] = ()
    codes: Path | None = None
    labels: Path | None = None
    step_hours: float = 1.0
    rules: tuple[str, ...] = ()
    columns: LongColumns = field(default_factory=LongColumns)

    def __post_init__(self) -> None:
        need("step_hours", self.step_hours, 0, MOST_HOURS, above=True)
        self.specs()  # refuses what cannot be read
        self.rule_of  # noqa: B018  so does this

    def check_path(self) -> None:
        """UserError where nothing lies at the path."""
        if self.path is not None and not self.path.exists():
            raise UserError(f"data.path: {self.path} not found; pass --data.path, or train sim, which needs no data")

    @property
    def rule_of(self) -> dict[str, Rule]:
        """{name: rule}."""
        return parse_rules(self.rules)

    def specs(self) -> list[str | EventSpec]:
        """The events, with their grids where they name one."""
        return parse_events(self.events)

    def meds_codes(self) -> dict[str, list[str]]:
        """{name: codes} of `codes`."""
        if self.codes is None:
            raise UserError("data.codes: need a JSON file {name: [codes]} with cohort meds")
        return read_codes(self.codes)


@dataclass(frozen=True)
class Source:
    """Where new subjects lie.

    Args:
        path: a folder of MEDS (data/**/*.parquet), of PhysioNet (`<RecordID>.txt`, `set-a/`, or packed .npz), of MIMIC-III
            tables; or a long table.
        labels: of MEDS: parquet of subject_id and prediction_time.
        subjects: of a long table: a table of one row a subject, with static values and perhaps the trigger.
        codes: of MEDS: a JSON file, {name: [codes]}, in place of the model's own.
        columns: of the tables, in place of the model's own.
        kind: found at the path.
    Raises:
        UserError: nothing that is known there, a setting that has no effect on it, a file of codes that is no such object.
    """

    path: Path
    labels: Path | None = None
    subjects: Path | None = None
    codes: Path | None = None
    columns: TableColumns = SAME_NAMES
    kind: SourceKind = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", source_kind(self.path))
        given = {"labels": self.labels, "subjects": self.subjects, "codes": self.codes}
        idle = [name for name, value in given.items() if value is not None and name not in USED[self.kind]]
        if "columns" not in USED[self.kind]:
            idle += [f"columns.{name}" for name, value in vars(self.columns).items() if value]
        if idle:
            raise UserError(f"--{idle[0]}: no effect on {self.path}, which is read as {self.kind}")
        if self.codes is not None:
            read_codes(self.codes)

    def codes_over(self, own: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, Sequence[str]]:
        """The codes of each name: of the file where one is given, else the model's own; a name without is its code.

        Raises:
            UserError: a name in the file that is neither among these nor among the model's own.
        """
        given = own if self.codes is None else read_codes(self.codes)
        known = [*dict.fromkeys([*names, *own])]
        for name in given:
            if name not in known:
                some = ", ".join(known)[:200]
                raise UserError(
                    f"{self.codes}: got {name!r}{did_you_mean(name, known)}, need names of the model: {some}"
                )
        return {name: given.get(name, [name]) for name in names}


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
