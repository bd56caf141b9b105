"""Auxiliary losses of a router, written as sums so that ranks can add them before the last step.

Shape legend: T tokens, k choices, E experts, N groups, S tokens a group or sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.nn.moe_config import MoEConfig

AllSum = Callable[[Tensor], Tensor]


class AuxLosses(NamedTuple):
    """Raw losses of one layer, each a scalar with gradient."""

    load_balance: Tensor
    z: Tensor
    sequence: Tensor


def choice_counts(indices: Tensor, num_experts: int, groups: int, valid: Tensor | None) -> Tensor:
    """How often each expert was chosen in each group: int64 [N, E], from experts [T, j] and tokens that count [T]."""
    tokens = indices.shape[0]
    group = torch.arange(tokens, device=indices.device).div(max(tokens // groups, 1), rounding_mode="floor")
    cell = (group[:, None] * num_experts + indices).reshape(-1)
    ones = torch.ones_like(cell) if valid is None else valid[:, None].expand_as(indices).reshape(-1).to(cell.dtype)
    return cell.new_zeros(groups * num_experts).scatter_add_(0, cell, ones).view(groups, num_experts)


def load_balance_terms(counts_NE: Tensor, probs_NE: Tensor, tokens_N: Tensor, choices: int) -> Tensor:
    """E·Σ_e f_e·P_e of every group, 1 at perfect balance; 0 for a group without tokens.

    Args:
        counts_NE: choices of each expert before capacity; Σ_e = tokens·choices.
        probs_NE: sums of the router's probabilities over the group's tokens.
        tokens_N: tokens of each group, of the dtype of probs.
        choices: choices counted per token.
    Source: Shazeer et al. 2017; Fedus et al. 2021 (arXiv 2101.03961), Eq. 4–6.
    """
    tokens_N1 = tokens_N.clamp_min(1)[:, None]
    share_NE = counts_NE.to(probs_NE.dtype) / (tokens_N1 * choices)
    return counts_NE.shape[1] * (share_NE * (probs_NE / tokens_N1)).sum(-1)


def aux_losses(
    config: MoEConfig,
    logits: Tensor,
    probs: Tensor,
    indices: Tensor,
    *,
    groups: int,
    sequences: int,
    valid: Tensor | None = None,
    all_sum: AllSum | None = None,
) -> AuxLosses:
    """Load balance, router z-loss and sequence-wise balance of one call.

    `top1` and `top2` balance their first choices, the other routers all k. A layer with capacity averages over
    groups, a dropless one has a single span of all tokens, of all ranks where `all_sum` is given.

    Args:
        logits: [T, E].
        probs: [T, E], rows summing to 1 (sigmoid scores divided by their sum).
        indices: [T, k] chosen experts before capacity.
        groups: N; divides T.
        sequences: divides T.
        valid: bool [T], False for padding; None is all True.
        all_sum: differentiable sum of a vector over the ranks that share the batch; None on one rank.
    Source: load balance as in Fedus et al. 2021, Eq. 4; z-loss: Zoph et al. 2022 (ST-MoE, arXiv 2202.08906), Eq. 5;
        sequence-wise: DeepSeek-V3 (arXiv 2412.19437), Eq. 17–20.
    """
    tokens = logits.shape[0]
    if tokens == 0:
        zero = logits.sum() + probs.sum()
        return AuxLosses(zero, zero, zero)
    if config.dropless:
        groups = 1
    weight_T = None if valid is None else valid.to(logits.dtype)
    z_T = torch.logsumexp(logits, -1).square()
    counted = indices[:, :1] if config.router in ("top1", "top2") else indices
    balance = _span(probs, counted, groups, valid, weight_T)
    parts = [torch.stack([(z_T if weight_T is None else z_T * weight_T).sum(), balance[2].sum()])]
    if config.dropless:
        parts += [balance[0][0].to(logits.dtype), balance[1][0]]
    else:
        parts += [_mean_parts(*balance, counted.shape[1])]
    if config.sequence_weight:
        parts += [_mean_parts(*_span(probs, indices, sequences, valid, weight_T), indices.shape[1])]
    if all_sum is not None:
        # One message for all of them.
        parts = list(all_sum(torch.cat(parts)).split([part.numel() for part in parts]))
    return _finish(parts, config, counted.shape[1])


def _span(
    probs: Tensor, counted: Tensor, groups: int, valid: Tensor | None, weight_T: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, sums of probabilities and numbers of tokens of each group."""
    tokens, num_experts = probs.shape
    counts_NE = choice_counts(counted, num_experts, groups, valid)
    weighed = probs if weight_T is None else probs * weight_T[:, None]
    if valid is None:
        tokens_N = probs.new_full((groups,), tokens // groups)
    else:
        tokens_N = valid.view(groups, -1).sum(-1).to(probs.dtype)
    return counts_NE, weighed.view(groups, -1, num_experts).sum(1), tokens_N


def _mean_parts(counts_NE: Tensor, probs_NE: Tensor, tokens_N: Tensor, choices: int) -> Tensor:
    """Sum over groups and number of groups that hold tokens."""
    terms_N = load_balance_terms(counts_NE, probs_NE, tokens_N, choices)
    return torch.stack([terms_N.sum(), (tokens_N > 0).sum().to(terms_N.dtype)])


def _finish(parts: list[Tensor], config: MoEConfig, choices: int) -> AuxLosses:
    z_sum, tokens = parts[0].unbind()
    z = z_sum / tokens.clamp_min(1)
    if config.dropless:
        balance = load_balance_terms(parts[1][None], parts[2][None], tokens[None], choices)[0]
    else:
        balance = parts[1][0] / parts[1][1].clamp_min(1)
    sequence = parts[-1][0] / parts[-1][1].clamp_min(1) if config.sequence_weight else torch.zeros_like(z)
    return AuxLosses(balance, z, sequence)
