"""Patches, positions and times."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.diffusion.embed import patchify, plane_positions, time_features, unpatchify


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_patches_go_back(batch: int, channels: int, h: int, w: int, p: int) -> None:
    x = torch.randn(batch, channels, h * p, w * p, generator=torch.Generator().manual_seed(0))
    tokens = patchify(x, p)
    assert tokens.shape == (batch, h * w, p * p * channels)
    assert torch.equal(unpatchify(tokens, p, (h, w)), x)


def test_order_of_patches_by_hand() -> None:
    row = torch.arange(4.0)[:, None].expand(4, 6)
    column = torch.arange(6.0).expand(4, 6)
    tokens = patchify(torch.stack([row, column])[None], 2)
    # Token 4 is the second of the second row of three patches; rows, columns, then channels within.
    assert tokens[0, 4].tolist() == [2, 2, 2, 3, 3, 2, 3, 3]
    # A strided view is cut as its copy is.
    flipped = torch.stack([row, column])[None].transpose(2, 3)
    assert torch.equal(patchify(flipped, 2), patchify(flipped.contiguous(), 2))


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [(10, 8, "height 10, need a multiple of patch_size = 4"), (8, 9, "width 9"), (0, 8, "height 0")],
)
def test_sides_that_do_not_divide(height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"image: got {message}"):
        patchify(torch.zeros(1, 3, height, width), 4)


def test_positions_by_hand() -> None:
    table = plane_positions((2, 3), 8, base_size=6).view(2, 3, 8)
    # Three columns span 6 units in steps of 2, two rows in steps of 3; frequencies 1 and 1/100.
    want = [math.sin(4), math.sin(0.04), math.cos(4), math.cos(0.04), math.sin(3), math.sin(0.03), math.cos(3)]
    assert table[1, 2, :7].tolist() == pytest.approx(want, abs=1e-6)
    assert table[0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_another_resolution_spans_the_same_plane() -> None:
    coarse = plane_positions((4, 4), 16, base_size=4).view(4, 4, 16)
    fine = plane_positions((8, 8), 16, base_size=4).view(8, 8, 16)
    assert torch.allclose(fine[::2, ::2], coarse)
    halved = plane_positions((4, 4), 16, base_size=4, scale=2.0)
    assert torch.allclose(halved, plane_positions((4, 4), 16, base_size=2))


def test_times_by_hand() -> None:
    features = time_features(torch.tensor([0.0, 500.0]), 6)
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0]
    angles = [500 * 10_000 ** (-i / 3) for i in range(3)]
    assert features[1].tolist() == pytest.approx([f(a) for f in (math.cos, math.sin) for a in angles], abs=1e-4)
    assert time_features(torch.tensor([3]), 4).dtype == torch.float32
