"""Matrix products of ragged groups of rows with one matrix each, as operators that `torch.compile` can hold.

torch's own `grouped_mm` traces only in bf16 on CPU and wants strides of 16 bytes; these take every floating type
and any width.

Shape legend: R rows sorted by expert, E experts, I and O inner widths, C rows an expert.
"""

from __future__ import annotations

import math

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


@torch.library.custom_op("tenfold::grouped_outer", mutates_args=())
def grouped_outer(x_RI: Tensor, y_RO: Tensor, offsets: Tensor) -> Tensor:
    """Σ of outer products x_r y_r over the rows of each expert: [E, I, O], the gradient of `grouped_matmul`."""
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


def _save_matmul(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x_RI, weight_EIO, offsets, transposed = inputs
    ctx.save_for_backward(x_RI, weight_EIO, offsets)
    ctx.transposed = transposed  # type: ignore[attr-defined]


def _matmul_backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
    x_RI, weight_EIO, offsets = ctx.saved_tensors
    grad = grad.contiguous()
    grad_x = grouped_matmul(grad, weight_EIO, offsets, not ctx.transposed) if ctx.needs_input_grad[0] else None
    grad_weight = None
    if ctx.needs_input_grad[1]:
        pair = (grad, x_RI) if ctx.transposed else (x_RI, grad)
        grad_weight = grouped_outer(*pair, offsets)
    return grad_x, grad_weight, None, None


def _save_outer(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _outer_backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
    x_RI, y_RO, offsets = ctx.saved_tensors
    grad = grad.contiguous()
    return grouped_matmul(y_RO, grad, offsets, True), grouped_matmul(x_RI, grad, offsets, False), None


grouped_matmul.register_autograd(_matmul_backward, setup_context=_save_matmul)
grouped_outer.register_autograd(_outer_backward, setup_context=_save_outer)


class _BatchedMatmul(torch.autograd.Function):
    """torch.bmm whose weight gradient lies in memory from `_empty_gradient`."""

    @staticmethod
    def forward(ctx, x_ECI: Tensor, weight_EIO: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x_ECI, weight_EIO)
        return torch.bmm(x_ECI, weight_EIO)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x_ECI, weight_EIO = ctx.saved_tensors
        grad_x = torch.bmm(grads[0], weight_EIO.mT) if ctx.needs_input_grad[0] else None
        return grad_x, batched_outer(x_ECI, grads[0]) if ctx.needs_input_grad[1] else None


def batched_matmul(x_ECI: Tensor, weight_EIO: Tensor) -> Tensor:
    """x[e]·weight[e] of every expert [E, C, O]; as `torch.bmm`, with a faster weight gradient on CPU."""
    out: Tensor = _BatchedMatmul.apply(x_ECI, weight_EIO)
    return out
