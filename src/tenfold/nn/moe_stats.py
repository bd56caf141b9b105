"""What a router did with a batch: additive integer counts, and the ratios that people read.

Shape legend: T tokens, k choices, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Counts = dict[str, Tensor]
Stats = dict[str, Any]


def token_counts(indices: Tensor, keep: Tensor, position: Tensor, logits: Tensor, valid: Tensor | None) -> Counts:
    """Counts of token choice; those of ranks or micro-batches add up.

    Args:
        indices, keep, position: [T, k].
        logits: [T, E].
        valid: bool [T], False for padding.
    """
    num_experts = logits.shape[1]
    if valid is not None:
        indices, keep, position, logits = indices[valid], keep[valid], position[valid], logits[valid]
    tokens, k = indices.shape
    # A queued choice without room; choices that never queued have position -1.
    over = (~keep) & (position >= 0)
    return {
        "tokens": torch.tensor(tokens, device=indices.device),
        "tokens_per_expert": torch.bincount(indices.reshape(-1), minlength=num_experts),
        "kept_per_expert": torch.bincount(indices[keep], minlength=num_experts),
        "dispatch": torch.bincount(keep.sum(-1), minlength=k + 1),
        "over_capacity": over.sum(0),
        "logit_squares": logits.detach().double().square().sum(),
    }


def pair_counts(load: Tensor, experts_per_token: Tensor, logits: Tensor, valid: Tensor | None) -> Counts:
    """Counts of expert choice: load [E], experts_per_token [T], logits [T, E]."""
    if valid is not None:
        experts_per_token, logits = experts_per_token[valid], logits[valid]
    return {
        "tokens": torch.tensor(experts_per_token.shape[0], device=load.device),
        "tokens_per_expert": load,
        "kept_per_expert": load,
        "dispatch": torch.bincount(experts_per_token, minlength=load.shape[0] + 1),
        "over_capacity": load.new_zeros(0),
        "logit_squares": logits.detach().double().square().sum(),
    }


def finish_stats(counts: Counts) -> Stats:
    """Statistics under their public names, from (sums of) counts.

    Returns:
        tokens_per_expert (before capacity) and kept_per_expert, int64 [E]; dispatch, the list of numbers of tokens that
        reached exactly 0, 1, … experts; over_capacity, the list of shares of first, second, … choices that found
        their expert full; scalars (float64) dropped_fraction, load_entropy (1 = even), max_load (1 = even),
        router_logit_rms; dead_experts (int64). Without tokens nothing is uneven: 0, 1, 1, 0, and E dead experts.
    """
    chosen, kept, tokens = counts["tokens_per_expert"], counts["kept_per_expert"], counts["tokens"]
    num_experts = chosen.shape[0]
    total = chosen.sum()
    share = chosen.double() / total.clamp_min(1)
    entropy = torch.special.entr(share).sum() / torch.tensor(float(num_experts)).double().log().clamp_min(1e-300)
    even = torch.ones_like(entropy)
    return {
        "tokens_per_expert": chosen,
        "kept_per_expert": kept,
        "dispatch": list(counts["dispatch"].unbind()),
        "dropped_fraction": (total - kept.sum()).double() / total.clamp_min(1),
        "over_capacity": list((counts["over_capacity"].double() / tokens.clamp_min(1)).unbind()),
        "load_entropy": torch.where(total > 0, entropy, even) if num_experts > 1 else even,
        "max_load": torch.where(total > 0, share.max() * num_experts, even),
        "router_logit_rms": (counts["logit_squares"] / (tokens * num_experts).clamp_min(1)).sqrt(),
        "dead_experts": (chosen == 0).sum(),
    }
