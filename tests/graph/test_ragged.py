"""Ragged arithmetic against the padded versions of torch, values and gradients; sampling against the probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tenfold.graph import ragged
from tenfold.graph.ragged import (
    gather_dot,
    lengths_to_ptr,
    sample_gumbel,
    sample_inverse_cdf,
    segment_argmax,
    segment_entropy,
    segment_log_softmax,
    segment_logsumexp,
    segment_max,
    segment_sum,
    segment_top_k,
)

INF = float("inf")


def rows(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """(row of each entry, row starts)"""
    length = torch.tensor(lengths)
    return torch.repeat_interleave(length), lengths_to_ptr(length)


def random_rows(seed: int, low: int = 1) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return *rows(torch.randint(low, 12, (7,), generator=generator).tolist()), generator


def pad(x_N: Tensor, row_N: Tensor, ptr: Tensor, value: float) -> Tensor:
    """[A, longest row]"""
    padded = x_N.new_full((len(ptr) - 1, int(ptr.diff().max())), value)
    return padded.index_put((row_N, torch.arange(len(x_N)) - ptr[row_N]), x_N)


PADDED = {
    "sum": (lambda x, row, ptr: segment_sum(x, ptr), lambda x, row, ptr: pad(x, row, ptr, 0).sum(1)),
    "logsumexp": (segment_logsumexp, lambda x, row, ptr: pad(x, row, ptr, -INF).logsumexp(1)),
    "log_softmax": (
        segment_log_softmax,
        lambda x, row, ptr: pad(x, row, ptr, -INF).log_softmax(1)[row, torch.arange(len(x)) - ptr[row]],
    ),
    "entropy": (
        lambda x, row, ptr: segment_entropy(segment_log_softmax(x, row, ptr), ptr),
        lambda x, row, ptr: torch.distributions.Categorical(logits=pad(x, row, ptr, -1e4)).entropy(),
    ),
}


@pytest.mark.parametrize("name", PADDED)
def test_segments_equal_padded_torch(name: str) -> None:
    ours, padded = PADDED[name]
    for seed in range(200):
        row, ptr, generator = random_rows(seed)
        x = (5 * torch.randn(len(row), generator=generator, dtype=torch.float64)).requires_grad_()
        value, expected = ours(x, row, ptr), padded(x, row, ptr)
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((value * weight).sum(), x)
        (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), x)
        torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-9)
        single = ours(x.detach().float(), row, ptr)
        torch.testing.assert_close(single, expected.detach().float(), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", PADDED)
def test_gradients_are_the_differences(name: str) -> None:
    row, ptr, generator = random_rows(3)
    x = torch.randn(len(row), generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: PADDED[name][0](x, row, ptr), x)


def test_large_logits_and_empty_rows() -> None:
    row, ptr = rows([0, 2, 0, 3])
    x = torch.tensor([1e4, 1e4 - 1, -INF, -INF, -INF])
    assert segment_sum(x[:2], ptr[:3]).tolist() == [0, 19999]
    assert segment_max(x, ptr).tolist() == [-INF, 1e4, -INF, -INF]
    total = segment_logsumexp(x, row, ptr)
    assert total[[0, 2, 3]].tolist() == [-INF, -INF, -INF]
    assert total[1].item() == pytest.approx(1e4 + 0.3132617)


def test_half_precision_is_computed_in_single() -> None:
    row, ptr = rows([300])
    x = torch.zeros(300, dtype=torch.bfloat16)
    assert segment_log_softmax(x, row, ptr).dtype == torch.float32
    assert segment_logsumexp(x, row, ptr).item() == pytest.approx(5.7037825)  # log 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_k_equals_padded_sort(dtype: torch.dtype) -> None:
    for seed in range(200):
        row, ptr, generator = random_rows(seed, low=0)
        x = torch.randint(-3, 4, (len(row),), generator=generator).to(dtype) / 2  # full of ties
        x = torch.where(x == 0, torch.tensor([0.0, -0.0], dtype=dtype)[torch.arange(len(x)) % 2], x)
        k = int(torch.randint(1, 14, (), generator=generator))
        index, kept = segment_top_k(x, row, ptr, k)
        expected = [
            start + x[start:end].argsort(descending=True, stable=True)[:k]
            for start, end in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)
        ]
        assert index.tolist() == torch.cat(expected).tolist()
        assert kept.diff().tolist() == [len(part) for part in expected]


def test_top_k_orders_all_magnitudes() -> None:
    row, ptr = rows([9, 1])
    x = torch.tensor([1e-42, -1e-42, INF, -INF, 3e38, -3e38, 0.0, 1.0, -1.0, INF])
    assert segment_top_k(x, row, ptr, 9)[0].tolist() == [2, 4, 7, 0, 6, 1, 8, 5, 3, 9]
    with pytest.raises(ValueError, match="k: got 0"):
        segment_top_k(x, row, ptr, 0)


def test_top_k_passes_gradients() -> None:
    row, ptr = rows([3, 2])
    x = torch.tensor([0.1, 0.3, 0.2, 5.0, 4.0], requires_grad=True)
    index, _ = segment_top_k(x, row, ptr, 2)
    x[index].sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1]


def test_argmax_takes_the_first_and_stays_in_the_row() -> None:
    row, ptr = rows([3, 1, 2])
    assert segment_argmax(torch.tensor([1.0, 2, 2, -INF, 0, 0]), row, ptr).tolist() == [1, 3, 4]
    broken = torch.tensor([1.0, 2, 2, 0, float("nan"), 0])
    assert segment_argmax(broken, row, ptr).tolist()[:2] == [1, 3]
    assert segment_argmax(broken, row, ptr)[2] in (4, 5)


@pytest.mark.parametrize("sample", [sample_gumbel, sample_inverse_cdf])
def test_sampling_frequencies(sample: object, generator: torch.Generator) -> None:
    draws = 100_000
    p = torch.cat([torch.randn(length, generator=generator).mul(2).softmax(0) for length in (1, 4, 7)])
    p[1:5] = torch.tensor([0.5, 0.0, 0.5, 0.0])  # one that never comes, in the midst and at the end
    many_row, many_ptr = rows([1, 4, 7] * draws)
    choice = sample(p.log().repeat(draws), many_row, many_ptr, generator)  # type: ignore[operator]
    assert torch.equal(many_row[choice], torch.arange(3 * draws))
    counts = torch.bincount(choice % 12, minlength=12).double()
    assert (counts[p == 0] == 0).all()
    sigma = (draws * p.double() * (1 - p.double())).sqrt()
    assert ((counts - draws * p.double()).abs() <= 4 * sigma + 0.01).all()


def test_the_least_random_number_finds_no_impossible_entry(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(torch, "rand", lambda size, **options: torch.zeros(size, dtype=options["dtype"]))
    row, ptr = rows([2, 2])
    assert sample_inverse_cdf(torch.tensor([-INF, 0.0, -INF, 0.0]), row, ptr, generator).tolist() == [1, 3]


@pytest.mark.parametrize("sample", [sample_gumbel, sample_inverse_cdf])
def test_samples_of_nan_stay_in_their_row(sample: object, generator: torch.Generator) -> None:
    row, ptr = rows([2, 3, 2])
    log_p = torch.tensor([-0.7, -0.7, float("nan"), 0, 0, -0.7, -0.7])
    assert row[sample(log_p, row, ptr, generator)].tolist() == [0, 1, 2]  # type: ignore[operator]
    assert row[sample(log_p * float("nan"), row, ptr, generator)].tolist() == [0, 1, 2]  # type: ignore[operator]


@pytest.fixture(params=[0, 1 << 40], ids=["sampled", "dense"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of `gather_dot`, whatever the sizes."""
    monkeypatch.setattr(ragged, "DENSE", request.param)


@pytest.mark.usefixtures("_way")
def test_gather_dot_equals_gathered_rows() -> None:
    for seed in range(200):
        row, ptr, generator = random_rows(seed, low=0)
        x = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        table = torch.randn(20, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        column = torch.randint(0, 4, (len(row),), generator=generator)  # with repetitions in a row, unsorted
        weight = torch.randn(len(row), generator=generator, dtype=torch.float64)
        value, expected = gather_dot(x, table, row, column, ptr), (x[row] * table[column]).sum(-1)
        torch.testing.assert_close(value, expected)
        ours = torch.autograd.grad((value * weight).sum(), (x, table))
        torch.testing.assert_close(ours, torch.autograd.grad((expected * weight).sum(), (x, table)))


@pytest.mark.usefixtures("_way")
def test_gather_dot_takes_activations_of_half_precision() -> None:
    row, ptr = rows([2, 1])
    x, table = torch.ones(2, 3, dtype=torch.bfloat16), torch.full((9, 3), 0.3)
    torch.testing.assert_close(gather_dot(x, table, row, torch.tensor([0, 8, 4]), ptr), torch.full((3,), 0.9))


@pytest.mark.usefixtures("_way")
def test_gather_dot_gradcheck() -> None:
    row, ptr, generator = random_rows(0)
    column = torch.randint(0, 4, (len(row),), generator=generator)
    x, table = (torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (7, 20))
    assert torch.autograd.gradcheck(lambda x, table: gather_dot(x, table, row, column, ptr), (x, table))
    assert torch.autograd.gradcheck(lambda x: gather_dot(x, table.detach(), row, column, ptr), x)
    assert torch.autograd.gradcheck(lambda table: gather_dot(x.detach(), table, row, column, ptr), table)


def test_gather_dot_keeps_no_gathered_rows() -> None:
    row, ptr = rows([100] * 10)
    x, table = torch.randn(10, 64, requires_grad=True), torch.randn(500, 64, requires_grad=True)
    column = torch.arange(1000) % 500
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        gather_dot(x, table, row, column, ptr)
    assert max(kept) == table.numel() < 1000 * 64
