"""Looked-up layers against dense ones of the same numbers: values, gradients, shared tables, bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tenfold.compress.activations import round_activations
from tenfold.compress.bit_packing import WIDTHS
from tenfold.compress.palette_linear import (
    Int8Embedding,
    Int8Linear,
    PaletteLinear,
    fit_palettes,
    stored_bits,
)
from tenfold.nn.linear import Linear


def layer(inputs: int = 21, outputs: int = 40, seed: int = 0) -> Linear:
    return Linear(inputs, outputs, generator=torch.Generator().manual_seed(seed))


def made(dense: Linear, **fields: Any) -> PaletteLinear:
    return PaletteLinear.from_linear(dense, **({"bits": 4, "group": 16, "axis": 0} | fields))


X = torch.randn(2, 7, 21, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", WIDTHS)
def test_forward_is_that_of_the_dense_matrix(bits: int, axis: int) -> None:
    palettes = made(layer(), bits=bits, axis=axis, bins=None if bits < 8 else 512)
    torch.testing.assert_close(palettes(X), F.linear(X, palettes.weight), rtol=1e-5, atol=1e-5)
    assert palettes.weight.shape == (40, 21) and palettes.packed.dtype == torch.uint8


@pytest.mark.parametrize(("axis", "group"), [(0, 16), (1, 16), (0, 40), (0, 1), (1, 9)])
def test_a_group_shares_its_few_values_and_the_last_may_be_smaller(axis: int, group: int) -> None:
    dense = made(layer(), bits=2, axis=axis, group=group).dense()
    lines = dense if axis == 0 else dense.T
    assert len(lines) % 16 or group == 40
    for start in range(0, len(lines), group):
        assert len(lines[start : start + group].unique()) <= 4
    assert len(dense.unique()) > 4 or group == 40


@pytest.mark.parametrize("axis", [0, 1])
def test_each_weight_has_the_nearest_value_of_its_table(axis: int) -> None:
    weight = layer().weight
    tables, index = fit_palettes(weight, 3, 16, axis)
    lines, at = (weight, index) if axis == 0 else (weight.T, index.T)
    for i, row in enumerate(lines):
        distances = (row.unsqueeze(1) - tables[i // 16]).abs()
        torch.testing.assert_close(distances.gather(1, at[i].unsqueeze(1)).squeeze(1), distances.amin(1))


def test_the_least_squared_error_and_how_much_rounding_to_nearest_adds() -> None:
    dense = layer(64, 64)
    error = {
        name: float((made(dense, **how).dense() - dense.weight.detach()).square().sum())
        for name, how in {"exact": {}, "binned": {"bins": 4096}, "uniform": {"method": "uniform"}}.items()
    }
    assert error["exact"] <= error["binned"] * (1 + 1e-4) <= error["exact"] * 1.003
    assert error["uniform"] > 1.7 * error["exact"]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [0, 8, 21, 64])
def test_scales_make_up_for_lines_of_different_size(axis: int, block: int) -> None:
    dense = layer()
    sizes = torch.logspace(-2, 1, 40 if axis == 0 else 21)
    dense.weight.data *= sizes.unsqueeze(1 - axis)
    plain, scaled = (made(dense, axis=axis, bits=3, block=each).dense() for each in (None, block))
    error, before = (
        (each - dense.weight).square().sum(axis * -1 + 1) / dense.weight.square().sum(axis * -1 + 1)
        for each in (scaled, plain)
    )
    assert error.max() < 0.15 and before.max() > 0.5
    torch.testing.assert_close(
        made(dense, axis=axis, block=block)(X), F.linear(X, made(dense, axis=axis, block=block).weight)
    )


def test_a_block_of_zeros_stays_zero() -> None:
    dense = layer()
    dense.weight.data[3, 8:16] = 0
    assert not made(dense, block=8).dense()[3, 8:16].any()


def test_errors_count_by_the_importance_of_their_input() -> None:
    dense, importance = layer(), torch.logspace(-3, 3, 21)
    plain, weighed = made(dense, bits=2), made(dense, bits=2, importance=importance)
    cost = [float(((each.dense() - dense.weight.detach()).square() * importance).sum()) for each in (weighed, plain)]
    assert cost[0] < 0.85 * cost[1]
    same = made(dense, bits=2, importance=torch.full((21,), 3.0))
    assert torch.equal(same.dense(), plain.dense())
    assert bool(made(dense, bits=2, importance=torch.zeros(21)).dense().isfinite().all())


def test_uniform_is_rounding_to_the_nearest_step() -> None:
    weight = torch.tensor([[-1.0, -0.2, 0.4, 2.0], [0.0, 0.6, 1.4, -0.4]])
    tables, index = fit_palettes(weight, 2, 2, 0, method="uniform")
    assert tables.tolist() == [[-1.0, 0.0, 1.0, 2.0]] and index.tolist() == [[0, 1, 1, 3], [1, 2, 2, 1]]
    flat, at = fit_palettes(torch.full((3, 4), 7.0), 4, 2, 0, method="uniform")  # constant groups
    assert (flat == 7).all() and (at == 0).all()


def test_gradient_of_the_input_is_the_dense_one_and_the_weights_have_none() -> None:
    palettes = made(layer())
    x, upstream = X.clone().requires_grad_(), torch.randn(2, 7, 40)
    palettes(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ palettes.weight)
    assert not list(palettes.parameters())


def test_the_graph_does_not_keep_the_matrix() -> None:
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        return tensor

    palettes = made(layer())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        palettes(X.clone().requires_grad_())
    assert not held


def test_autocast_and_other_types() -> None:
    palettes = made(layer())
    x = X.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = palettes(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), palettes(X), rtol=0.02, atol=0.02)
    wide = made(layer()).double()
    torch.testing.assert_close(wide(X.double()), F.linear(X.double(), palettes.dense().double()))
    assert wide.packed.dtype == torch.uint8


def test_tables_are_numbers_of_sixteen_bits() -> None:
    palettes = made(layer())
    assert torch.equal(palettes.tables.half().float(), palettes.tables)
    large = layer()
    large.weight.data.mul_(1e6)
    with pytest.raises(ValueError, match="65504"):
        made(large)
    with pytest.raises(ValueError, match="without"):
        made(Linear(4, 4, bias=True))


def test_rounded_inputs() -> None:
    palettes, rounding = made(layer()), made(layer(), activation_bits=8)
    torch.testing.assert_close(rounding(X), palettes(round_activations(X)))
    assert not torch.equal(rounding(X), palettes(X))


@pytest.mark.parametrize(("bits", "axis"), [(4, 0), (3, 1), (2, 0)])
def test_stored_bits_are_those_of_the_buffers(bits: int, axis: int) -> None:
    palettes = made(layer(), bits=bits, axis=axis)
    held = 8 * palettes.packed.numel() + 16 * palettes.tables.numel()
    assert stored_bits(40, 21, bits, 16, axis) == held
    scaled = made(layer(), bits=bits, axis=axis, block=8)
    assert scaled.scales is not None
    assert stored_bits(40, 21, bits, 16, axis, 8) == held + 16 * scaled.scales.kept.numel()
    ranged = made(layer(), bits=bits, axis=axis, block=8, block_bits=6, offsets=True)
    assert ranged.scales is not None and ranged.offsets is not None
    more = sum(8 * part.packed.numel() + 16 * part.line_steps.numel() for part in (ranged.scales, ranged.offsets))
    assert stored_bits(40, 21, bits, 16, axis, 8, 6, True) == held + more


@pytest.mark.parametrize("axis", [0, 1])
def test_offsets_meet_weights_that_stand_on_ranges_of_blocks(axis: int) -> None:
    """Weights of 16 equal steps in every block, from any lowest to any highest value: only the 6 bits of both are lost."""
    g = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 16, (32, 8, 16), generator=g)
    codes[..., 0], codes[..., 1] = 0, 15
    low, step = torch.randn(32, 8, 1, generator=g), 0.05 + 0.1 * torch.rand(32, 8, 1, generator=g)
    lines = (low + step * codes).flatten(1)
    source = layer(lines.shape[1], 32) if axis == 0 else layer(32, lines.shape[1])
    source.weight.data = lines if axis == 0 else lines.T.contiguous()
    one, fine, coarse, none = (
        made(source, group=32, axis=axis, block=16, **how)
        for how in ({"offsets": True}, {"offsets": True, "block_bits": 8}, {"offsets": True, "block_bits": 4}, {})
    )
    errors = [float((kind.dense() - source.weight).square().mean().sqrt()) for kind in (one, fine, coarse, none)]
    assert errors[0] < 2e-3 < errors[1] < errors[2] < errors[3] and errors[1] < 0.02
    assert torch.equal(one.scales.values().half().float(), one.scales.values())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="need blocks"):
        PaletteLinear(4, 4, bits=4, group=4, axis=0, offsets=True)


def test_bytes_of_embedding_and_output_layer() -> None:
    embedding = nn.Embedding(30, 12)
    embedding.weight.data[3] = 0
    small = Int8Embedding.from_embedding(embedding)
    step = embedding.weight.abs().amax(1, keepdim=True) / 127
    assert ((small.weight - embedding.weight).abs() <= 0.5001 * step).all()
    ids = torch.tensor([[3, 29, 0], [1, 1, 2]])
    assert torch.equal(small(ids), small.weight[ids]) and (small.weight[3] == 0).all()
    assert isinstance(small.weight, nn.Parameter) and not small.weight.requires_grad and not list(small.parameters())
    head = Int8Linear.from_linear(layer(12, 30))
    x = torch.randn(2, 12)
    torch.testing.assert_close(head(x), F.linear(x, head.weight))
