"""Where the experts went: maps of experts an image token, their statistics, and pictures of them."""

# Shape legend: N sparse layers, B batch, h x w patches

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.diffusion.transformer import ECDiT
from tenfold.nn.moe import ExpertRouting, Routing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def experts_per_token(routing: Routing, batch: int) -> Tensor:
    """How many experts worked on each token, int64 (batch, tokens); dropped choices do not count."""
    if isinstance(routing, ExpertRouting):
        return routing.experts_per_token.view(batch, -1)
    return routing.keep.sum(-1).view(batch, -1)


@torch.no_grad()
def allocation_map(model: ECDiT, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
    """How many experts each patch of each image gets in each sparse layer.

    Args:
        model: with experts; training or evaluation decides its group size.
        x, t, text, text_mask: as in `ECDiT.forward`.
    Returns:
        int64 (N, B, H / p, W / p).
    Raises:
        ValueError: a model without experts.
    """
    if not model.config.sparse_layers:
        raise ValueError(f"model: got router {model.config.router!r}, need one with experts")
    _, routings = model(x, t, text, text_mask, return_routing=True)
    patch = model.config.patch_size
    maps = torch.stack([experts_per_token(routing, x.shape[0]) for routing in routings])
    return maps.unflatten(-1, (x.shape[2] // patch, x.shape[3] // patch))


def allocation_statistics(maps: Tensor, num_experts: int) -> list[dict[str, float]]:
    """How evenly each layer shares its experts out.

    Args:
        maps: (N, B, h, w) from `allocation_map`.
        num_experts: E.
    Returns:
        for each layer: `mean`, experts a token; `unpicked`, share of tokens without any; `max_share`, the largest share
        of all E experts that one token got (the paper reports up to 0.44); `spread`, standard deviation over mean, of
        the tokens of an image, averaged over images (0 is even).
    """
    tokens = maps.flatten(2).double()
    mean = tokens.mean(-1)
    spread = (tokens.std(-1, correction=0) / mean.clamp_min(1e-12)).mean(-1)
    columns = {
        "mean": mean.mean(-1),
        "unpicked": (tokens == 0).double().mean((1, 2)),
        "max_share": tokens.amax((1, 2)) / num_experts,
        "spread": spread,
    }
    return [{name: float(column[layer]) for name, column in columns.items()} for layer in range(len(maps))]


def heatmap_figure(
    maps: Tensor,
    *,
    images: Tensor | None = None,
    captions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Figure:
    """A row an image, a column a sparse layer, one scale of colours for all.

    Args:
        maps: (N, B, h, w) from `allocation_map`.
        images: (B, 3, H, W) in [-1, 1], drawn in front of the maps; other channel counts have no picture.
        captions: a text a row.
        layers: numbers of the blocks from 0, such as `config.sparse_layers`, shown from 1 as the paper counts; None
            counts the maps.
    Raises:
        ValueError: shapes or lengths that do not fit.
    """
    from matplotlib.figure import Figure  # matplotlib takes a second to import
    from matplotlib.ticker import MaxNLocator

    if maps.ndim != 4 or not maps.numel():
        raise ValueError(f"maps: got shape {tuple(maps.shape)}, need (sparse layers, batch, height, width)")
    depth, batch = maps.shape[:2]
    titles = (
        [f"sparse layer {i + 1}" for i in range(depth)]
        if layers is None
        else [f"block {layer + 1}" for layer in layers]
    )
    if images is not None and (images.ndim != 4 or images.shape[:2] != (batch, 3)):
        raise ValueError(f"images: got shape {tuple(images.shape)}, need ({batch}, 3, height, width)")
    for name, got, need in (("captions", captions, batch), ("layers", titles, depth)):
        if got is not None and len(got) != need:
            raise ValueError(f"{name}: got {len(got)}, need {need}")
    first = 0 if images is None else 1
    tall = max(maps.shape[2] / maps.shape[3], 1.0)  # a row is no lower than its caption is long
    figure = Figure(figsize=(1.7 * (depth + first) + 1, 1.7 * tall * batch + 0.3), layout="constrained")
    axes = figure.subplots(batch, depth + first, squeeze=False)
    highest = max(int(maps.max()), 1)
    for row in range(batch):
        if images is not None:
            pixels = images[row].detach().float().cpu().permute(1, 2, 0)
            axes[row][0].imshow(((pixels + 1) / 2).clamp(0, 1).numpy(), interpolation="nearest")
        for column, title in enumerate(titles):
            shades = axes[row][column + first].imshow(
                maps[column, row].cpu().numpy(), vmin=0, vmax=highest, cmap="magma", interpolation="nearest"
            )
            if row == 0:
                axes[row][column + first].set_title(title, fontsize=9)
        if captions is not None:
            # As text: a caption's dollar sign is no formula.
            axes[row][0].set_ylabel(_wrapped(captions[row]), fontsize=8, parse_math=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(shades, ax=axes, shrink=0.8, ticks=MaxNLocator(integer=True))
    bar.set_label("experts a token")
    return figure


def save_heatmaps(
    maps: Tensor,
    path: str | Path,
    *,
    images: Tensor | None = None,
    captions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> Path:
    """Draw `heatmap_figure` into a PNG file, atomically. Arguments as there. Returns the path."""
    figure = heatmap_figure(maps, images=images, captions=captions, layers=layers)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomic(Path(path), buffer.getvalue())
    return Path(path)


def _wrapped(caption: str) -> str:
    return textwrap.fill(textwrap.shorten(caption, 80, placeholder=" …"), 20)
