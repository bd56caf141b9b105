"""A small autoencoder of one's own pictures, for those who have no pretrained one: latents that a diffusion model works on."""

# Shape legend: N pictures, B of a step, H W sides

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tenfold.core.errors import UserError
from tenfold.core.fit import forward_seed
from tenfold.core.optim import Schedule

KL_WEIGHT = 1e-6  # as Stable Diffusion's: keeps latents near N(0, 1) without costing sharpness


def train_autoencoder(
    images: Tensor,
    folder: Path,
    *,
    steps: int,
    rows: int = 32,
    lr: float = 3e-3,
    widths: tuple[int, ...] = (16, 32, 32),
    latent_channels: int = 4,
    seed: int = 0,
    bf16: bool = True,
    after_step: Callable[[int, float], object] | None = None,
) -> None:
    """Train an AutoencoderKL of diffusers on pictures and write its folder, which `codec.KLCodec` reads.

    Its sides are 2 ** (len(widths) - 1) times shorter. Scale and shift are set from the latents of the pictures, so
    that the codec gives a mean of 0 and a variance of 1.

    Args:
        images: bytes (N, 3, H, W).
        folder: for config.json and safetensors.
        steps: optimizer steps.
        rows: B.
        lr: peak rate of AdamW.
        widths: channels from the finest to the coarsest grid, multiples of 8.
        latent_channels: of the latents.
        seed: of weights, order and noise.
        bf16: forward and backward in bfloat16; weights stay in float32.
        after_step: called with the step, from 1, and its loss.
    Raises:
        UserError: diffusers is missing, sides that do not divide, a loss that is not finite.
    Source: Kingma and Welling 2014, arXiv 1312.6114; Rombach et al. 2022, arXiv 2112.10752, Section 3.1.
    """
    factor = 2 ** (len(widths) - 1)
    if any(side % factor for side in images.shape[2:]):
        raise UserError(f"codec: pictures of {images.shape[2]} x {images.shape[3]} pixels, need multiples of {factor}")
    model = _new(widths, latent_channels, seed).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    schedule = Schedule(min(100, steps), steps, 0.01)
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(forward_seed(seed, step, 0, 0))
        x = _floats(images[torch.randint(len(images), (rows,), generator=generator)])
        optimizer.param_groups[0]["lr"] = lr * schedule(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample(generator=generator)).sample
        loss = F.mse_loss(y.float(), x) + KL_WEIGHT * posterior.kl().float().mean()
        if not bool(torch.isfinite(loss)):
            raise UserError(f"codec: the loss is {loss.item()} at step {step} (learning rate {lr:g}); lower the rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if after_step is not None:
            after_step(step, float(loss.detach()))
    latents = _latents(model, images[:: max(1, len(images) // 1024)])
    model.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))
    model.save_pretrained(folder, safe_serialization=True)


@torch.no_grad()
def _latents(model: Any, images: Tensor) -> Tensor:
    return torch.cat([model.encode(_floats(part)).latent_dist.mode() for part in images.split(64)])


def _floats(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).to(memory_format=torch.channels_last)


def _new(widths: tuple[int, ...], latent_channels: int, seed: int) -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError("an autoencoder of your own needs diffusers: pip install 'tenfold[diffusion]'") from error
    with torch.random.fork_rng(devices=[]):  # diffusers draws from torch's own state
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
