"""Connectors: published sizes, laws of pooling, refusals."""

from __future__ import annotations

import pytest
import torch

from tenfold.vision.c_abstractor import CAbstractor
from tenfold.vision.connectors import CONNECTORS, AveragePool, PixelShuffle, build_connector


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("shape", "parameters"), [((1024, 4096, 576, 24), 37_398_016), ((1280, 3072, 729, 27), 31_056_704)]
)
def test_c_abstractor_has_honeybees_size(shape: tuple[int, int, int, int], parameters: int) -> None:
    d_in, d_out, patches, grid = shape
    with torch.device("meta"):
        model = build_connector("cabs", d_in, d_out, 144, grid)
    assert isinstance(model, CAbstractor) and model.positions is not None
    assert count(model) == parameters
    assert model.positions.numel() == patches * d_in
    if d_in == 1024:
        assert model.stage1 is not None and count(model.stage1) == 7_914_240 and count(model.head) == 20_979_712


@pytest.mark.parametrize("name", list(CONNECTORS))
def test_every_connector_gives_k_tokens(name: str, generator: torch.Generator) -> None:
    tokens = 36 if name == "mlp" else 9
    options = {"hidden": 8, "depth": 1} if name == "cabs" else {}
    model = build_connector(name, 16, 10, tokens, 6, generator=generator, **options)
    assert model.tokens == tokens and model(torch.randn(2, 36, 16)).shape == (2, tokens, 10)
    assert model.tokens == build_connector(name, 16, 10, tokens, (6, 6), **options).tokens


def test_average_of_a_constant_grid_is_the_linear_layer_of_the_constant(generator: torch.Generator) -> None:
    model = build_connector("avg", 5, 7, 4, 3, generator=generator)
    assert isinstance(model, AveragePool)
    x = torch.randn(5, generator=generator)
    torch.testing.assert_close(model(x.expand(1, 9, 5)), model.out(x).expand(1, 4, 7))


def test_pooling_bins_overlap_where_the_grid_does_not_divide(generator: torch.Generator) -> None:
    model = build_connector("avg", 1, 1, 144, 27, generator=generator)
    with torch.no_grad():
        model.out.weight.fill_(1), model.out.bias.fill_(0)
    rows = torch.arange(27.0).repeat_interleave(27).view(1, 729, 1)
    pooled = model(rows).view(12, 12)[:, 0]
    # Cell i covers rows floor(27 i / 12) to ceil(27 (i + 1) / 12) - 1.
    bins = [(27 * i // 12, -(-27 * (i + 1) // 12)) for i in range(12)]
    assert bins[:5] == [(0, 3), (2, 5), (4, 7), (6, 9), (9, 12)]
    assert pooled.tolist() == pytest.approx([(a + b - 1) / 2 for a, b in bins])


def test_pixel_shuffle_keeps_neighbours_together() -> None:
    model = build_connector("pixel_shuffle", 1, 4, 4, 4)
    assert isinstance(model, PixelShuffle)
    with torch.no_grad():
        model.out.weight.copy_(torch.eye(4))
    out = model(torch.arange(16.0).view(1, 16, 1))
    assert out[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("name", ["avg", "attn", "cabs", "pixel_shuffle"])
def test_rectangles(name: str) -> None:
    model = build_connector(name, 4, 6, 4, 4, **({"hidden": 4, "depth": 1} if name == "cabs" else {}))
    x = torch.randn(1, 24, 4)
    out = model(x, grid=(4, 6))
    assert out.shape == (1, 6 if name == "pixel_shuffle" else 4, 6)


def test_features_are_not_changed_in_place() -> None:
    model = build_connector("cabs", 4, 6, 4, 4, hidden=4, depth=0)
    x = torch.randn(1, 16, 4)
    before = x.clone()
    model(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cabz", 4, 4, 4, 4), "did you mean cabs"),
        (("avg", 4, 4, 5, 4), "square number"),
        (("avg", 4, 4, 25, 4), "5 x 5 from a grid of 4 x 4"),
        (("pixel_shuffle", 4, 4, 9, 4), "divides the grid"),
        (("mlp", 4, 4, 9, 4), "need 16, one a patch"),
    ],
)
def test_shapes_that_cannot_be_are_refused(arguments: tuple[str, int, int, int, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_connector(*arguments)
