"""Connectors: a grid of patch features to a fixed number of tokens of a language model."""

# Shape legend: B pictures, g side of the grid, n patches, D patch width, k tokens, m side of the tokens' grid, M model width

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.config import did_you_mean
from tenfold.nn.attention import Attention
from tenfold.nn.linear import Linear, draw_normal, init_generator
from tenfold.vision.c_abstractor import CAbstractor
from tenfold.vision.positions import Grid, interpolate_pos_embed, square_side
from tenfold.vision.vit import cross_attention

Build = Callable[..., nn.Module]


class AveragePool(nn.Module):
    """Adaptive average pool of g x g to m x m, then one linear layer.

    Source: MM1, Section 3.2 (average pooling).
    """

    def __init__(self, d_in: int, d_out: int, side: int, grid: Grid, generator: torch.Generator) -> None:
        super().__init__()
        self.grid, self.side = grid, side
        self.out = Linear(d_in, d_out, bias=True, generator=generator)

    def forward(self, x_BnD: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, n, D) of a grid to (B, m², M)."""
        x = as_map(x_BnD, grid or self.grid, self.side)
        return self.out(F.adaptive_avg_pool2d(x, self.side).flatten(2).transpose(1, 2))


class AttentionPool(nn.Module):
    """k learned queries attend to normed patches with learned positions; norm; linear.

    Source: MM1, Section 3.2 (attention pooling with k learnable queries; the details are ours).
    """

    def __init__(
        self, d_in: int, d_out: int, side: int, grid: Grid, generator: torch.Generator, *, heads: int | None = None
    ) -> None:
        super().__init__()
        heads = heads or next(h for h in (16, 8, 4, 2, 1) if d_in % h == 0 and (d_in // h >= 16 or h == 1))
        self.grid, self.side = grid, side
        self.queries = nn.Parameter(torch.empty(side * side, d_in))
        self.positions = nn.Parameter(torch.empty(grid[0] * grid[1], d_in))
        draw_normal(self.queries, d_in**-0.5, generator)
        draw_normal(self.positions, 0.02, generator)
        self.norm_in, self.norm_out = nn.LayerNorm(d_in), nn.LayerNorm(d_in)
        self.attn = Attention(d_in, heads, bias=True, causal=False, generator=generator)
        self.out = Linear(d_in, d_out, bias=True, generator=generator)

    def forward(self, x_BnD: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, n, D) of a grid to (B, k, M)."""
        grid = grid or self.grid
        check_grid(x_BnD, grid, self.side)
        keys = self.norm_in(x_BnD + interpolate_pos_embed(self.positions, self.grid, grid))
        queries = self.queries.expand(len(x_BnD), -1, -1)
        return self.out(self.norm_out(cross_attention(self.attn, queries, keys)))


class Mlp(nn.Module):
    """LLaVA-1.5's: linear, GELU, linear on every patch; k = n.

    Source: Liu et al. 2023, arXiv 2310.03744.
    """

    def __init__(self, d_in: int, d_out: int, side: int, grid: Grid, generator: torch.Generator) -> None:
        super().__init__()
        self.grid = grid
        self.linear_1 = Linear(d_in, d_out, bias=True, generator=generator)
        self.linear_2 = Linear(d_out, d_out, bias=True, generator=generator)

    def forward(self, x_BnD: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, n, D) to (B, n, M)."""
        return self.linear_2(F.gelu(self.linear_1(x_BnD)))


class PixelShuffle(nn.Module):
    """r x r neighbouring patches side by side, then one linear layer; k = (g / r)².

    Source: as in Idefics3 and SmolVLM (Laurençon et al. 2024, arXiv 2408.12637).
    """

    def __init__(self, d_in: int, d_out: int, side: int, grid: Grid, generator: torch.Generator) -> None:
        super().__init__()
        if grid[0] != grid[1] or grid[0] % side:
            raise ValueError(f"tokens: got {side}² from a grid of {grid}, need a side that divides the grid's")
        self.grid, self.side, self.factor = grid, side, grid[0] // side
        self.out = Linear(d_in * self.factor**2, d_out, generator=generator)

    def forward(self, x_BnD: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, n, D) of a grid whose sides r divides to (B, n / r², M)."""
        rows, columns = grid or self.grid
        r = self.factor
        if rows * columns != x_BnD.shape[1] or rows % r or columns % r:
            raise ValueError(f"grid: got {rows} x {columns} for {x_BnD.shape[1]} patches, need sides that {r} divides")
        x = x_BnD.view(len(x_BnD), rows // r, r, columns // r, r, -1).permute(0, 1, 3, 2, 4, 5)
        return self.out(x.flatten(3).flatten(1, 2))


CONNECTORS: dict[str, Build] = {
    "avg": AveragePool,
    "attn": AttentionPool,
    "cabs": CAbstractor,
    "mlp": Mlp,
    "pixel_shuffle": PixelShuffle,
}


def build_connector(
    name: str,
    d_in: int,
    d_out: int,
    tokens: int | None,
    grid: int | Grid,
    *,
    generator: torch.Generator | None = None,
    **options: Any,
) -> nn.Module:
    """A connector.

    Args:
        name: "avg", "attn", "cabs" (C-Abstractor, the paper's), "mlp" (LLaVA's) or "pixel_shuffle".
        d_in: D of the picture encoder.
        d_out: M of the language model.
        tokens: k, a square; None, or n, with "mlp".
        grid: g, or (rows, columns), of the patches.
        generator: where the weights are drawn from.
        options: of the connector: `heads` (attn); `depth`, `mlp_depth`, `hidden`, `positions` (cabs).
    Returns:
        a module from (B, n, D) to (B, k, M), which also takes the grid of other rectangles; `.tokens` is k, `.settings` its arguments.
    Raises:
        ValueError: an unknown name, tokens that are no square or more than the grid has a side, sides that do not divide.
    """
    if name not in CONNECTORS:
        raise ValueError(
            f"connector: got {name!r}{did_you_mean(name, list(CONNECTORS))}, need one of {', '.join(CONNECTORS)}"
        )
    shape = (grid, grid) if isinstance(grid, int) else (int(grid[0]), int(grid[1]))
    if min(d_in, d_out, *shape) < 1:
        raise ValueError(f"d_in, d_out, grid: got {d_in}, {d_out}, {shape}, need at least 1")
    patches = shape[0] * shape[1]
    if name == "mlp":
        if tokens not in (None, patches):
            raise ValueError(f"tokens: got {tokens}, need {patches}, one a patch, with connector 'mlp'")
        side = 0
        count = patches
    else:
        side = square_side(tokens or 0)
        if not side:
            raise ValueError(f"tokens: got {tokens}, need a square number (1, 4, 9, 16, …)")
        if side > min(shape):
            raise ValueError(f"tokens: got {side} x {side} from a grid of {shape[0]} x {shape[1]}, need no more than its sides")  # fmt: skip
        count = side * side
    built = CONNECTORS[name](d_in, d_out, side, shape, init_generator(generator), **options)
    built.tokens = count  # type: ignore[assignment]
    built.settings = {"name": name, "d_in": d_in, "d_out": d_out, "tokens": count, "grid": list(shape), **options}  # type: ignore[assignment]
    return built


def as_map(x_BnD: Tensor, grid: Grid, side: int) -> Tensor:
    """(B, n, D) row-major to (B, D, rows, columns)."""
    check_grid(x_BnD, grid, side)
    return x_BnD.transpose(1, 2).unflatten(2, grid)


def check_grid(x_BnD: Tensor, grid: Grid, side: int) -> None:
    """Refuse features that are not of this grid, or a grid that is smaller than the tokens'."""
    if x_BnD.ndim != 3 or x_BnD.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"x: got shape {tuple(x_BnD.shape)}, need (pictures, {grid[0]} x {grid[1]} patches, width)")
    if side > min(grid):
        raise ValueError(f"grid: got {grid[0]} x {grid[1]}, need at least {side} a side (tokens)")
