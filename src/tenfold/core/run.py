"""A run: one folder with everything that one training wrote, readable while it runs and after a crash.

config.json     the config                    metrics.jsonl   one line a logged step, append-only
run.json        recipe, preset, machine, ...  tensorboard/    the same for TensorBoard
stages/*.json   finished parts, for resuming  checkpoints/    written by `tenfold.core.checkpoint`
figures/        PNG and SVG                   tables/         JSON and CSV
items.json      texts, captions, claims       result.json, report.html   written by `finish`
clock.json      working seconds so far
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tenfold.core import report
from tenfold.core.atomic import append_line, checked_name, write_atomic
from tenfold.core.claims import Claim, Result
from tenfold.core.config import read_json, read_object, restore_non_finite, to_json
from tenfold.core.errors import UserError
from tenfold.core.machine import machine, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

_CLOCK_EVERY = 5.0  # seconds between two writes of clock.json: at most so much is lost to a kill


class Run:
    """A run folder. `create` makes a new one, `open` continues or reads an existing one.

    Under torchrun only rank 0 writes: on every other rank the writing methods change nothing on disk.
    Worker processes may open the run of their parent and call `log`, `rewind` and `save_stage` side by side; texts,
    figures, tables and claims come from one process.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.config: dict[str, Any] = read_object(path / "config.json")
        self.about: dict[str, Any] = report.read_about(path)
        self._main = int(os.environ.get("RANK", "0")) == 0
        self._clock = clock
        self._start = clock()
        self._earlier = self._read_clock()
        self._clock_written = self._start
        # Ranks that train together go by what they read here, however fast rank 0 writes.
        self._stages = {file.stem: restore_non_finite(read_json(file)) for file in _visible(path / "stages", ".json")}
        self._items, self._claims = report.read_items(path)
        self._metrics_lock = FileLock(path / ".metrics.lock")  # `rewind` replaces the file that others append to
        self._writers: dict[str | None, SummaryWriter] = {}

    @classmethod
    def create(
        cls,
        recipe: str,
        preset: str,
        config: Any,
        runs_dir: Path | str | None = None,
        *,
        title: str | None = None,
        paper: str | None = None,
        command: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Run:
        """Make `<runs_dir>/<recipe>/<YYYYmmdd-HHMMSS-preset>/`; an existing folder is never taken.

        Args:
            recipe, preset: names, kept in the result.
            config: a dataclass, or a mapping of JSON data.
            runs_dir: default: the environment's `TENFOLD_RUNS`, else `./runs`.
            title, paper: heading and source of the report; default: the recipe's name, nothing.
            command: what the user typed; default: this process's command line.
            clock: seconds; tests pass their own.
        """
        root = Path(runs_dir if runs_dir is not None else os.environ.get("TENFOLD_RUNS") or "runs")
        path = _new_folder(root / checked_name(recipe), f"{datetime.now():%Y%m%d-%H%M%S}-{checked_name(preset)}")
        for folder in ("checkpoints", "figures", "stages", "tables"):
            (path / folder).mkdir()
        about = {
            "recipe": recipe,
            "preset": preset,
            "title": title or recipe,
            "paper": paper,
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command or _command_line(),
            "machine": machine(),
            "versions": versions(),
        }
        _write_json(path / "config.json", to_json(config))
        _write_json(path / "run.json", about)
        return cls(path, clock=clock)

    @classmethod
    def open(cls, path: Path | str, *, clock: Callable[[], float] = time.monotonic) -> Run:
        """Open an existing run folder, to continue or to read it.

        Raises:
            UserError: no such folder, or no run in it.
        """
        folder = Path(path)
        if folder.is_file():
            raise UserError(f"not a run folder but a file: {folder}")
        if not folder.is_dir():
            raise UserError(f"no such run: {folder}")
        if not (folder / "run.json").is_file():
            raise UserError(f"not a run folder (no run.json in it): {folder}")
        return cls(folder, clock=clock)

    def need_recipe(self, recipe: str) -> None:
        """Raise UserError where it is another recipe's."""
        if self.recipe != recipe:
            raise UserError(f"{self.path} is a run of {self.recipe}, need one of {recipe}")

    @property
    def recipe(self) -> str:
        name: str = self.about["recipe"]
        return name

    @property
    def preset(self) -> str:
        name: str = self.about["preset"]
        return name

    @property
    def seconds(self) -> float:
        """Working time so far, summed over resumes."""
        return float(self._earlier + self._clock() - self._start)

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    # Metrics.

    def log(self, step: int, **metrics: Any) -> None:
        """Append one row to metrics.jsonl and its numbers to TensorBoard.

        Args:
            step: optimizer step, from 0.
            metrics: numbers, scalar tensors or text; `model="name"` says whose row it is where a run trains several.
        """
        if not self._main:
            return
        row = to_json({"step": step, **metrics})
        with self._metrics_lock:
            append_line(self.path / "metrics.jsonl", json.dumps(row))
        self._log_tensorboard(step, row)
        if self._clock() - self._clock_written > _CLOCK_EVERY:
            self._save_clock()

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """The logged rows in order: those of model `name`, or all of them."""
        rows = report.read_metrics(self.path / "metrics.jsonl")
        return rows if name is None else [row for row in rows if row.get("model") == name]

    def rewind(self, step: int, name: str | None = None) -> None:
        """Drop the rows past a checkpoint, before the steps after it are taken again.

        Args:
            step: the last step that stays.
            name: drop only rows of this model; None drops only rows that name no model.
        """
        if not self._main:
            return
        with self._metrics_lock:
            rows = self.rows()
            kept = [row for row in rows if row.get("model") != name or row["step"] <= step]
            if len(kept) == len(rows):
                return
            write_atomic(self.path / "metrics.jsonl", "".join(json.dumps(to_json(row)) + "\n" for row in kept))
        # TensorBoard orders its files by name, so a purge mark in a second file may go unseen: write its view anew.
        if name in self._writers:
            self._writers.pop(name).close()
        for file in self._tensorboard_folder(name).glob("events.*"):
            file.unlink()
        for row in kept:
            if row.get("model") == name:
                self._log_tensorboard(row["step"], row)

    def _log_tensorboard(self, step: int, row: Mapping[str, Any]) -> None:
        values = {key: restore_non_finite(value) for key, value in row.items() if key != "step"}
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        if numbers:
            writer = self._writer(row.get("model"))
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)

    def _writer(self, model: str | None) -> SummaryWriter:
        if model not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[model] = SummaryWriter(str(self._tensorboard_folder(model)))
        return self._writers[model]

    def _tensorboard_folder(self, model: str | None) -> Path:
        """One folder a model, so that TensorBoard lays their curves over one another."""
        return self.path / "tensorboard" / (checked_name(model) if model else "")

    # Stages: parts of a long recipe that a resumed run need not do again.

    def stage(self, name: str) -> Path:
        """The file that a finished stage leaves."""
        return self.path / "stages" / f"{checked_name(name)}.json"

    def done(self, name: str) -> bool:
        """Whether the stage was saved, by this process, by a worker of it or before a resume."""
        file = self.stage(name)
        if name not in self._stages and os.environ.get("WORLD_SIZE", "1") == "1" and file.exists():
            self._stages[name] = restore_non_finite(read_json(file))
        return name in self._stages

    def save_stage(self, name: str, data: Any = None) -> None:
        """Mark a stage as done and keep its outcome (JSON data; under torchrun the same on every rank)."""
        text = json.dumps(to_json(data), indent=1)
        self._stages[checked_name(name)] = restore_non_finite(json.loads(text))  # what a resumed run would read
        if self._main:
            write_atomic(self.stage(name), text)
            self._save_clock()

    def load_stage(self, name: str, fields: Iterable[str] = ()) -> Any:
        """The outcome of a finished stage; tuples come back as lists.

        Raises:
            KeyError: the stage is not done.
            UserError: its file is no object that has all of `fields`.
        """
        if not self.done(name):
            raise KeyError(f"stage {name!r} is not done in {self.path}")
        data = self._stages[name]
        for field in fields:
            if not isinstance(data, dict) or field not in data:
                raise UserError(f"{self.stage(name)}: no {field!r}; delete the file, and --resume does its part again")
        return data

    # What the report shows, in the order of the first call for each name.

    def text(self, name: str, paragraph: str) -> None:
        """A plain paragraph of the report. The one named `summary` stands at its top; other names are headings."""
        self._item({"kind": "text", "name": checked_name(name), "text": paragraph})

    def figure(self, name: str, fig: Figure, caption: str | None = None) -> None:
        """Save a matplotlib figure as figures/<name>.png (150 dpi) and .svg; it stays open.

        Build it with `matplotlib.figure.Figure(...)`: pyplot would hold on to it.
        """
        if not self._main:
            return
        for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=kind, bbox_inches="tight", **options)
            write_atomic(self.path / "figures" / f"{checked_name(name)}.{kind}", buffer.getvalue())
        self._item({"kind": "figure", "name": name, "caption": caption})

    def table(self, name: str, rows: Iterable[Mapping[str, Any]], note: str | None = None) -> None:
        """Save a table as tables/<name>.json and .csv; columns stand in the order in which rows first name them."""
        plain = [to_json(dict(row)) for row in rows]
        columns = list(dict.fromkeys(key for row in plain for key in row))
        if not self._main:
            return
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(restore_non_finite(plain))
        file = self.path / "tables" / f"{checked_name(name)}.json"
        write_atomic(file.with_name(f"{name}.csv"), buffer.getvalue())
        _write_json(file, {"name": name, "note": note, "columns": columns, "rows": plain})
        self._item({"kind": "table", "name": name})

    def claim(self, claim: Claim) -> None:
        """Add a claim; one of the same name (made before a resume) is replaced in its place."""
        names = [known.name for known in self._claims]
        if claim.name in names:
            self._claims[names.index(claim.name)] = claim
        else:
            self._claims.append(claim)
        self._save_items()

    def _item(self, item: dict[str, Any]) -> None:
        keys = [(known["kind"], known["name"]) for known in self._items]
        if (item["kind"], item["name"]) in keys:
            self._items[keys.index((item["kind"], item["name"]))] = item
        else:
            self._items.append(item)
        self._save_items()

    def _save_items(self) -> None:
        if self._main:
            claims = [claim.to_json() for claim in self._claims]
            _write_json(self.path / "items.json", {"items": self._items, "claims": claims})

    # The end.

    def finish(self) -> Result:
        """Write result.json and report.html; a resumed run replaces its own."""
        seconds = self.seconds
        seed = self.config.get("seed", self.config.get("seeds"))
        result = Result(
            recipe=self.recipe,
            preset=self.preset,
            seed=tuple(seed) if isinstance(seed, list) else seed,
            versions=self.about["versions"],
            seconds=round(seconds, 3),
            claims=tuple(self._claims),
        )
        if self._main:
            self.close()
            _write_json(self.path / "result.json", result.to_json())
            report.write(self.path)
        return result

    def close(self) -> None:
        """Save the working time and close the files; logging again opens them again."""
        if self._main:
            self._save_clock()
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()

    def _read_clock(self) -> float:
        file = self.path / "clock.json"
        return float(read_object(file, seconds=int | float)["seconds"]) if file.exists() else 0.0

    def _save_clock(self) -> None:
        # Worker processes of one run save it too; the longest is the run's.
        _write_json(self.path / "clock.json", {"seconds": max(round(self.seconds, 3), self._read_clock())})
        self._clock_written = self._clock()


def _command_line() -> str:
    """What was typed, wherever the program lies."""
    program = Path(sys.argv[0]).name
    return shlex.join(["tenfold" if program == "__main__.py" else program, *sys.argv[1:]])


def _new_folder(parent: Path, name: str) -> Path:
    """Make a folder that did not exist: mkdir itself is the test, so two runs that start together get two folders."""
    if "\\udc" in ascii(str(parent)):  # TensorBoard and safetensors could not write there
        raise UserError(f"{parent}: the folder's name is no UTF-8 text; name another with --runs-dir")
    parent.mkdir(parents=True, exist_ok=True)
    attempt = 1
    while True:
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()
        except FileExistsError:
            attempt += 1
        else:
            return path


def _write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _visible(folder: Path, suffix: str) -> Sequence[Path]:
    """The files of a folder but for the temporary ones."""
    return sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith("."))
