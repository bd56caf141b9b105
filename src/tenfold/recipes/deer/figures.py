"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.experiment import Row
from tenfold.recipes.deer.findings import REFUSES, THRESHOLD, Scores, confusion, retrieved
from tenfold.recipes.deer.world import SEEN, UNSEEN

_RIGHT = ("no_search", "no_call", "call")
_SAID = ("no_search", "search", "no_call", "call", "other tool", "cut")
_NAMES = {"no_search": "answer", "search": "search", "no_call": "none fits", "call": "call", "other tool": "wrong tool", "cut": "cut off"}  # fmt: skip


def decisions_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Right refusals against right calls on unseen tools, and the gap to seen ones."""
    scores = Scores(config, rows)
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {name: f"C{index % 10}" for index, name in enumerate(scores.deciders)}
    for name in scores.deciders:
        calls, refusals = scores.of(name, UNSEEN, "P_Call"), scores.of(name, UNSEEN, "P_NoCall")
        marker = "o" if name in config.arms else "s"
        left.plot(100 * np.array(refusals), 100 * np.array(calls), marker, color=colours[name], label=name, markersize=6, alpha=0.85)  # fmt: skip
    for share in (60, 70, 80, 90):
        x = np.linspace(0, 100, 50)
        y = (share - 0.4 * x) / 0.6
        left.plot(x, y, ":", color="#999999", linewidth=0.8)
        at = np.argmin(np.abs(y - 103)) if y[0] > 103 else 0
        left.annotate(f"{share}", (x[at], min(y[at], 103)), fontsize=7, color="#777777")
    left.set(xlabel="right refusals, %", ylabel="right calls, %", xlim=(-3, 103), ylim=(-3, 106), title="tools never seen (dotted: equal P_DC)")  # fmt: skip
    left.legend(fontsize=7, loc="lower left")
    left.grid(alpha=0.25)
    names = [name for name in scores.deciders if name != REFUSES and scores.of(name, SEEN, "P_DC")]
    place = np.arange(len(names))
    for offset, kind, colour in ((-0.2, SEEN, "#9ecae1"), (0.2, UNSEEN, "#3182bd")):
        values = [100 * float(np.mean(scores.of(name, kind, "P_DC"))) for name in names]
        right.barh(place + offset, values, 0.38, color=colour, label="seen tools, new queries" if kind == SEEN else "unseen tools")  # fmt: skip
        for at, value in zip(place, values, strict=True):
            right.text(value + 3, at + offset, f"{value:.1f}", va="center", fontsize=7)
        if kind == UNSEEN and len(config.seeds) > 1:
            for at, name in zip(place, names, strict=True):
                right.plot(100 * np.array(scores.of(name, kind, "P_DC")), [at + offset] * len(config.seeds), ".", color="black", markersize=3)  # fmt: skip
    right.axvline(
        100 * float(np.mean(scores.of(THRESHOLD, UNSEEN, "P_DC"))), color="#d62728", linewidth=0.8, linestyle="--"
    )
    right.set_yticks(place, names, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="P_DC, %", xlim=(0, 108))
    right.legend(fontsize=7, loc="lower right")
    return figure


def confusion_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """What was right against what was said, of the first arm and of the floor."""
    names = [config.arms[0], THRESHOLD]
    figure = Figure(figsize=(5.0 * len(names), 3.0), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        counts = confusion(config, rows, name)
        said = [each for each in _SAID if any(each in row for row in counts.values())]
        table = np.array([[counts.get(right, {}).get(each, 0) for each in said] for right in _RIGHT], dtype=float)
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i in range(len(_RIGHT)):
            for j in range(len(said)):
                if table[i, j]:
                    colour = "white" if shares[i, j] > 0.55 else "black"
                    axis.text(j, i, f"{100 * shares[i, j]:.0f} %\n{table[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)  # fmt: skip
        axis.set_xticks(range(len(said)), [_NAMES[each] for each in said], fontsize=8)
        axis.set_yticks(range(len(_RIGHT)), [_NAMES[each] for each in _RIGHT], fontsize=8)
        axis.set(xlabel="said", ylabel="right", title=name)
    return figure


def retrieval_figure(rows: Sequence[Row]) -> Figure:
    """Recall of the retrievers over how many tools are shown."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, figures in retrieved(rows).items():
        ks = sorted(int(key.removeprefix("R@")) for key in figures if key.startswith("R@"))
        axis.plot(
            ks, [100 * figures[f"R@{k}"] for k in ks], "o-", markersize=3, label=f"{name} (MRR {figures['MRR']:.2f})"
        )
    axis.set(xlabel="tools shown", ylabel="queries whose tool is among them, %", ylim=(0, 101))
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.25)
    return figure
