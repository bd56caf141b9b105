"""C-Abstractor: convolutions around a pool, which keep where things stand."""

# Shape legend: B pictures, n patches, D patch width, C hidden width, M model width, m side of the tokens' grid

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.linear import Linear, draw_normal
from tenfold.vision.positions import Grid, interpolate_pos_embed


class Conv(nn.Module):
    """A convolution that keeps the size, drawn N(0, 1/fan_in)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        generator: torch.Generator,
        *,
        bias: bool = False,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.groups = inputs if depthwise else 1
        self.weight = nn.Parameter(torch.empty(outputs, inputs // self.groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        draw_normal(self.weight, self.weight[0].numel() ** -0.5, generator)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1:  # a matrix product: far ahead of the convolution on a CPU
            y = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return y.permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2, groups=self.groups)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels at every pixel, eps 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-5)
        return normed.permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that sees their means; its inner width comes from the block's input."""

    def __init__(self, channels: int, block_input: int, generator: torch.Generator) -> None:
        super().__init__()
        inner = max(1, round(block_input * 0.25))
        self.down = Conv(channels, inner, 1, generator, bias=True)
        self.up = Conv(inner, channels, 1, generator, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class RegBlock(nn.Module):
    """RegNet's bottleneck with group size 1 and ratio 1."""

    def __init__(self, inputs: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1, self.norm1 = Conv(inputs, channels, 1, generator), ChannelNorm(channels)
        self.conv2, self.norm2 = Conv(channels, channels, 3, generator, depthwise=True), ChannelNorm(channels)
        self.gate = SqueezeExcite(channels, inputs, generator)
        self.conv3, self.norm3 = Conv(channels, channels, 1, generator), ChannelNorm(channels)
        self.shortcut = None if inputs == channels else Conv(inputs, channels, 1, generator)
        self.shortcut_norm = None if inputs == channels else ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        y = self.gate(F.silu(self.norm2(self.conv2(y))))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return F.silu(x + y)


def reg_stage(depth: int, inputs: int, channels: int, generator: torch.Generator) -> nn.Sequential:
    """`depth` blocks; the first goes from `inputs` to `channels`."""
    return nn.Sequential(*(RegBlock(channels if i else inputs, channels, generator) for i in range(depth)))


class CAbstractor(nn.Module):
    """Positions, a stage of convolutions, a pool to m x m, a stage, and a feed-forward head.

    Args:
        d_in, d_out: D and M.
        side: m.
        grid: of the patches.
        generator: where the weights are drawn from.
        depth: blocks of each stage; 0 leaves pool and head alone.
        mlp_depth: linear layers of the head.
        hidden: C; None is 1024.
        positions: learned, added to the patches.
    Source: Cha et al. 2023 (Honeybee), arXiv 2312.06742, and its code.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        side: int,
        grid: Grid,
        generator: torch.Generator,
        *,
        depth: int = 3,
        mlp_depth: int = 2,
        hidden: int = 1024,
        positions: bool = True,
    ) -> None:
        super().__init__()
        if depth < 0 or mlp_depth < 1 or hidden < 1:
            raise ValueError(f"depth, mlp_depth, hidden: got {depth}, {mlp_depth}, {hidden}, need at least 0, 1 and 1")
        self.grid, self.side = grid, side
        self.positions = nn.Parameter(torch.empty(1, grid[0] * grid[1], d_in)) if positions else None
        if self.positions is not None and not self.positions.is_meta:
            nn.init.trunc_normal_(self.positions, std=0.02, generator=generator)
        self.stage1 = reg_stage(depth, d_in, hidden, generator) if depth else None
        self.stage2 = reg_stage(depth, hidden, hidden, generator) if depth else None
        width = hidden if depth else d_in
        self.head = nn.ModuleList(
            Linear(d_out if i else width, d_out, bias=True, generator=generator) for i in range(mlp_depth)
        )

    def forward(self, x_BnD: Tensor, grid: Grid | None = None) -> Tensor:
        """(B, n, D) of a grid to (B, m², M)."""
        grid = grid or self.grid
        if x_BnD.shape[1] != grid[0] * grid[1] or self.side > min(grid):
            raise ValueError(
                f"x: got {x_BnD.shape[1]} patches, need {grid[0]} x {grid[1]}, at least {self.side} a side"
            )
        if self.positions is not None:  # never in place: the features may be kept for later
            x_BnD = x_BnD + interpolate_pos_embed(self.positions, self.grid, grid)
        x = x_BnD.transpose(1, 2).unflatten(2, grid)
        x = x if self.stage1 is None else self.stage1(x)
        x = F.adaptive_avg_pool2d(x, self.side)
        x = x if self.stage2 is None else self.stage2(x)
        y = x.flatten(2).transpose(1, 2)
        for i, layer in enumerate(self.head):
            y = layer(F.silu(y) if i else y)
        return y
