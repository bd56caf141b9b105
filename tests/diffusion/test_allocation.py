"""Maps of experts: their sums, their statistics, their pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.diffusion.allocation import allocation_map, allocation_statistics, heatmap_figure, save_heatmaps
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.transformer import ECDiT

SMALL = ECDiTConfig(image_size=8, patch_size=2, dim=16, num_layers=4, num_heads=2, text_dim=12, num_experts=4)


def inputs(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(3, 3, height, width, generator=generator), torch.randn(3, 5, 12, generator=generator)
    return x, torch.tensor([0.1, 0.5, 1.0]), text


def model(**options: Any) -> ECDiT:
    return ECDiT(replace(SMALL, **options), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("router", ["ec", "random", "race", "tc"])
def test_maps_share_out_the_capacity(router: str) -> None:
    maps = allocation_map(model(router=router), *inputs(12, 4))
    assert maps.shape == (2, 3, 6, 2)
    assert not maps.is_floating_point()
    assert (maps.sum((2, 3)) == 24).all()  # two experts a token, 12 tokens
    assert (maps == 2).all() == (router == "tc")
    assert int(maps.max()) <= 4


def test_maps_are_those_of_the_routing() -> None:
    network = model()
    maps = allocation_map(network, *inputs())
    _, routings = network(*inputs(), return_routing=True)
    for layer, routing in enumerate(routings):
        for image in range(3):
            counts = torch.bincount(routing.index[image].flatten(), minlength=16).view(4, 4)
            assert torch.equal(maps[layer, image], counts)
    dropping = allocation_map(model(router="tc", token_capacity=1.0, group_size=16), *inputs())
    assert (dropping.sum((2, 3)) <= 16).all()
    assert int(dropping.min()) == 0
    with pytest.raises(ValueError, match="model: got router 'dense', need one with experts"):
        allocation_map(model(router="dense"), *inputs())


def test_masked_text_reaches_the_maps() -> None:
    network = model()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([[1], [2], [5]])
    masked, full = allocation_map(network, *inputs(), mask), allocation_map(network, *inputs())
    assert not torch.equal(masked[:, 0], full[:, 0])
    assert torch.equal(masked[:, 2], full[:, 2])


def test_statistics_by_hand() -> None:
    even = torch.full((1, 2, 2), 2)
    uneven = torch.tensor([[[0, 4], [4, 0]], [[2, 2], [2, 2]]])
    first, second = allocation_statistics(torch.stack([even.expand(2, -1, -1), uneven]), 8)
    assert first == {"mean": 2.0, "unpicked": 0.0, "max_share": 0.25, "spread": 0.0}
    assert second == {"mean": 2.0, "unpicked": 0.25, "max_share": 0.5, "spread": 0.5}


def test_pictures(tmp_path: Path) -> None:
    maps = torch.arange(2 * 3 * 16).view(2, 3, 4, 4) % 5
    maps[0] = maps[0].clamp(1, 2)
    images = torch.linspace(-2, 2, 3 * 3 * 64).view(3, 3, 8, 8)
    captions = [r"a $\frac$ and <b>markup</b>", "word " * 100, ""]
    figure = heatmap_figure(maps, images=images, captions=captions, layers=(1, 3))
    axes = figure.axes
    assert [axis.get_title() for axis in axes[:3]] == ["", "block 2", "block 4"]
    assert torch.equal(torch.tensor(axes[2].images[0].get_array().data), maps[1, 0])
    assert all(axis.images[0].get_clim() == (0, 4) for axis in (axes[1], axes[5]))
    assert axes[0].get_ylabel() == "a $\\frac$ and\n<b>markup</b>"
    assert len(axes[3].get_ylabel()) <= 90
    path = save_heatmaps(maps, tmp_path / "heat.png", images=images, captions=captions, layers=(1, 3))
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [child.name for child in tmp_path.iterdir()] == ["heat.png"]
    # Nothing but zeros still has a scale.
    save_heatmaps(torch.zeros(1, 1, 4, 4, dtype=torch.long), tmp_path / "heat.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": torch.zeros(3, 4, 8, 8)}, r"images: got shape \(3, 4, 8, 8\), need \(3, 3, height, width\)"),
        ({"images": torch.zeros(2, 3, 8, 8)}, r"images: got shape \(2, 3, 8, 8\)"),
        ({"captions": ["one"]}, "captions: got 1, need 3"),
        ({"layers": (1,)}, "layers: got 1, need 2"),
    ],
)
def test_bad_pictures(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap_figure(torch.zeros(2, 3, 4, 4), **options)
    with pytest.raises(ValueError, match=r"maps: got shape \(3, 4, 4\)"):
        heatmap_figure(torch.zeros(3, 4, 4))
