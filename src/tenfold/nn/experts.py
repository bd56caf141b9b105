"""The experts' feed-forward computation, in several forms that give the same numbers.

Shape legend: T tokens, M model width, H hidden width, E experts, R rows sorted by expert, C rows an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.nn.dispatch import Rows, combine_rows, gather_rows, padded_rows
from tenfold.nn.grouped import project, project_pair


@dataclass(frozen=True)
class ExpertWeights:
    """Parameters of all experts: y = (act(x·w0 + b0) ⊙ (x·w1 + b1))·w2 + b2, without w1 and b1 where not gated."""

    activation: str
    w0: Tensor  # [E, M, H]
    w1: Tensor | None  # [E, M, H]
    w2: Tensor  # [E, H, M]
    b0: Tensor | None  # [E, H]
    b1: Tensor | None  # [E, H]
    b2: Tensor | None  # [E, M]

    def to(self, dtype: torch.dtype) -> ExpertWeights:
        """The same weights for computing in `dtype`."""
        cast = [None if t is None else t.to(dtype) for t in (self.w0, self.w1, self.w2, self.b0, self.b1, self.b2)]
        return ExpertWeights(self.activation, *cast)  # type: ignore[arg-type]


def activate(activation: str, hidden: Tensor, up: Tensor | None) -> Tensor:
    """Inner activation; `up` is the second projection of a gated expert."""
    if activation == "swiglu":
        assert up is not None
        return F.silu(hidden) * up
    if activation == "relu":
        return F.relu(hidden)
    return F.gelu(hidden, approximate="tanh" if activation == "gelu_tanh" else "none")


def choose_backend(rows: Rows, weights: ExpertWeights) -> str:
    """Fastest form for the shape (benchmarks/moe_layer.py prints the grid behind this rule).

    Batched products beat ragged ones at equal work, by the more the smaller the experts' batches; ragged ones do no
    work on padding. On accelerators the longest queue is not known without waiting for the device.
    """
    if rows.even:
        return "padded"
    if rows.token.device.type != "cpu" or torch.compiler.is_compiling():
        return "grouped"
    queue = rows.offsets.diff().tolist()
    # Padding pays while it adds few rows to each expert: the batched product saves the loop over experts, which costs
    # as much as a dozen rows of wide experts and a hundred of narrow ones.
    affordable = 12 + 130_000 / (weights.w0.shape[1] * weights.w0.shape[2])
    return "padded" if max(queue) - sum(queue) / len(queue) <= affordable else "grouped"


def run_experts(x_TM: Tensor, rows: Rows, weights: ExpertWeights, backend: str) -> Tensor:
    """Send rows to experts, compute, and add up each token's weighted results.

    Args:
        x_TM: tokens.
        rows: the work list.
        weights: of the dtype of x.
        backend: "auto", "grouped", "padded", "loop" or "einsum".
    Returns:
        [T, M]; 0 for tokens without rows.
    """
    if rows.token.shape[0] == 0:
        # Keep every parameter in the graph, so that ranks without tokens still have gradients.
        used = [
            t.sum() for t in (weights.w0, weights.w1, weights.w2, weights.b0, weights.b1, weights.b2) if t is not None
        ]
        return x_TM * 0 + 0 * sum(used, rows.weight.sum())
    if backend == "auto":
        backend = choose_backend(rows, weights)
    if backend == "einsum":
        return _einsum(x_TM, rows, weights)
    if backend == "loop":
        return _loop(x_TM, rows, weights)
    if backend == "padded":
        experts = weights.w0.shape[0]
        width = rows.width
        if width is None or not (rows.even or torch.compiler.is_compiling()):
            width = max(int(rows.offsets.diff().max()), 1)
        rows = padded_rows(rows, experts, width)
        x_ECM = gather_rows(x_TM, rows).view(experts, width, -1)
        return combine_rows(_feed_forward(x_ECM, weights, None).flatten(0, 1), rows)
    return combine_rows(_feed_forward(gather_rows(x_TM, rows), weights, rows), rows)


def _feed_forward(x: Tensor, weights: ExpertWeights, rows: Rows | None) -> Tensor:
    """All experts on their rows: ragged [R, M], or [E, C, M] without `rows`."""
    offsets = None if rows is None else rows.offsets
    expert_R = None
    if rows is not None and weights.b0 is not None:
        place = torch.arange(x.shape[0], device=x.device)
        # Rows behind the last expert borrow its bias: nothing reads them.
        expert_R = torch.searchsorted(rows.offsets[1:], place, right=True).clamp_max(weights.w0.shape[0] - 1)

    def biased(y: Tensor, b: Tensor | None) -> Tensor:
        if b is None:
            return y
        return y + (b[:, None] if expert_R is None else b[expert_R])

    if weights.w1 is None:
        hidden = activate(weights.activation, biased(project(x, weights.w0, offsets), weights.b0), None)
    else:
        gate, up = project_pair(x, weights.w0, weights.w1, offsets)
        hidden = activate(weights.activation, biased(gate, weights.b0), biased(up, weights.b1))
    return biased(project(hidden, weights.w2, offsets), weights.b2)


def _one_expert(x: Tensor, weights: ExpertWeights, parts: tuple[Tensor | None, ...]) -> Tensor:
    w0, w1, w2, b0, b1, b2 = parts

    def project(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return x @ w if b is None else x @ w + b

    assert w0 is not None
    assert w2 is not None
    up = None if w1 is None else project(x, w1, b1)
    return project(activate(weights.activation, project(x, w0, b0), up), w2, b2)


def _assignments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Token of each assignment, and whether it counts."""
    place = torch.arange(rows.slot.shape[0], device=rows.slot.device)
    token = torch.searchsorted(rows.bag, place, right=True) - 1
    return token, torch.ones_like(place, dtype=torch.bool) if rows.live is None else rows.live


def _loop(x_TM: Tensor, rows: Rows, weights: ExpertWeights) -> Tensor:
    """An expert at a time, added into the output: plain operators, for reading and for second derivatives."""
    weight_R = rows.weight.new_zeros(rows.token.shape[0]).index_add(0, rows.slot, rows.weight)
    bounds = rows.offsets.tolist()
    # unbind, since indexing a parameter E times makes autograd build E gradients of its full size.
    tensors = (weights.w0, weights.w1, weights.w2, weights.b0, weights.b1, weights.b2)
    unbound = [[None] * len(weights.w0) if t is None else t.unbind(0) for t in tensors]
    y_TM = torch.zeros_like(x_TM)
    for e, parts in enumerate(zip(*unbound, strict=True)):
        mine = slice(bounds[e], bounds[e + 1])
        token = rows.token[mine]
        y = _one_expert(x_TM[token], weights, parts)
        y_TM = y_TM.index_add(0, token, y * weight_R[mine, None].to(y.dtype))
    return y_TM


def _einsum(x_TM: Tensor, rows: Rows, weights: ExpertWeights) -> Tensor:
    """One-hot dispatch and combine tensors [T, E, C], as in GShard: the form the others are measured against."""
    experts = weights.w0.shape[0]
    width = max(int(rows.offsets.diff().max()), 1)
    token_A, live = _assignments(rows)
    slot_A = padded_rows(rows, experts, width).slot
    cells = (token_A[live], slot_A[live])
    shape = (x_TM.shape[0], experts * width)
    dispatch = x_TM.new_zeros(shape).index_put(cells, x_TM.new_ones(()))
    combine = x_TM.new_zeros(shape).index_put(cells, rows.weight[live].to(x_TM.dtype))
    x_ECM = torch.einsum("tec,tm->ecm", dispatch.view(-1, experts, width), x_TM)

    def project(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        y = torch.einsum("eci,eio->eco", x, w)
        return y if b is None else y + b[:, None]

    up = None if weights.w1 is None else project(x_ECM, weights.w1, weights.b1)
    hidden = activate(weights.activation, project(x_ECM, weights.w0, weights.b0), up)
    y_ECM = project(hidden, weights.w2, weights.b2)
    return torch.einsum("tec,ecm->tm", combine.view(-1, experts, width), y_ECM)
