"""Learned positions of a grid of patches, brought to another grid."""

# Shape legend: N positions, D width, g rows and columns of a grid

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]


def interpolate_pos_embed(pos: Tensor, old: Grid, new: Grid, antialias: bool = False) -> Tensor:
    """Positions of one grid for another; what stands before the grid's positions, such as a class token's, is kept.

    Args:
        pos: (N, D) or (1, N, D), row-major, N at least rows x columns of `old`.
        old, new: (rows, columns).
        antialias: False is what transformers does, True what open_clip and timm do.
    Returns:
        the same layout for the new grid; `pos` itself where the grids are equal. Computed in float32.
    Raises:
        ValueError: fewer positions than the old grid has, an empty grid.
    Source: MM1, Section 3.3 (positional embedding interpolation).
    """
    if min(*old, *new) < 1:
        raise ValueError(f"grid: got {old} and {new}, need at least 1 row and 1 column")
    cells = old[0] * old[1]
    extra = pos.shape[-2] - cells
    if pos.ndim not in (2, 3) or (pos.ndim == 3 and pos.shape[0] != 1) or extra < 0:
        raise ValueError(f"pos: got shape {tuple(pos.shape)}, need ({cells} or more, width) for a grid of {old}")
    if old == new:
        return pos
    flat = pos.reshape(pos.shape[-2:])
    kept, grid = flat[:extra], flat[extra:]
    image = grid.float().T.reshape(1, -1, *old)
    moved = F.interpolate(image, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    moved = moved.reshape(grid.shape[1], -1).T.to(pos.dtype)
    joined = torch.cat([kept, moved])
    return joined.unsqueeze(0) if pos.ndim == 3 else joined


def square_side(cells: int) -> int:
    """The side of a square grid of so many cells; 0 where there is none."""
    side = round(cells**0.5)
    return side if side * side == cells else 0
