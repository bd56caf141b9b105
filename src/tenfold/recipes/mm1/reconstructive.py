"""The reconstructive stage: the picture encoder learns to foretell patches of emoji, without their names (AIM)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream
from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.contrastive import (
    across_drawings,
    device_of,
    drawings,
    encoder_config,
    make_processor,
    save_encoder,
)
from tenfold.recipes.mm1.documents import emoji_of
from tenfold.vision.autoregressive import AIMModel, aim_loss, draw_prefix


def train_aim(config: Config, run: Run, seed: int) -> dict[str, Any]:
    """Train the encoder on drawings alone, as long and as fast as the contrastive stage, keep it, and measure it.

    Returns:
        "error": of held-out drawings (1: foretelling grey); recalls of picture → picture across drawings by the mean of the
        patches' features, and those of raw pixels.
    """
    stage = f"aim-seed{seed}"
    if run.done(stage):
        found: dict[str, Any] = run.load_stage(stage)
        return found
    train, processor = emoji_of(config.data), make_processor(config)
    pixels = torch.cat([processor(image) for row in train.rows for image in row["images"]])
    model = AIMModel(encoder_config(config), generator=torch.Generator().manual_seed(seed)).to(device_type())
    mesh = data_mesh()
    rank, world = batch_coordinate(mesh)
    state = TrainState(
        model,
        adamw(model, config.clip.lr, weight_decay=0.1),
        Schedule(0.05 * config.clip.steps, config.clip.steps, 0.0),
        ArrayStream({"picture": torch.arange(len(pixels))}, config.clip.batch, seed=seed, rank=rank, world=world),
        seed=seed,
    )
    checkpoint.resume(run, state, name=stage)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, AIMModel)
        shown = pixels[batch["picture"]].to(device_of(model))
        # From torch's random state, which the loop sets for each step and rank.
        return aim_loss(model, shown, draw_prefix(len(shown), model.vision.cfg.patches).to(shown.device))

    every = Every(config.log_every, save=config.save_every)
    fit(state, loss, steps=config.clip.steps, run=run, name=stage, mesh=mesh, every=every, progress=False)
    row = measure(model, config) | {"seed": seed, "seconds": state.seconds}
    save_encoder(model.vision, run, stage)
    run.save_stage(stage, row)
    return row


@torch.no_grad()
def measure(model: AIMModel, config: Config) -> dict[str, Any]:
    """Held-out drawings: how well half a picture foretells the rest, and one drawing style among the other."""
    model.eval()
    device = device_of(model)
    test = emoji_of(config.data, "val")
    drawn = drawings(test, make_processor(config))
    half = torch.full((len(test.rows),), max(1, model.vision.cfg.patches // 2), device=device)
    errors = [float(aim_loss(model, pixels.to(device), half)[0]) for pixels in drawn]
    features = [model.vision(pixels.to(device)).mean(1).cpu() for pixels in drawn]
    vectors = [F.normalize(each - each.mean(0), dim=1) for each in features]
    model.train()
    return {"error": sum(errors) / len(errors), "pool": len(test.rows), **across_drawings(vectors, drawn)}
