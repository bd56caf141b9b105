"""How large a model is and what a forward pass costs, part by part, beside the paper's figures."""

# Shape legend: S image tokens, L text tokens, d model width, E experts

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tenfold.core.config import need
from tenfold.diffusion.config import LARGEST, ECDiTConfig
from tenfold.diffusion.transformer import TIME_FEATURES, ECDiT
from tenfold.nn.moe import expert_capacity

PARTS = (
    *("patches", "time", "text", "self-attention", "cross-attention", "feed-forward"),
    *("experts", "router", "shared expert", "final"),
)


@dataclass(frozen=True)
class PaperSize:
    """What the paper prints of a size, in parameters; its totals seem to contain a text encoder of 670 million."""

    name: str
    dense: float
    total: float
    activated: float | None = None
    dense_layers: int | None = None  # where the dense model is deeper than the sparse one


# EC-DIT (arXiv 2410.02098), Table 1, by width, layers and experts.
PAPER_SIZES = {
    (1152, 28, 32): PaperSize("XL-32E", dense=1.47e9, total=6.08e9),
    (1536, 38, 32): PaperSize("XXL-32E", dense=2.35e9, total=13.47e9),
    (2304, 42, 32): PaperSize("3XL-32E", dense=4.50e9, total=32.15e9, activated=5.18e9),
    (3072, 38, 64): PaperSize("M-64E", dense=8.03e9, total=97.21e9, activated=8.27e9, dense_layers=46),
}


@dataclass(frozen=True)
class ParamReport:
    """Numbers of parameters.

    Attributes:
        parts: by part of the model; they sum to `total`.
        total: of the model.
        dense: of the same model with router "dense".
        activated: that one token passes through, with its mean number of experts.
        expert_law: total − dense as the paper counts it, sparse blocks · (E − 1) · 8d², without biases and routers.
        activated_law: activated − dense likewise, sparse blocks · (8d²·(f_c − 1) + E·d) (the paper's Algorithm 2).
        paper: the paper's size of this shape, or None.
    """

    parts: dict[str, int]
    total: int
    dense: int
    activated: int
    expert_law: int
    activated_law: float
    paper: PaperSize | None

    def __str__(self) -> str:
        lines = [
            *(f"{name:<16}{_params(number):>10}" for name, number in self.parts.items()),
            f"{'total':<16}{_params(self.total):>10}",
            f"{'dense':<16}{_params(self.dense):>10}",
            f"{'total - dense':<16}{_params(self.total - self.dense):>10}  by the law {_params(self.expert_law)}",
            f"{'activated':<16}{_params(self.activated):>10}  {self.activated / self.dense:.3f} of dense",
        ]
        if (paper := self.paper) is not None:
            layers = f" ({paper.dense_layers} layers)" if paper.dense_layers else ""
            # At the sparse model's depth; where that is not printed, what the experts leave of the total.
            dense = paper.total - self.expert_law if paper.dense_layers else paper.dense
            activated = dense + self.activated_law
            printed = f", printed {_params(paper.activated)}" if paper.activated else ""
            lines += [
                f"paper's {paper.name}, its text encoder seems to be counted:",
                f"  total {_params(paper.total)}, dense {_params(paper.dense)}{layers}",
                f"  activated by its formula {_params(activated)}{printed}, {activated / paper.dense:.3f} of dense",
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class FlopReport:
    """Multiplications and additions of one forward pass of one image, matrix products only.

    Attributes:
        parts: by part of the model; they sum to `total`.
        total: of the model; a training step costs three times this.
        dense: of the same model with router "dense".
        tokens: S.
    """

    parts: dict[str, int]
    total: int
    dense: int
    tokens: int

    @property
    def ratio(self) -> float:
        """Theoretical cost of the model in passes of its dense counterpart."""
        return self.total / self.dense

    def __str__(self) -> str:
        lines = [
            f"{name:<16}{_flop_count(number):>10}{number / self.total:>7.1%}" for name, number in self.parts.items()
        ]
        lines += [
            f"{'total':<16}{_flop_count(self.total):>10}  FLOPs an image of {self.tokens} tokens",
            f"{'dense':<16}{_flop_count(self.dense):>10}",
            f"{'ratio':<16}{self.ratio:>10.3f}",
        ]
        return "\n".join(lines)


def param_report(config: ECDiTConfig) -> ParamReport:
    """Count the parameters of a model of any size; it is built on the meta device, without memory.

    Source: EC-DIT (arXiv 2410.02098), Table 1 and Algorithm 2.
    """
    parts = _counted(config)
    total = sum(parts.values())
    sparse, dim = len(config.sparse_layers), config.dim
    matrices = 2 * config.ffn_ratio * dim**2
    # Of E experts one token passes experts_per_token.
    activated = total - parts.get("experts", 0) * (1 - config.experts_per_token / config.num_experts)
    return ParamReport(
        parts=parts,
        total=total,
        dense=sum(_counted(replace(config, router="dense")).values()),
        activated=round(activated) if sparse else total,
        expert_law=sparse * (config.num_experts - 1) * matrices,
        activated_law=sparse * (matrices * (config.experts_per_token - 1) + config.num_experts * dim),
        paper=_paper_size(config),
    )


def flop_report(config: ECDiTConfig, image_size: int | None = None, *, text_tokens: int = 77) -> FlopReport:
    """What a forward pass costs; a multiply-add counts as 2.

    Args:
        config: of the model; a group of its router is an image unless group_size says otherwise.
        image_size: side of a square image, in pixels or latent cells; None is the config's.
        text_tokens: L.
    Raises:
        ValueError: a side that is no multiple of the patch's or above 65536, or no text.
    """
    side = config.image_size if image_size is None else image_size
    need("image_size", side, 1, LARGEST)
    if side % config.patch_size:
        raise ValueError(f"image_size: got {side}, need a multiple of patch_size = {config.patch_size}")
    if text_tokens < 1:
        raise ValueError(f"text_tokens: got {text_tokens}, need at least 1")
    tokens = (side // config.patch_size) ** 2
    parts = _flops(config, tokens, text_tokens)
    dense = _flops(replace(config, router="dense"), tokens, text_tokens)
    return FlopReport(parts, sum(parts.values()), sum(dense.values()), tokens)


def expert_rows(config: ECDiTConfig, tokens: int) -> int:
    """Tokens that all experts of one sparse block work on together, an image of `tokens` tokens; drops not counted."""
    if config.router in ("tc", "race"):
        return tokens * config.top_k
    group = config.group_size or tokens
    rounding = config.capacity_rounding
    capacity = expert_capacity(group, config.capacity_factor, config.num_experts, rounding=rounding)
    return round(tokens / group * capacity * config.num_experts)


def _flops(config: ECDiTConfig, tokens: int, text_tokens: int) -> dict[str, int]:
    dim, layers, patch = config.dim, config.num_layers, config.patch_size**2
    kv = dim * (config.num_kv_heads or config.num_heads) // config.num_heads
    modulation = 6 * dim**2 * (1 if config.adaln == "single" else layers)
    dense_hidden = sum(config.hidden(layer) for layer in range(layers) if layer not in config.sparse_layers)
    parts = {
        "patches": patch * config.in_channels * dim * tokens,
        "time": TIME_FEATURES * dim + dim**2 + modulation,
        "text": (config.text_dim * dim + dim**2) * text_tokens,
        "self-attention": layers * tokens * (2 * dim**2 + 2 * dim * kv + 2 * dim * tokens),
        "cross-attention": layers * (tokens * 2 * dim**2 + text_tokens * 2 * dim * kv + tokens * 2 * dim * text_tokens),
        "feed-forward": 2 * dim * dense_hidden * tokens,
        "final": patch * config.output_channels * dim * tokens,
    }
    if sparse := len(config.sparse_layers):
        expert = 2 * dim * config.hidden(config.sparse_layers[0])
        parts["experts"] = sparse * expert * expert_rows(config, tokens)
        parts["router"] = sparse * dim * config.num_experts * tokens
        if config.shared_expert:
            parts["shared expert"] = sparse * expert * tokens
    return {name: 2 * parts[name] for name in PARTS if name in parts}


def _counted(config: ECDiTConfig) -> dict[str, int]:
    with torch.device("meta"):
        model = ECDiT(config)
    parts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        parts[_part(name, config)] += parameter.numel()
    return {part: number for part, number in parts.items() if number}


def _part(name: str, config: ECDiTConfig) -> str:
    """The part that a parameter belongs to."""
    top = {"patch_proj": "patches", "time_mlp": "time", "modulation": "time", "text_mlp": "text"}
    first, *rest = name.split(".")
    if first != "blocks":
        return top.get(first, "final")
    layer, inner = int(rest[0]), rest[1]
    if inner in ("table", "modulation"):
        return "time"
    if inner == "ffn" and layer in config.sparse_layers:
        return {"gate_weight": "router", "shared": "shared expert"}.get(rest[2], "experts")
    return {"attn": "self-attention", "cross_attn": "cross-attention", "ffn": "feed-forward"}[inner]


def _paper_size(config: ECDiTConfig) -> PaperSize | None:
    shape = (config.dim, config.num_layers, config.num_experts)
    return PAPER_SIZES.get(shape) if config.router == "ec" else None


def _params(number: float) -> str:
    return _scaled(number, "TBMk")


def _flop_count(number: float) -> str:
    return _scaled(number, "TGMk")


def _scaled(number: float, units: str) -> str:
    for unit, size in zip(units, (1e12, 1e9, 1e6, 1e3), strict=True):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"
