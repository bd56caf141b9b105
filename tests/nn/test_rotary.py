"""Rotary positions: the rotation, its gradient, its two layouts."""

from __future__ import annotations

import math

import pytest
import torch

from tenfold.nn.rotary import (
    Rotary,
    apply_rotary,
    half_to_interleaved,
    interleaved_to_half,
    rope_base_for_length,
)


def test_gold_values() -> None:
    # d = 2: one pair, angle = position.
    x = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    y = apply_rotary(x, *Rotary(2).table(2, x.device, x.dtype))
    expected = torch.tensor([[[[1.0, 0.0], [math.cos(1), math.sin(1)]]]])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_complex_multiplication(layout: str, generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator)
    rotary = Rotary(8, base=100.0)
    y = apply_rotary(x, *rotary.table(5, x.device, x.dtype), layout)
    angle = torch.outer(torch.arange(5.0, dtype=torch.float64), 100.0 ** -(torch.arange(0, 8, 2).double() / 8))
    turn = torch.polar(torch.ones_like(angle), angle)
    if layout == "half":
        z = torch.complex(x[..., :4], x[..., 4:]) * turn
        expected = torch.cat([z.real, z.imag], -1)
    else:
        expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turn).flatten(-2)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_gradient(layout: str, generator: torch.Generator) -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    table = Rotary(4, base=10.0).table(3, x.device, x.dtype)
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, *table, layout), (x,))
    assert torch.autograd.gradgradcheck(lambda x: apply_rotary(x, *table, layout), (x,))


def test_dot_products_depend_on_the_distance_only(generator: torch.Generator) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=generator)
    rotary = Rotary(16)

    def product(i: int, j: int) -> torch.Tensor:
        at = [rotary.at(torch.tensor([p]), 100, torch.float64) for p in (i, j)]
        return (apply_rotary(q, *at[0]) * apply_rotary(k, *at[1])).sum()

    torch.testing.assert_close(product(5, 2), product(93, 90), rtol=1e-12, atol=1e-12)


def test_positions_pick_rows_of_the_table() -> None:
    rotary = Rotary(8)
    positions = torch.tensor([[3, 0], [7, 7]])
    cos, sin = rotary.table(10, positions.device, torch.float32)
    at_cos, at_sin = rotary.at(positions, 10, torch.float32)
    assert at_cos.shape == (2, 1, 2, 4)
    assert torch.equal(at_cos[:, 0], cos[positions])
    assert torch.equal(at_sin[:, 0], sin[positions])


def test_table_grows_and_keeps_its_values() -> None:
    rotary, cpu = Rotary(8), torch.device("cpu")
    short = rotary.table(5, cpu, torch.float32)[0].clone()
    long = rotary.table(500, cpu, torch.float32)[0]
    assert long.shape == (500, 4)
    assert torch.equal(long[:5], short)


def test_layouts_differ_by_a_permutation_of_rows(generator: torch.Generator) -> None:
    heads, d = 3, 8
    w = torch.randn(heads * d, 5, dtype=torch.float64, generator=generator)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    table = Rotary(d).table(4, x.device, x.dtype)

    def rotated(weight: torch.Tensor, layout: str) -> torch.Tensor:
        return apply_rotary((x @ weight.T).view(1, 4, heads, d).transpose(1, 2), *table, layout)

    half = rotated(interleaved_to_half(w, heads), "half")
    expected = rotated(w, "interleaved")
    torch.testing.assert_close(half @ half.mT, expected @ expected.mT)
    assert torch.equal(half_to_interleaved(interleaved_to_half(w, heads), heads), w)


def test_compiled_path_agrees(generator: torch.Generator) -> None:
    x = torch.randn(1, 2, 5, 8, generator=generator)
    table = Rotary(8).table(5, x.device, x.dtype)
    for layout in ("half", "interleaved"):
        compiled = torch.compile(apply_rotary, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, *table, layout), apply_rotary(x, *table, layout))


def test_base_for_a_longer_context() -> None:
    assert abs(rope_base_for_length(5e5, 8192, 32768) / 6_315_089 - 1) < 1e-5
    with pytest.raises(ValueError, match="2π"):
        rope_base_for_length(5e5, 6, 100)


@pytest.mark.parametrize(("dim", "base"), [(3, 1e4), (0, 1e4), (4, 1.0)])
def test_refuses(dim: int, base: float) -> None:
    with pytest.raises(ValueError, match="got"):
        Rotary(dim, base)


def test_refuses_wrong_width() -> None:
    with pytest.raises(ValueError, match="head width: got 6, need 8"):
        apply_rotary(torch.zeros(1, 1, 2, 6), *Rotary(8).table(2, torch.device("cpu"), torch.float32))
