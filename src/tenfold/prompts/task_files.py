"""Tasks from files: BIG-Bench Hard, and tables of your own."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tenfold.core.catalogue import CATALOGUE
from tenfold.core.config import did_you_mean
from tenfold.core.data import list_datasets
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.lm.tasks import read_lines
from tenfold.prompts.causes import GENERAL
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import Scorer
from tenfold.prompts.task import SPLITS, Placement, Split, Task, is_answerable

BBH = "10-abo/bbh"
COT = "10-abo/cot-prompts"
SHARES = (0.4, 0.3, 0.3)  # of a table without a column for the split
LONGEST_CELL = 10_000_000  # characters

# One sentence a task, for optimizers that start from a description.
_DESCRIPTIONS = {
    "object_counting": "Count how many things of the asked kind are listed.",
    "navigate": "Decide whether following the instructions returns to the starting point.",
    "snarks": "Decide which of two statements is sarcastic.",
    "question_selection": "Choose the question whose answer is the given short answer.",
    "boolean_expressions": "Evaluate a Boolean expression.",
    "web_of_lies": "Decide whether the last person named tells the truth.",
    "sports_understanding": "Decide whether a sentence about sports is plausible.",
    "word_sorting": "Sort the words in the order of the alphabet.",
}


def bbh_tasks() -> list[str]:
    """Names of the tasks on this machine."""
    here = {entry.name for entry in list_datasets() if entry.present}
    return sorted(task for task, entry in _published(BBH).items() if entry in here)


def _published(folder: str) -> dict[str, str]:
    """Task: its name in the catalogue of data, of the files of a folder."""
    files = {PurePosixPath(dataset.file): dataset.name for dataset in CATALOGUE.values()}
    return {file.stem: name for file, name in files.items() if file.is_relative_to(folder)}


def load_bbh(task: str, split: Split | None = None, **options: Any) -> Any:
    """A task of BIG-Bench Hard, or the examples of one of its splits.

    Args:
        task: its name, such as "navigate"; "bbh/navigate" too.
        split: "train", "val" or "test": a tuple of examples; None: the whole `Task`.
        options: of `Task`: scorer, placement, max_tokens, ….
    Raises:
        UserError: not on this machine, no such task, or a damaged file.
    Source: Suzgun et al. 2022, arXiv 2210.09261.
    """
    name = task.removeprefix("bbh/")
    try:
        file = data_path(f"{BBH}/{name}.jsonl")
    except UserError:
        if name in _published(BBH):
            raise
        known = sorted(_published(BBH))
        raise UserError(
            f"{BBH}/{name}.jsonl: no such task{did_you_mean(name, known)}; known: {', '.join(known)}"
        ) from None
    rows: dict[Split, list[Example]] = {name: [] for name in SPLITS}
    seen: set[str] = set()
    for line, row in read_lines(file):
        where = row.get("split")
        if where not in rows or not all(isinstance(row.get(key), str) for key in ("id", "input", "target")):
            raise UserError(f"{file}:{line}: need id, split (train, val or test), input and target")
        if row["input"] in seen:  # one task of the benchmark has a question twice
            continue
        seen.add(row["input"])
        example = Example(row["id"], row["input"], row["target"])
        if is_answerable(example):  # one other has a target that is no option
            rows[where].append(example)
    if split is not None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}, need train, val or test")
        return tuple(rows[split])
    made = {"description": _DESCRIPTIONS.get(name, "Answer the question."), "causes": GENERAL, **options}
    splits: dict[str, Any] = {each: tuple(rows[each]) for each in SPLITS}
    return Task(f"bbh/{name}", **splits, **made)


def few_shot_cot(task: str) -> str:
    """The published demonstrations with chains of thought of a task of BIG-Bench Hard, without the canary notice.

    Raises:
        UserError: there are none for this task.
    """
    name = task.removeprefix("bbh/")
    try:
        file = data_path(f"{COT}/{name}.txt")
    except UserError:
        if name in _published(COT):
            raise
        raise UserError(f"{COT}/{name}.txt: no demonstrations for this task; take another baseline") from None
    lines = file.read_text(encoding="utf-8").splitlines()
    ends = [number for number, line in enumerate(lines[:5]) if line.startswith("-----")]
    if "canary" not in lines[0].lower() or not ends:
        raise UserError(f"{file}: begins without the canary notice and its separator; get the file anew")
    return "\n".join(lines[ends[0] + 1 :]).strip()


def load_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    scorer: Scorer | None = None,
    placement: Placement = "before_q",
    description: str = "Answer the question.",
    max_tokens: int = 256,
    seed: int = 0,
) -> Task:
    """A task from a table of your own: CSV with a header, or JSON Lines.

    Args:
        path: the file.
        columns: our name to yours: input, target, and perhaps id and split (train, val, test). Without a split column rows
            are shuffled by `seed` and divided 40 : 30 : 30; rows whose question comes again are left out.
        scorer, placement, description, max_tokens: of the `Task`.
        seed: of the division.
    Raises:
        UserError: no such file or column, or a row that lacks them, named by its line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"file not found: {path}")
    names = {"input": "input", "target": "target", "id": "id", "split": "split", **(columns or {})}
    if unknown := set(names) - {"input", "target", "id", "split"}:
        raise UserError(f"columns: got {', '.join(sorted(unknown))}, need input, target, id or split")
    rows = _table_rows(path)
    if not rows:
        raise UserError(f"{path}: has no rows; need at least 3")
    have = list(rows[0][1])
    for name in ("input", "target", *(name for name in ("id", "split") if columns and name in columns)):
        if names[name] not in have:
            hint = did_you_mean(names[name], have)
            raise UserError(
                f"{path}: has no column {names[name]!r}{hint}; it has {', '.join(have)}; map yours with columns ({name}=NAME)"
            )
    has_split = names["split"] in have
    examples: dict[str, list[Example]] = {split: [] for split in (*SPLITS, "all")}
    seen: set[str] = set()
    ids: dict[str, int] = {}
    for number, (line, row) in enumerate(rows):
        values = [row.get(names["input"]), row.get(names["target"])]
        if any(value is None or not str(value).strip() for value in values):
            raise UserError(
                f"{path}:{line}: an empty {names['input']} or {names['target']}; fill it or leave the row out"
            )
        where = str(row.get(names["split"], "")) if has_split else "all"
        if where not in examples or (has_split and where == "all"):
            raise UserError(f"{path}:{line}: {names['split']}: got {where!r}, need train, val or test")
        asked = str(values[0])
        if not has_split and asked in seen:
            continue
        seen.add(asked)
        id = str(row.get(names["id"]) or f"row-{number + 1}")
        if id in ids:
            raise UserError(
                f"{path}:{line}: {names['id']}: {id!r} stands in line {ids[id]} already; need different ids"
            )
        ids[id] = line
        for name, text in (("input", asked), ("target", str(values[1])), ("id", id)):
            if "\0" in text:
                raise UserError(f"{path}:{line}: {names[name]}: holds a null byte; remove it")
            if len(text) > LONGEST_CELL:
                raise UserError(f"{path}:{line}: {names[name]}: {len(text)} characters, need {LONGEST_CELL} or fewer")
        examples[where].append(Example(id, asked, str(values[1]).strip()))
    if not has_split:
        examples |= _divided(examples["all"], path, seed)
    elif empty := [split for split in SPLITS if not examples[split]]:
        raise UserError(
            f"{path}: {names['split']}: no row has {empty[0]}, need at least one of train, val and test each"
        )
    options: dict[str, Any] = {
        "scorer": scorer,
        "placement": placement,
        "description": description,
        "max_tokens": max_tokens,
        "causes": GENERAL,
    }
    splits: dict[str, Any] = {each: tuple(examples[each]) for each in SPLITS}
    return Task(path.stem, **splits, **options)


def _divided(rows: Sequence[Example], path: Path, seed: int) -> dict[str, list[Example]]:
    if len(rows) < 3:
        raise UserError(f"{path}: {len(rows)} different questions; need at least 3, better 100")
    order = random.Random(f"split {seed}").sample(list(rows), len(rows))
    first = min(max(1, round(SHARES[0] * len(rows))), len(rows) - 2)
    second = min(max(1, round(SHARES[1] * len(rows))), len(rows) - first - 1)
    return {"train": order[:first], "val": order[first : first + second], "test": order[first + second :]}


def _table_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return list(read_lines(path))
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise UserError(f"{path}: need .csv, .tsv or .jsonl")
    with _long_cells():
        return _csv_rows(path)


def _csv_rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    begun = 1  # line where the row begins that is being read
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            rows: list[tuple[int, Mapping[str, Any]]] = []
            _ = reader.fieldnames
            begun = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}:{reader.line_num}: has another number of columns than the header")
                rows.append((reader.line_num, dict(row)))
                begun = reader.line_num + 1
            return rows
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        if "field larger than field limit" in str(error):
            raise UserError(f"{path}:{begun}: a cell of more than {LONGEST_CELL} characters, or a quote that is not closed") from None  # fmt: skip
        raise UserError(f"{path}:{begun}: not CSV: {error}, in the row that begins in this line") from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells may be longer than the csv module's 131072 characters; its limit is of the whole process and is put back."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
