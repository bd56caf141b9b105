"""Fit a line by gradient descent: the smallest recipe there can be.

tiny: a second, one seed. laptop: five seeds; is the loss below that of the best constant?
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tenfold.core.claims import Claim, Result
from tenfold.core.fit import TrainState, fit
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.statistics import paired_t
from tenfold.core.stream import ArrayStream


@dataclass(frozen=True)
class Config:
    """Fields: seeds; points of the line; steps of training; learning_rate, peak."""

    seeds: tuple[int, ...] = (0,)
    points: int = 256
    steps: int = 200
    learning_rate: float = 0.05


PRESETS = {"tiny": Config(), "laptop": Config(seeds=(0, 1, 2, 3, 4))}
EXPECTED = {"tiny": "loss about 0.01 in a second", "laptop": "every seed below 0.02"}


def squared_error(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor | int]]:
    """Mean squared error over the batch; `weight` is the number of targets behind the mean."""
    loss = (model(batch["x"]) - batch["y"]).square().mean()
    return loss, {"weight": len(batch["x"])}


def train(config: Config, run: Run) -> Result:
    """One model a seed, its loss beside the variance of y (the best constant)."""
    losses, variances = [], []
    for seed in config.seeds:
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(config.points, 1, generator=generator)
        data = {"x": x, "y": 3 * x - 1 + 0.1 * torch.randn(config.points, 1, generator=generator)}
        model = nn.Linear(1, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        state = TrainState(
            model=model,
            optimizer=adamw(model, config.learning_rate, weight_decay=0.0),
            schedule=Schedule(warmup=10, total=config.steps),
            stream=ArrayStream(data, batch_size=32, seed=seed),
            seed=seed,
        )
        fit(state, squared_error, steps=config.steps, run=run, name=f"seed{seed}")
        losses.append(squared_error(model, data)[0].item())
        variances.append(data["y"].var().item())
    run.table(
        "losses",
        [{"seed": s, "loss": a, "constant": b} for s, a, b in zip(config.seeds, losses, variances, strict=True)],
    )
    several = len(config.seeds) > 1
    interval = paired_t([a - b for a, b in zip(losses, variances, strict=True)]) if several else None
    run.claim(
        Claim(
            name="squared error below the best constant's",
            value=sum(losses) / len(losses),
            baseline=sum(variances) / len(variances),
            better="lower",
            ci95=(interval.low, interval.high) if interval else (float("nan"), float("nan")),
            seeds=len(config.seeds),
            how="mean over seeds, all points",
        )
    )
    return run.finish()


VERBS = {"train": train}
