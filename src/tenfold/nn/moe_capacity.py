"""How many tokens an expert may take, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from tenfold.nn.moe_config import MoEConfig


def expert_capacity(
    tokens: int,
    capacity_factor: float,
    num_experts: int,
    *,
    rounding: str = "ceil",
    minimum: int = 1,
    maximum: int | None = None,
    multiple: int = 1,
) -> int:
    """Tokens an expert takes from a group: tokens·capacity_factor/num_experts, rounded, within bounds.

    The factor is read as the decimal number it prints as, so that 100 tokens, 10 experts and 1.1 give 11 and not 12.

    Args:
        tokens: tokens in the group, at least 0.
        capacity_factor: above 0; the experts' mean number per token when every slot is filled.
        num_experts: experts, at least 1.
        rounding: "ceil" or "floor".
        minimum: least capacity.
        maximum: most capacity; None is `tokens`, since an expert cannot take a token twice.
        multiple: the capacity is rounded up to a multiple of this, before `maximum` is applied.
    Returns:
        the capacity; 0 only for a group without tokens.
    Raises:
        ValueError: an argument out of range.
    Source: Zhou et al. 2022 (arXiv 2202.09368), Section 3.2.
    """
    if tokens < 0:
        raise ValueError(f"tokens: got {tokens}, need at least 0")
    if num_experts < 1:
        raise ValueError(f"num_experts: got {num_experts}, need at least 1")
    if not 0 < capacity_factor < float("inf"):
        raise ValueError(f"capacity_factor: got {capacity_factor}, need a number above 0")
    if rounding not in ("ceil", "floor"):
        raise ValueError(f"rounding: got {rounding!r}, need 'ceil' or 'floor'")
    if multiple < 1:
        raise ValueError(f"multiple: got {multiple}, need at least 1")
    exact = tokens * Fraction(str(capacity_factor)) / num_experts
    room = -(-exact.numerator // exact.denominator) if rounding == "ceil" else exact.numerator // exact.denominator
    return _bounded(room, minimum, tokens if maximum is None else maximum, multiple)


def _bounded(room: int, minimum: int, maximum: int, multiple: int) -> int:
    return min(-(-max(room, minimum) // multiple) * multiple, maximum)


def layer_capacity(config: MoEConfig, tokens: int, training: bool) -> int:
    """Capacity of every expert for a group of `tokens` tokens under the conventions of `config`.

    Args:
        config: the layer's settings; not dropless.
        tokens: tokens of the group that are not padding.
        training: which of the two capacity factors holds.
    Returns:
        tokens an expert accepts from the group; at most `tokens`.
    Source: AXLearn's gating (max of the floor and int(S·factor/E)); "per_choice": Fedus et al. 2021, Eq. 3.
    """
    factor = config.capacity_factor
    if not training and config.eval_capacity_factor is not None:
        factor = config.eval_capacity_factor
    if factor is None:
        return _bounded(config.expert_capacity or 1, 1, tokens, config.capacity_multiple)
    per_choice = config.capacity_convention == "per_choice" and not config.picks_tokens
    if factor == "auto":
        factor = 2.0 if config.picks_tokens else 1.0 if per_choice else float(config.top_k)
        factor = min(factor, float(config.num_experts))
    if not per_choice and config.capacity_rounding == "floor":
        # In floating point, as AXLearn has it: 90 tokens, 3 experts and 0.7 give 20, where exact decimals give 21.
        room = int(tokens * factor / config.num_experts)
        return _bounded(room, config.expert_capacity or 1, tokens, config.capacity_multiple)
    return expert_capacity(
        tokens,
        # A product of decimals, so still exact.
        factor if not per_choice else float(Fraction(str(factor)) * config.top_k),
        config.num_experts,
        rounding="ceil",
        minimum=config.expert_capacity or 1,
        multiple=config.capacity_multiple,
    )


@lru_cache(maxsize=64)
def _capacity_table(config: MoEConfig, tokens: int, training: bool) -> tuple[int, ...]:
    return tuple(layer_capacity(config, n, training) for n in range(tokens + 1))


def group_capacities(config: MoEConfig, tokens_N: Tensor, group_size: int, training: bool) -> Tensor:
    """Capacity of each group, where padding leaves the groups with different numbers of tokens.

    Args:
        tokens_N: tokens of each group that are not padding, int64, 0..group_size.
    Returns:
        int64 [N]; a table look-up, so that no number leaves the device.
    """
    return torch.tensor(_capacity_table(config, group_size, training), device=tokens_N.device)[tokens_N]
