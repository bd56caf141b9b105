"""Mixture of experts: one layer for every router; all public names of the family can be imported from here.

Where things live: settings `moe_config`, the layer `moe_layer`, choosing `routing` and `expert_choice`, capacity
`moe_capacity`, integer bookkeeping `dispatch`, computing `experts` and `grouped`, losses `moe_losses`, statistics
`moe_stats`, other libraries' layouts `moe_formats`, and a slow obvious twin of the layer `moe_reference`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.nn.dispatch import Plan, dispatch_plan
from tenfold.nn.expert_choice import ExpertRouting, expert_choice
from tenfold.nn.moe_capacity import expert_capacity
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_formats import from_mixtral, to_mixtral, upcycle
from tenfold.nn.moe_layer import MoE, MoEOutput, Routing
from tenfold.nn.moe_reference import moe_reference
from tenfold.nn.moe_stats import Stats
from tenfold.nn.routing import TokenRouting

__all__ = [
    "ExpertChoiceMoE",
    "ExpertRouting",
    "MoE",
    "MoEConfig",
    "MoEOutput",
    "Plan",
    "Routing",
    "TokenChoiceMoE",
    "TokenRouting",
    "collect_aux",
    "debug_routing",
    "dispatch_plan",
    "dropless",
    "expert_capacity",
    "expert_choice",
    "from_mixtral",
    "moe_layers",
    "moe_reference",
    "to_mixtral",
    "upcycle",
    "update_biases",
]


def moe_layers(model: nn.Module) -> Iterator[tuple[str, MoE]]:
    """The mixture-of-experts layers of a model, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, MoE):
            yield name, module


def collect_aux(model: nn.Module) -> tuple[Tensor, dict[str, Stats]]:
    """Sum of the auxiliary losses of all layers since the last call, and their statistics; clears them.

    Args:
        model: a model with any number of `MoE` layers. Layers that have not run since are left out.
    Returns:
        the loss to add to the model's own (a scalar with gradient; 0 without layers), and statistics by layer name.
    """
    loss: Tensor | None = None
    stats: dict[str, Stats] = {}
    for name, layer in moe_layers(model):
        if layer.last is not None:
            loss = layer.last.aux_loss if loss is None else loss + layer.last.aux_loss
            stats[name] = layer.last.stats
            layer.last = None
    return torch.zeros(()) if loss is None else loss, stats


def update_biases(model: nn.Module, rate: float = 1e-3) -> None:
    """Move the selection bias of every `topk_bias` layer; call it after each optimizer step.

    As `fit(..., after_step=lambda state: update_biases(state.model))`; of a sharded model on every rank.

    Args:
        model: other layers are left alone.
        rate: see `MoE.update_bias`.
    """
    for _, layer in moe_layers(model):
        if layer.config.router == "topk_bias":
            layer.update_bias(rate)


def debug_routing(model: nn.Module, enabled: bool = True) -> None:
    """Make every `MoE` layer check its router logits and name itself when they are not finite (costs a device sync)."""
    for name, layer in moe_layers(model):
        layer.debug_name = (name or type(layer).__name__) if enabled else None


@contextmanager
def dropless(model: nn.Module) -> Iterator[None]:
    """Within the block no token-choice layer drops tokens, so that a score does not depend on its batch."""
    layers = [(layer, layer.config) for _, layer in moe_layers(model) if not layer.config.picks_tokens]
    try:
        for layer, config in layers:
            layer.config = replace(config, dropless=True)
        yield
    finally:
        for layer, config in layers:
            layer.config = config


def ExpertChoiceMoE(
    d_model: int,
    d_ff: int,
    num_experts: int,
    capacity_factor: float = 2.0,
    *,
    activation: str = "gelu_tanh",
    bias: bool = True,
    shared_expert: bool = False,
    rounding: str = "ceil",
    generator: torch.Generator | None = None,
    **options: Any,
) -> MoE:
    """A layer whose experts choose tokens, with the defaults of EC-DIT.

    Args:
        d_model, d_ff: model and hidden width.
        num_experts: E.
        capacity_factor: mean number of experts a token; 0 < factor <= E.
        activation, bias, rounding: as `MoEConfig`'s activation, bias, capacity_rounding.
        shared_expert: add a dense expert of width d_ff.
        generator: where the weights are drawn from.
        options: further fields of `MoEConfig`.
    Source: EC-DIT (arXiv 2410.02098), Algorithm 1.
    """
    options = {"router": "expert_choice", "shared_hidden": d_ff if shared_expert else 0, **options}
    config = MoEConfig(
        d_model,
        d_ff,
        num_experts,
        capacity_factor=capacity_factor,
        activation=activation,
        bias=bias,
        capacity_rounding=rounding,
        **options,
    )
    return MoE(config, generator=generator)


def TokenChoiceMoE(
    d_model: int,
    d_ff: int,
    num_experts: int,
    top_k: int = 2,
    *,
    aux_coef: float = 0.01,
    capacity_factor: float | None = None,
    activation: str = "gelu_tanh",
    bias: bool = True,
    shared_expert: bool = False,
    generator: torch.Generator | None = None,
    **options: Any,
) -> MoE:
    """A layer whose tokens choose their `top_k` experts, weights summing to 1, with the defaults of EC-DIT's baseline.

    Args:
        d_model, d_ff: model and hidden width.
        num_experts: E.
        top_k: k.
        aux_coef: weight of the load-balance loss.
        capacity_factor: None drops no token; a number (k included) drops what overflows, in token order.
        activation, bias: as in `MoEConfig`.
        shared_expert: add a dense expert of width d_ff.
        generator: where the weights are drawn from.
        options: further fields of `MoEConfig`.
    """
    options = {"router": "topk", "shared_hidden": d_ff if shared_expert else 0, **options}
    config = MoEConfig(
        d_model,
        d_ff,
        num_experts,
        top_k,
        capacity_factor="auto" if capacity_factor is None else capacity_factor,
        dropless=capacity_factor is None,
        lb_weight=aux_coef,
        activation=activation,
        bias=bias,
        **options,
    )
    return MoE(config, generator=generator)
