"""The report of a run: summary, pictures, figures, tables, claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.run import Run
from tenfold.core.statistics import plus_minus
from tenfold.recipes.ec_dit import figures, findings
from tenfold.recipes.ec_dit.config import Config
from tenfold.recipes.ec_dit.pictures import Corpus, open_corpus
from tenfold.recipes.ec_dit.training import Job
from tenfold.vision.shapes import evaluate

Row = dict[str, Any]
SHOWN = 24  # prompts in the grid of samples


def report(config: Config, run: Run, rows: Sequence[Row], trials: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    corpus = open_corpus(run.path / "corpus")
    shapes = config.data.source == "shapes"
    curves = read_curves(config, run)
    run.text("summary", summary(config, rows, corpus))
    run.figure("samples", samples(config, run, corpus.asked, shapes), caption=sample_caption(config, corpus))
    if shapes:
        run.figure(
            "rates",
            figures.rates_figure(config, rows, corpus.floor),
            caption="Lines on the bars: 95 % intervals, "
            + ("t over seeds; dots are seeds." if len(config.seeds) > 1 else "Wilson's over pictures; one seed."),
        )
        run.table("rates", findings.rate_table(config, rows, corpus.floor), note=findings.rate_note(config, rows))
    run.figure(
        "learning",
        figures.curves_figure(config, curves),
        caption="Averaged weights"
        + ("; bands: all seeds" if len(config.seeds) > 1 else "")
        + ". The first point may lie above.",
    )
    run.table(
        "models",
        findings.model_table(config, rows),
        note="An operation is a multiplication or an addition of a matrix product.",
    )
    if shapes and config.sampling.guidance_sweep:
        run.figure(
            "guidance",
            figures.guidance_figure(config, rows, corpus.floor["overall"]),
            caption="Means over seeds; bands: all of them.",
        )
    measured = [model for model in config.models if all("heat" in row for row in findings.of(rows, model))]
    if measured:
        routing(config, run, rows, measured)
    elif (first := heat_file(config, run)).is_file():
        heat(config, run, first)
    if trials:
        run.table(
            "rates tried",
            rate_trials(trials),
            note=f"Held-out loss of the first seed after {config.training.rate_steps} steps.",
        )
    for claim in findings.make_claims(config, rows, curves, corpus.floor):
        run.claim(claim)


def routing(config: Config, run: Run, rows: Sequence[Row], measured: Sequence[str]) -> None:
    """Where the compute goes."""
    layers = config.model.placement
    told = [model for model in measured if model != "tc"][:2]  # token choice gives every token as many
    if told:
        run.text("where the compute goes", " ".join(findings.heat_sentence(rows, model, layers) for model in told))
    heat(config, run, heat_file(config, run, measured[0]))
    run.figure("objects", figures.preference_figure(rows, measured, layers),
               caption="Object tokens are those under the finished picture's shapes. Means over seeds and pictures.")  # fmt: skip
    lines = []
    for model in measured:
        own = findings.of(rows, model)
        line: Row = {
            "model": model,
            "object / background, last block and step": plus_minus([findings.preference(row) for row in own], 2),
            "naming / other words": plus_minus([findings.word_ratio(row) for row in own], 3),
        }
        if all("complexity" in row for row in own):
            line["experts a token for one object more"] = plus_minus([findings.slope(row) for row in own], 4)
        lines.append(line)
    run.table("routing", lines)


def heat_file(config: Config, run: Run, model: str | None = None) -> Path:
    """Where the heat-maps of a model's first seed are; None is the run's own model."""
    return run.path / "heat" / f"{Job(model or config.models[0], config.seeds[0], 0.0, 1).name}.npz"


def heat(config: Config, run: Run, file: Path) -> None:
    """The heat-maps of a model."""
    run.figure("heat", figures.heat_figure(file, config.model.placement),
               caption="Experts of every token while pictures are drawn, from noise (t = 1) to the finished one. "
                       "Blocks count from 1.")  # fmt: skip


def read_curves(config: Config, run: Run) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Held-out loss over the steps: model -> seed -> points."""
    return {
        model: {
            seed: [
                (row["step"], row["held_out_loss"])
                for row in run.rows(Job(model, seed, 0.0, 1).name)
                if "held_out_loss" in row
            ]
            for seed in config.seeds
        }
        for model in config.models
    }


def samples(config: Config, run: Run, asked: Sequence[Row], shapes: bool) -> Any:
    """The grid of pictures of the run's own model."""
    name = Job(config.models[0], config.seeds[0], 0.0, 1).name
    pictures = np.load(run.path / "samples" / f"{name}.npy", allow_pickle=False)
    picked = np.unique(np.linspace(0, len(asked) - 1, min(SHOWN, len(asked))).astype(int))
    verdicts = [[evaluate(picture, asked[i]).correct if shapes else None for picture in pictures[i]] for i in picked]
    return figures.samples_figure(pictures[picked], [asked[i] for i in picked], verdicts)


def sample_caption(config: Config, corpus: Corpus) -> str:
    """What the grid shows."""
    sampling = config.sampling
    judged = ""
    if config.data.source == "shapes":
        judged = (
            " Green frames: the checker finds what was asked for; it takes a blurred shape for the nearest template."
        )
    seen = captions_seen(corpus)
    asked = "captions never trained on" if not seen else (
        f"captions of held-out pictures ({seen} of the {len(corpus.asked)} also trained on, with other pictures)"
    )  # fmt: skip
    return (
        f"Pictures of {asked}, by {config.models[0]} of the first seed: {sampling.steps} steps of "
        f"{sampling.solver}, guidance {sampling.guidance_scale:g}.{judged} Evenly picked, not the best."
    )


def captions_seen(corpus: Corpus) -> int:
    """How many of the captions that are asked for were trained on, as the model reads them."""

    def read(row: int) -> object:
        """Word ids, without case and cut as in training; of a frozen encoder the caption itself."""
        return corpus.captions[row] if corpus.frozen_text else tuple(corpus.text[row].tolist())

    trained = {read(row) for row in corpus.train.caption.unique().tolist()}
    return sum(read(corpus.number(row["prompt"])) in trained for row in corpus.asked)


def summary(config: Config, rows: Sequence[Row], corpus: Corpus) -> str:
    """The run in words."""
    own = findings.of(rows, config.models[0])
    note = corpus.note if config.data.source == "files" else f"{corpus.note[0].upper()}{corpus.note[1:]}"
    words = [f"{note}."]  # the user's own begins with a path
    if config.data.source == "shapes":
        rates = plus_minus([findings.overall(row) for row in own])
        words.append(
            f"Model {config.models[0]} ({findings.MODELS[config.models[0]]}) gets {rates} of them right over GenEval's tasks; a "
            f"picture of another prompt would score {corpus.floor['overall']:.3f}."
        )
        for rival in config.rivals:
            rates = plus_minus([findings.overall(row) for row in findings.of(rows, rival)])
            words.append(f"{rival}: {rates}.")
    if config.data.source == "emoji":
        hits, drawn = (sum(row["retrieval"][name] for row in own) for name in ("hits", "pictures"))
        words.append(f"{hits} of {drawn} pictures are nearest to their own drawing among 20; chance is 1 in 20.")
    words.append(f"Trained for {config.training.steps} steps of {config.training.rows} pictures.")
    return " ".join(words)


def rate_trials(trials: Sequence[Row]) -> list[Row]:
    """A line a model, a column a rate."""
    lines: dict[str, Row] = {}
    for row in trials:
        lines.setdefault(row["model"], {"model": row["model"]})[f"{row['lr']:g}"] = round(row["loss"], 4)
    return list(lines.values())
