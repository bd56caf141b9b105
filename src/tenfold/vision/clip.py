"""A picture encoder and a text encoder with one joint space: CLIP and SigLIP."""

# Shape legend: B pictures or texts, L tokens, D width, E joint width

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.linear import Linear, draw_normal, init_generator
from tenfold.vision.contrastive import (
    CLIP_INIT,
    CLIP_MAX,
    SIGLIP_BIAS,
    SIGLIP_INIT,
    Losses,
    clip_loss,
    siglip_loss,
)
from tenfold.vision.vit import Act, EncoderBlock, Kind, ViT, ViTConfig


@dataclass(frozen=True)
class TextConfig:
    """Shape of a text encoder.

    Attributes:
        vocab_size: token ids.
        dim, layers, heads, mlp: as in `ViTConfig`.
        max_len: positions, in tokens.
        eos_id: the token whose state stands for the text (its first place in a row).
        act: of the feed-forward layers.
        kind: "clip": causal, the state at `eos_id`, a projection without offset. "siglip": every token sees every other,
            the last state, a projection with offset.
    """

    vocab_size: int
    dim: int = 64
    layers: int = 2
    heads: int = 4
    mlp: int = 128
    max_len: int = 32
    eos_id: int = 2
    act: Act = "gelu"
    kind: Kind = "clip"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "layers", "heads", "mlp", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.dim % self.heads:
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim = {self.dim}")

    @property
    def norm_eps(self) -> float:
        """Of every LayerNorm."""
        return 1e-6 if self.kind == "siglip" else 1e-5


class TextEncoder(nn.Module):
    """Token ids to one vector a text."""

    def __init__(self, cfg: TextConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = init_generator(generator)
        self.cfg = cfg
        self.tokens = nn.Parameter(torch.empty(cfg.vocab_size, cfg.dim))
        self.positions = nn.Parameter(torch.empty(cfg.max_len, cfg.dim))
        draw_normal(self.tokens, cfg.dim**-0.5, generator)
        draw_normal(self.positions, 0.01, generator)
        causal = cfg.kind == "clip"
        self.layers = nn.ModuleList(
            EncoderBlock(cfg.dim, cfg.heads, cfg.mlp, cfg.act, cfg.norm_eps, generator, causal=causal)
            for _ in range(cfg.layers)
        )
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)

    def states(self, ids: Tensor) -> Tensor:
        """(B, L) int64 to normed states (B, L, D).

        Raises:
            ValueError: more tokens than positions, ids outside the vocabulary.
        """
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.cfg.max_len:
            raise ValueError(f"ids: got shape {tuple(ids.shape)}, need (texts, 1..{self.cfg.max_len} tokens)")
        if ids.is_cpu and (int(ids.min()) < 0 or int(ids.max()) >= self.cfg.vocab_size):
            raise ValueError(f"ids: got {int(ids.min())}..{int(ids.max())}, need 0..{self.cfg.vocab_size - 1}")
        x_BLD = F.embedding(ids, self.tokens) + self.positions[: ids.shape[1]]
        for block in self.layers:
            x_BLD = block(x_BLD)
        return self.norm(x_BLD)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) int64, right-padded, to (B, D).

        Raises:
            ValueError: a row without the end token.
        """
        states = self.states(ids)
        if self.cfg.kind == "siglip":
            return states[:, -1]
        ends = ids == self.cfg.eos_id
        if not bool(ends.any(1).all()):
            row = int((~ends.any(1)).nonzero()[0])
            raise ValueError(f"ids: row {row} has no end token {self.cfg.eos_id} (eos_id)")
        return states[torch.arange(len(ids), device=ids.device), ends.int().argmax(1)]


class CLIPModel(nn.Module):
    """Pictures and texts in one space.

    Args:
        vision: shape of the picture encoder; its `kind` is that of the model.
        text: shape of the text encoder, of the same kind.
        generator: where the weights are drawn from.
    Attributes:
        log_scale: s of the loss; `clamp_scale` after each step keeps it at ln 100 at most.
        bias: b of SigLIP's loss; None for CLIP.
    """

    def __init__(self, vision: ViTConfig, text: TextConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if vision.kind != text.kind:
            raise ValueError(f"text.kind: got {text.kind!r}, need {vision.kind!r}, the picture encoder's")
        if vision.kind == "siglip" and vision.embed_dim != vision.dim:
            raise ValueError(f"embed_dim: got {vision.embed_dim}, need dim = {vision.dim}: SigLIP's pictures have no projection")  # fmt: skip
        generator = init_generator(generator)
        siglip = vision.kind == "siglip"
        self.vision = ViT(vision, generator)
        self.text = TextEncoder(text, generator)
        self.visual_projection = None if siglip else Linear(vision.dim, vision.embed_dim, generator=generator)
        self.text_projection = Linear(text.dim, vision.embed_dim, bias=siglip, generator=generator)
        self.log_scale = nn.Parameter(torch.tensor(SIGLIP_INIT if siglip else CLIP_INIT))
        self.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS)) if siglip else None

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to unit vectors (B, E)."""
        pooled = self.vision.pooled(pixels)
        return F.normalize(pooled if self.visual_projection is None else self.visual_projection(pooled), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """(B, L) int64 to unit vectors (B, E)."""
        return F.normalize(self.text_projection(self.text(ids)), dim=-1)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of pictures and of texts."""
        return self.encode_image(pixels), self.encode_text(ids)

    def loss(self, u: Tensor, v: Tensor, *, dedup: bool | Tensor = False, gather: bool = False) -> Losses:
        """`clip_loss` or `siglip_loss` with this model's scale."""
        if self.bias is None:
            return clip_loss(u, v, self.log_scale, dedup=dedup, gather=gather)
        return siglip_loss(u, v, self.log_scale, self.bias, dedup=dedup, gather=gather)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """After a step: s at most ln 100. In the forward pass a clamp would stop its gradient for good."""
        self.log_scale.clamp_(max=CLIP_MAX)
