"""Rows of unequal length: log-softmax, entropy, top-k, sampling, and dot products with the rows of a table.

A ragged array of A rows is flat. Entry n lies in row `row[n]`; row a is `[ptr[a], ptr[a + 1])`. Nothing is padded, so an
agent on a hub of the graph costs what its own edges cost, and nobody else pays for them.
"""

# Shape legend: A rows (agents), N entries of all rows, V rows of a table, D its width

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Up to this many products computed for each one needed, one large matrix product is the faster way (measured on CPU).
# At least 1: torch's sampled product takes no pattern of more entries than its matrix has.
DENSE = 4

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch says once a process that its CSR tensors are in beta
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=True)


def lengths_to_ptr(length_A: Tensor) -> Tensor:
    """Row lengths [A] to row starts [A + 1]."""
    return F.pad(length_A.cumsum(0), (1, 0))


def segment_sum(x_N: Tensor, ptr: Tensor) -> Tensor:
    """Sum of each row, [A]; 0 for an empty one."""
    return torch.segment_reduce(x_N, "sum", offsets=ptr, unsafe=True)


def segment_max(x_N: Tensor, ptr: Tensor) -> Tensor:
    """Largest entry of each row, [A]; -inf for an empty one. Not differentiable."""
    return torch.segment_reduce(x_N.detach(), "max", offsets=ptr, unsafe=True)


def segment_logsumexp(x_N: Tensor, row_N: Tensor, ptr: Tensor) -> Tensor:
    """log Σ exp of each row, shifted by its maximum; -inf for an empty row or one of -inf alone.

    Args:
        x_N: scores; bfloat16 and float16 are computed in float32.
        row_N: row of each entry, ascending.
        ptr: row starts [A + 1].
    Returns:
        [A], float32 or float64.
    """
    return _LogSumExp.apply(x_N.to(torch.promote_types(x_N.dtype, torch.float32)), row_N, ptr)


def segment_log_softmax(x_N: Tensor, row_N: Tensor, ptr: Tensor) -> Tensor:
    """Log-probabilities [N] of the entries within their rows; arguments as `segment_logsumexp`."""
    return x_N - segment_logsumexp(x_N, row_N, ptr).index_select(0, row_N)


def segment_entropy(log_p_N: Tensor, ptr: Tensor) -> Tensor:
    """Entropy of each row in nats, [A], of finite log-probabilities."""
    return -segment_sum(log_p_N.exp() * log_p_N, ptr)


def segment_argmax(x_N: Tensor, row_N: Tensor, ptr: Tensor) -> Tensor:
    """Flat index of the largest entry of each row, the first of equals, [A]; no row may be empty."""
    hits = (x_N == segment_max(x_N, ptr).index_select(0, row_N)).nonzero()[:, 0]
    # A row of NaN has no hit. The choice stays within the row, so that the loss turns NaN and the training loop says so.
    hits = F.pad(hits, (0, 1), value=len(x_N))
    first = hits[torch.searchsorted(hits, ptr[:-1])]
    return first.clamp(ptr[:-1], ptr[1:] - 1)


def segment_top_k(x_N: Tensor, row_N: Tensor, ptr: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row, largest first, the earlier of equals first; short rows give all they have.

    Args:
        x_N: scores, not NaN.
        row_N, ptr: as in `segment_logsumexp`.
        k: at least 1.
    Returns:
        flat indices [M] and their row starts [A + 1].
    """
    if k < 1:
        raise ValueError(f"k: got {k}, need at least 1")
    rank = torch.arange(len(x_N), device=x_N.device) - ptr[:-1].index_select(0, row_N)
    return _sorted_rows(x_N.detach(), row_N)[rank < k], lengths_to_ptr(ptr.diff().clamp(max=k))


def sample_gumbel(log_p_N: Tensor, row_N: Tensor, ptr: Tensor, generator: torch.Generator | None) -> Tensor:
    """One entry of each row by the Gumbel-max trick, [A] flat indices; log_p_N may be unnormalised."""
    # The maximum of log p + Gumbel noise is the minimum of -log p + log of a standard exponential number.
    noise = torch.empty_like(log_p_N).exponential_(generator=generator).log_()
    return segment_argmax(log_p_N.detach() - noise, row_N, ptr)


def sample_inverse_cdf(
    log_p_N: Tensor, row_N: Tensor, ptr: Tensor, generator: torch.Generator | None, part: tuple[int, int] = (0, 1)
) -> Tensor:
    """One entry of each row by inverse transform, [A] flat indices: one random number a row, not one an entry.

    Args:
        log_p_N: normalised log-probabilities: the rows share one running sum in float64, which rows of tiny mass would starve in.
        row_N, ptr: as in `segment_logsumexp`; no row may be empty.
        generator: of the log-probabilities' device.
        part: (i, n): these rows are the i-th of n equal parts of a batch, for all of which numbers are drawn.
    """
    cdf_N = log_p_N.detach().double().exp_().cumsum(0)
    high_A = cdf_N[ptr[1:] - 1]
    low_A = F.pad(high_A[:-1], (1, 0))
    own, parts = part
    drawn = torch.rand(parts * len(high_A), dtype=torch.float64, device=cdf_N.device, generator=generator)
    points = drawn.view(parts, -1)[own]
    choice_A = torch.searchsorted(cdf_N, low_A + points * (high_A - low_A), right=True)
    return choice_A.clamp(ptr[:-1], ptr[1:] - 1)  # rounding (or NaN) must not lead into the next row


def gather_dot(x_AD: Tensor, table_VD: Tensor, row_N: Tensor, column_N: Tensor, ptr: Tensor) -> Tensor:
    """⟨x[row n], table[column n]⟩ for every entry, without an [N, D] array in the forward or the backward pass.

    Args:
        x_AD: a vector a row.
        table_VD: embeddings.
        row_N, ptr: as in `segment_logsumexp`.
        column_N: int64 row of the table of each entry.
    Returns:
        [N], in the table's dtype; differentiable in x and table.
    """
    x_AD = x_AD.to(table_VD.dtype)
    height = len(table_VD)
    if len(x_AD) * height <= DENSE * len(row_N):
        return (x_AD @ table_VD.T).flatten().index_select(0, row_N * height + column_N)
    return _GatherDot.apply(x_AD, table_VD, row_N, column_N, ptr)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_N: Tensor, row_N: Tensor, ptr: Tensor) -> Tensor:
        shift_A = segment_max(x_N, ptr)
        shift_A.masked_fill_(shift_A == -torch.inf, 0)  # -inf - -inf would be NaN
        out_A = segment_sum((x_N - shift_A.index_select(0, row_N)).exp_(), ptr).log_().add_(shift_A)
        ctx.save_for_backward(x_N, row_N, out_A)
        return out_A

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_A: Tensor) -> tuple[Tensor, None, None]:
        x_N, row_N, out_A = ctx.saved_tensors
        share_N = (x_N - out_A.index_select(0, row_N)).exp_()
        return share_N.mul_(grad_A.index_select(0, row_N)), None, None


class _GatherDot(torch.autograd.Function):
    """A sampled matrix product; its gradients are weighted sums of rows, by row of x and by row of the table."""

    @staticmethod
    def forward(ctx: Any, x_AD: Tensor, table_VD: Tensor, row_N: Tensor, column_N: Tensor, ptr: Tensor) -> Tensor:
        ctx.save_for_backward(x_AD, table_VD, row_N, column_N, ptr)
        zeros_N = torch.zeros(len(row_N), dtype=table_VD.dtype, device=table_VD.device)
        shape = (len(x_AD), len(table_VD))
        pattern = torch.sparse_csr_tensor(ptr, column_N, zeros_N, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, x_AD, table_VD.T, beta=0.0).values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_AD, table_VD, row_N, column_N, ptr = ctx.saved_tensors
        grad_x = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_x = _weighted_bags(table_VD, column_N, ptr, grad_N)
        if ctx.needs_input_grad[1]:
            order = column_N.argsort(stable=True)
            column_ptr = lengths_to_ptr(torch.bincount(column_N, minlength=len(table_VD)))
            grad_table = _weighted_bags(x_AD, row_N[order], column_ptr, grad_N[order])
        return grad_x, grad_table, None, None, None


def _weighted_bags(table: Tensor, index: Tensor, ptr: Tensor, weight: Tensor) -> Tensor:
    """Σ weight · table[index] of each row of (index, weight)."""
    return F.embedding_bag(
        index, table, ptr, mode="sum", per_sample_weights=weight.contiguous(), include_last_offset=True
    )


def _sorted_rows(x_N: Tensor, row_N: Tensor) -> Tensor:
    """The permutation that sorts every row in place, largest first, stable."""
    if x_N.dtype != torch.float32:
        order = x_N.argsort(descending=True, stable=True)
        return order[row_N[order].argsort(stable=True)]
    # Row and score in one integer: a single radix sort, five times as fast as two sorts by comparison. The bits of a
    # float order like an integer once those of negative numbers are flipped; + 0.0 makes -0.0 equal to 0.0.
    bits = (x_N + 0.0).view(torch.int32)
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ((row_N << 32) + (0x7FFFFFFF - ascending.long())).argsort(stable=True)
