"""Settings of the diffusion transformer, checked when they are made, and the published sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tenfold.core.config import need
from tenfold.nn.moe_config import MoEConfig

Router = Literal["ec", "tc", "race", "random", "dense", "dense-wide"]
ROUTERS: tuple[str, ...] = get_args(Router)
LARGEST = 2**16  # side, width or number that is taken for a mistake above

# What the names mean to the mixture layer; the two dense ones have none.
_LAYER_ROUTERS = {"ec": "expert_choice", "tc": "topk", "race": "race", "random": "random"}


@dataclass(frozen=True)
class ECDiTConfig:
    """One text-to-image diffusion transformer.

    Args:
        image_size: side of the square training image, in pixels or latent cells; other sizes may be given at call time.
        in_channels: channels c of image or latent.
        out_channels: None is in_channels; 2 · in_channels adds a learned variance behind the prediction.
        patch_size: side p of a patch; image sides are multiples of it.
        dim: width d, a multiple of 4 (sine and cosine of two coordinates).
        num_layers: blocks.
        num_heads: query heads.
        num_kv_heads: key-value heads, a divisor of num_heads; None is as many.
        ffn_ratio: hidden width of a feed-forward layer, in widths d.
        text_dim: width of the text states.
        router: what stands in the sparse blocks. "ec": experts choose tokens. "tc": tokens choose their top_k experts.
            "race": the best token-expert pairs of an image win. "random": ec with a frozen random router. "dense": one
            feed-forward layer, as in the other blocks. "dense-wide": one that is capacity_factor times as wide.
        num_experts: E.
        capacity_factor: mean experts a token under "ec" and "random", at most E; the width of "dense-wide".
        top_k: mean experts a token under "tc" and "race".
        capacity_rounding: of tokens · capacity_factor / E.
        token_capacity: room of an expert under "tc", in its fair share of one choice a token; None drops no token. The
            queue is the group's, so it needs group_size.
        group_size: tokens that are routed together, a divisor of batch · tokens; None is one image.
        eval_group_size: the same in eval mode; None is as in training.
        score: "softmax" over experts, or an independent "sigmoid".
        renormalize: divide a token's gates by their sum over the experts that picked it ("tc" always does).
        route_scale: factor on all gates.
        shared_expert: add an expert that every token takes.
        router_input: the router reads the normed states after or before the modulation by time.
        aux_coef: weight of the load-balance loss under "tc".
        moe_every, moe_offset: block i, from 0, is sparse where i % moe_every = moe_offset.
        moe_layers: the sparse blocks by number, instead.
        adaln: modulation of the blocks: "single", one projection of the time and a learned table a block; or "block",
            a projection a block that starts at 0.
        qk_norm: RMSNorm on queries and keys.
        objective: "flow", times in [0, 1], of which the network sees 1000 · t; or "ddpm", steps 0..1000.
        base_size: patches a side that positions are scaled to; None is those of image_size.
        interpolation_scale: divisor of the positions.
    Raises:
        ValueError: a field out of range; the message names it.
    Source: EC-DIT (arXiv 2410.02098), Section 3; adaLN-single: PixArt-α (arXiv 2310.00426), Section 2.3; "block": DiT
        (arXiv 2212.09748), Section 3.2; "race": Expert Race (arXiv 2503.16057).
    """

    image_size: int = 32
    in_channels: int = 3
    out_channels: int | None = None
    patch_size: int = 4
    dim: int = 128
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int | None = None
    ffn_ratio: int = 4
    text_dim: int = 128
    router: Router = "ec"
    num_experts: int = 8
    capacity_factor: float = 2.0
    top_k: int = 2
    capacity_rounding: Literal["ceil", "floor"] = "ceil"
    token_capacity: float | None = None
    group_size: int | None = None
    eval_group_size: int | None = None
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = False
    route_scale: float = 1.0
    shared_expert: bool = False
    router_input: Literal["modulated", "unmodulated"] = "modulated"
    aux_coef: float = 0.01
    moe_every: int = 2
    moe_offset: int = 1
    moe_layers: tuple[int, ...] | None = None
    adaln: Literal["single", "block"] = "single"
    qk_norm: bool = False
    objective: Literal["flow", "ddpm"] = "flow"
    base_size: int | None = None
    interpolation_scale: float = 1.0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_shape()
        self._check_placement()
        if not 0 < self.capacity_factor < math.inf:
            raise ValueError(f"capacity_factor: got {self.capacity_factor}, need a number above 0")
        if self.token_capacity is not None and self.group_size is None:
            raise ValueError(
                f"token_capacity: got {self.token_capacity} without group_size, need the tokens that queue together "
                "(an image's, so that images do not displace each other)"
            )
        if not math.isfinite(self.route_scale):
            raise ValueError(f"route_scale: got {self.route_scale}, need a finite number")
        if self.router in _LAYER_ROUTERS:
            self.moe_config()

    def _check_choices(self) -> None:
        for name, allowed in (
            ("router", ROUTERS),
            ("capacity_rounding", ("ceil", "floor")),
            ("score", ("softmax", "sigmoid")),
            ("router_input", ("modulated", "unmodulated")),
            ("adaln", ("single", "block")),
            ("objective", ("flow", "ddpm")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(allowed)}")

    def _check_shape(self) -> None:
        for name in ("image_size", "in_channels", "patch_size", "dim", "num_heads", "ffn_ratio"):
            need(name, getattr(self, name), 1, LARGEST)
        for name in ("text_dim", "num_experts", "top_k", "moe_every", "num_kv_heads", "base_size"):
            need(name, getattr(self, name), 1, LARGEST)
        need("num_layers", self.num_layers, 1, 4096)
        for name in ("group_size", "eval_group_size"):
            need(name, getattr(self, name), 1)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size: got {self.image_size}, need a multiple of patch_size = {self.patch_size}")
        if self.out_channels not in (None, self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels: got {self.out_channels}, need in_channels = {self.in_channels} or twice that"
            )
        if self.dim % self.num_heads:
            raise ValueError(f"dim: got {self.dim}, need a multiple of num_heads = {self.num_heads}")
        if self.dim % 4:
            raise ValueError(f"dim: got {self.dim}, need a multiple of 4")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads: got {self.num_kv_heads}, need a divisor of num_heads = {self.num_heads}")
        if not 0 < self.interpolation_scale < math.inf:
            raise ValueError(f"interpolation_scale: got {self.interpolation_scale}, need a number above 0")

    def _check_placement(self) -> None:
        if not 0 <= self.moe_offset < self.moe_every:
            raise ValueError(f"moe_offset: got {self.moe_offset}, need 0..{self.moe_every - 1} (below moe_every)")
        for layer in self.moe_layers or ():
            if not 0 <= layer < self.num_layers:
                raise ValueError(f"moe_layers: got {layer}, need 0..{self.num_layers - 1} (num_layers)")
        if self.router != "dense" and not self.placement:
            raise ValueError(
                f"moe_layers: got no sparse block of {self.num_layers}, need at least one, or router='dense'"
            )

    @property
    def placement(self) -> tuple[int, ...]:
        """Blocks, from 0, whose feed-forward layer the router replaces."""
        if self.moe_layers is not None:
            return tuple(sorted(set(self.moe_layers)))
        return tuple(range(self.moe_offset, self.num_layers, self.moe_every))

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Blocks, from 0, that hold experts; none under the two dense routers."""
        return self.placement if self.router in _LAYER_ROUTERS else ()

    @property
    def experts_per_token(self) -> float:
        """Experts that a token passes in a sparse block, on average."""
        if self.router in ("ec", "random"):
            return float(self.capacity_factor)
        return float(self.top_k) if self.router in _LAYER_ROUTERS else 1.0

    @property
    def output_channels(self) -> int:
        """Channels of the model's output."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def hidden(self, layer: int) -> int:
        """Hidden width of the feed-forward layer, or of each expert, of a block."""
        wide = self.router == "dense-wide" and layer in self.placement
        return round(self.ffn_ratio * self.dim * (self.capacity_factor if wide else 1))

    def moe_config(self) -> MoEConfig:
        """Settings of the layer in a sparse block, in training.

        Raises:
            ValueError: a dense router, or settings that the layer refuses.
        """
        if self.router not in _LAYER_ROUTERS:
            raise ValueError(f"router: got {self.router!r}, need one of {', '.join(_LAYER_ROUTERS)}")
        hidden = self.ffn_ratio * self.dim
        tokens_choose = self.router == "tc"
        return MoEConfig(
            self.dim,
            hidden,
            self.num_experts,
            self.top_k,
            router=_LAYER_ROUTERS[self.router],
            capacity_factor=self.token_capacity if tokens_choose else self.capacity_factor,
            dropless=tokens_choose and self.token_capacity is None,
            capacity_rounding=self.capacity_rounding,
            group_size=self.group_size,
            activation="gelu_tanh",
            bias=True,
            score=self.score,
            renormalize=self.renormalize,
            route_scale=self.route_scale,
            lb_weight=self.aux_coef,
            shared_hidden=hidden if self.shared_expert else 0,
        )


def _paper(dim: int, layers: int, heads: int, kv_heads: int, experts: int) -> ECDiTConfig:
    """256-pixel images as 32×32×4 latents; head width 64.

    The paper's text encoder is not published. One of width 1280 with 32 layers and T5's vocabulary has its 670 million
    parameters, hence text_dim.
    """
    return ECDiTConfig(
        image_size=32,
        in_channels=4,
        patch_size=2,
        dim=dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        text_dim=1280,
        num_experts=experts,
    )


SIZES = {
    "tiny": ECDiTConfig(),
    "small": ECDiTConfig(
        patch_size=2, dim=192, num_layers=8, num_heads=6, num_kv_heads=2, text_dim=192, num_experts=16
    ),
    "xl": _paper(1152, 28, 18, 6, experts=32),
    "xxl": _paper(1536, 38, 24, 6, experts=32),
    "3xl": _paper(2304, 42, 36, 6, experts=32),
    "m": _paper(3072, 38, 48, 12, experts=64),  # 46 layers where dense
}


def paper_config(name: str) -> ECDiTConfig:
    """A size by name: the paper's "xl", "xxl", "3xl" and "m", or ours for a laptop, "tiny" and "small".

    Raises:
        ValueError: another name.
    Source: EC-DIT (arXiv 2410.02098), Table 1.
    """
    if name not in SIZES:
        raise ValueError(f"preset: got {name!r}, need one of {', '.join(SIZES)}")
    return SIZES[name]
