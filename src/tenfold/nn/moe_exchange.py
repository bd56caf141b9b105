"""Experts on several processes: rows travel to the rank that holds their expert, and back.

Shape legend: R rows sorted by expert, M model width, E experts of the layer, L experts of this rank, P ranks of the
expert group, C rows an expert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from tenfold.nn.dispatch import Rows, combine_rows, gather_rows, padded_rows
from tenfold.nn.experts import ExpertWeights, run_experts

Splits = list[int] | None


def _all_to_all(x: Tensor, send: Splits, receive: Splits, group: ProcessGroup) -> Tensor:
    out = x.new_empty(x.shape[0] if receive is None else sum(receive), *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), receive, send, group=group)
    return out


def _all_reduce(x: Tensor, groups: tuple[ProcessGroup, ...]) -> Tensor:
    out = x.clone(memory_format=torch.contiguous_format)
    for group in groups:
        dist.all_reduce(out, group=group)
    return out


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, send: Splits, receive: Splits, group: ProcessGroup) -> Tensor:
        ctx.way_back = (receive, send, group)
        return _all_to_all(x, send, receive, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _all_to_all(grads[0], *ctx.way_back), None, None, None


class _SumEverywhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: tuple[ProcessGroup, ...]) -> Tensor:
        ctx.groups = groups
        return _all_reduce(x, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _all_reduce(grads[0], ctx.groups), None


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _all_reduce(grads[0], (ctx.group,)), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return _all_reduce(x, (group,))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Portion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: int) -> Tensor:
        return x / parts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def exchange(x: Tensor, group: ProcessGroup, send: Splits = None, receive: Splits = None) -> Tensor:
    """All-to-all of rows; the gradient takes the way back.

    Args:
        x: [R, ...], rows for rank 0 of the group first.
        send: rows for each rank; None is the same number for all.
        receive: rows from each rank, likewise.
    """
    out: Tensor = _Exchange.apply(x, send, receive, group)
    return out


def sum_over(x: Tensor, groups: tuple[ProcessGroup, ...]) -> Tensor:
    """Sum over one group after the other, where every rank uses the sum for a loss of its own: gradients add up too."""
    out: Tensor = _SumEverywhere.apply(x, groups)
    return out


def enter_columns(x: Tensor, group: ProcessGroup) -> Tensor:
    """x itself; its gradient is the sum over ranks that each work with their own columns of the weights.

    Source: Shoeybi et al. 2019 (arXiv 1909.08053), Section 3, the operator f.
    """
    out: Tensor = _Enter.apply(x, group)
    return out


def leave_columns(x: Tensor, group: ProcessGroup) -> Tensor:
    """Sum of the ranks' partial results; every rank has the same gradient, which passes as it is (operator g)."""
    out: Tensor = _Leave.apply(x, group)
    return out


def portion(x: Tensor, parts: int) -> Tensor:
    """x / parts with the gradient of x: `parts` ranks hold x and add up their portions, so that it counts once."""
    out: Tensor = _Portion.apply(x, parts)
    return out


@dataclass(frozen=True)
class ExpertGroups:
    """Process groups that one layer's experts lie on; None where the axis has one rank."""

    expert: ProcessGroup | None  # each rank holds E/P experts
    model: ProcessGroup | None  # each rank holds some hidden columns of every expert


def run_sharded_experts(
    x_TM: Tensor, rows: Rows, weights: ExpertWeights, backend: str, groups: ExpertGroups, width: int | None
) -> Tensor:
    """`run_experts`, where other ranks hold the other experts and columns.

    Sums over columns are taken last: [T, M] travels instead of k times as many rows. A collective operation.

    Args:
        x_TM: this rank's tokens; the same on all ranks of the model group.
        rows: work list over all E experts of the layer.
        weights: this rank's experts and columns; b2 already divided among the ranks of the model group.
        backend: as in `run_experts`.
        groups: where the rest lies.
        width: rows of every expert, equal on all ranks: a fixed shape needs no talk about sizes. None sends each
            expert the rows it has, after the ranks have told each other how many.
    Returns:
        [T, M].
    """
    if groups.model is not None:
        x_TM = enter_columns(x_TM, groups.model)
        rows = replace(rows, weight=enter_columns(rows.weight, groups.model))
    if groups.expert is None:
        y_TM = run_experts(x_TM, rows, weights, backend)
    elif width is None:
        y_TM = _run_ragged(x_TM, rows, weights, backend, groups.expert)
    else:
        y_TM = _run_even(x_TM, rows, weights, backend, groups.expert, width)
    return y_TM if groups.model is None else leave_columns(y_TM, groups.model)


def _run_even(
    x_TM: Tensor, rows: Rows, weights: ExpertWeights, backend: str, group: ProcessGroup, width: int
) -> Tensor:
    ranks, own = group.size(), weights.w0.shape[0]
    rows = padded_rows(rows, ranks * own, width)
    x_RM = exchange(gather_rows(x_TM, rows), group)
    place = torch.arange(x_RM.shape[0], device=x_RM.device)
    received = Rows(
        # From the order source, expert, row to the order expert, source, row; and back.
        token=place.view(ranks, own, width).transpose(0, 1).reshape(-1),
        offsets=torch.arange(own + 1, device=x_RM.device) * (ranks * width),
        slot=place.view(own, ranks, width).transpose(0, 1).reshape(-1),
        bag=place,
        weight=x_RM.new_ones(x_RM.shape[0]),
        live=None,
        width=ranks * width,
        even=True,
    )
    return combine_rows(exchange(run_experts(x_RM, received, weights, backend), group), rows)


def _run_ragged(x_TM: Tensor, rows: Rows, weights: ExpertWeights, backend: str, group: ProcessGroup) -> Tensor:
    ranks, own = group.size(), weights.w0.shape[0]
    wanted = rows.offsets.diff()
    given = _all_to_all(wanted, None, None, group)
    # The one wait for the device: the host must know the sizes.
    send, receive = torch.stack([wanted.view(ranks, own), given.view(ranks, own)]).sum(-1).tolist()
    # Rows behind the last expert stay; one row is kept in any case, for dropped choices to point at.
    rows = replace(rows, token=rows.token[: max(sum(send), 1)])
    x_RM = gather_rows(x_TM, rows)
    y_RM = _run_received(exchange(x_RM[: sum(send)], group, send, receive), given.view(ranks, own), weights, backend)
    y_RM = exchange(y_RM, group, receive, send)
    if y_RM.shape[0] < x_RM.shape[0]:
        y_RM = torch.cat([y_RM, torch.zeros_like(x_RM)])
    return combine_rows(y_RM, rows)


def _run_received(x_RM: Tensor, counts_PL: Tensor, weights: ExpertWeights, backend: str) -> Tensor:
    """Experts' results for received rows, in the order they came: by source, inside a source by expert."""
    ranks, own = counts_PL.shape
    place = torch.arange(x_RM.shape[0], device=x_RM.device)
    expert_PL = torch.arange(own, device=x_RM.device).expand(ranks, own)
    expert_R = torch.repeat_interleave(expert_PL.reshape(-1), counts_PL.reshape(-1), output_size=x_RM.shape[0])
    token = torch.sort(expert_R, stable=True).indices
    ends = counts_PL.sum(0).cumsum(0)
    received = Rows(
        token=token,
        offsets=torch.cat([ends.new_zeros(1), ends]),
        slot=torch.empty_like(token).scatter_(0, token, place),
        bag=place,
        weight=x_RM.new_ones(x_RM.shape[0]),
        live=None,
        width=None,
    )
    return run_experts(x_RM, received, weights, backend)
