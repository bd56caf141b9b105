"""A finished or unfinished run, opened: its config, its rows, its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tenfold.core.config import from_json, read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.core.run import Run
from tenfold.recipes.meta_forecast.config import ALONE, LEARNED, Config
from tenfold.recipes.meta_forecast.folder import INPUTS
from tenfold.recipes.meta_forecast.training import Row, read_row


@dataclass(frozen=True)
class Choice:
    """Which model of a run; what is left out takes the first: first_order before other modes, most labels, the target's own.

    Args:
        cohort: whose subjects it was trained on.
        target: what it predicts, where a transfer has several.
        mode: that trained it.
        label_percent: share of the labels that it saw.
        seed: of its training.
        use: "frozen" or "finetuned"; none takes the last that the run has.
    """

    cohort: str | None = None
    target: str | None = None
    mode: str | None = None
    label_percent: float | None = None
    seed: int | None = None
    use: str | None = None


FIRST = Choice()


def open_run(path: Path) -> tuple[Run, Config]:
    """A run of this recipe.

    Raises:
        UserError: none there, or another recipe's.
    """
    run = Run.open(path)
    run.need_recipe("meta-forecast")
    return run, from_json(Config, read_object(path / "config.json"), where=str(path / "config.json"))


def finished_rows(run: Run, config: Config) -> list[Row]:
    """Of all jobs that are done, those of transfers last.

    Raises:
        UserError: a damaged file.
    """
    names = sorted(file.stem for file in (run.path / "stages").glob("[!.]*.json"))
    rows = [read_row(run, name) for name in names]
    for row in rows:
        if row["cohort"] not in config.cohort:
            raise UserError(
                f"{run.stage(row['name'])}: cohort: got {row['cohort']!r}, need one of {', '.join(config.cohort)}"
            )
    return sorted(rows, key=lambda row: (config.cohort.index(row["cohort"]), row["transfer"]))


def model_folder(path: Path, choice: Choice = FIRST) -> Path:
    """The folder of a run's model.

    Raises:
        UserError: no such model, or several cohorts to choose from.
    """
    run, config = open_run(path)
    finished = finished_rows(run, config)
    rows = [row for row in finished if _fits(row, choice)]
    if len(cohorts := dict.fromkeys(row["cohort"] for row in rows)) > 1:
        raise UserError(f"{path} has models of {', '.join(cohorts)}; choose one with --cohort")
    for row in sorted(rows, key=_rank):
        for use in [choice.use] if choice.use else [ALONE.get(row["mode"]), *reversed(config.use)]:
            folder = path / "models" / row["name"] / str(use)
            if (folder / INPUTS).is_file() and (folder / CONFIG).is_file():
                return folder
    made = ", ".join(row["name"] for row in finished)
    raise UserError(f"{path}: no such model; it has {made or 'none yet'}"[:600])


def _rank(row: Row) -> tuple[bool, int, float, int]:
    mode = row["mode"]
    kind = 0 if mode == "first_order" else 1 if mode in LEARNED else 2
    return row["transfer"], kind, -row["percent"], row["seed"]


def _fits(row: Row, choice: Choice) -> bool:
    wanted = (choice.cohort, choice.target, choice.mode, choice.label_percent, choice.seed)
    have = (row["cohort"], row["target"], row["mode"], row["percent"], row["seed"])
    return all(one in (None, other) for one, other in zip(wanted, have, strict=True))
