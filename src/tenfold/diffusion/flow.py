"""Rectified flow: straight paths from data to noise, and the loss of a network that predicts their velocity.

x_t = (1 − t)·x_0 + t·x_1 with data x_0, noise x_1 ~ N(0, I) and t in [0, 1]; the velocity along the path is x_1 − x_0.
"""

# Shape legend: B batch, c channels, H W sides, S image tokens, K of them kept, p patch, L text tokens, D text width

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.diffusion.embed import patchify
from tenfold.nn.moe import moe_layers

TimeDistribution = Literal["logit_normal", "uniform"]
Metrics = dict[str, Any]


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """The point x_t = (1 − t)·x_0 + t·x_1 on the path from data to noise.

    Args:
        x0, x1: data and noise, (B, ...).
        t: (B,) in [0, 1].
    Raises:
        ValueError: shapes that do not fit; a time outside [0, 1] (checked on the CPU, to spare other devices the wait).
    Source: EC-DIT (arXiv 2410.02098), Section 2; Liu et al. 2022, arXiv 2209.03003.
    """
    if x1.shape != x0.shape:
        raise ValueError(f"x1: got shape {tuple(x1.shape)}, need that of x0, {tuple(x0.shape)}")
    if t.shape != x0.shape[:1]:
        raise ValueError(f"t: got shape {tuple(t.shape)}, need ({len(x0)},), one time an image")
    if t.is_cpu and not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t: got values from {float(t.min()):g} to {float(t.max()):g}, need [0, 1]")
    return torch.lerp(x0, x1, t.to(x0).view(-1, *[1] * (x0.ndim - 1)))


def velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """x_1 − x_0, what the network learns to predict (EC-DIT Eq. 1)."""
    return x1 - x0


def sample_t(
    count: int,
    *,
    t_dist: TimeDistribution = "logit_normal",
    mu: float = 0.0,
    sigma: float = 1.0,
    generator: torch.Generator,
) -> Tensor:
    """Draw training times.

    Args:
        count: how many.
        t_dist: "logit_normal", the sigmoid of N(mu, sigma²), which favours the middle of the path; or "uniform".
        mu, sigma: of the normal variable; unused by "uniform".
        generator: where they are drawn from.
    Returns:
        (count,) float32 on the generator's device.
    Raises:
        ValueError: an unknown distribution, sigma not above 0.
    Source: Esser et al. 2024, arXiv 2403.03206, Section 3.1.
    """
    if t_dist not in get_args(TimeDistribution):
        raise ValueError(f"t_dist: got {t_dist!r}, need one of {', '.join(get_args(TimeDistribution))}")
    if not sigma > 0:
        raise ValueError(f"sigma: got {sigma}, need above 0")
    if t_dist == "uniform":
        return torch.rand(count, generator=generator, device=generator.device)
    return torch.sigmoid(mu + sigma * torch.randn(count, generator=generator, device=generator.device))


def rectified_flow_loss(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    t_dist: TimeDistribution = "logit_normal",
    mu: float = 0.0,
    sigma: float = 1.0,
    text_dropout: float = 0.1,
    mask_ratio: float = 0.0,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Mean squared error of the predicted velocity, plus the load-balance loss of token-choice experts.

    Args:
        model: called as `model(x, t, text, text_mask)`; further output channels (a learned variance) are left out.
        batch, text_dropout, mask_ratio: as in `denoising_loss`.
        t_dist, mu, sigma: as in `sample_t`.
        generator: of times, noise, dropped captions and masked tokens, in this order.
    Returns:
        the loss, and metrics "weight" (images), "flow_loss" and, with experts, "aux".
    Source: EC-DIT, Eq. 1.
    """
    x0 = batch["image"]
    t = sample_t(len(x0), t_dist=t_dist, mu=mu, sigma=sigma, generator=generator)
    t = t.to(device=x0.device, dtype=time_dtype(x0))
    x1 = draw_noise(x0, generator)
    noisy, target = interpolate(x0, x1, t), velocity(x0, x1)
    return denoising_loss(
        model,
        batch,
        noisy,
        t,
        target,
        name="flow_loss",
        text_dropout=text_dropout,
        mask_ratio=mask_ratio,
        generator=generator,
    )


def denoising_loss(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    noisy: Tensor,
    t: Tensor,
    target: Tensor,
    *,
    name: str,
    text_dropout: float,
    mask_ratio: float,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Mean squared error of the model's output at given noisy images: what every objective shares.

    Args:
        model: called as `model(x, t, text, text_mask)`; with mask_ratio also with `keep`, and it has config.patch_size.
        batch: "text" (B, L, D), "text_mask" bool (B, L) (absent: all True), and with text_dropout the null text as
            "null_text" (L', D) and "null_mask" bool (L',).
        noisy, target: (B, c, H, W).
        t: (B,) in the model's units.
        name: of the metric.
        text_dropout: share of captions replaced by the null text, in [0, 1].
        mask_ratio: share of image tokens left out of the model and of the loss, in [0, 1).
        generator: of dropped captions and masked tokens, in this order.
    Returns:
        the mean over images and elements, and metrics "weight" (images), `name` and, with experts, "aux" (weighted).
    Raises:
        ValueError: a share out of range, no null text to drop captions for, output of the wrong width.
    """
    if not 0 <= text_dropout <= 1:
        raise ValueError(f"text_dropout: got {text_dropout}, need a share in [0, 1]")
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio: got {mask_ratio}, need a share in [0, 1)")
    images, channels = noisy.shape[:2]
    text, text_mask = batch["text"], batch.get("text_mask")
    if text_dropout:
        if "null_text" not in batch:
            raise ValueError(f"batch: no null_text, need one with text_dropout {text_dropout:g}")
        dropped_B = torch.rand(images, generator=generator, device=generator.device) < text_dropout
        text, text_mask = drop_text(text, text_mask, batch["null_text"], batch.get("null_mask"), dropped_B)
    if mask_ratio:
        patch: int = model.config.patch_size  # type: ignore[union-attr, assignment]
        target = patchify(target, patch)
        keep_BK = _kept_tokens(images, target.shape[1], mask_ratio, generator).to(target.device)
        target = target.gather(1, keep_BK[..., None].expand(-1, -1, target.shape[2]))
        out = model(noisy, t, text, text_mask, keep=keep_BK).unflatten(-1, (patch * patch, -1))
        out = without_variance(out, channels, dim=-1).flatten(-2)
    else:
        out = without_variance(model(noisy, t, text, text_mask), channels)
    wide = time_dtype(target)
    error = F.mse_loss(out.to(wide), target.to(wide))
    metrics: Metrics = {"weight": images, name: error.detach()}
    layers = [layer.last.aux_loss for _, layer in moe_layers(model) if layer.last is not None]
    if not layers:
        return error, metrics
    aux = torch.stack(layers).sum()
    return error + aux, metrics | {"aux": aux.detach()}


def drop_text(
    text_BLD: Tensor, mask_BL: Tensor | None, null_text: Tensor, null_mask: Tensor | None, dropped_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Captions with some replaced by the null text; the shorter of the two is lengthened with masked zeros.

    Args:
        text_BLD, mask_BL: states and their mask (None: all True).
        null_text, null_mask: (L', D) and bool (L',).
        dropped_B: bool, which captions go.
    Returns:
        (B, max(L, L'), D) and bool (B, max(L, L')).
    """
    length = max(text_BLD.shape[1], null_text.shape[0])
    text_BLD, mask_BL = lengthened(text_BLD, mask_BL, length)
    null_text, null_mask = lengthened(null_text, null_mask, length)
    dropped_B1 = dropped_B.to(text_BLD.device)[:, None]
    text_BLD = torch.where(dropped_B1[..., None], null_text.to(text_BLD), text_BLD)
    return text_BLD, torch.where(dropped_B1, null_mask.to(mask_BL), mask_BL)


def lengthened(text: Tensor, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """Text states (..., L, D) and their mask bool (..., L) (None: all True), filled up to `length` with masked zeros."""
    if mask is None:
        mask = torch.ones(text.shape[:-1], dtype=torch.bool, device=text.device)
    extra = length - text.shape[-2]
    return F.pad(text, (0, 0, 0, extra)), F.pad(mask, (0, extra))


def without_variance(out: Tensor, channels: int, dim: int = 1) -> Tensor:
    """The model's output without a learned variance, which DiT and PixArt append in as many channels again.

    Raises:
        ValueError: an output with neither `channels` nor twice as many.
    """
    if out.shape[dim] not in (channels, 2 * channels):
        raise ValueError(
            f"model: gave {out.shape[dim]} channels, need {channels} or, with a learned variance, {2 * channels}"
        )
    return out.narrow(dim, 0, channels)


def draw_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1) of the shape, type and device of `like`, drawn in float32 (float64 for float64) where the generator is."""
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=time_dtype(like))
    return noise.to(like)


def time_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 beside float64: 16 bits cannot tell neighbouring steps of a thousand apart."""
    return torch.promote_types(x.dtype, torch.float32)


def _kept_tokens(images: int, tokens: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """A random choice of tokens an image: int64 (B, K), ascending."""
    kept = max(1, round(tokens * (1 - mask_ratio)))
    rank_BS = torch.rand(images, tokens, generator=generator, device=generator.device)
    return rank_BS.argsort(dim=1)[:, :kept].sort(dim=1).values
