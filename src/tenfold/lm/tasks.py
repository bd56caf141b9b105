"""Evaluation tasks of the paper and a few more: their files, their few-shot prompts, their answers.

A task is read from JSON Lines, one object a line, plain or gzip:

| kind     | fields                                                       | scored |
|----------|--------------------------------------------------------------|--------|
| choices  | context, choices [str, …], gold int; optional subject        | " " + choice after the context |
| contexts | contexts [str, …], continuation, gold int                    | " " + continuation after each context |
| word     | context, target                                              | " " + target: greedy match and perplexity |
| pair     | good, bad; optional paradigm, field                          | " " + sentence, good above bad |
| answers  | context (or question), answers [str, …]                      | generated text equals one of the answers |
| number   | question, answer that ends in "#### N"                       | generated number after #### equals N |

`id` is optional everywhere. A user's own sets (HellaSwag, SciQ, MMLU, TriviaQA, WebQuestions are not shipped) go into a
folder as NAME.jsonl or NAME.jsonl.gz; NAME_shots.jsonl, if there, holds the rows that demonstrations are drawn from.
MMLU's context lists the four options, and its choices are the letters: "…\nA. …\nB. …\nC. …\nD. …\nAnswer:" and
["A", "B", "C", "D"].
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.core import data, packed
from tenfold.core.catalogue import CATALOGUE
from tenfold.core.errors import UserError

Kind = Literal["choices", "contexts", "word", "pair", "answers", "number"]


@dataclass(frozen=True)
class Task:
    """Where a task's rows are and how they are scored.

    Attributes:
        name: of the task and, with .jsonl, of its file.
        kind: format and scoring, a row of the table above.
        paper_shots: demonstrations in the paper's evaluation; None: not among the paper's thirteen.
        files: paths tried in order under the data folder; empty means NAME.jsonl(.gz), bare or in 05-moe-vs-dense.
        shots_files: rows for demonstrations; empty means NAME_shots.jsonl(.gz) if there, else the other rows.
        stop: strings that end a generated answer.
        max_new_tokens: longest generated answer.
    """

    name: str
    kind: Kind
    paper_shots: int | None = None
    files: tuple[str, ...] = ()
    shots_files: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: got {self.kind!r}, need one of {', '.join(get_args(Kind))}")
        if self.generates and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {self.max_new_tokens}, need at least 1 for a task that generates")

    @property
    def generates(self) -> bool:
        return self.kind in ("answers", "number")

    def paths(self, suffix: str = "") -> tuple[str, ...]:
        """Relative paths tried in order; `suffix` "_shots" for the demonstrations."""
        given = self.shots_files if suffix else self.files
        return given or tuple(
            f"{folder}{self.name}{suffix}{end}"
            for folder in ("", "05-moe-vs-dense/")
            for end in (".jsonl", ".jsonl.gz")
        )


def _short_answers(name: str) -> Task:
    return Task(name, "answers", 1, stop=("\n", ".", ","), max_new_tokens=32)


TASKS = {
    task.name: task
    for task in (
        Task("arc_challenge", "choices", 0),
        Task("arc_easy", "choices", 0),
        Task("boolq", "choices", 0),
        Task("copa", "choices", 0),
        Task("hellaswag", "choices", 0),
        Task("lambada", "word", 0),
        Task("piqa", "choices", 0),
        Task("sciq", "choices", 0),
        Task("winogrande", "contexts", 0),
        _short_answers("triviaqa"),
        _short_answers("webqs"),
        Task("mmlu", "choices", 5),
        Task(
            "gsm8k",
            "number",
            8,
            files=("gsm8k.jsonl", "gsm8k_test.jsonl", "gsm8k_test_a.jsonl", "02-afm/gsm8k_test_a.jsonl"),
            shots_files=(
                "gsm8k_shots.jsonl",
                "gsm8k_train.jsonl.gz",
                "gsm8k_train.jsonl",
                "02-afm/gsm8k_train.jsonl.gz",
            ),
            stop=("Question:",),
            max_new_tokens=256,
        ),
        Task("openbookqa", "choices"),
        Task("blimp", "pair"),
    )
}
PAPER_TASKS = tuple(name for name, task in TASKS.items() if task.paper_shots is not None)


def find_task(task: str | Task) -> Task:
    """A task by name, or a `Task` as it is. Raises UserError: unknown name."""
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise UserError(f"task: got {task!r}, need one of {', '.join(TASKS)}")
    return TASKS[task]


@dataclass(frozen=True)
class Example:
    """One row, ready to score.

    Attributes:
        id: from the file, else its line number.
        contexts: what stands before the continuation, one a choice; a single one where text is generated.
        choices: continuations without their leading space; empty where text is generated.
        gold: index of the right choice.
        answers: accepted answers where text is generated.
        answer: what a demonstration shows after its context.
        groups: named parts of the set that are also reported alone, e.g. {"paradigm": …}.
    """

    id: str
    contexts: tuple[str, ...]
    choices: tuple[str, ...] = ()
    gold: int = 0
    answers: tuple[str, ...] = ()
    answer: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def demonstration(self) -> str:
        """The solved row as text: context, a space, the gold answer."""
        return f"{self.contexts[self.gold if len(self.contexts) > 1 else 0]} {self.answer}"


class NotAvailable(UserError):
    """A task cannot run here: its data are absent (the message says what was tried), or the model cannot generate."""


def load(task: str | Task, folder: Path | None = None, limit: int | None = None, suffix: str = "") -> list[Example]:
    """Read a task's rows.

    Args:
        task: name or `Task`.
        folder: holds the task's file; None takes TENFOLD_DATA and the cache of `tenfold data get`.
        limit: the first so many rows (of minimal pairs: spread evenly over the paradigms); None for all.
        suffix: "_shots" reads the rows for demonstrations.
    Raises:
        NotAvailable: no file of the task.
        UserError: a bad line, named as file:line.
    """
    task = find_task(task)
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}, need at least 1 row (or None for all)")
    path = find_file(task, folder, suffix)
    examples = [parse_row(task, row, f"{path}:{line}", line) for line, row in read_lines(path)]
    if not examples:
        raise UserError(f"{path}: got no rows, need at least one")
    if task.kind == "pair" and limit is not None:
        examples = _round_robin(examples)
    return examples[:limit]


def find_file(task: Task, folder: Path | None, suffix: str = "") -> Path:
    """The first of the task's paths that exists. Raises NotAvailable: none does; the message says what to do."""
    tried = task.paths(suffix)
    if folder is not None:
        if not folder.is_dir():
            raise NotAvailable(f"data: no folder {folder}; pass data=FOLDER that has {task.name}.jsonl")
        for name in tried:
            if (folder / name).is_file():
                return folder / name
        raise NotAvailable(f"{task.name}: no data in {folder} (looked for {', '.join(tried)})")
    for name in tried:
        try:
            return data.path(name)
        except UserError:
            continue  # absent here; the next path, and in the end the line below
    known = [name for name in tried if any(row.file == name for row in CATALOGUE.values())]
    if known:
        raise NotAvailable(f"{task.name}: no data; get it: tenfold data get {known[0]}")
    raise NotAvailable(f"{task.name}: no data; bring your own: {tried[0]} in the folder TENFOLD_DATA or --data FOLDER")


def _round_robin(examples: list[Example]) -> list[Example]:
    """First of every paradigm, then the second of every paradigm, …: a short limit still sees all of them."""
    seen: dict[str, int] = {}
    keyed = []
    for position, example in enumerate(examples):
        paradigm = example.groups.get("paradigm", "")
        keyed.append((seen.get(paradigm, 0), position, example))
        seen[paradigm] = seen.get(paradigm, 0) + 1
    return [example for *_, example in sorted(keyed, key=lambda k: k[:2])]


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a JSON Lines file, plain or .gz; blank lines are skipped."""
    for line, text in enumerate(packed.lines(path, encoding="utf-8-sig"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{line}: not JSON ({error.msg} at column {error.colno})") from None
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
            raise UserError(f"{path}:{line}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: got {type(row).__name__}, need a JSON object")
        yield line, row


def numbered_rows(
    rows: Iterable[Mapping[str, Any]] | str | Path, name: str, columns: str
) -> list[tuple[str, dict[str, Any]]]:
    """Rows, or those of a JSON Lines file, each with where it stands: what opens an error about it.

    Args:
        rows: JSON objects, or the file's path.
        name, columns: what the rows are and hold, for messages.
    Raises:
        UserError: no such file, a bad line, no rows.
    """
    if isinstance(rows, str | Path):
        path = Path(rows)
        if not path.is_file():
            raise UserError(f"{name} not found: {path}; give JSON Lines with {columns}")
        numbered = [(f"{path}:{line}", row) for line, row in read_lines(path)]
    else:
        numbered = [(f"row {index}", dict(row)) for index, row in enumerate(rows)]
    if not numbered:
        raise UserError(f"{name}: got none, need at least one")
    return numbered


def parse_row(task: Task, row: Mapping[str, Any], where: str, line: int = 0) -> Example:
    """One JSON object of the task's kind; `where` (file:line) opens every error."""
    reader = _Fields(row, where)
    name = str(row.get("id", line))
    if task.kind == "choices":
        choices, context = reader.texts("choices"), reader.text("context", empty=True)
        gold = reader.index("gold", len(choices))
        groups = {"subject": str(row["subject"])} if "subject" in row else {}
        return Example(name, (context,) * len(choices), choices, gold, answer=choices[gold], groups=groups)
    if task.kind == "contexts":
        contexts, continuation = reader.texts("contexts"), reader.text("continuation")
        gold = reader.index("gold", len(contexts))
        return Example(name, contexts, (continuation,) * len(contexts), gold, answer=continuation)
    if task.kind == "word":
        target = reader.text("target")
        return Example(name, (reader.text("context", empty=True),), (target,), answer=target)
    if task.kind == "pair":
        groups = {part: str(row[part]) for part in ("field", "paradigm") if part in row}
        return Example(name, ("", ""), (reader.text("good"), reader.text("bad")), groups=groups)
    if task.kind == "answers":
        answers = reader.texts("answers")
        context = reader.text("context") if "context" in row else f"Question: {reader.text('question')}\nAnswer:"
        return Example(name, (context,), answers=answers, answer=answers[0])
    answer = reader.text("answer")
    number = final_number(answer)
    if number is None:
        raise UserError(f'{where}: answer: got no "#### number" in it, need one')
    return Example(name, (f"Question: {reader.text('question')}\nAnswer:",), answers=(number,), answer=answer)


@dataclass(frozen=True)
class _Fields:
    """Checked access to the fields of one row."""

    row: Mapping[str, Any]
    where: str

    def text(self, name: str, empty: bool = False) -> str:
        value = self.row.get(name)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise UserError(f"{self.where}: {name}: got {value!r}, need {'a' if empty else 'a non-empty'} string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.row.get(name)
        if not isinstance(values, list) or not values:
            raise UserError(f"{self.where}: {name}: got {values!r}, need a list of strings")
        for i, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{self.where}: {name}[{i}]: got {value!r}, need a non-empty string")
        return tuple(values)

    def index(self, name: str, size: int) -> int:
        value = self.row.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
            raise UserError(f"{self.where}: {name}: got {value!r}, need 0..{size - 1} ({size} choices)")
        return value


_NUMBER = re.compile(r"####\s*\$?(-?[0-9][0-9.,]*)")


def final_number(text: str) -> str | None:
    """The number after the first ####, without commas, dollar sign or a closing full stop; None if there is none."""
    found = _NUMBER.search(text)
    return found.group(1).replace(",", "").rstrip(".") if found else None


def add_shots(examples: Sequence[Example], pool: Sequence[Example], shots: int, seed: int, name: str) -> list[Example]:
    """Put solved rows before every context.

    Args:
        examples: the queries.
        pool: rows to draw from; rows with the query's own contexts are never drawn, and where a query names a subject,
            only rows of that subject are.
        shots: demonstrations a query, 0 for none.
        seed: with the query's position it fixes the draw; other queries have no effect on it.
        name: of the task, for messages.
    Raises:
        UserError: the pool is too small.
    """
    if shots < 0:
        raise ValueError(f"shots: got {shots}, need 0 or more")
    if shots == 0:
        return list(examples)
    shown = []
    for position, example in enumerate(examples):
        subject = example.groups.get("subject")
        usable = [p for p in pool if p.contexts != example.contexts and p.groups.get("subject") == subject]
        if len(usable) < shots:
            raise UserError(f"shots: got {shots}, need at most {len(usable)}, the other rows of {name} to show")
        drawn = random.Random(f"{seed}/{position}/{shots}").sample(usable, shots)
        prompt = "".join(f"{d.demonstration}\n\n" for d in drawn)
        shown.append(
            Example(
                example.id,
                tuple(prompt + context for context in example.contexts),
                example.choices,
                example.gold,
                example.answers,
                example.answer,
                example.groups,
            )
        )
    return shown
