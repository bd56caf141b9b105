"""Two comparisons on Shakespeare by characters: AdaStar against AdamW, and one learning rate for several widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import lm_loss
from tenfold.lm.optim import OPTIMIZERS, MupRule
from tenfold.recipes.afm.chain import Z_LOSS, token_scores
from tenfold.recipes.afm.config import Config, Model
from tenfold.recipes.afm.corpus import characters, windows
from tenfold.text.corpus import TokenWindows

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One training on characters.

    Args:
        optimizer: by its name in OPTIMIZERS.
        lr: peak rate at the base width.
        seed: of weights and order.
        width, layers: of the model; heads are 32 wide (16 below width 128).
        mup, base_width: how lr changes with the width.
        steps, rows, length, warmup: of the training.
        validation_rows: rows to validate on, spread evenly; None takes all text.
    """

    optimizer: Literal["adastar", "adamw"]
    lr: float
    seed: int
    width: int = 128
    layers: int = 4
    mup: MupRule | None = "width"
    base_width: int = 128
    steps: int = 2000
    rows: int = 12
    length: int = 64
    warmup: int = 100
    validation_rows: int | None = None

    @property
    def name(self) -> str:
        rule = "" if self.mup else "-plain"
        return f"char-{self.optimizer}-{self.width}x{self.layers}{rule}-lr{self.lr:g}-seed{self.seed}"

    @property
    def model(self) -> Model:
        """4 heads, 2 of keys and values, an inner width of 11/4."""
        return Model(self.width, self.layers, 4, 2, self.width // 4, 11 * self.width // 4, 0)

    @property
    def cost(self) -> float:
        """Operations of one step, in 1e9."""
        with torch.device("meta"):
            model = Decoder(self.model.decoder(65, self.length), torch.Generator())
        return 3 * model.flops_per_token(self.length) * self.rows * self.length / 1e9


def race_trials(config: Config, seeds: tuple[int, ...], best: dict[str, float] | None = None) -> list[Trial]:
    """All rates with the given seeds, or only the best of each optimizer."""
    race = config.race
    if not race.steps:
        return []
    kinds: tuple[Literal["adastar", "adamw"], ...] = ("adastar", "adamw")
    rates = {"adastar": race.adastar, "adamw": race.adamw} if best is None else {k: (v,) for k, v in best.items()}
    return [
        Trial(kind, lr, seed, steps=race.steps, rows=race.rows, length=race.length, warmup=race.warmup)
        for seed in seeds
        for kind in kinds
        for lr in rates[kind]
    ]


def best_rates(rows: Sequence[Row]) -> dict[str, float]:
    """The rate of the lowest loss of each optimizer."""
    kinds = dict.fromkeys(row["optimizer"] for row in rows)
    return {
        kind: min((row for row in rows if row["optimizer"] == kind), key=lambda row: row["loss"])["lr"]
        for kind in kinds
    }


def sweep_trials(config: Config) -> list[Trial]:
    """Every width at every rate, with muP-simple and without; at the base width both are one training."""
    sweep = config.sweep
    if not sweep.steps:
        return []
    first = Trial(
        "adastar",
        lr=sweep.rates[0],
        seed=config.seeds[0],
        layers=sweep.layers,
        base_width=sweep.widths[0],
        steps=sweep.steps,
        rows=sweep.rows,
        length=sweep.length,
        warmup=sweep.warmup,
        validation_rows=sweep.validation_rows,
    )
    return [
        replace(first, lr=lr, seed=seed, width=width, mup=mup)
        for seed in config.seeds
        for width in sweep.widths
        for mup in ("width", None)
        if mup or width != sweep.widths[0]
        for lr in sweep.rates
    ]


def best_octave(rates: Sequence[float], losses: Sequence[float]) -> float:
    """log2 of the best rate: the vertex of the parabola through the lowest loss and its neighbours in log2(rate).

    At an end of the grid: that end, since nothing is known beyond it.
    """
    x = np.log2(rates)
    i = int(np.argmin(losses))
    if i in (0, len(losses) - 1):
        return float(x[i])
    a, b, _ = np.polyfit(x[i - 1 : i + 2], losses[i - 1 : i + 2], 2)
    return float(-b / (2 * a)) if a > 0 else float(x[i])


def drifts(config: Config, rows: Sequence[Row], mup: bool) -> list[float]:
    """For each seed the largest distance, in octaves, of a width's best rate from the base width's."""
    sweep = config.sweep
    found = []
    for seed in config.seeds:
        best = []
        for width in sweep.widths:
            kept = [
                row
                for row in rows
                if row["seed"] == seed
                and row["width"] == width
                and (bool(row["mup"]) == mup or width == sweep.widths[0])
            ]
            kept.sort(key=lambda row: row["lr"])
            best.append(best_octave([row["lr"] for row in kept], [row["loss"] for row in kept]))
        found.append(max(abs(octave - best[0]) for octave in best[1:]))
    return found


def try_out(config: Config, run_path: str, trial: Trial) -> Row:
    """Train on the first 90 % of the characters and take the loss on the last 10 %, in nats a character."""
    run = Run.open(run_path)
    if run.done(trial.name):
        advance(trial.steps * trial.cost)
        row: Row = run.load_stage(trial.name)
        return row
    train, validation, alphabet = characters()
    model = Decoder(trial.model.decoder(alphabet, trial.length), torch.Generator().manual_seed(trial.seed))
    model.to(device_type())
    settings = replace(
        OPTIMIZERS[trial.optimizer], lr=trial.lr, warmup=trial.warmup, mup=trial.mup, base_width=trial.base_width
    )
    state = TrainState(
        model=model,
        optimizer=settings.build(model),
        schedule=settings.schedule(trial.steps),
        stream=TokenWindows(train, trial.length, trial.rows, trial.seed),
        seed=trial.seed,
    )
    checkpoint.resume(run, state, name=trial.name)
    cost = trial.cost
    advance(state.step * cost)
    fit(
        state,
        lm_loss(z_loss=Z_LOSS),
        steps=trial.steps,
        run=run,
        name=trial.name,
        every=Every(log=max(1, trial.steps // 40), save=config.save_every * 5),
        after_step=lambda _: advance(cost),
        progress=False,
    )
    rows = windows(validation, trial.length, trial.validation_rows)
    scores = torch.cat([token_scores(model, part)[0] for part in rows.split(256)])
    row = {
        "name": trial.name,
        "optimizer": trial.optimizer,
        "lr": trial.lr,
        "seed": trial.seed,
        "width": trial.width,
        "mup": trial.mup,
        "parameters": model.num_params(embedding=True),
        "loss": float(scores.mean()),
    }
    run.save_stage(trial.name, row)
    return row
