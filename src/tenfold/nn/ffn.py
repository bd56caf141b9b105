"""The position-wise feed-forward layer of a transformer, gated or plain."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.linear import Linear, cast_once, init_generator

Activation = Literal["swiglu", "gelu", "gelu_tanh", "quick_gelu", "relu"]


class FeedForward(nn.Module):
    """swiglu: down(silu(gate x) ⊙ up x); the others: down(act(up x)), without a gate.

    Args:
        dim: width of input and output.
        hidden: inner width.
        activation: "swiglu", "gelu" (exact), "gelu_tanh" (its tanh form), "quick_gelu" (x·σ(1.702 x)) or "relu".
        bias: offsets on every projection.
        dropout: share of inner activations dropped in training.
        generator: where the weights are drawn from.
    Raises:
        ValueError: a size below 1, an unknown activation, dropout outside [0, 1).
    Source: Shazeer 2020, arXiv 2002.05202, Eq. 6 (SwiGLU); Vaswani et al. 2017, Eq. 2.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Activation = "swiglu",
        bias: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(dim, hidden) < 1:
            raise ValueError(f"dim, hidden: got {dim}, {hidden}, need at least 1")
        if activation not in get_args(Activation):
            raise ValueError(f"activation: got {activation!r}, need one of {', '.join(get_args(Activation))}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}, need 0 <= dropout < 1")
        generator = init_generator(generator)
        self.dim, self.hidden, self.activation, self.dropout = dim, hidden, activation, dropout
        self.gate_proj = Linear(dim, hidden, bias, generator=generator) if activation == "swiglu" else None
        self.up_proj = Linear(dim, hidden, bias, generator=generator)
        self.down_proj = Linear(hidden, dim, bias, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., dim). Returns: the same shape."""
        x = cast_once(x)
        inner = self.up_proj(x)
        if self.gate_proj is not None:
            inner = F.silu(self.gate_proj(x)) * inner
        elif self.activation == "relu":
            inner = F.relu(inner)
        elif self.activation == "quick_gelu":
            inner = inner * torch.sigmoid(1.702 * inner)
        else:
            inner = F.gelu(inner, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down_proj(F.dropout(inner, self.dropout, self.training))
