"""A batch of agents walks by its policy to the horizon: what supervised and reinforcement learning share."""

# Shape legend: A agents, N actions of all agents at one step, T horizon

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.policies import Policy
from tenfold.graph.ragged import (
    sample_gumbel,
    sample_inverse_cdf,
    segment_argmax,
    segment_entropy,
    segment_log_softmax,
)

EPSILON = 1e-10  # the weight of a dropped action: it matters where all of an agent's actions were dropped


@dataclass(frozen=True, eq=False)
class Rollout:
    """One walk of every agent; gradients flow into log_probs, entropy and logits."""

    states: list[State]  # T + 1: before each step, and at the end
    actions: list[Actions]  # T
    choices: Tensor  # [T, A] the action taken: a place among that step's N
    log_probs: Tensor  # [T, A] log π of the action taken, whatever it was sampled from
    entropy: Tensor  # [T, A] of π, nats
    logits: list[Tensor]  # T of [N]


def rollout(
    policy: Policy[Any],
    env: WalkEnv,
    state: State,
    *,
    generator: torch.Generator | None = None,
    sample: Literal["inverse_cdf", "gumbel"] = "inverse_cdf",
    action_dropout: float = 0.0,
    greedy: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Rollout:
    """Walk every agent from `state` to the horizon.

    Args:
        policy: the walker.
        env: the rules of the walk.
        state: A agents, as `env.reset` gives them.
        generator: of the actions sampled, on the policy's device; None is torch's.
        sample: "inverse_cdf" draws one random number an agent, "gumbel" one an action.
        action_dropout: α; each action keeps its probability in the sampling with 1 - α and has almost none otherwise.
        greedy: take the likeliest action instead.
        part: (i, n): these agents are the i-th of n equal parts of a batch and, without action dropout, walk as they would
            in the whole of it; with "inverse_cdf".
    Raises:
        ValueError: a share outside 0..1, an unknown way to sample, or agents at the horizon already.
    Source: arXiv 2405.13640 (an agent acts by its own policy in both stages); action dropout: Lin et al. 2018, section 3.5.
    """
    if not 0 <= action_dropout <= 1:
        raise ValueError(f"action_dropout: got {action_dropout}, need 0..1")
    if sample not in ("inverse_cdf", "gumbel"):
        raise ValueError(f"sample: got {sample!r}, need one of 'gumbel', 'inverse_cdf'")
    if part != (0, 1) and sample != "inverse_cdf":
        raise ValueError(f"part: got {part} with sample {sample!r}, need 'inverse_cdf'")
    states, steps = [state], []
    hidden = policy.init(state)
    while True:
        actions = env.actions(state)
        row, ptr = actions.row, actions.ptr
        logits_N = policy.logits(state, hidden, actions)
        log_p_N = segment_log_softmax(logits_N, row, ptr)
        if greedy:
            choice_A = segment_argmax(log_p_N, row, ptr)
        else:
            drawn_from_N = drop_actions(log_p_N, row, ptr, action_dropout, generator)
            if sample == "gumbel":
                choice_A = sample_gumbel(drawn_from_N, row, ptr, generator)
            else:
                choice_A = sample_inverse_cdf(drawn_from_N, row, ptr, generator, part)
        steps.append((actions, choice_A, log_p_N.index_select(0, choice_A), segment_entropy(log_p_N, ptr), logits_N))
        state = env.step(state, choice_A)
        states.append(state)
        if state.step == env.horizon:
            break
        hidden = policy.advance(hidden, state.last_relation, state.node)
    actions_T, choices_T, log_probs_T, entropy_T, logits_T = map(list, zip(*steps, strict=True))
    return Rollout(
        states, actions_T, torch.stack(choices_T), torch.stack(log_probs_T), torch.stack(entropy_T), logits_T
    )


def drop_actions(
    log_p_N: Tensor, row_N: Tensor, ptr: Tensor, share: float, generator: torch.Generator | None
) -> Tensor:
    """Log of the distribution to sample from under action dropout: π·m + ε·(1 - m), m ~ Bernoulli(1 - share), renormalised.

    Without gradient; at share 0 it is log_p_N itself and no random number is drawn.
    """
    log_p_N = log_p_N.detach()
    if share == 0:
        return log_p_N
    dropped_N = torch.rand(len(log_p_N), device=log_p_N.device, generator=generator) < share
    return segment_log_softmax(log_p_N.masked_fill(dropped_N, math.log(EPSILON)), row_N, ptr)
