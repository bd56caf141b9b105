"""Images to patch tokens and back, positions in the plane, and times as sinusoids."""

# Shape legend: B batch, c channels, H x W pixels or latent cells, p patch side, h x w patches, S = h·w tokens, D width

from __future__ import annotations

import math

import torch
from torch import Tensor


def patchify(x_BcHW: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches, in row-major order.

    Args:
        x_BcHW: images; H and W multiples of the patch's side.
        patch_size: p.
    Returns:
        (B, S, p·p·c), inside a patch row by row with channels last.
    Raises:
        ValueError: a side that is no multiple of p.
    """
    height, width = x_BcHW.shape[-2:]
    for name, side in (("height", height), ("width", width)):
        if side % patch_size or not side:
            raise ValueError(f"image: got {name} {side}, need a multiple of patch_size = {patch_size}")
    x = x_BcHW.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # B c h p w p
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 5).flatten(1, 2)


def unpatchify(tokens_BSP: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify`.

    Args:
        tokens_BSP: (B, h·w, p·p·c).
        patch_size: p.
        grid: (h, w).
    Returns:
        (B, c, h·p, w·p).
    """
    x = tokens_BSP.unflatten(-1, (patch_size, patch_size, -1)).unflatten(1, grid)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def plane_positions(
    grid: tuple[int, int],
    dim: int,
    *,
    base_size: int,
    scale: float = 1.0,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fixed sine-cosine features of every patch: the first half for its column, the second for its row.

    Coordinates run from 0 to base_size / scale whatever the grid, so another resolution sees the same plane.

    Args:
        grid: (h, w) patches.
        dim: D, a multiple of 4.
        base_size: patches a side of the training image.
        scale: divisor of the coordinates.
        device, dtype: of the answer; the angles are computed in float64.
    Returns:
        (h·w, D).
    Source: PixArt-α (arXiv 2310.00426); Vaswani et al. 2017, Section 3.5, once for each axis.
    """
    frequency = 10_000 ** -(torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim // 4))

    def axis(patches: int) -> Tensor:
        place = torch.arange(patches, dtype=torch.float64, device=device) * (base_size / patches / scale)
        angle = place[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)

    height, width = grid
    column = axis(width)[None, :].expand(height, -1, -1)
    row = axis(height)[:, None].expand(-1, width, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)


def time_features(steps_B: Tensor, width: int = 256) -> Tensor:
    """Cosines, then sines, of the time at geometric frequencies 1 … 1/10000.

    Args:
        steps_B: times in steps, 0..1000.
        width: of the answer, even.
    Returns:
        (B, width), in at least float32.
    """
    dtype = torch.promote_types(steps_B.dtype, torch.float32)
    frequency = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=steps_B.device, dtype=dtype) * 2 / width)
    angle = steps_B.to(dtype)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
