"""Advantages from the same transcripts for other learners: returns to go, GAE, group and role baselines."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence


def returns_to_go(rewards: Sequence[float], gamma: float = 1.0) -> list[float]:
    """G_t = Σ_{k >= t} γ^(k-t) r_k of one player's utterances in their order."""
    return gae(rewards, [0.0] * len(rewards), gamma, 1.0)


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float = 1.0, lam: float = 0.95) -> list[float]:
    """Generalised advantages A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V_{t+1} - V_t, with V = 0 behind the end.

    Args:
        rewards, values: of one player's utterances in their order.
        gamma, lam: γ and λ in [0, 1].
    Source: Schulman et al. 2016, arXiv 1506.02438, Eq. 16.
    """
    if len(rewards) != len(values):
        raise ValueError(f"values: got {len(values)} for {len(rewards)} rewards, need one each")
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma, lam: got {gamma}, {lam}, need numbers in [0, 1]")
    found: list[float] = []
    next_value = next_advantage = 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        next_advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        next_value = value
        found.append(next_advantage)
    return found[::-1]


def group_normalised(returns: Sequence[float], groups: Sequence[Hashable], epsilon: float = 1e-4) -> list[float]:
    """(R - mean) / (std + ε) within each group, such as all games on one target word; 0 in a group of one.

    Source: Shao et al. 2024, arXiv 2402.03300 (GRPO); the deviation has n - 1 in its denominator.
    """
    if len(returns) != len(groups):
        raise ValueError(f"groups: got {len(groups)} for {len(returns)} returns, need one each")
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(returns, groups, strict=True):
        members.setdefault(group, []).append(value)
    means = {group: statistics.fmean(values) for group, values in members.items()}
    spreads = {group: statistics.stdev(values) if len(values) > 1 else 0.0 for group, values in members.items()}
    return [(v - means[group]) / (spreads[group] + epsilon) for v, group in zip(returns, groups, strict=True)]


def role_conditioned(
    returns: Sequence[float],
    keys: Sequence[Hashable],
    decay: float = 0.95,
    baselines: Mapping[Hashable, float] | None = None,
) -> tuple[list[float], dict[Hashable, float]]:
    """R less a moving average of earlier returns of the same game and role.

    Args:
        returns: in the order of the games.
        keys: (game, role) of each.
        decay: b becomes decay · b + (1 - decay) · R behind each return.
        baselines: where the averages stand; absent ones begin at 0.
    Returns:
        advantages, and the averages afterwards.
    Source: Liu et al. 2025, arXiv 2506.24119 (SPIRAL), role-conditioned advantage estimation.
    """
    if len(returns) != len(keys):
        raise ValueError(f"keys: got {len(keys)} for {len(returns)} returns, need one each")
    if not 0 <= decay < 1:
        raise ValueError(f"decay: got {decay}, need a number in [0, 1)")
    now = dict(baselines or {})
    found = []
    for value, key in zip(returns, keys, strict=True):
        before = now.get(key, 0.0)
        found.append(value - before)
        now[key] = decay * before + (1 - decay) * value
    return found, now
