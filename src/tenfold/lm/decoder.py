"""Decoder-only transformer: Llama, Qwen3 and Mixtral shapes from one configuration."""

# Shape legend: B batch, S sequence, D model, V vocabulary, K cached and new keys

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.attention import Attention, QKNormPosition, document_attention
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import Linear, draw_normal, init_generator, linear
from tenfold.nn.moe import MoE
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.norm import RMSNorm
from tenfold.nn.rotary import RopeLayout, Rotary

if TYPE_CHECKING:
    from tenfold.lm.kv_cache import KVCache
    from tenfold.lm.packed_cache import PackedCache


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder.

    Attributes:
        vocab_size: V.
        dim: D, width of the residual stream.
        n_layers: blocks.
        n_heads, n_kv_heads, head_dim: attention; n_kv_heads divides n_heads, head_dim is even.
        ffn_dim: inner width of the dense SwiGLU layers.
        rope_base: wavelength base of the rotary positions.
        norm_eps: of every RMSNorm.
        qk_norm: norm queries and keys; qk_norm_position says whether before or after the rotation.
        rope_layout: feature pairs of the rotation.
        tie_embeddings: the output layer is the embedding matrix.
        max_len: longest sequence, in tokens.
        dropout: on the embeddings and on each residual branch, in training.
        moe: mixture-of-experts layer that takes the place of the dense one in blocks i with
            i mod moe_every = moe_offset; None for a dense model.
        moe_every, moe_offset: placement; the default makes every second block sparse, the first dense.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    rope_base: float = 5e5
    norm_eps: float = 1e-5
    qk_norm: bool = True
    qk_norm_position: QKNormPosition = "pre_rope"
    rope_layout: RopeLayout = "half"
    tie_embeddings: bool = True
    max_len: int = 4096
    dropout: float = 0.0
    moe: MoEConfig | None = None
    moe_every: int = 2
    moe_offset: int = 1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim", "max_len", "moe_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads: got {self.n_kv_heads}, need a divisor of n_heads = {self.n_heads}")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim: got {self.head_dim}, need an even number (rotary pairs)")
        if not self.rope_base > 1:
            raise ValueError(f"rope_base: got {self.rope_base}, need more than 1")
        if self.norm_eps < 0:
            raise ValueError(f"norm_eps: got {self.norm_eps}, need 0 or more")
        if self.qk_norm_position not in get_args(QKNormPosition):
            raise ValueError(f"qk_norm_position: got {self.qk_norm_position!r}, need pre_rope or post_rope")
        if self.rope_layout not in get_args(RopeLayout):
            raise ValueError(f"rope_layout: got {self.rope_layout!r}, need half or interleaved")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, need 0 <= dropout < 1")
        if not 0 <= self.moe_offset < self.moe_every:
            raise ValueError(f"moe_offset: got {self.moe_offset}, need 0..{self.moe_every - 1} (below moe_every)")
        if self.moe is not None and self.moe.dim != self.dim:
            raise ValueError(f"moe.dim: got {self.moe.dim}, need dim = {self.dim}")
        if self.moe is not None and not self.moe.causal:
            # Routers that look at later tokens are refused there.
            object.__setattr__(self, "moe", dataclasses.replace(self.moe, causal=True))

    def is_sparse(self, layer: int) -> bool:
        """Whether block `layer` (from 0) holds experts."""
        return self.moe is not None and layer % self.moe_every == self.moe_offset


class Block(nn.Module):
    """h = x + Attn(norm x); y = h + FFN(norm h)."""

    def __init__(self, cfg: DecoderConfig, layer: int, generator: torch.Generator) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.self_attn = Attention(
            cfg.dim,
            cfg.n_heads,
            cfg.n_kv_heads,
            cfg.head_dim,
            qk_norm=cfg.qk_norm,
            qk_norm_position=cfg.qk_norm_position,
            rope_layout=cfg.rope_layout,
            norm_eps=cfg.norm_eps,
            generator=generator,
        )
        self.post_attention_layernorm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.mlp: nn.Module
        if cfg.moe is not None and cfg.is_sparse(layer):
            self.mlp = MoE(cfg.moe, generator=generator)
        else:
            self.mlp = FeedForward(cfg.dim, cfg.ffn_dim, generator=generator)
        self.dropout = cfg.dropout

    def forward(
        self,
        x_BSD: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Any,
        real_BS: Tensor | None,
        documents: list[int] | None = None,
    ) -> Tensor:
        """real_BS, False at padding, reaches the experts only: padding must not count in their balance."""
        attended = self.self_attn(self.input_layernorm(x_BSD), rope=rope, mask=mask, documents=documents, cache=cache)
        h_BSD = x_BSD + F.dropout(attended, self.dropout, self.training)
        normed = self.post_attention_layernorm(h_BSD)
        fed = self.mlp(normed, mask=real_BS) if isinstance(self.mlp, MoE) else self.mlp(normed)
        return h_BSD + F.dropout(fed, self.dropout, self.training)


class Decoder(nn.Module):
    """Causal language model.

    Weights: linear N(0, 1/fan_in), embedding N(0, 1/D), norms 1. Parameter names are those of Hugging Face's Llama
    and Qwen3 without their leading `model.`.

    Args:
        cfg: shape.
        generator: where the weights are drawn from; None draws a seed from torch's random state (see
            `init_generator`).
    """

    def __init__(self, cfg: DecoderConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = init_generator(generator)
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.dim, _weight=torch.empty(cfg.vocab_size, cfg.dim))
        draw_normal(self.embed_tokens.weight, cfg.dim**-0.5, generator)
        self.layers = nn.ModuleList(Block(cfg, layer, generator) for layer in range(cfg.n_layers))
        self.norm = RMSNorm(cfg.dim, cfg.norm_eps)
        self.lm_head = None if cfg.tie_embeddings else Linear(cfg.dim, cfg.vocab_size, generator=generator)
        self.rotary = Rotary(cfg.head_dim, cfg.rope_base)

    def forward(
        self,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | PackedCache | None = None,
        embeds: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Logits of the next token at every position.

        Args:
            ids: int64 (B, S) token ids; or give `embeds`.
            positions: int64 (S,) or (B, S); None counts from 0, from the cache's lengths, or from each segment's start.
            mask: bool (B, K), False at padding, on top of causality; or bool or additive (B, S, K) or
                (B, 1 or H, S, K), which replaces causality.
            cache: keys and values of earlier tokens; it takes in the new ones.
            embeds: (B, S, D) input vectors in place of embedded ids.
            segments: integer (B, S) document numbers of packed rows, from 1: attention stays inside a document, and 0
                is padding, which no expert sees and whose logits mean nothing.
        Returns:
            (B, S, V).
        Raises:
            ValueError: ids out of range, a sequence beyond max_len, arguments that exclude each other.
        """
        return self.head(self.hidden(ids, positions, mask, cache, embeds, segments))

    def hidden(
        self,
        ids: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | PackedCache | None = None,
        embeds: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """States after the last norm, (B, S, D); arguments as in `forward`."""
        x_BSD = self._embed(ids, embeds)
        batch, length = x_BSD.shape[:2]
        if cache is not None and len(cache.lengths) != batch:
            raise ValueError(f"cache: got batch {batch}, need {len(cache.lengths)}")
        start = 0 if cache is None else cache.longest
        if start + length > self.cfg.max_len:
            raise ValueError(
                f"sequence: got {start + length} tokens, the model takes at most max_len = {self.cfg.max_len}"
            )
        real_BS = mask[:, -length:] if mask is not None and mask.ndim == 2 else None
        documents: list[int] | None = None
        if segments is not None:
            if mask is not None or cache is not None:
                raise ValueError("segments: got them together with mask or cache, need packed rows alone")
            mask, documents = document_attention(segments, self.cfg.n_heads * self.cfg.head_dim)
            real_BS = segments != 0
            positions = segment_positions(segments) if positions is None else positions
        else:
            mask = attention_mask(mask, batch, length, cache, x_BSD.device)
        rope = self._rope(positions, length, cache, x_BSD)
        x_BSD = F.dropout(x_BSD, self.cfg.dropout, self.training)
        for i, block in enumerate(self.layers):
            x_BSD = block(x_BSD, rope, mask, None if cache is None else cache.layer(i), real_BS, documents)
        if cache is not None:
            cache.advance(length)
        return self.norm(x_BSD)

    def head(self, hidden: Tensor) -> Tensor:
        """States (…, D) to logits (…, V)."""
        return linear(hidden, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(hidden)

    def _embed(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        if (ids is None) == (embeds is None):
            raise ValueError("ids, embeds: need exactly one of them")
        if embeds is not None:
            return embeds
        assert ids is not None
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(f"ids: got shape {tuple(ids.shape)}, need (batch, sequence), at least one token")
        check_ids(ids, self.cfg.vocab_size)
        return self.embed_tokens(ids)

    def _rope(
        self, positions: Tensor | None, length: int, cache: KVCache | PackedCache | None, x_BSD: Tensor
    ) -> tuple[Tensor, Tensor]:
        if positions is None and (cache is None or cache.uniform):
            start = 0 if cache is None else cache.longest
            cos, sin = self.rotary.table(start + length, x_BSD.device, x_BSD.dtype)
            return cos[start:], sin[start:]
        bound = self.cfg.max_len
        if positions is None:
            assert cache is not None
            positions = cache.lengths.unsqueeze(1) + torch.arange(length, device=x_BSD.device)
            bound = cache.longest + length
        # Reading the positions waits for an accelerator; there it is done where it may save a large table.
        elif (positions.is_cpu or (positions.is_cuda and bound > 1 << 16)) and not torch.compiler.is_compiling():
            low, high = (int(value) for value in positions.aminmax())
            if low < 0 or high >= self.cfg.max_len:
                raise ValueError(f"positions: got {low}..{high}, need 0..{self.cfg.max_len - 1} (max_len)")
            bound = high + 1
        return self.rotary.at(positions, bound, x_BSD.dtype)

    def num_params(self, embedding: bool = False) -> int:
        """Number of weights; `embedding` counts those of the embedding and of an untied output layer too."""
        total = sum(weight.numel() for weight in self.parameters())
        return total if embedding else total - self._embedding_params()

    def num_active_params(self, embedding: bool = False) -> int:
        """Number of weights one token passes through: of the experts, only the chosen ones."""
        idle = 0
        if self.cfg.moe is not None:
            moe = self.cfg.moe
            for block in self.layers:
                if isinstance(block.mlp, MoE):
                    # Every parameter of the layer itself but the router has one slice an expert.
                    stacks = (w.numel() for name, w in block.mlp.named_parameters(recurse=False) if "gate" not in name)
                    idle += sum(stacks) // moe.num_experts * (moe.num_experts - moe.top_k)
        return self.num_params(embedding) - idle

    def _embedding_params(self) -> int:
        outer = self.embed_tokens.weight.numel()
        return outer if self.lm_head is None else outer + self.lm_head.weight.numel()

    def flops_per_token(self, seq: int) -> float:
        """Multiplications and additions of the forward pass, per token of a sequence of `seq` tokens.

        2 per active weight, causal attention on average over the positions, the output layer; a training step
        costs three times this.
        """
        attention = 2 * seq * self.cfg.n_layers * self.cfg.n_heads * self.cfg.head_dim
        matrices = sum(weight.numel() for weight in self.parameters() if weight.ndim > 1) - self._embedding_params()
        idle = self.num_params() - self.num_active_params()
        return float(2 * (matrices - idle + self.cfg.vocab_size * self.cfg.dim) + attention)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype | None = None, **overrides: object) -> Decoder:
        """Read a Hugging Face folder (Llama, Qwen3, Mixtral, Qwen3-MoE), one of ours, or a Llama GGUF file.

        Args:
            path: folder with config.json and safetensors, or a .gguf file.
            dtype: type of the weights; None keeps the stored one.
            overrides: fields of `DecoderConfig` that do not change shapes (max_len, dropout, …).
        Raises:
            UserError: missing files, an unsupported architecture or option, tensors that do not fit (all are listed).
        """
        from tenfold.lm.formats import read_decoder

        return read_decoder(Path(path), dtype=dtype, overrides=overrides)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors in Hugging Face layout (see `formats.write_decoder`)."""
        from tenfold.lm.formats import write_decoder

        write_decoder(self, Path(folder))


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Refuse token ids outside the vocabulary before the gather reads past the embedding matrix.

    On an accelerator the check does not wait for the device; it stops there with torch's own message.
    """
    if torch.compiler.is_compiling() or ids.is_meta:
        return
    if ids.is_cpu:
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"ids: got token {low if low < 0 else high}, need 0..{vocab_size - 1} (vocab_size {vocab_size})"
            )
    else:
        torch._assert_async(((ids >= 0) & (ids < vocab_size)).all(), "ids: token outside the vocabulary")


def segment_positions(segments: Tensor) -> Tensor:
    """Positions that restart with every document of packed rows: (B, S) document numbers to (B, S) int64."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(first, index, 0).cummax(1).values


def attention_mask(
    mask: Tensor | None, batch: int, length: int, cache: KVCache | PackedCache | None, device: torch.device
) -> Tensor | None:
    """The mask that attention takes, (B, 1 or H, S, K) or None for plain causality.

    None keeps the fast kernel, which needs no mask in memory.
    """
    if mask is not None and mask.ndim in (3, 4):
        return mask.unsqueeze(1) if mask.ndim == 3 else mask
    start = 0 if cache is None else cache.longest
    ragged = cache is not None and cache.masked
    if mask is None and not ragged:
        return None
    keys = torch.arange(start + length, device=device)
    if cache is None:
        slots = keys[-length:].expand(batch, length)
    else:
        slots = cache.lengths.unsqueeze(1) + torch.arange(length, device=device)
    slots = slots.unsqueeze(-1)
    allowed = keys <= slots
    if mask is not None:
        if mask.shape != (batch, start + length) or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: got {mask.dtype} {tuple(mask.shape)}, need bool {(batch, start + length)} (batch, keys), "
                "or 3 or 4 axes"
            )
        # A padding query keeps itself, or its softmax would run over nothing.
        allowed = (allowed & mask.unsqueeze(1)) | (keys == slots)
    return allowed.unsqueeze(1)
