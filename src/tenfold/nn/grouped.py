"""Products of rows with one matrix per expert, ragged or batched, as operators that `torch.compile` can hold.

torch's own `grouped_mm` traces only in bf16 on CPU and wants strides of 16 bytes; these take every floating type
and any width.

Shape legend: R rows sorted by expert, E experts, I and O inner widths, C rows an expert.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_HUGE = 4 << 20


def _empty_gradient(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uninitialised memory for the gradient of all experts' weights.

    On CPU a gradient of tens of megabytes is mapped anew each step, and its page faults cost as much as the
    product itself; numpy asks the kernel for huge pages (benchmarks/moe_layer.py: 64 experts, 1.6x on this product).
    """
    bytes_needed = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or bytes_needed < _HUGE:
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(bytes_needed, dtype=np.uint8)).view(like.dtype).view(shape)


def _fits_grouped_mm(*tensors: Tensor) -> bool:
    """On accelerators torch's kernel takes half and single precision whose rows are multiples of 16 bytes."""
    first = tensors[0]
    return (
        first.device.type != "cpu"
        and first.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and all(t.shape[-1] * t.element_size() % 16 == 0 for t in tensors)
    )


@torch.library.custom_op("tenfold::grouped_matmul", mutates_args=())
def grouped_matmul(x_RI: Tensor, weight_EIO: Tensor, offsets: Tensor, transposed: bool) -> Tensor:
    """Rows offsets[e]..offsets[e+1] of x times weight[e] (times its transpose if `transposed`).

    Args:
        x_RI: rows sorted by expert.
        weight_EIO: one matrix an expert; [E, O, I] if `transposed`.
        offsets: int64 [E+1].
    Returns:
        [R, O]; rows behind offsets[-1] are 0 on CPU and undefined on accelerators.
    """
    weight = weight_EIO.mT if transposed else weight_EIO
    if _fits_grouped_mm(x_RI, weight_EIO):
        return F.grouped_mm(x_RI, weight, offs=offsets[1:].to(torch.int32))
    bounds = offsets.tolist()
    out = x_RI.new_empty(x_RI.shape[0], weight.shape[2])
    for e, matrix in enumerate(weight.unbind(0)):
        start, stop = bounds[e], bounds[e + 1]
        if stop > start:
            torch.mm(x_RI[start:stop], matrix, out=out[start:stop])
    out[bounds[-1] :] = 0
    return out


@grouped_matmul.register_fake
def _(x_RI: Tensor, weight_EIO: Tensor, offsets: Tensor, transposed: bool) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0], weight_EIO.shape[1 if transposed else 2])


@torch.library.custom_op("tenfold::grouped_matmul_sum", mutates_args=())
def grouped_matmul_sum(x_RO: Tensor, v_EIO: Tensor, y_RO: Tensor, w_EIO: Tensor, offsets: Tensor) -> Tensor:
    """x[e]·v[e]ᵀ + y[e]·w[e]ᵀ over ragged rows [R, I]: the input gradient of two projections of the same rows."""
    if _fits_grouped_mm(x_RO, v_EIO):
        return grouped_matmul(x_RO, v_EIO, offsets, True) + grouped_matmul(y_RO, w_EIO, offsets, True)
    bounds = offsets.tolist()
    out = x_RO.new_empty(x_RO.shape[0], v_EIO.shape[1])
    for e, (v, w) in enumerate(zip(v_EIO.unbind(0), w_EIO.unbind(0), strict=True)):
        start, stop = bounds[e], bounds[e + 1]
        if stop > start:
            rows = out[start:stop]
            torch.mm(x_RO[start:stop], v.t(), out=rows)
            rows.addmm_(y_RO[start:stop], w.t())
    out[bounds[-1] :] = 0
    return out


@grouped_matmul_sum.register_fake
def _(x_RO: Tensor, v_EIO: Tensor, y_RO: Tensor, w_EIO: Tensor, offsets: Tensor) -> Tensor:
    return x_RO.new_empty(x_RO.shape[0], v_EIO.shape[1])


@torch.library.custom_op("tenfold::grouped_outer", mutates_args=())
def grouped_outer(x_RI: Tensor, y_RO: Tensor, offsets: Tensor) -> Tensor:
    """Σ of outer products x_r y_r over the rows of each expert: [E, I, O], the weight gradient."""
    if _fits_grouped_mm(x_RI, y_RO):
        return F.grouped_mm(x_RI.mT, y_RO, offs=offsets[1:].to(torch.int32))
    bounds = offsets.tolist()
    out = _empty_gradient((len(bounds) - 1, x_RI.shape[1], y_RO.shape[1]), x_RI)
    for e, matrix in enumerate(out.unbind(0)):
        start, stop = bounds[e], bounds[e + 1]
        if stop > start:
            torch.mm(x_RI[start:stop].t(), y_RO[start:stop], out=matrix)
        else:
            matrix.zero_()
    return out


@grouped_outer.register_fake
def _(x_RI: Tensor, y_RO: Tensor, offsets: Tensor) -> Tensor:
    return x_RI.new_empty(offsets.shape[0] - 1, x_RI.shape[1], y_RO.shape[1])


@torch.library.custom_op("tenfold::batched_outer", mutates_args=())
def batched_outer(x_ECI: Tensor, y_ECO: Tensor) -> Tensor:
    """x[e]ᵀ·y[e] of every expert: [E, I, O], the weight gradient of a batched product."""
    out = _empty_gradient((x_ECI.shape[0], x_ECI.shape[2], y_ECO.shape[2]), x_ECI)
    return torch.bmm(x_ECI.mT, y_ECO, out=out)


@batched_outer.register_fake
def _(x_ECI: Tensor, y_ECO: Tensor) -> Tensor:
    return x_ECI.new_empty(x_ECI.shape[0], x_ECI.shape[2], y_ECO.shape[2])


def _product(x: Tensor, weight: Tensor, offsets: Tensor | None, transposed: bool = False) -> Tensor:
    if offsets is not None:
        return grouped_matmul(x, weight, offsets, transposed)
    return torch.bmm(x, weight.mT if transposed else weight)


def _outer(x: Tensor, grad: Tensor, offsets: Tensor | None) -> Tensor:
    return batched_outer(x, grad) if offsets is None else grouped_outer(x, grad, offsets)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offsets: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, offsets)
        return _product(x, weight, offsets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, offsets = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x = _product(grad, weight, offsets, True) if ctx.needs_input_grad[0] else None
        return grad_x, _outer(x, grad, offsets) if ctx.needs_input_grad[1] else None, None


class _ProjectPair(torch.autograd.Function):
    """Two projections of the same rows; their input gradients are summed inside the products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, other: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight, other, offsets)
        return _product(x, weight, offsets), _product(x, other, offsets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, other, offsets = ctx.saved_tensors
        first, second = grads[0].contiguous(), grads[1].contiguous()
        grad_x = None
        if ctx.needs_input_grad[0]:
            if offsets is not None:
                grad_x = grouped_matmul_sum(first, weight, second, other, offsets)
            else:
                grad_x = torch.bmm(first, weight.mT).baddbmm_(second, other.mT)
        return (
            grad_x,
            _outer(x, first, offsets) if ctx.needs_input_grad[1] else None,
            _outer(x, second, offsets) if ctx.needs_input_grad[2] else None,
            None,
        )


def project(x: Tensor, weight_EIO: Tensor, offsets: Tensor | None) -> Tensor:
    """Rows times the matrix of their expert, once differentiable.

    Args:
        x: [R, I] sorted by expert with `offsets` [E+1]; or [E, C, I] with offsets None.
    Returns:
        [R, O] or [E, C, O].
    """
    out: Tensor = _Project.apply(x, weight_EIO, offsets)
    return out


def project_pair(x: Tensor, weight_EIO: Tensor, other_EIO: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """`project` with two matrices an expert, the gate and up projections of a gated expert."""
    out: tuple[Tensor, Tensor] = _ProjectPair.apply(x, weight_EIO, other_EIO, offsets)
    return out
