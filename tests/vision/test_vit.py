"""The picture encoder: shapes, layers, positions, refusals."""

from __future__ import annotations

import pytest
import torch

from tenfold.vision.positions import interpolate_pos_embed
from tenfold.vision.vit import ViT, ViTConfig


@pytest.fixture
def model(generator: torch.Generator) -> ViT:
    return ViT(ViTConfig(image_size=24, dim=16, heads=2, mlp=32, layers=3), generator)


def test_presets_are_the_published_sizes() -> None:
    large, huge = ViTConfig("vit-l-14"), ViTConfig("vit-h-14-378")
    assert (large.layers, large.dim, large.heads, large.mlp, large.embed_dim, large.patches) == (24, 1024, 16, 4096, 768, 256)  # fmt: skip
    assert (huge.dim // huge.heads, huge.layers, huge.patches, huge.act) == (80, 32, 729, "quick_gelu")
    with torch.device("meta"):
        assert sum(weight.numel() for weight in ViT(large).parameters()) == 303_179_776
    assert ViTConfig("siglip-so400m-14-384").patches == 729


def test_features_have_no_class_token_and_no_last_norm(model: ViT) -> None:
    pixels = torch.randn(2, 3, 24, 24)
    assert model(pixels).shape == (2, 9, 16)
    assert torch.equal(model(pixels), model.hidden_states(pixels)[:, 1:])
    assert torch.equal(model(pixels, -2), model(pixels, 2))
    assert not torch.allclose(model(pixels, -1), model(pixels, -2))
    assert torch.equal(model.pooled(pixels), model.post_norm(model.hidden_states(pixels)[:, 0]))


def test_rectangles_and_other_sides_take_interpolated_positions(model: ViT) -> None:
    assert model(torch.randn(1, 3, 16, 40)).shape == (1, 10, 16)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (torch.zeros(1, 3, 25, 24), "multiples of patch_size"),
        (torch.zeros(1, 1, 24, 24), r"\(pictures, 3, height, width\)"),
        (torch.full((2, 3, 24, 24), torch.nan), "picture 0 holds values that are not finite"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(model: ViT, pixels: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model(pixels)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of patch_size"):
        ViTConfig(image_size=33)
    with pytest.raises(ValueError, match="did you mean vit-l-14"):
        ViTConfig("vit-l14")
    with pytest.raises(ValueError, match="feature_layer"):
        ViT(ViTConfig())(torch.zeros(1, 3, 32, 32), -4)


def test_the_same_grid_is_left_bit_exact(generator: torch.Generator) -> None:
    pos = torch.randn(17, 6, generator=generator)
    assert interpolate_pos_embed(pos, (4, 4), (4, 4)) is pos
    moved = interpolate_pos_embed(pos, (4, 4), (3, 5))
    assert moved.shape == (16, 6) and torch.equal(moved[0], pos[0])
    assert torch.allclose(interpolate_pos_embed(torch.full((16, 2), 0.7), (4, 4), (9, 2)), torch.tensor(0.7))
    with pytest.raises(ValueError, match="16 or more"):
        interpolate_pos_embed(pos[:3], (4, 4), (2, 2))
