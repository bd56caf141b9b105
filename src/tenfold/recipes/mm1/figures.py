"""Figures of a run: examples with their pictures, shots, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tenfold.core.errors import printable
from tenfold.core.panels import panels
from tenfold.core.statistics import select
from tenfold.recipes.mm1.config import Config
from tenfold.vision.picture_refs import open_picture

Row = dict[str, Any]
DRAWN = 96  # pixels of an example's picture


def examples_figure(examples: Sequence[Row], title: str, most: int = 6) -> Figure:
    """One line an example: its pictures in order with the lines after them, then what was right and what was said."""
    shown = examples[:most]
    width = max(sum("image" in segment for segment in each["prompt"]) for each in shown)
    figure = Figure(figsize=(1.35 * width + 2.6, 1.7 * len(shown) + 0.3), layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(len(shown), width + 1, squeeze=False, width_ratios=[1.0] * width + [1.9])
    for axes, example in zip(grid, shown, strict=True):
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        pictures = _with_lines(example["prompt"])
        for axis, (image, text) in zip(axes, pictures, strict=False):
            axis.imshow(open_picture(image, DRAWN), interpolation="nearest")
            axis.spines[:].set(visible=True, color="lightgray")
            axis.set_title(_folded(text, 22), fontsize=6, y=-0.05, va="top")
        right = example["said"].strip() == example["answer"].strip()
        said = example["said"] or "(nothing)"
        text = f"said: {_folded(said, 26)}\nshould be: {_folded(example['answer'], 26)}"
        axes[-1].text(
            0, 0.5, text, fontsize=8, va="center", color="darkgreen" if right else "firebrick", parse_math=False
        )
    return figure


def _with_lines(prompt: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str]]:
    found: list[list[Any]] = []
    for segment in prompt:
        if "image" in segment:
            found.append([segment["image"], ""])
        elif found:
            found[-1][1] += segment["text"]
    return [(image, text.strip().replace("$", r"\$")) for image, text in found]


def _folded(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(printable(text)[:120], width)) or " "


def shots_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Few-shot figures over the number of demonstrations, a line a cell, a panel a task."""
    tasks = list(rows[0]["few_shot"])
    figure, axes = panels(len(tasks))
    titles = {"attr": "hidden rule, %", "vqa": "questions, %", "caption": "captions, CIDEr × 100"}
    for axis, task in zip(axes, tasks, strict=True):
        for number, cell in enumerate(config.cells):
            own = [row for row in select(rows, cell=cell) if row["few_shot"]]
            if not own:
                continue
            points = [[row["few_shot"][task][str(shots)] for row in own] for shots in config.evaluation.shots]
            means = [sum(values) / len(values) for values in points]
            axis.plot(config.evaluation.shots, means, "-o", color=f"C{number}", label=cell, markersize=3)
            for shots, values in zip(config.evaluation.shots, points, strict=True):
                if len(values) > 1:
                    axis.plot([shots] * len(values), values, ".", color=f"C{number}", alpha=0.4)
        axis.set(title=titles[task], xlabel="demonstrations", xticks=config.evaluation.shots)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=6)
    return figure


def loss_figure(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Cross-entropy over the steps, a line a training."""
    figure, (axis,) = panels(1, width=5.0)
    for name, points in curves.items():
        if points:
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axis.set(xlabel="step", ylabel="nats a learnt token", yscale="log")
    axis.legend(fontsize=6)
    return figure
