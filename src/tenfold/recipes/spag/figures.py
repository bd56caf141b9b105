"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tenfold.recipes.spag.config import ArmName, Config
from tenfold.recipes.spag.evaluation import main_chain
from tenfold.recipes.spag.findings import Scores
from tenfold.recipes.spag.training import IMITATION, Row, stages

COLOURS: dict[ArmName, str] = {
    "signed": "#d62728",
    "official": "#1f77b4",
    "official-matched": "#17becf",
    "signed-alone": "#ff7f0e",
}
Curve = Sequence[tuple[int, float]]  # step, KL


def stages_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """What the arms do from epoch to epoch: returns on held-out words, ties, length of games, distance to who played."""
    scores = Scores(config, rows)
    ties, fouls = scores.field("ties"), scores.field("invalid")
    panels: list[tuple[str, Any, int]] = [  # title, figure, first epoch
        ("return of the defender", scores.of("defender", "return"), 0),
        ("games the defender won, %", lambda seed, stage: 100 * scores.of("defender", "won")(seed, stage), 0),
        ("return of the attacker", scores.of("attacker", "return"), 0),
        ("ties (solid), fouls (dotted) in self-play, %", lambda seed, stage: 100 * ties(seed, stage), 1),
        ("utterances a game of self-play", scores.field("length"), 1),
        ("KL at the end of the epoch, nats an utterance", scores.field("kl"), 1),
    ]
    last = config.self_play.epochs
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    for axis, (title, read, first) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        epochs = range(first, last + 1)
        for arm in config.arms:
            names = [f"{arm}-{epoch}" if epoch else IMITATION for epoch in epochs]
            values = np.array([scores.over_seeds(read, name) for name in names])
            axis.plot(epochs, values.mean(1), "o-", color=COLOURS[arm], label=arm, markersize=4)
            if values.shape[1] > 1:
                axis.plot(epochs, values, ".", color=COLOURS[arm], alpha=0.45, markersize=4)
            if title.startswith("ties"):
                share = [100 * float(np.mean(scores.over_seeds(fouls, name))) for name in names]
                axis.plot(epochs, share, ":", color=COLOURS[arm])
        axis.set_title(title, fontsize=9)
        axis.set_xticks(list(epochs))
        axis.set_xlabel("epoch of self-play", fontsize=8)
        axis.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8)
    return figure


def arena_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Win rate of every attacker of the main chain against every defender, the mean over seeds."""
    scores, chain = Scores(config, rows), main_chain(config)
    rates = np.full((len(chain), len(chain)), np.nan)
    texts = [["" for _ in chain] for _ in chain]
    for i, attacker in enumerate(chain):
        for j, defender in enumerate(chain):
            cells = [scores.cell(seed, attacker, defender) for seed in config.seeds]
            found = [cell.win_rate for cell in cells]
            known = [rate for rate in found if rate is not None]
            if known:
                rates[i, j] = float(np.mean([rate.value for rate in known]))
                first = known[0]
                texts[i][j] = f"{100 * rates[i, j]:.0f} %"
                if len(config.seeds) == 1:
                    texts[i][j] += f"\n{100 * first.low:.0f}–{100 * first.high:.0f}"
            ties = float(np.mean([cell.count(0) / cell.n for cell in cells]))
            texts[i][j] += f"\nties {100 * ties:.0f} %"
    size = 1.25 * len(chain) + 1.6
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(rates, cmap="RdBu_r", vmin=0, vmax=1)
    for i in range(len(chain)):
        for j in range(len(chain)):
            dark = abs(np.nan_to_num(rates[i, j], nan=0.5) - 0.5) > 0.3
            axis.text(j, i, texts[i][j], ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axis.set_xticks(range(len(chain)), chain)
    axis.set_yticks(range(len(chain)), chain)
    axis.set(xlabel="defender", ylabel="attacker")
    figure.colorbar(image, ax=axis, label="win rate of the attacker", shrink=0.7)
    return figure


def kl_figure(config: Config, curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Divergence from the model that played, over the steps of each epoch.

    Args:
        curves: stage to a curve a seed.
    """
    epochs = config.self_play.epochs
    figure = Figure(figsize=(4.2 * epochs, 3), layout="constrained")
    for epoch, axis in enumerate(np.atleast_1d(figure.subplots(1, epochs, sharey=True)), 1):
        for stage in stages(config):
            if stage.arm is None or stage.epoch != epoch:
                continue
            for number, curve in enumerate(curves.get(stage.name, ())):
                steps, values = zip(*curve, strict=True)
                axis.plot(
                    steps, values, color=COLOURS[stage.arm], linewidth=1, alpha=0.8, label=None if number else stage.arm
                )
        axis.axhline(0, color="#888888", linewidth=0.8)
        axis.set(title=f"epoch {epoch}", xlabel="step")
        axis.grid(alpha=0.25)
    figure.axes[0].set_ylabel("KL, nats an utterance")
    figure.axes[0].legend(fontsize=8)
    return figure
