"""Expert choice: every expert takes its best tokens; and the race, where token-expert pairs compete.

Shape legend: B sequences, S tokens a sequence, T = B·S, N groups, G tokens a group, E experts, C capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tenfold.nn.dispatch import Rows, rows_of_pairs
from tenfold.nn.moe_capacity import group_capacities, layer_capacity
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_stats import Counts, Stats, finish_stats, pair_counts
from tenfold.nn.routing import gumbel_noise, scores_of


@dataclass(frozen=True)
class ExpertRouting:
    """What experts took. Groups are sequences unless the layer says otherwise; then B of index and gate is N."""

    index: Tensor  # [B, E, C] positions in the group, best first
    gate: Tensor  # [B, E, C] weights in the output; 0 where `keep` is False
    keep: Tensor  # [B, E, C] bool; False fills slots of an expert that took fewer than C (padding, race)
    affinity: Tensor  # [B, S, E] scores of the router
    logits: Tensor  # [T, E]
    lb_loss: Tensor
    z_loss: Tensor
    sequence_loss: Tensor
    valid: Tensor | None  # [T] bool, False for padding
    pairs: Rows

    @cached_property
    def load(self) -> Tensor:
        """Tokens taken by each expert, [E]."""
        return self.keep.sum((0, 2))

    @cached_property
    def experts_per_token(self) -> Tensor:
        """Experts that took the token, [B, S]."""
        groups, tokens = self.index.shape[0], self.logits.shape[0]
        first = torch.arange(groups, device=self.index.device)[:, None, None] * (tokens // max(1, groups))
        taken_T = self.index.new_zeros(tokens).scatter_add_(
            0, (self.index + first).flatten(), self.keep.flatten().long()
        )
        return taken_T.view(self.affinity.shape[:2])

    @cached_property
    def counts(self) -> Counts:
        """Additive integer counts behind `stats`."""
        return pair_counts(self.load, self.experts_per_token.reshape(-1), self.logits, self.valid)

    @cached_property
    def stats(self) -> Stats:
        """Statistics by name (see `finish_stats`), computed when first read."""
        return finish_stats(self.counts)

    def rows(self) -> Rows:
        """The experts' work list."""
        return self.pairs


def expert_choice(scores_BSE: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Each expert takes its `capacity` best tokens of its own sequence; ties go to the earlier token.

    Args:
        scores_BSE: token-to-expert affinity, softmax over E in fp32; in [0, 1].
        capacity: tokens per expert, 1 <= capacity <= S.
    Returns:
        index_BEC: positions of the chosen tokens (int64); gate_BEC: their affinities.
    Raises:
        ValueError: capacity outside [1, S].
    Source: Zhou et al. 2022 (arXiv 2202.09368), Eq. 2; EC-DIT (arXiv 2410.02098), Algorithm 1.
    """
    if scores_BSE.dim() != 3:
        raise ValueError(f"scores: got shape {tuple(scores_BSE.shape)}, need [batch, tokens, experts]")
    tokens = scores_BSE.shape[1]
    if not 1 <= capacity <= tokens:
        raise ValueError(f"capacity: got {capacity}, need 1..{tokens} (tokens in the sequence)")
    # A stable sort, since topk breaks ties differently on every device.
    gate_BES, index_BES = torch.sort(scores_BSE.transpose(1, 2), dim=-1, descending=True, stable=True)
    return index_BES[..., :capacity], gate_BES[..., :capacity]


def _scaled_gates(config: MoEConfig, gate_R: Tensor, cell_R: tuple[Tensor, Tensor], shape: torch.Size) -> Tensor:
    """Gates divided by their sum over the experts that took the token, where asked, and scaled."""
    if config.renormalize:
        # Summed over a dense [T, E] table: the order is fixed on every device, which index_add does not promise.
        total_T = gate_R.new_zeros(shape).index_put(cell_R, gate_R, accumulate=False).sum(-1)
        gate_R = gate_R / torch.where(total_T > 0, total_T, 1)[cell_R[0]]
    return gate_R if config.route_scale == 1.0 else gate_R * config.route_scale


def route_experts(
    config: MoEConfig,
    logits: Tensor,
    *,
    training: bool,
    groups: int,
    sequences: int,
    valid: Tensor | None = None,
) -> ExpertRouting:
    """Let experts choose, or pairs race, within each group. There is no load to balance: that loss is 0.

    Args:
        config: its router is `expert_choice`, `random` or `race`.
        logits: [T, E] from `router_logits`.
        training: which capacity factor holds, and whether there is noise.
        groups: runs of tokens that are chosen from apart; divides T.
        sequences: B; only shapes the answer.
        valid: bool [T], False for padding, which is never taken.
    Source: EC-DIT, Eq. 5–8; race: Yuan et al. 2025 (Expert Race, arXiv 2503.16057), Section 3.
    """
    tokens, num_experts = logits.shape
    noisy = logits + gumbel_noise(logits) if training and config.gumbel else logits
    scores = scores_of(noisy, config.score)
    # Padding ranks behind everything.
    ranked = (noisy if config.router == "race" else scores).detach()
    if valid is not None:
        ranked = ranked.masked_fill(~valid[:, None], float("-inf"))
    grouped = ranked.view(groups, tokens // groups if groups else 0, num_experts)
    pick = _race if config.router == "race" else _pick_tokens
    index, keep = pick(config, grouped, training, valid)
    base = torch.arange(groups, device=logits.device)[:, None, None] * grouped.shape[1]
    # Rows in the order expert, group, rank.
    expert = torch.arange(num_experts, device=logits.device)[None, :, None].expand_as(index)
    token_R, expert_R, keep_R = ((index + base), expert, keep)
    token_R, expert_R, keep_R = (t.transpose(0, 1).reshape(-1) for t in (token_R, expert_R, keep_R))
    gate_R = _scaled_gates(config, scores[token_R, expert_R] * keep_R, (token_R, expert_R), logits.shape)
    gate = gate_R.view(num_experts, groups, -1).transpose(0, 1)
    pairs = _pairs(config, token_R, gate_R, keep_R, tokens)
    z_T = torch.logsumexp(logits, -1).square()
    z_loss = z_T.mean() if valid is None else (z_T * valid).sum() / valid.sum().clamp_min(1)
    zero = torch.zeros_like(logits.sum()) if tokens else logits.sum()
    return ExpertRouting(
        index=index,
        gate=gate,
        keep=keep,
        affinity=scores.view(sequences, -1, num_experts) if tokens else scores[None],
        logits=logits,
        lb_loss=zero,
        z_loss=z_loss if tokens else zero,
        sequence_loss=zero,
        valid=valid,
        pairs=pairs,
    )


def _pairs(config: MoEConfig, token_R: Tensor, gate_R: Tensor, keep_R: Tensor, tokens: int) -> Rows:
    """Work list of the slots; a race leaves most of them empty, so there only the taken ones stay."""
    width = keep_R.shape[0] // config.num_experts
    if config.router == "race":
        load = keep_R.view(config.num_experts, width).sum(-1)
        offsets = torch.cat([load.new_zeros(1), load.cumsum(0)])
        return rows_of_pairs(token_R[keep_R], gate_R[keep_R], offsets, tokens, width=None, even=False)
    offsets = torch.arange(config.num_experts + 1, device=keep_R.device) * width
    return rows_of_pairs(token_R, gate_R, offsets, tokens, width=width, even=True)


def _pick_tokens(config: MoEConfig, ranked_NGE: Tensor, training: bool, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Best tokens of each expert: index and keep, [N, E, C]."""
    groups, size, num_experts = ranked_NGE.shape
    capacity = layer_capacity(config, size, training)
    if size == 0:
        index = torch.zeros(groups, num_experts, 0, dtype=torch.long, device=ranked_NGE.device)
        return index, index.bool()
    index, _ = expert_choice(ranked_NGE, capacity)
    keep = torch.ones_like(index, dtype=torch.bool)
    if valid is not None:
        tokens_N = valid.view(groups, size).sum(-1)
        room_N = group_capacities(config, tokens_N, size, training)
        keep = (
            (torch.arange(capacity, device=index.device) < room_N[:, None]).expand(num_experts, -1, -1).transpose(0, 1)
        )
    return index, keep


def _race(config: MoEConfig, ranked_NGE: Tensor, training: bool, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The k·G best pairs of each group, listed by expert: index and keep, [N, E, C], C the largest load."""
    groups, size, num_experts = ranked_NGE.shape
    flat = ranked_NGE.reshape(groups, size * num_experts)
    order = torch.sort(flat, dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    tokens_N1 = (
        torch.full((groups, 1), size, device=order.device) if valid is None else valid.view(groups, -1).sum(-1, True)
    )
    won_NGE = (rank < config.top_k * tokens_N1).view(groups, size, num_experts)
    # Winners of each expert first, best first.
    masked = ranked_NGE.masked_fill(~won_NGE, float("-inf"))
    load_NE = won_NGE.sum(1)
    width = int(load_NE.max()) if load_NE.numel() else 0
    index = torch.sort(masked.transpose(1, 2), dim=-1, descending=True, stable=True).indices[..., :width]
    return index, torch.arange(width, device=index.device) < load_NE[..., None]
