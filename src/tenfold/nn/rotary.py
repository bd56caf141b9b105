"""Rotary position embedding: pairs of features turn by an angle that grows with the position."""

# Shape legend: B batch, S sequence, H heads, d head width, P = d/2 pairs

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

RopeLayout = Literal["half", "interleaved"]


class Rotary:
    """Angles position · base^(-2i/d) for the pairs i = 0 … d/2 - 1; tables of their cosines and sines are kept.

    Not a module: it holds no weights, and the tables are made in float64 before the cast, so that a model turned to
    float64 gets exact angles. One object serves all layers.

    Args:
        head_dim: d, even.
        base: wavelength base.
    Raises:
        ValueError: odd head_dim, base not above 1.
    Source: Su et al. 2021, arXiv 2104.09864, Eq. 15.
    """

    def __init__(self, head_dim: int, base: float = 5e5) -> None:
        if head_dim < 2 or head_dim % 2:
            raise ValueError(f"head_dim: got {head_dim}, need an even number")
        if not base > 1:
            raise ValueError(f"base: got {base}, need more than 1")
        self.head_dim, self.base = head_dim, base
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def table(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions 0 … length - 1, each (length, d/2)."""
        known = self._tables.get((device, dtype))
        if known is None or known[0].shape[0] < length:
            # Powers of two: a cache that grows token by token rebuilds the table only log2(length) times.
            rows = 1 << max(length - 1, 63).bit_length()
            with torch.inference_mode(False):  # a table made in inference mode could not serve training later
                exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float64, device="cpu") / self.head_dim
                position = torch.arange(rows, dtype=torch.float64, device="cpu")
                angle = torch.outer(position, self.base**-exponent)
                known = angle.cos().to(dtype).to(device), angle.sin().to(dtype).to(device)
            self._tables[device, dtype] = known
        return known[0][:length], known[1][:length]

    def at(self, positions: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines at given positions, shaped to rotate (B, H, S, d).

        Args:
            positions: int64 (S,) or (B, S), in 0 … length - 1.
            length: a bound on the positions (a Python number: reading it from the tensor would wait for the device).
            dtype: type of the features to rotate.
        Returns:
            cos, sin: (S, d/2) or (B, 1, S, d/2).
        """
        cos, sin = self.table(length, positions.device, dtype)
        cos, sin = cos[positions], sin[positions]
        return (cos, sin) if positions.ndim == 1 else (cos.unsqueeze(1), sin.unsqueeze(1))


def _pairs(x: Tensor, layout: RopeLayout) -> tuple[Tensor, Tensor]:
    if layout == "half":
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: RopeLayout) -> Tensor:
    a, b = _pairs(x, layout)
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.cat(turned, dim=-1) if layout == "half" else torch.stack(turned, dim=-1).flatten(-2)


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, layout: RopeLayout) -> Tensor:
    (a, b), (out_a, out_b) = _pairs(x, layout), _pairs(out, layout)
    torch.mul(a, cos, out=out_a).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out_b).addcmul_(a, sin)
    return out


class _Rotate(torch.autograd.Function):
    """x turned by the angles; the gradient is turned back by them, so nothing of x is kept for the backward."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor, layout: RopeLayout) -> Tensor:
        return _rotate_into(torch.empty_like(x), x, cos, sin, layout)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        _, cos, sin, ctx.layout = inputs  # type: ignore[attr-defined]
        ctx.save_for_backward(cos, sin)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        return _Rotate.apply(grad, cos, -sin, ctx.layout), None, None, None  # type: ignore[attr-defined]


def apply_rotary(x_BHSd: Tensor, cos: Tensor, sin: Tensor, layout: RopeLayout = "half") -> Tensor:
    """Rotate the feature pairs of every head.

    Args:
        x_BHSd: queries or keys.
        cos, sin: (S, d/2) or (B, 1, S, d/2), from `Rotary`.
        layout: "half" pairs feature i with i + d/2 (Llama in `transformers`); "interleaved" pairs 2i with 2i + 1.
    Returns:
        the rotated tensor, same shape and type.
    """
    if layout not in get_args(RopeLayout):
        raise ValueError(f"layout: got {layout!r}, need one of {', '.join(get_args(RopeLayout))}")
    if x_BHSd.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"head width: got {x_BHSd.shape[-1]}, need {2 * cos.shape[-1]} (twice the pairs of the table)")
    if torch.compiler.is_compiling():
        return _rotate(x_BHSd, cos, sin, layout)  # the compiler fuses this; writing into views would break its graph
    if not torch.is_grad_enabled():
        return _rotate_into(torch.empty_like(x_BHSd), x_BHSd, cos, sin, layout)
    return _Rotate.apply(x_BHSd, cos, sin, layout)


def interleaved_to_half(rows: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of a q/k projection (or a norm weight, n_heads = 1) from interleaved to half layout.

    Args:
        rows: (n_heads · d, ...), pairs at 2i, 2i + 1 of every head.
        n_heads: heads in the first axis.
    Returns:
        the same shape, pairs at i, i + d/2.
    """
    split = rows.unflatten(0, (n_heads, -1, 2))
    return split.transpose(1, 2).reshape(rows.shape)


def half_to_interleaved(rows: Tensor, n_heads: int) -> Tensor:
    """The inverse of `interleaved_to_half`."""
    split = rows.unflatten(0, (n_heads, 2, -1))
    return split.transpose(1, 2).reshape(rows.shape)


def rope_base_for_length(base: float, old_len: int, new_len: int) -> float:
    """The base that stretches the wavelengths so that new_len positions look like old_len did.

    Returns:
        base^(ln(new_len/2π) / ln(old_len/2π)).
    Source: AFM, arXiv 2407.21075 (500 000 at 8192 becomes 6 315 089 at 32 768).
    """
    if min(old_len, new_len) <= 2 * math.pi:
        raise ValueError(f"old_len, new_len: got {old_len}, {new_len}, need more than 2π positions")
    return base ** (math.log(new_len / (2 * math.pi)) / math.log(old_len / (2 * math.pi)))
