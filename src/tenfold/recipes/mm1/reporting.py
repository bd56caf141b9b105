"""The report of a run: summary, examples with pictures, figures, tables beside the paper's, claims."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tenfold.core.config import read_json
from tenfold.core.run import Run
from tenfold.recipes.mm1 import figures, findings, published
from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.training import Job

Row = dict[str, Any]


def report(config: Config, run: Run, rows: Sequence[Row], encoders: Sequence[Row], drawers: Sequence[Row] = ()) -> None:
    """Everything that a reader sees."""
    run.text("summary", findings.summary(config, rows))
    over = "± is the 95 % t interval over seeds." if len(config.seeds) > 1 else "One seed, no interval."
    _examples(config, run)
    if any(row["few_shot"] for row in rows):
        run.figure(
            "shots", figures.shots_figure(config, [r for r in rows if r["few_shot"]]), caption=f"Dots: seeds. {over}"
        )
    run.table("cells", findings.cell_table(config, rows), note=f"What each cell changes, and what comes of it. {over}")
    if tuned := findings.tuned_table(config, rows):
        asked = "Of scenes, words and answers never trained on in this combination; of easy-VQA its test part."
        run.table("tuned", tuned, note=f"{asked} {over}")
    if encoders:
        run.table("names and drawings", encoder_table(encoders), note="Held-out emoji; pixels: cosine of raw pixels with their mean removed.")  # fmt: skip
    if drawers:
        run.table("foretold patches", drawer_table(drawers), note="AIM on drawings without names, held-out emoji. Error: of the second half of a drawing after the first; 1: foretelling grey.")  # fmt: skip
    run.figure("losses", figures.loss_figure(_curves(config, run)), caption="Text tokens only; first seed.")
    note = "arXiv 2403.09611; models of 3 to 30 billion weights and other tasks: beside ours for the direction, not the height."
    run.table("published encoders", published.ENCODERS, note=f"Mean few-shot score, 2.9B decoder. {note}")
    run.table("published mixes", published.MIXES, note=note)
    run.table("published pre-trained models", published.PRETRAINED, note=note)
    for claim in findings.make_claims(config, rows, encoders):
        run.claim(claim)


def encoder_table(encoders: Sequence[Row]) -> list[Row]:
    """A line a seed: recalls in per cent."""
    keys = [key for key in encoders[0] if "_R@" in key]
    return [
        {"seed": row["seed"], **{key.replace("_", ": "): round(100 * row[key], 1) for key in keys}} for row in encoders
    ]


def drawer_table(drawers: Sequence[Row]) -> list[Row]:
    """A line a seed: error, and recalls in per cent."""
    return [
        {"seed": row["seed"], "error": round(row["error"], 3), **recalls}
        for row, recalls in zip(drawers, encoder_table(drawers), strict=True)
    ]


def _examples(config: Config, run: Run) -> None:
    """A figure of each kind of question, by the first cell and seed."""
    name = Job(config.cells[0], config.seeds[0]).name
    files = [run.path / "examples" / f"{name}-{stage}-measures.json" for stage in ("pretrain", "sft")]
    told = [each for path in files if path.is_file() for each in read_json(path)]
    for kind, group in itertools.groupby(told, key=lambda each: each["kind"]):
        shown = list(group)
        figure = figures.examples_figure(shown, f"{config.cells[0]}: {kind}")
        run.figure(
            f"examples {kind}", figure, caption="The first questions asked, not the best. Green: as it should be."
        )


def _curves(config: Config, run: Run) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for cell in config.cells:
        for stage in ("pretrain", "sft"):
            rows = run.rows(f"{Job(cell, config.seeds[0]).name}-{stage}")
            if points := [(row["step"], row["ce"]) for row in rows if "ce" in row]:
                found[f"{cell}, {stage}"] = points
    return found
