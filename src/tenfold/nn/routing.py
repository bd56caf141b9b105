"""Token choice: every token takes its k best experts.

Shape legend: T tokens, M model width, E experts, k choices, N groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tenfold.nn.dispatch import Plan, Rows, dispatch_plan, rows_of_plan
from tenfold.nn.moe_capacity import group_capacities, layer_capacity
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_losses import AllSum, aux_losses
from tenfold.nn.moe_stats import Counts, Stats, finish_stats, token_counts


@dataclass(frozen=True)
class TokenRouting:
    """What a token-choice router decided, tokens in natural order."""

    indices: Tensor  # [T, k] experts, best first
    weights: Tensor  # [T, k] weights in the output, before drops
    keep: Tensor  # [T, k] bool
    position: Tensor  # [T, k] place in the queue of the expert in its group; -1 where the choice did not queue
    probs: Tensor  # [T, E]
    logits: Tensor  # [T, E] after the cap, before noise
    lb_loss: Tensor
    z_loss: Tensor
    sequence_loss: Tensor
    plan: Plan
    valid: Tensor | None  # [T] bool, False for padding; None is all True
    capacity: int | Tensor | None  # places of an expert in a group, or in each group; None is no limit
    groups: int
    all_kept: bool  # known without looking: no capacity, no padding, no random second choice

    @cached_property
    def counts(self) -> Counts:
        """Additive integer counts behind `stats`."""
        return token_counts(self.indices, self.keep, self.position, self.logits, self.valid)

    @cached_property
    def stats(self) -> Stats:
        """Statistics by name (see `finish_stats`), computed when first read."""
        return finish_stats(self.counts)

    def rows(self) -> Rows:
        """The experts' work list."""
        width = self.capacity * self.groups if isinstance(self.capacity, int) else None
        return rows_of_plan(self.plan, self.weights, all_kept=self.all_kept, width=width)


def router_logits(x_TM: Tensor, gate_weight: Tensor, logit_cap: float = 0.0) -> Tensor:
    """x·W in at least float32, also under autocast; capped to c·tanh(z/c) where c > 0."""
    dtype = torch.promote_types(torch.promote_types(x_TM.dtype, gate_weight.dtype), torch.float32)
    with torch.autocast(device_type=x_TM.device.type, enabled=False):
        logits = x_TM.to(dtype) @ gate_weight.to(dtype)
        return logit_cap * torch.tanh(logits / logit_cap) if logit_cap > 0 else logits


def top_choices(values_TE: Tensor, k: int) -> Tensor:
    """Indices [T, k] of the k largest values, largest first; ties go to the lowest index, unlike `torch.topk`."""
    values = values_TE.detach()
    # Passes of max, which promises the first of equals, beat sorting whole rows while k is small (CPU, 64 experts: 7x).
    if k > 4:
        return torch.sort(values, dim=-1, descending=True, stable=True).indices[:, :k]
    chosen = []
    for rank in range(k):
        best = values.max(-1, keepdim=True).indices
        chosen.append(best)
        if rank + 1 < k:
            values = values.scatter(-1, best, float("-inf"))
    return torch.cat(chosen, dim=-1)


def gumbel_noise(logits: Tensor) -> Tensor:
    """Gumbel(0, 1) of the same shape."""
    # An exponential draw is never 0 in torch, so its logarithm is finite.
    return -torch.empty_like(logits).exponential_().log()


def scores_of(logits: Tensor, score: str) -> Tensor:
    """Softmax over experts, or an independent sigmoid of each."""
    if score == "sigmoid":
        return logits.sigmoid()
    if logits.is_cpu and logits.shape[-1] < 16:
        # On CPU short rows miss torch's vectorised kernel: with 8 experts columns take 0.5 of its time.
        return logits.t().contiguous().softmax(0).t().contiguous()
    return logits.softmax(-1)


def normalized(values: Tensor) -> Tensor:
    """Rows divided by their sums; a row of zeros, as sigmoid scores that all underflow, stays one."""
    total = values.sum(-1, keepdim=True)
    return values / torch.where(total > 0, total, 1)


def choose(config: MoEConfig, scores: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Chosen experts and their weights.

    Args:
        scores: [T, E].
        bias: [E], added to the scores for the choice and never part of a weight; None is 0.
    Returns:
        indices [T, k]; weights [T, k].
    Source: top1: Fedus et al. 2021; top2: Lepikhin et al. 2020; bias: DeepSeek-V3 (arXiv 2412.19437), Eq. 16.
    """
    indices = top_choices(scores if bias is None else scores + bias, config.top_k)
    weights = scores.gather(-1, indices)
    if config.router == "top2" and config.normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-9)
    elif config.router != "top1" and config.normalize:
        weights = normalized(weights)
    return indices, weights if config.route_scale == 1.0 else weights * config.route_scale


def route_tokens(
    config: MoEConfig,
    logits: Tensor,
    *,
    training: bool,
    groups: int,
    sequences: int,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    all_sum: AllSum | None = None,
) -> TokenRouting:
    """Choose, queue and judge: the whole of token choice after the router's matrix product.

    Args:
        config: its router is a token-choice one.
        logits: [T, E] from `router_logits`.
        training: draw noise, where configured, from torch's random state as the training loop has seeded it.
        groups: runs of tokens that queue apart; divides T. Local to a rank.
        sequences: sequences in T.
        valid: bool [T], False for padding.
        bias: [E] selection bias of router `topk_bias`.
        all_sum: see `aux_losses`.
    """
    tokens = logits.shape[0]
    noisy = logits + gumbel_noise(logits) if training and config.gumbel else logits
    scores = scores_of(noisy, config.score)
    indices, weights = choose(config, scores, bias)
    probs = scores if config.score == "softmax" else normalized(scores)
    queued = None if valid is None else valid[:, None].expand(-1, config.top_k)
    if training and config.second_policy == "random":
        # GShard: the second expert is used with probability 2·weight.
        use_second = torch.rand_like(weights[:, 1]) < 2 * weights[:, 1].detach()
        used = torch.stack([torch.ones_like(use_second), use_second], dim=-1)
        queued = used if queued is None else queued & used
    capacity: int | Tensor | None = None
    if not config.dropless and tokens:
        size = tokens // groups
        if valid is None:
            capacity = layer_capacity(config, size, training)
        else:
            capacity = group_capacities(config, valid.view(groups, size).sum(-1), size, training)
    plan = dispatch_plan(indices, config.num_experts, capacity, groups=1 if capacity is None else groups, queued=queued)
    losses = aux_losses(
        config, logits, probs, indices, groups=groups, sequences=sequences, valid=valid, all_sum=all_sum
    )
    return TokenRouting(
        indices=indices,
        weights=weights,
        keep=plan.keep,
        position=plan.position,
        probs=probs,
        logits=logits,
        lb_loss=losses.load_balance,
        z_loss=losses.z,
        sequence_loss=losses.sequence,
        plan=plan,
        valid=valid,
        capacity=capacity,
        groups=groups,
        all_kept=capacity is None and queued is None,
    )
