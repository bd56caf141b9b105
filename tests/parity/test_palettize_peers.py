"""Our clusters beside the package kmeans1d, our palettes beside coremltools'."""

from __future__ import annotations

import logging

import kmeans1d
import numpy as np
import pytest
import torch
from torch import nn

from tenfold.compress.kmeans1d import kmeans_1d
from tenfold.compress.palette_linear import fit_palettes


def vector(seed: int) -> tuple[torch.Tensor, int]:
    """Of many lengths and laws: with ties, with fewer values than clusters, constant."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 400)), int(rng.integers(1, 20))
    x = [
        lambda: rng.standard_normal(n),
        lambda: rng.standard_t(3, n),
        lambda: rng.integers(0, 12, n).astype(float),
        lambda: np.full(n, rng.standard_normal()),
        lambda: np.round(rng.laplace(size=n), 1),
    ][seed % 5]()
    return torch.from_numpy(x), min(k, n)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_cost_is_that_of_kmeans1d(first: int) -> None:
    for seed in range(first, first + 20):
        x, k = vector(seed)
        centroids, index = kmeans_1d(x, k)
        clusters, their_centroids = kmeans1d.cluster(x.tolist(), k)
        theirs = torch.tensor(their_centroids, dtype=torch.float64)[torch.tensor(clusters)]
        ours = float((x - centroids[index]).square().sum())
        # Theirs sums a constant vector to rounding noise, where ours is exact.
        noise = 1e-25 * len(x) * float(x.abs().max() ** 2)
        assert ours == pytest.approx(float((x - theirs).square().sum()), rel=1e-9, abs=noise), seed


@pytest.mark.parametrize(("bits", "axis"), [(4, 0), (2, 0), (4, 1)])
def test_reconstruction_is_that_of_coremltools(bits: int, axis: int) -> None:
    logging.disable(logging.WARNING)  # it says at length which of Apple's libraries are not there
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    logging.disable(logging.NOTSET)
    layer = nn.Linear(128, 64, bias=False)
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    layer.weight.data.copy_(weight)
    options = {
        "n_bits": bits,
        "granularity": "per_grouped_channel",
        "group_size": 16,
        "channel_axis": axis,
        "enable_fast_kmeans_mode": False,  # the other mode rounds the weights first
    }
    config = PostTrainingPalettizerConfig.from_dict({"global_config": options})
    theirs = PostTrainingPalettizer(nn.Sequential(layer), config).compress(num_kmeans_workers=1)[0].weight
    tables, index = fit_palettes(weight, bits, 16, axis)
    group = torch.arange(weight.shape[axis]) // 16
    ours = tables[group.unsqueeze(1 - axis), index]
    assert (ours - theirs).abs().max() <= 1e-6
