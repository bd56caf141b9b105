"""Denoising diffusion with a predicted noise: the objective of DiT and PixArt weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from tenfold.diffusion.flow import Metrics, denoising_loss, draw_noise, time_dtype


@dataclass(frozen=True)
class Schedule:
    """Noise variances β that grow linearly over the steps 0..steps − 1.

    Args:
        steps: T.
        beta_start, beta_end: β of the first and the last step, in (0, 1).
    Raises:
        ValueError: a field out of range.
    Source: Ho et al. 2020, arXiv 2006.11239, Section 4.
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: got {self.steps}, need at least 1")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: got {self.beta_start}, {self.beta_end}, need 0 < beta_start <= beta_end < 1"
            )

    @cached_property
    def alpha_bar(self) -> Tensor:
        """ᾱ_t = Π_{s ≤ t} (1 − β_s), the share of the data's variance left at step t: (steps,) float64 on the CPU."""
        betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        return (1 - betas).cumprod(0)

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε (Ho et al., Eq. 4).

        Args:
            x0, noise: (B, ...).
            t: integers (B,) in 0..steps − 1.
        Raises:
            ValueError: shapes that do not fit, a step out of range, steps that are no integers.
        """
        if noise.shape != x0.shape:
            raise ValueError(f"noise: got shape {tuple(noise.shape)}, need that of x0, {tuple(x0.shape)}")
        if t.shape != x0.shape[:1] or t.is_floating_point():
            raise ValueError(f"t: got {t.dtype} {tuple(t.shape)}, need integers ({len(x0)},), one step an image")
        if t.is_cpu and t.numel() and not 0 <= int(t.min()) <= int(t.max()) < self.steps:
            raise ValueError(f"t: got values from {int(t.min())} to {int(t.max())}, need 0..{self.steps - 1}")
        alpha_bar = self.alpha_bar.to(t.device)[t].view(-1, *[1] * (x0.ndim - 1))
        return alpha_bar.sqrt().to(x0) * x0 + (1 - alpha_bar).sqrt().to(x0) * noise


LINEAR = Schedule()


def ddpm_loss(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    schedule: Schedule = LINEAR,
    text_dropout: float = 0.1,
    mask_ratio: float = 0.0,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Mean squared error of the predicted noise at uniform steps, plus the load-balance loss of token-choice experts.

    Args:
        model: called as `model(x, t, text, text_mask)` with t the step's number; a learned variance is left out.
        batch, text_dropout, mask_ratio: as in `flow.denoising_loss`.
        schedule: of the noise.
        generator: of steps, noise, dropped captions and masked tokens, in this order.
    Returns:
        the loss, and metrics "weight" (images), "ddpm_loss" and, with experts, "aux".
    Source: Ho et al. 2020, Eq. 14.
    """
    x0 = batch["image"]
    t = torch.randint(schedule.steps, (len(x0),), generator=generator, device=generator.device).to(x0.device)
    noise = draw_noise(x0, generator)
    return denoising_loss(
        model,
        batch,
        schedule.noised(x0, noise, t),
        t.to(time_dtype(x0)),
        noise,
        name="ddpm_loss",
        text_dropout=text_dropout,
        mask_ratio=mask_ratio,
        generator=generator,
    )
