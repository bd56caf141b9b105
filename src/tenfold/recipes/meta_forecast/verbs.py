"""What a user does with a recipe beyond training one preset: compare all modes, predict, transfer a selection, print tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from tenfold.clinical.cohort_words import SAME_NAMES, Source, TableColumns
from tenfold.core.atomic import replacing
from tenfold.core.config import did_you_mean, need
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.meta_forecast import findings, tables
from tenfold.recipes.meta_forecast.cohorts import build_cohort, known_target, target_of
from tenfold.recipes.meta_forecast.config import LEARNED, MODES, SIMULATED, CohortName, Config, Mode, shown
from tenfold.recipes.meta_forecast.evaluation import Resampling, Row
from tenfold.recipes.meta_forecast.experiment import check, plan, train, transfer_plan
from tenfold.recipes.meta_forecast.folder import INPUTS, Opened, read_model
from tenfold.recipes.meta_forecast.patients import Histories, read_histories
from tenfold.recipes.meta_forecast.presets import PRESETS
from tenfold.recipes.meta_forecast.runs import Choice, finished_rows, model_folder, open_run
from tenfold.recipes.meta_forecast.training import train_one

BATCH = 4096  # subjects in memory at once


def compare(
    preset: str = "death48",
    /,
    seeds: int = 5,
    label_percent: tuple[float, ...] = (),
    target: str | None = None,
    workers: int = 2,
    runs_dir: Path | None = None,
) -> None:
    """Train every mode on the data of a preset, with the same seeds, and print who is above whom by how much.

    Args:
        preset: whose data and settings.
        seeds: how many, from 0.
        label_percent: shares of the labels; none takes those of the cohort.
        target: what is predicted; none takes the cohort's first.
        workers: processes that train side by side.
        runs_dir: where the run folder goes; none takes TENFOLD_RUNS, else ./runs.
    """
    if preset not in PRESETS:
        raise UserError(f"preset: got {preset!r}{did_you_mean(preset, list(PRESETS))}; known: {', '.join(PRESETS)}")
    need("--seeds", seeds, 1, 1000)
    base = PRESETS[preset]
    modes: tuple[Mode, ...] = () if len(base.cohort) > 1 else MODES[base.cohort[0]]
    config = replace(
        base, mode=modes, seed=tuple(range(seeds)), label_percent=label_percent, target=target, workers=workers
    )
    check(config)
    run = Run.create("meta-forecast", preset, config, runs_dir)
    print(f"run: {run.path} (if it is cut off: tenfold meta-forecast train --resume {run.path})", flush=True)
    with FileLock(run.path / ".training.lock"):
        train(config, run)
    run.close()
    _print_run(run, config, differences=True)
    print(f"report: {run.path / 'report.html'}")


def predict(
    model: Path,
    data: Path,
    /,
    out: Path = Path("preds.parquet"),
    cohort: CohortName | None = None,
    target: str | None = None,
    mode: Mode | None = None,
    label_percent: float | None = None,
    seed: int | None = None,
    use: Literal["frozen", "finetuned"] | None = None,
    labels: Path | None = None,
    subjects: Path | None = None,
    codes: Path | None = None,
    columns: TableColumns = SAME_NAMES,
) -> None:
    """Predict the outcome of new subjects: subject_id, prediction_time, target, probability.

    Args:
        model: a run folder, or a model folder of one.
        data: a MEDS folder, PhysioNet files, MIMIC-III tables, or a long table (.csv, .csv.gz, .parquet).
        out: a .parquet or .csv file.
        cohort: of a run with several: whose model.
        target: of a run with transfers: of which outcome; none takes the run's own.
        mode: that trained it; none takes first_order where the run has it.
        label_percent: share of the labels that it saw; none takes the largest.
        seed: of its training; none takes the first.
        use: of its encoder; none takes the last that the run has.
        labels: of MEDS: parquet of subject_id and prediction_time, the trigger; none: as many hours after each first
            record as the model's grid has.
        subjects: of a long table: one row a subject, perhaps with the trigger; its meaning is that of the training table: the
            outcome is counted from it, and the model reads up to `horizon` steps before it (death48, sim: up to it).
        codes: of MEDS: a JSON file {name: [codes]} for the model's names; none: its own.
        columns: of tables; empty ones are the model's own.
    """
    if out.suffix.lower() not in (".parquet", ".csv") or not out.parent.is_dir() or out.is_dir():
        raise UserError(f"--out: got {out}, need a .parquet or .csv file in a folder that exists")
    chosen = Choice(cohort, target, mode, label_percent, seed, use)
    opened = read_model(model if (model / INPUTS).is_file() else model_folder(model, chosen))
    histories = read_histories(opened, Source(data, labels, subjects, codes, columns))
    write_table(out, opened, histories, probabilities(opened, histories))
    print(f"model: {opened.path}")
    print(f"{out}: {len(histories.ids)} predictions of {opened.inputs.target}")
    if histories.empty:
        print(f"{histories.empty} of them without any value before the prediction")


def probabilities(opened: Opened, histories: Histories) -> np.ndarray:
    """Chance of the outcome of every subject, [N]."""
    parts = [
        opened.model.predict_proba({"x": histories.x[start : start + BATCH], "mask": histories.mask[start : start + BATCH]})[:, 1]
        for start in range(0, len(histories.ids), BATCH)
    ]  # fmt: skip
    return np.concatenate([*parts, np.empty(0)])


def write_table(out: Path, opened: Opened, histories: Histories, chance: np.ndarray) -> None:
    """Predictions as parquet or CSV; subject_id is a number where all are, as in MEDS."""
    whole = all(name.isdecimal() and len(name) < 19 for name in histories.ids)
    table = pa.table(
        {
            "subject_id": pa.array(map(int, histories.ids), pa.int64())
            if whole
            else pa.array(histories.ids, pa.string()),
            "prediction_time": pa.array(histories.time, pa.timestamp("us")),
            "target": pa.array([opened.inputs.target] * len(histories.ids), pa.string()),
            "probability": pa.array(chance, pa.float64()),
        }
    )
    with replacing(out) as temporary:
        if out.suffix.lower() == ".csv":
            pacsv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)


def transfer(run: Path, /, target: str = "long_stay", workers: int = 2) -> None:
    """Use the weights that a run learned for another outcome, beside random selections of as many tasks.

    New models and their rows stand in the run; the report stays as it is.

    Args:
        run: a run with mode first_order.
        target: the other outcome.
        workers: processes that train side by side.
    """
    need("--workers", workers, 1)
    opened, config = open_run(run)
    cohorts = [name for name in config.cohort if name not in SIMULATED]
    if not cohorts:
        raise UserError(f"{run}: a simulated cohort has one outcome; need a run of death48 or of your own data")
    for name in cohorts:
        cohort = build_cohort(name, config, config.seed[0])
        if known_target(target, cohort) == target_of(config, cohort):
            raise UserError(
                f"--target: the weights were learned for {target}; {name} has {', '.join(cohort.data.targets)}"
            )
    try:
        config = replace(
            config, cohort=tuple(cohorts), transfer_to=(target,), workers=workers, simulated=Config().simulated
        )
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    missing = [job.name for job in plan(config) if job.mode == "first_order" and not opened.done(job.name)]
    if missing:
        raise UserError(f"{run}: {missing[0]} is not finished; tenfold meta-forecast train --resume {run}")
    check(config)
    jobs = transfer_plan(config)
    arguments = [(config, str(run), job) for job in jobs]
    try:
        with FileLock(opened.path / ".training.lock", blocking=False):
            rows = run_jobs(
                train_one, arguments, workers=workers, expected_seconds=sum(job.size for job in jobs), title="transfer"
            )
    except Timeout:
        raise UserError(f"another process is training in {run}") from None
    opened.close()
    for name in cohorts:
        own = select(rows, cohort=name)
        print(f"{name}, {target}, AUC-ROC by share of labels")
        print(_aligned(tables.share_table(own)) + "\n")
        print(_aligned(tables.gap_table(own, "transferred", Resampling(run / "models"))) + "\n")


def report(run: Path, /, differences: bool = False) -> None:
    """Print a run's tables: modes by share of labels, AUC-ROC, AUC-PR, Brier, ECE, weights of the tasks.

    Args:
        run: a run folder, finished or not.
        differences: print the paired differences to every rival too.
    """
    opened, config = open_run(run)
    _print_run(opened, config, differences=differences)


def _print_run(run: Run, config: Config, *, differences: bool) -> None:
    rows = finished_rows(run, config)
    if not rows:
        raise UserError(f"{run.path}: no model of this run is finished yet")
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        for target in dict.fromkeys(row["target"] for row in select(rows, cohort=cohort)):
            _print_target(run, cohort, target, select(rows, cohort=cohort, target=target), differences)
        print(findings.note(config, cohort))


def _print_target(run: Run, cohort: str, target: str, rows: Sequence[Row], differences: bool) -> None:
    percents = tables.percents_of(rows)
    if len(percents) > 1:
        print(f"{cohort}, {target}, AUC-ROC by share of labels")
        print(_aligned(tables.share_table(rows)) + "\n")
    for percent in percents:
        here = select(rows, percent=percent)
        print(f"{cohort}, {target}, {shown(percent)} % of labels ({tables.labels_of(here)})")
        print(_aligned(tables.score_table(here)) + "\n")
    lead = next((mode for mode in tables.modes_of(rows) if mode in LEARNED), None)
    if lead is not None:
        planted = cohort in SIMULATED
        print(f"{cohort}, {target}, weights of the tasks" + ("" if planted else f", {tables.METHODS[lead]}"))
        table = tables.planted_table(select(rows, percent=percents[0])) if planted else tables.top_table(rows, lead)
        print(_aligned(table) + "\n")
    if lead is not None and differences and len(tables.modes_of(rows)) > 1:
        print(f"{cohort}, {target}, {tables.METHODS[lead]} minus each rival, AUC-ROC")
        resampling = None if cohort in SIMULATED else Resampling(run.path / "models")
        print(_aligned(tables.gap_table(rows, lead, resampling)) + "\n")


def _aligned(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines of a table in columns; text to the left, figures to the right."""
    header = list(dict.fromkeys(name for line in lines for name in line))
    cells = [header, *([str(line.get(name, "")) for name in header] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [
        not any(cell[:1].isdigit() or cell[:1] in "+-" for cell in column[1:]) for column in zip(*cells, strict=True)
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in cells
    )


VERBS = {"compare": compare, "predict": predict, "transfer": transfer, "report": report}
