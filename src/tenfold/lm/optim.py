"""Optimizers of the decoder: AFM's two settings, and learning rates that carry over to other widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tenfold.core.adastar import AdaStar, plain_groups
from tenfold.core.optim import Schedule
from tenfold.lm.decoder import Decoder

MupRule = Literal["width", "fan_in"]
_BASE_FFN = 3  # inner width of a base model's feed-forward layers over its width: 2304 over 768


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and its schedule: linear warm-up, then half a cosine.

    Attributes:
        kind: "adastar", or "adamw" with betas 0.9, 0.95.
        lr: peak learning rate at the base width.
        weight_decay: share of a weight taken off by a step at the peak, whatever the learning rate; of every tensor.
        warmup: steps.
        final_fraction: last over peak rate.
        mup: rule of `mup_groups`; None gives every tensor the same rate.
        base_width: width at which lr was found.
    """

    kind: Literal["adastar", "adamw"] = "adastar"
    lr: float = 0.01
    weight_decay: float = 3.16e-4
    warmup: int = 5000
    final_fraction: float = 0.005
    mup: MupRule | None = "width"
    base_width: int = 768

    def __post_init__(self) -> None:
        if self.kind not in ("adastar", "adamw"):
            raise ValueError(f"kind: got {self.kind!r}, need 'adastar' or 'adamw'")
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr}, need > 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: got {self.weight_decay}, need >= 0")

    def build(self, model: Decoder, extra: Iterable[Mapping[str, Any]] = ()) -> torch.optim.Optimizer:
        """The optimizer over a model's trainable parameters; build it after sharding.

        Args:
            model: the decoder.
            extra: groups of other parameters, with "lr_mult" and "weight_decay" where they differ.
        """
        groups = [*mup_groups(model, rule=self.mup, base_width=self.base_width), *map(dict, extra)]
        if self.kind == "adastar":
            return AdaStar(groups, self.lr, weight_decay=self.weight_decay)
        return torch.optim.AdamW(plain_groups(groups, self.lr, self.weight_decay), betas=(0.9, 0.95), fused=True)

    def schedule(self, steps: int) -> Schedule:
        """The multiplier over a training of `steps`, for `TrainState`."""
        return Schedule(self.warmup, steps, self.final_fraction)


# Core pre-training of the AFM models, and the baseline it was measured against: arXiv 2407.21075.
OPTIMIZERS = {
    "adastar": OptimizerConfig(),
    "adamw": OptimizerConfig("adamw", weight_decay=1e-4, final_fraction=0.01),
}


def mup_groups(model: Decoder, *, rule: MupRule | None = "width", base_width: int = 768) -> list[dict[str, Any]]:
    """Parameter groups with the factor `lr_mult` that keeps the best learning rate where it was at the base width.

    Only the matrices inside the blocks are scaled; embeddings, output layer and norms keep 1. `AdaStar` knows
    `lr_mult`; for others pass the groups through `plain_groups`. Parameters on different meshes come in groups of their
    own, so call it after sharding.

    Args:
        model: dense; its trainable parameters are taken, tied ones once.
        rule: "width": min(1, base_width / D) for all of them. "fan_in": base fan-in over fan-in, layer by layer; the
            base is base_width, and 3 · base_width for down. None: 1.
        base_width: D of the model whose learning rate is used.
    Raises:
        ValueError: base_width below 1, an unknown rule, a model with experts.
    Source: Gunter et al. 2024, arXiv 2407.21075 ("width"); Wortsman et al. 2023, arXiv 2309.14322, Section 3.2.4
    ("fan_in").
    """
    factors = _factors(model, rule, base_width)
    groups: dict[tuple[float, int | None], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            factor = factors.get(parameter, 1.0)
            mesh = hash(parameter.device_mesh) if isinstance(parameter, DTensor) else None
            group = groups.setdefault((factor, mesh), {"params": [], "lr_mult": factor})
            group["params"].append(parameter)
    return list(groups.values())


def _factors(model: Decoder, rule: MupRule | None, base_width: int) -> dict[Tensor, float]:
    """lr_mult of the matrices inside the blocks."""
    if rule is None:
        return {}
    if rule not in get_args(MupRule):
        raise ValueError(f"rule: got {rule!r}, need 'width', 'fan_in' or None")
    if base_width < 1:
        raise ValueError(f"base_width: got {base_width}, need at least 1")
    if model.cfg.moe is not None:
        raise ValueError("model: has experts, for which no rule is known; need a dense decoder, or rule None")
    factors: dict[Tensor, float] = {}
    for name, module in model.layers.named_modules():
        if isinstance(module, nn.Linear):
            base = base_width * (_BASE_FFN if name.endswith("down_proj") else 1)
            by_width = min(1.0, base_width / model.cfg.dim)
            factors[module.weight] = by_width if rule == "width" else base / module.in_features
    return factors
