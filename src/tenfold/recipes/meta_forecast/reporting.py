"""The report of a run: summary, scores, curves over shares of labels, weights over rounds, differences, claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tenfold.clinical.task_weighting import WEIGHTS
from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.meta_forecast import figures, findings, tables
from tenfold.recipes.meta_forecast.config import LEARNED, SIMULATED, Config, shown
from tenfold.recipes.meta_forecast.evaluation import Resampling, Row
from tenfold.recipes.meta_forecast.folder import read_history

PANELS = 6  # of weights over rounds


def report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    run.text("summary", findings.summary(config, rows))
    for cohort in config.cohort:
        for target in dict.fromkeys(row["target"] for row in rows if row["cohort"] == cohort):
            show_scores(config, run, cohort, target, select(rows, cohort=cohort, target=target))
    run.table("cost", tables.cost_table(rows), note="Seconds of one training on one thread, the head on the frozen encoder included.")  # fmt: skip
    for claim in findings.make_claims(config, rows):
        run.claim(claim)


def show_scores(config: Config, run: Run, cohort: str, target: str, rows: Sequence[Row]) -> None:
    """Tables and pictures of one outcome."""
    name = cohort if cohort in SIMULATED else f"{cohort} {target}"
    note, percents = findings.note(config, cohort), tables.percents_of(rows)
    lead = next((mode for mode in tables.modes_of(rows) if mode in LEARNED), None)
    run.figure(f"{name} scores", figures.score_figure(rows), f"{name}: marks are seeds, bars their means.")
    if len(percents) > 1:
        run.figure(f"{name} label shares", figures.share_figure(rows),
                   f"{name}: means over seeds; bands of the thick lines: 95 % t interval. {note}")  # fmt: skip
        run.table(f"{name}, AUC-ROC by share of labels", tables.share_table(rows), note)
    for percent in percents:
        here = select(rows, percent=percent)
        words = f"{note} Labels read: {tables.labels_of(here)}."
        run.table(f"{name}, {shown(percent)} pct of labels", tables.score_table(here), f"{words} {findings.PAPER}.")
    if lead is None:
        return
    show_weights(run, name, cohort, lead, rows)
    if len(tables.modes_of(rows)) == 1:
        return
    if len(config.seed) > 1:
        run.figure(f"{name} differences", figures.gap_figure(rows, lead),
                   f"{name}: {tables.METHODS[lead]} against every rival, paired by seed; 95 % t intervals.")  # fmt: skip
    resampling = None if cohort in SIMULATED else Resampling(run.path / "models")
    run.table(f"{name}, differences", tables.gap_table(rows, lead, resampling),
              f"AUC-ROC of {tables.METHODS[lead]} minus that of the rival, paired by seed. Seeds: t interval. Test subjects: percentiles of 1000 resamples of them, mean over seeds.")  # fmt: skip


def show_weights(run: Run, name: str, cohort: str, lead: str, rows: Sequence[Row]) -> None:
    """What the learned weights became, and how."""
    planted = cohort in SIMULATED
    most = tables.percents_of(rows)[0]
    wanted = [(mode, most) for mode in tables.modes_of(rows) if mode in LEARNED]
    if not planted:  # one mode, and every share of the labels
        wanted = [(lead, percent) for percent in tables.percents_of(rows)]
    histories = {}
    for mode, percent in wanted[:PANELS]:
        several = [history_of(run, row["name"]) for row in select(rows, mode=mode, percent=percent)]
        if several:
            title = tables.METHODS[mode] if planted else f"{shown(percent)} % of labels"
            histories[title] = several
    names = list(select(rows, mode=lead)[0]["weights"])
    caption = f"{name}: weights of the forecast tasks over rounds; lines are means over seeds, bands all of them, dots: all tasks alike."  # fmt: skip
    run.figure(f"{name} weights", figures.rounds_figure(histories, names, planted=planted), caption)
    if planted:
        run.table(f"{name}, weights of planted tasks", tables.planted_table(select(rows, percent=most)),
                  "Sums of weights; 'useful above loud' is the least of tasks 0 to 2 minus the largest loud one; 'furthest from alike' is the largest |16 w - 1|.")  # fmt: skip
    else:
        run.table(f"{name}, top tasks", tables.top_table(rows, lead), f"{tables.METHODS[lead]}: the ten largest mean weights.")  # fmt: skip


def history_of(run: Run, job: str) -> np.ndarray:
    """Weights before each round and after the last, [rounds + 1, F]; every use of the job's encoder has the same."""
    folder = run.path / "models" / job
    return read_history(next(iter(sorted(folder.glob(f"*/{WEIGHTS}"))), folder / WEIGHTS))[1]
