"""Vision transformer: the encoders of CLIP and SigLIP, whose patch features a language model reads."""

# Shape legend: B pictures, H W sides, S side, n patches, N tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.config import did_you_mean
from tenfold.nn.attention import Attention
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import draw_normal, init_generator
from tenfold.vision.positions import Grid, interpolate_pos_embed

Act = Literal["gelu", "quick_gelu", "gelu_tanh"]
Kind = Literal["clip", "siglip"]
_OF_PRESET: Any = None

PRESETS: dict[str, dict[str, Any]] = {
    name: dict(zip(("image_size", "patch_size", "dim", "layers", "heads", "mlp", "embed_dim", "act", "kind"), row, strict=True))
    for name, row in {
        "tiny": (32, 8, 64, 2, 4, 128, 64, "gelu", "clip"),
        "vit-b-32": (224, 32, 768, 12, 12, 3072, 512, "quick_gelu", "clip"),
        "vit-b-16": (224, 16, 768, 12, 12, 3072, 512, "quick_gelu", "clip"),
        "vit-l-14": (224, 14, 1024, 24, 16, 4096, 768, "quick_gelu", "clip"),
        "vit-l-14-336": (336, 14, 1024, 24, 16, 4096, 768, "quick_gelu", "clip"),
        "vit-h-14": (224, 14, 1280, 32, 16, 5120, 1024, "gelu", "clip"),
        "vit-h-14-378": (378, 14, 1280, 32, 16, 5120, 1024, "quick_gelu", "clip"),
        "siglip-b-16": (224, 16, 768, 12, 12, 3072, 768, "gelu_tanh", "siglip"),
        "siglip-so400m-14-384": (384, 14, 1152, 27, 16, 4304, 1152, "gelu_tanh", "siglip"),
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a vision transformer: `ViTConfig("vit-l-14", image_size=336)`.

    Attributes:
        preset: of `PRESETS`; it fills every field that is not given.
        image_size: S in pixels.
        patch_size: side of a patch; divides S. (siglip-so400m leaves 384 - 27·14 = 6 pixels unread, as published.)
        dim: D.
        layers, heads, mlp: blocks, attention heads, inner width of the feed-forward layers.
        embed_dim: width of the joint space of pictures and texts.
        act: "gelu" (exact), "quick_gelu" (OpenAI's and DFN's weights), "gelu_tanh".
        kind: "clip": class token, norm before the blocks, no offset on patches. "siglip": none of these, an attention-pooling head.
    Source: Radford et al. 2021, arXiv 2103.00020; Zhai et al. 2023, arXiv 2303.15343; MM1, Section 3.1.
    """

    preset: str = "tiny"
    image_size: int = _OF_PRESET
    patch_size: int = _OF_PRESET
    dim: int = _OF_PRESET
    layers: int = _OF_PRESET
    heads: int = _OF_PRESET
    mlp: int = _OF_PRESET
    embed_dim: int = _OF_PRESET
    act: Act = _OF_PRESET
    kind: Kind = _OF_PRESET

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(
                f"preset: got {self.preset!r}{did_you_mean(self.preset, list(PRESETS))}, need one of {', '.join(PRESETS)}"
            )
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("image_size", "patch_size", "dim", "layers", "heads", "mlp", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        published = self.kind == "siglip" and (self.image_size, self.patch_size) == (384, 14)
        if self.image_size % self.patch_size and not published:
            raise ValueError(f"image_size: got {self.image_size}, need a multiple of patch_size = {self.patch_size}")
        if self.dim % self.heads:
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim = {self.dim}")
        if self.act not in get_args(Act):
            raise ValueError(f"act: got {self.act!r}, need one of {', '.join(get_args(Act))}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: got {self.kind!r}, need clip or siglip")

    @property
    def grid(self) -> int:
        """g: patches a side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """n = g²."""
        return self.grid**2

    @property
    def norm_eps(self) -> float:
        """Of every LayerNorm."""
        return 1e-6 if self.kind == "siglip" else 1e-5

    @property
    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation that pixels in [0, 1] are normalised with."""
        return (SIGLIP_MEAN, SIGLIP_STD) if self.kind == "siglip" else (CLIP_MEAN, CLIP_STD)


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


class EncoderBlock(nn.Module):
    """x += attention(norm x); x += feed-forward(norm x)."""

    def __init__(
        self, dim: int, heads: int, mlp: int, act: Act, eps: float, generator: torch.Generator, *, causal: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, bias=True, causal=causal, generator=generator)
        self.mlp = FeedForward(dim, mlp, activation=act, bias=True, generator=generator)

    def forward(self, x_BND: Tensor, mask: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND), mask=mask)
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchEmbedding(nn.Module):
    """A picture cut into squares, each projected to D: a convolution whose stride is its width."""

    def __init__(self, dim: int, patch: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, 3, patch, patch))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        draw_normal(self.weight, (3 * patch * patch) ** -0.5, generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) to (B, n, D), row-major, and the grid."""
        x = F.conv2d(pixels, self.weight, self.bias, stride=self.weight.shape[-1])
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])


class PoolingHead(nn.Module):
    """SigLIP's: one learned query attends to all patches, then norm and a residual feed-forward layer."""

    def __init__(self, cfg: ViTConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, cfg.dim))
        draw_normal(self.probe, cfg.dim**-0.5, generator)
        self.attn = Attention(cfg.dim, cfg.heads, bias=True, causal=False, generator=generator)
        self.norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.mlp = FeedForward(cfg.dim, cfg.mlp, activation=cfg.act, bias=True, generator=generator)

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, n, D) to (B, D)."""
        y = cross_attention(self.attn, self.probe.expand(len(x_BND), -1, -1), x_BND)
        return (y + self.mlp(self.norm(y))).squeeze(1)


def cross_attention(attention: Attention, queries: Tensor, keys: Tensor) -> Tensor:
    """The projections of an attention layer with queries of one sequence and keys and values of another."""
    heads = attention.head_dim
    q = attention.q_proj(queries).unflatten(-1, (-1, heads)).transpose(1, 2)
    k = attention.k_proj(keys).unflatten(-1, (-1, heads)).transpose(1, 2)
    v = attention.v_proj(keys).unflatten(-1, (-1, heads)).transpose(1, 2)
    return attention.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ViT(nn.Module):
    """Vision transformer.

    Args:
        cfg: shape.
        generator: where the weights are drawn from; None draws a seed from torch's random state.
    """

    def __init__(self, cfg: ViTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = init_generator(generator)
        self.cfg = cfg
        clip = cfg.kind == "clip"
        self.patch = PatchEmbedding(cfg.dim, cfg.patch_size, not clip, generator)
        self.class_embedding = nn.Parameter(torch.empty(cfg.dim)) if clip else None
        self.positions = nn.Parameter(torch.empty(cfg.patches + clip, cfg.dim))
        for weight in (self.class_embedding, self.positions):
            if weight is not None:
                draw_normal(weight, cfg.dim**-0.5, generator)
        self.pre_norm = nn.LayerNorm(cfg.dim, cfg.norm_eps) if clip else None
        self.layers = nn.ModuleList(
            EncoderBlock(cfg.dim, cfg.heads, cfg.mlp, cfg.act, cfg.norm_eps, generator) for _ in range(cfg.layers)
        )
        self.post_norm = nn.LayerNorm(cfg.dim, cfg.norm_eps)
        self.head = None if clip else PoolingHead(cfg, generator)

    def forward(self, pixels: Tensor, feature_layer: int = -1, mask: Tensor | None = None) -> Tensor:
        """Patch features for a connector: no class token, no last norm.

        Args:
            pixels: (B, 3, H, W), normalised; sides that are multiples of the patch, for sides other than S the positions
                are interpolated.
            feature_layer: after which block; -1 is the last, -2 the one before (LLaVA's), k >= 0 after k blocks.
            mask: attention mask over the N tokens, see `nn.attention.Attention`.
        Returns:
            (B, n, D), row-major.
        Raises:
            ValueError: other shapes, pixels that are not finite, no such layer.
        """
        depth = feature_layer + self.cfg.layers + 1 if feature_layer < 0 else feature_layer
        if not 0 <= depth <= self.cfg.layers:
            raise ValueError(f"feature_layer: got {feature_layer}, need -{self.cfg.layers + 1}..{self.cfg.layers}")
        x_BND = self._encode(pixels, depth, mask)
        return x_BND if self.class_embedding is None else x_BND[:, 1:]

    def pooled(self, pixels: Tensor) -> Tensor:
        """One vector a picture, (B, D): the normed class token, or SigLIP's pooled patches."""
        x_BND = self._encode(pixels, self.cfg.layers, None)
        if self.head is None:
            return self.post_norm(x_BND[:, 0])
        return self.head(self.post_norm(x_BND))

    def hidden_states(self, pixels: Tensor) -> Tensor:
        """All N tokens after the last block, (B, N, D), the class token first where there is one."""
        return self._encode(pixels, self.cfg.layers, None)

    def _encode(self, pixels: Tensor, depth: int, mask: Tensor | None) -> Tensor:
        self._check(pixels)
        x_BND, grid = self.patch(pixels)
        if self.class_embedding is not None:
            x_BND = torch.cat([self.class_embedding.expand(len(x_BND), 1, -1), x_BND], dim=1)
        side = self.cfg.grid
        x_BND = x_BND + interpolate_pos_embed(self.positions, (side, side), grid)
        if self.pre_norm is not None:
            x_BND = self.pre_norm(x_BND)
        for block in list(self.layers)[:depth]:
            x_BND = block(x_BND, mask)
        return x_BND

    def _check(self, pixels: Tensor) -> None:
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels: got shape {tuple(pixels.shape)}, need (pictures, 3, height, width)")
        height, width = pixels.shape[2:]
        patch = self.cfg.patch_size
        own = height == width == self.cfg.image_size
        if not own and (height % patch or width % patch or not height or not width):
            raise ValueError(f"pixels: got sides {height} x {width}, need multiples of patch_size = {patch}")
        if pixels.is_cpu and not torch.compiler.is_compiling() and not bool(torch.isfinite(pixels).all()):
            bad = [i for i, picture in enumerate(pixels) if not bool(torch.isfinite(picture).all())]
            raise ValueError(f"pixels: picture {bad[0]} holds values that are not finite ({len(bad)} of {len(pixels)})")


def position_fit(state: Mapping[str, Tensor], name: str, cfg: ViTConfig) -> tuple[Grid, Grid] | None:
    """(stored grid, wanted grid) where a stored position table is of another square grid; None where it fits."""
    extra = int(cfg.kind == "clip")
    stored = round((state[name].shape[-2] - extra) ** 0.5)
    return None if stored == cfg.grid else ((stored, stored), (cfg.grid, cfg.grid))
