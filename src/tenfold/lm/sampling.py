"""Choosing the next token: temperature, top-k and nucleus filters, one draw a row from the row's own random numbers."""

# Shape legend: B batch, V vocabulary, C shortlisted tokens

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY = 1e-5  # lower temperatures: logits divided by them leave float32
SHORTLIST = 1024  # tokens looked at first for a nucleus: sorting a whole vocabulary costs more than a layer


@dataclass(frozen=True)
class SamplingRule:
    """How a token is drawn.

    Args:
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_k: draw among that many most likely tokens; None for all.
        top_p: draw from the nucleus of that mass; None for all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, need 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: got {self.top_k}, need at least 1 (or None)")
        if self.top_p is not None:
            if not 0 < self.top_p <= 1:
                raise ValueError(f"top_p: got {self.top_p}, need 0 < top_p <= 1 (or None)")
            object.__setattr__(self, "top_p", max(self.top_p, 1e-9))  # less is 0 in float32, and no token's mass


def filter_logits(logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits to sample from: divided by the temperature, -inf outside the top_k and the nucleus of mass top_p.

    Of equal logits the lowest indices are kept. The nucleus is the smallest set of most likely tokens whose mass reaches top_p; it always holds the first.
    Source: Holtzman et al. 2020, arXiv 1904.09751 (nucleus).
    """
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        # What a stable sort would choose, at a fortieth of its time for 50 000 tokens.
        least = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        above, equal = logits_BV > least, logits_BV == least
        room = top_k - above.sum(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(~(above | (equal & (equal.cumsum(-1) <= room))), float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, index = logits_BV.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(-1)
        outside = mass.cumsum(-1) - mass >= top_p
        ordered = ordered.masked_fill(outside, float("-inf"))
        logits_BV = torch.empty_like(logits_BV).scatter_(-1, index, ordered)
    return logits_BV


def draw(logits_BV: Tensor, rule: SamplingRule, points_B: Tensor) -> Tensor:
    """One token a row by inverse transform.

    Args:
        logits_BV: on any device, float32 or float64.
        rule: of all rows.
        points_B: float64 in [0, 1), the rows' random numbers; not read when greedy.
    Returns:
        (B,) int64, on the logits' device.
    """
    if rule.temperature < GREEDY:
        return logits_BV.argmax(-1)
    shortlist = _shortlist(logits_BV, rule)
    if shortlist is None:
        kept_BC, index_BC = filter_logits(logits_BV, rule.temperature, rule.top_k, rule.top_p), None
    else:
        kept_BC, index_BC = shortlist
    # Cumulated on the CPU in float64: some accelerators have none, and a seed then draws the same tokens everywhere.
    weights_BC = (kept_BC - kept_BC.amax(-1, keepdim=True)).exp_().cpu()
    mass_BC = weights_BC.cumsum(-1, dtype=torch.float64)
    # The first token whose cumulated mass exceeds the point; a token of mass 0 is never that.
    chosen = torch.searchsorted(mass_BC, points_B.unsqueeze(1) * mass_BC[:, -1:], right=True)
    chosen = chosen.clamp_(max=mass_BC.shape[-1] - 1).to(logits_BV.device)
    return (chosen if index_BC is None else index_BC.gather(1, chosen)).squeeze(1)


def draw_rows(logits_BV: Tensor, rules: Sequence[SamplingRule], points_B: Tensor) -> Tensor:
    """`draw` where every row has a rule of its own; rows with the same rule are drawn together."""
    rows: dict[SamplingRule, list[int]] = {}
    for row, rule in enumerate(rules):
        rows.setdefault(rule, []).append(row)
    if len(rows) == 1:
        return draw(logits_BV, rules[0], points_B)
    chosen_B = torch.empty(len(rules), dtype=torch.int64, device=logits_BV.device)
    for rule, members in rows.items():
        index = torch.tensor(members, device=logits_BV.device)
        chosen_B[index] = draw(logits_BV[index], rule, points_B[members])
    return chosen_B


def _shortlist(logits_BV: Tensor, rule: SamplingRule) -> tuple[Tensor, Tensor] | None:
    """Filtered logits of a few tokens, in the vocabulary's order, and their ids; None where only the whole row will do.

    It holds what `filter_logits` keeps. A tie at its edge, which the lowest index must win, is left to the whole row.
    """
    vocabulary = logits_BV.shape[-1]
    nucleus = rule.top_p is not None and rule.top_p < 1
    size = rule.top_k or (SHORTLIST if nucleus else vocabulary)
    if size >= vocabulary:
        return None
    values_BC, index_BC = logits_BV.topk(size + 1, dim=-1)  # sorted; one more than kept, to see a tie
    if bool((values_BC[:, -1] == values_BC[:, -2]).any()):
        return None
    values_BC, index_BC = values_BC[:, :-1] / rule.temperature, index_BC[:, :-1]
    if nucleus:
        assert rule.top_p is not None
        rival_BV = values_BC if rule.top_k else logits_BV / rule.temperature
        mass_BC = (values_BC - rival_BV.logsumexp(-1, keepdim=True)).exp()
        before_BC = mass_BC.cumsum(-1) - mass_BC
        if not rule.top_k and bool((before_BC[:, -1] < rule.top_p).any()):
            return None  # the nucleus may go beyond the shortlist
        # Equal logits within the list go by index, as in a stable sort.
        if bool(((values_BC[:, 1:] == values_BC[:, :-1]) & (index_BC[:, 1:] < index_BC[:, :-1])).any()):
            return None
        values_BC = values_BC.masked_fill(before_BC >= rule.top_p, float("-inf"))
    index_BC, order = index_BC.sort(dim=-1)
    return values_BC.gather(1, order), index_BC
