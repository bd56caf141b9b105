"""Self-attention with grouped key-value heads, rotary positions, normed queries and keys, and a key-value cache."""

# Shape legend: B batch, S queries, K keys, D model, H query heads, G key-value heads, d head width

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.linear import Linear, cast_once, init_generator
from tenfold.nn.norm import RMSNorm
from tenfold.nn.rotary import RopeLayout, apply_rotary

QKNormPosition = Literal["pre_rope", "post_rope"]

# What a document of its own costs on a CPU, forward and backward, counted in products of a query with a key times the width of
# all heads, and how far below the mask's cost the documents' must lie (benchmarks/multimodal.py).
DOCUMENT_COST, DOCUMENTS_PAY = 400_000, 0.8


class LayerCache(Protocol):
    """What a layer needs of a key-value cache."""

    def append(self, k_BGSd: Tensor, v_BGSd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return all stored so far, each (B, G, K, d)."""
        ...


class SequenceCache:
    """Keys and values of several sequences of which each is attended to by itself."""

    def attend(
        self, attend: Callable[[Tensor, Tensor, Tensor, None], Tensor], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Store the new keys and values, then attend sequence by sequence.

        Args:
            attend: `Attention.attend`.
            q, k, v: (B, H or G, S, d), as `Attention.project` gives them.
        Returns:
            (B, S, H · d).
        """
        raise NotImplementedError


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True where attention is allowed; the last query sees every key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def segment_mask(segment_ids: Tensor) -> Tensor:
    """Causal attention inside each document of packed rows, none across documents.

    Args:
        segment_ids: integer (B, S); tokens of one document share a number within their row. Padding, numbered 0,
            is a document like the others here.
    Returns:
        bool (B, 1, S, S), True where attention is allowed.
    """
    if segment_ids.ndim != 2:
        raise ValueError(f"segment_ids: got shape {tuple(segment_ids.shape)}, need (batch, sequence)")
    same = segment_ids.unsqueeze(-1) == segment_ids.unsqueeze(-2)
    length = segment_ids.shape[1]
    return (same & causal_mask(length, length, segment_ids.device)).unsqueeze(1)


def document_attention(segment_ids: Tensor, width: int) -> tuple[Tensor | None, list[int] | None]:
    """How packed rows are attended to: under the mask of `segment_mask`, or faster with the same values.

    Documents one by one leave out all products across them. Few long ones or wide heads are faster so, many short ones are not.
    Other devices keep the mask: there nothing was measured, and the lengths would wait for the device.

    Args:
        segment_ids: integer (B, S), 0 is padding, see `segment_mask`.
        width: H · d of the queries.
    Returns:
        mask, lengths: what `Attention.forward` takes as `mask` and `documents`; both None where plain causality does, since
        every row is one document with padding behind it.
    """
    if not segment_ids.is_cpu or segment_ids.ndim != 2 or torch.compiler.is_compiling():
        return segment_mask(segment_ids), None
    rows, length = segment_ids.shape
    low, high = (int(bound) for bound in segment_ids.aminmax())
    own = segment_ids - low + torch.arange(rows).unsqueeze(1) * (high - low + 1)
    runs, counts = torch.unique_consecutive(own, return_counts=True)
    first, padded = segment_ids[:, :1], segment_ids == 0
    alone = bool(((segment_ids == first) | padded).all()) and bool((first != 0).all())
    if alone and len(runs) == rows + int(padded[:, -1].sum()):
        return None, None
    lengths: list[int] = counts.tolist()
    cost = width * sum(each * each for each in lengths) + DOCUMENT_COST * len(lengths)
    if cost > DOCUMENTS_PAY * width * rows * length**2 or len(runs) > len(torch.unique(runs)):
        return segment_mask(segment_ids), None  # also where a document is in several parts
    return None, lengths


def spelt_out_attention(q_BHSd: Tensor, k_BGKd: Tensor, v_BGKd: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q·k / sqrt(d)) v by two matrix products, the softmax in float32 for 16-bit inputs; it keeps all weights.

    Args:
        q_BHSd, k_BGKd, v_BGKd: queries, and keys and values whose heads are shared by H / G query heads each.
        mask: bool (True: may attend) or additive, broadcastable to (B, H, S, K).
    Returns:
        (B, H, S, d).
    """
    queries, shared = q_BHSd.shape[2], q_BHSd.shape[1] // k_BGKd.shape[1]
    # The queries that share a key head stand one under the other: one product for all of them.
    rows = q_BHSd.unflatten(1, (-1, shared)).flatten(2, 3) * q_BHSd.shape[3] ** -0.5
    scores = (rows @ k_BGKd.mT).unflatten(2, (shared, queries)).flatten(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(v_BGKd.dtype)
    return (weights.unflatten(1, (-1, shared)).flatten(2, 3) @ v_BGKd).unflatten(2, (shared, queries)).flatten(1, 2)


def _spelt_out_pays(q: Tensor, k: Tensor) -> bool:
    """Whether two products beat torch's fused kernel: on a CPU its backward in 16 bits takes up to seven times as long."""
    short = q.shape[2] * k.shape[2] <= 256 * 256
    return (
        short
        and q.dtype == torch.bfloat16
        and q.is_cpu
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


class Attention(nn.Module):
    """softmax(q·k / sqrt(d)) v; query head i uses key-value head floor(i · G / H).

    Args:
        dim: D, width of input and output.
        n_heads: H.
        n_kv_heads: G, a divisor of H; None takes H.
        head_dim: d; None takes D / H.
        qk_norm: RMSNorm over d on queries and on keys, weights shared by the heads.
        qk_norm_position: norm before or after the rotation.
        rope_layout: how features pair up for the rotation.
        norm_eps: of the two norms.
        bias: offsets on every projection.
        causal: without a mask, queries see earlier keys only (True) or every key (False).
        dropout: share of attention weights dropped in training (turns off the fused CPU kernel).
        generator: where the weights are drawn from.
    Raises:
        ValueError: heads that do not divide, an unknown switch, dropout outside [0, 1).
    Source: Ainslie et al. 2023, arXiv 2305.13245 (grouped heads); Henry et al. 2020, arXiv 2010.04245 (normed q, k).
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        qk_norm: bool = False,
        qk_norm_position: QKNormPosition = "pre_rope",
        rope_layout: RopeLayout = "half",
        norm_eps: float = 1e-5,
        bias: bool = False,
        causal: bool = True,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if min(dim, n_heads, n_kv_heads) < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads: got {n_kv_heads}, need a divisor of n_heads = {n_heads}")
        if head_dim is None and dim % n_heads:
            raise ValueError(f"n_heads: got {n_heads}, need a divisor of dim = {dim} (or set head_dim)")
        if qk_norm_position not in get_args(QKNormPosition):
            raise ValueError(f"qk_norm_position: got {qk_norm_position!r}, need pre_rope or post_rope")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}, need 0 <= dropout < 1")
        generator = init_generator(generator)
        self.head_dim = head_dim = dim // n_heads if head_dim is None else head_dim
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.qk_norm_position, self.rope_layout = qk_norm_position, rope_layout
        self.causal, self.dropout = causal, dropout
        self.q_proj = Linear(dim, n_heads * head_dim, bias, generator=generator)
        self.k_proj = Linear(dim, n_kv_heads * head_dim, bias, generator=generator)
        self.v_proj = Linear(dim, n_kv_heads * head_dim, bias, generator=generator)
        self.o_proj = Linear(n_heads * head_dim, dim, bias, generator=generator)
        self.q_norm = RMSNorm(head_dim, norm_eps) if qk_norm else None
        self.k_norm = RMSNorm(head_dim, norm_eps) if qk_norm else None

    def forward(
        self,
        x_BSD: Tensor,
        *,
        rope: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        documents: Sequence[int] | None = None,
        cache: LayerCache | SequenceCache | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x_BSD: input.
            rope: cosines and sines of the positions, from `Rotary.at` or `Rotary.table`; None leaves positions out.
            mask: bool (True: may attend) or additive, broadcastable to (B, H, S, K); it replaces causality.
            documents: lengths of the runs of tokens, row after row, B · S in all, that attend to themselves alone, each as
                a sequence of its own; without mask and cache.
            cache: earlier keys and values; the new ones are appended.
        Returns:
            (B, S, D).
        """
        q, k, v = self.project(x_BSD, rope)
        if documents is not None:
            return self.o_proj(self._attend_apart(q, k, v, documents))
        if isinstance(cache, SequenceCache):
            return self.o_proj(cache.attend(self.attend, q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
        return self.o_proj(self.attend(q, k, v, mask))

    def project(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, S, d), keys and values (B, G, S, d), normed and rotated."""
        x_BSD = cast_once(x_BSD)
        q = self._heads(self.q_proj(x_BSD), self.q_norm, rope)
        k = self._heads(self.k_proj(x_BSD), self.k_norm, rope)
        return q, k, self.v_proj(x_BSD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The heads' results side by side, (B, S, H · d); arguments as `project` gives them and `forward` takes them."""
        queries, keys = q.shape[2], k.shape[2]
        causal = self.causal and mask is None and queries > 1
        dropout = self.dropout if self.training else 0.0
        if not dropout and _spelt_out_pays(q, k):
            mask = causal_mask(queries, keys, q.device) if causal else mask
            return spelt_out_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        if causal and keys > queries:
            mask, causal = causal_mask(queries, keys, q.device), False
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=q.shape[1] != k.shape[1])
        return y.transpose(1, 2).flatten(2)

    def _attend_apart(self, q: Tensor, k: Tensor, v: Tensor, documents: Sequence[int]) -> Tensor:
        """`attend` of each run of tokens by itself, (B, S, H · d)."""
        # One split, since the gradient of a slice is as large as all the rows.
        runs = (x.transpose(1, 2).flatten(0, 1).split(list(documents)) for x in (q, k, v))
        apart = []
        for run in zip(*runs, strict=True):
            q_run, k_run, v_run = (x.transpose(0, 1).unsqueeze(0) for x in run)
            apart.append(self.attend(q_run, k_run, v_run, None))
        return torch.cat(apart, 1).view(q.shape[0], q.shape[2], -1)

    def _heads(self, x: Tensor, norm: RMSNorm | None, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, S, heads · d) to normed and rotated (B, heads, S, d)."""
        x = x.unflatten(-1, (-1, self.head_dim))
        if norm is not None and self.qk_norm_position == "pre_rope":
            x = norm(x)
        x = x.transpose(1, 2)
        if rope is not None:
            x = apply_rotary(x, *rope, self.rope_layout)
        if norm is not None and self.qk_norm_position == "post_rope":
            x = norm(x)
        return x
