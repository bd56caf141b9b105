"""MDLOO: online reinforcement learning with leave-one-out advantages and mirror-descent steps.

One iteration: K responses to each of n prompts are sampled (`rollout`) and rewarded, `policy_batch` notes what the
sampling policy θ_k made of them, and the policy takes a few passes of `mdloo_loss` over minibatches of that. The whole
response is one action. Dropout blurs the ratios: train a model built with `dropout=0`.

Source: Gunter et al. 2024, arXiv 2407.21075 (objective, leave-one-out, mirror descent); the estimator of the step is ours.
"""

# Shape legend: n prompts, K responses each, B = nK rows, T sequence, N learned tokens, D states' width, V vocabulary

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tenfold.align.logprobs import (
    Head,
    Reference,
    auxiliary,
    by_rows,
    frozen_head,
    hidden_states,
    output_head,
    reference_model,
    sequence_logprobs,
    spread,
    token_logprobs,
    vocabulary,
    warmed,
)
from tenfold.align.samples import Batch, Sample, pad, rows
from tenfold.core.fit import Loss
from tenfold.core.stream import permutation
from tenfold.lm.loglikelihood import scoring_mode
from tenfold.lm.loss import IGNORED

Baseline = Literal["loo", "mean"]
Divergence = Literal["exact", "sampled"]
Trust = Literal["kl", "clip"]


def leave_one_out(rewards_nK: Tensor) -> Tensor:
    """Each reward less the mean of the others of its prompt, (n, K); equals K/(K - 1) · (R - mean).

    Raises:
        ValueError: fewer than two responses a prompt, or rewards that are not finite.
    """
    if rewards_nK.ndim != 2 or rewards_nK.shape[1] < 2:
        raise ValueError(f"rewards: got shape {tuple(rewards_nK.shape)}, need (prompts, K) with K of 2 or more")
    if not bool(rewards_nK.isfinite().all()):
        raise ValueError(f"rewards: got {int((~rewards_nK.isfinite()).sum())} that are not finite, need finite numbers")
    K = rewards_nK.shape[1]
    return K / (K - 1) * (rewards_nK - rewards_nK.mean(1, keepdim=True))


def advantages(rewards_nK: Tensor, baseline: Baseline = "loo") -> Tensor:
    """Rewards less a baseline, (n, K); without division by a deviation.

    Args:
        rewards_nK: penalties for leaving the reference included.
        baseline: "loo" is `leave_one_out`; "mean" the mean over all responses to all prompts, for comparison.
    """
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline: got {baseline!r}, need one of {', '.join(get_args(Baseline))}")
    own = leave_one_out(rewards_nK)  # also checks
    return own if baseline == "loo" else rewards_nK - rewards_nK.mean()


def mdloo_loss(
    gamma: float = 0.05,
    *,
    old_head: Head | None = None,
    kl: Divergence = "exact",
    trust: Trust = "kl",
    log_ratio_cap: float = 5.0,
    clip: float = 0.2,
    temperature: float = 1.0,
) -> Loss:
    """-mean(ρ A) + γ mean(Σ_t KL_t): a step of mirror descent from θ_k on the responses that θ_k gave.

    ρ = π(y|x) / π_k(y|x) of the whole response; KL_t = Σ_v π(v) (ln π(v) - ln π_k(v)) at each of its tokens, exact over
    the vocabulary. At θ = θ_k the gradient is that of REINFORCE with the same advantages.

    Args:
        gamma: γ >= 0, weight of the divergence from θ_k.
        old_head: the output layer of θ_k, as `policy_batch` gives it; for the exact divergence.
        kl: "exact"; or "sampled", ρ ln ρ of the response that was drawn, which needs no `old_head`.
        trust: "kl"; or "clip", PPO's -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) of the whole response without divergence.
        log_ratio_cap: ln ρ counts as at most this; such rows have no gradient of ρ.
        clip: ε of "clip".
        temperature: of the sampling.
    Returns:
        loss(model, batch) for (rows of) the batch of `policy_batch`; metrics: "weight", responses; "policy", -mean(ρ A);
        "kl", mean of the divergence of a response; "ratio", mean ρ; "capped" and with "clip" "clipped", shares of rows.
    Raises:
        ValueError: settings out of range; the exact divergence without `old_head`.
    """
    for name, value, known in (("kl", kl, Divergence), ("trust", trust, Trust)):
        if value not in get_args(known):
            raise ValueError(f"{name}: got {value!r}, need one of {', '.join(get_args(known))}")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma: got {gamma}, need a finite number from 0")
    if not (log_ratio_cap > 0 and clip > 0 and temperature > 0):
        raise ValueError(
            f"log_ratio_cap, clip, temperature: got {log_ratio_cap}, {clip}, {temperature}, need numbers > 0"
        )
    exact = trust == "kl" and kl == "exact"
    if exact and old_head is None:
        raise ValueError("old_head: got None, need the output layer of the sampling policy, or kl='sampled'")

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        if exact:
            assert old_head is not None
            logp_B, kl_B = _with_divergence(model, old_head, batch, temperature)
        else:
            logp_B, kl_B = sequence_logprobs(model, batch, temperature=temperature)[0], None
        log_ratio_B = logp_B - batch["old_logprob"].to(logp_B)
        capped_B = log_ratio_B > log_ratio_cap
        log_ratio_B = log_ratio_B.clamp(max=log_ratio_cap)
        ratio_B, advantage_B = log_ratio_B.exp(), batch["advantage"].to(logp_B)
        kl_B = ratio_B * log_ratio_B if kl_B is None else kl_B
        gain_B = ratio_B * advantage_B
        extra, metrics = auxiliary(model)
        if trust == "clip":
            bounded_B = ratio_B.clamp(1 - clip, 1 + clip) * advantage_B
            metrics["clipped"] = (bounded_B < gain_B).float().mean()
            gain_B = torch.minimum(gain_B, bounded_B)
        policy, divergence = -gain_B.mean(), kl_B.mean()
        total = policy + extra if trust == "clip" else policy + gamma * divergence + extra
        return total, {
            "weight": len(ratio_B),
            "policy": policy.detach(),
            "kl": divergence.detach(),
            "ratio": ratio_B.detach().mean(),
            "capped": capped_B.float().mean(),
            **metrics,
        }

    return loss


def _with_divergence(model: nn.Module, old_head: Head, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Σ ln π of each row's learned tokens, (B,), and the sum of their KL_t, (B,)."""
    if "old_states" not in batch:
        raise ValueError('batch: no "old_states"; the exact divergence needs policy_batch(..., keep_states=True)')
    head = output_head(model)

    def score(states_ND: Tensor, old_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, ...]:
        log_p = warmed(head(states_ND), temperature).log_softmax(-1)
        with torch.no_grad():
            log_q = warmed(old_head(old_ND), temperature).log_softmax(-1)
        kl_N = (log_p.exp() * (log_p - log_q)).sum(-1)
        return log_p.gather(1, targets_N.unsqueeze(1)).squeeze(1), kl_N

    kept_BT = batch["targets"] != IGNORED
    states_ND = hidden_states(model, batch)[kept_BT]
    columns = states_ND, batch["old_states"][kept_BT], batch["targets"][kept_BT]
    logp_N, kl_N = by_rows(score, vocabulary(model, states_ND), *columns)
    return spread(logp_N, kept_BT).sum(1), spread(kl_N, kept_BT).sum(1)


@dataclass(frozen=True)
class PolicyBatch:
    """What one iteration learns from.

    Attributes:
        batch: of B rows: "ids", "targets", "mask" as `pad` gives them; "advantage" and "old_logprob", (B,); for the exact
            divergence "old_states", (B, T, D).
        old_head: the sampling policy's output layer, for `mdloo_loss`.
        metrics: "reward", the mean before the penalty; "reference_kl", the mean of ln π_k - ln π_ref.
    """

    batch: dict[str, Tensor]
    old_head: Head
    metrics: dict[str, float]

    def minibatches(self, size: int, passes: int = 1, *, seed: int = 0) -> Iterator[dict[str, Tensor]]:
        """Parts of `size` rows, in a new order of (seed, pass) each time; the last of a pass may be smaller."""
        if size < 1 or passes < 1:
            raise ValueError(f"size, passes: got {size}, {passes}, need at least 1")
        device = self.batch["ids"].device
        for number in range(passes):
            order = torch.from_numpy(permutation(len(self.batch["ids"]), seed, number)).to(device)
            for index in order.split(size):
                yield rows(self.batch, index)


@torch.no_grad()
def policy_batch(
    model: nn.Module,
    samples: Sequence[Sample],
    rewards_nK: Tensor,
    *,
    reference: Reference | None = None,
    beta: float = 0.01,
    baseline: Baseline = "loo",
    temperature: float = 1.0,
    keep_states: bool = True,
    rows_at_once: int = 32,
) -> PolicyBatch:
    """Advantages of rewarded responses, and what the sampling policy θ_k made of each.

    The reward of a response is R = r - β (ln π_k(y|x) - ln π_ref(y|x)).

    Args:
        model: θ_k, with the weights that gave the responses.
        samples: n · K responses, those of one prompt together.
        rewards_nK: r, finite.
        reference: as in `reference_model`; None only with β = 0.
        beta: β >= 0, weight of the divergence from the reference.
        baseline: see `advantages`.
        temperature: of the sampling; all log-probabilities are at it.
        keep_states: keep θ_k's states for the exact divergence, D numbers a token.
        rows_at_once: rows of one forward pass; no effect on the result.
    Raises:
        ValueError: K below 2, rewards not finite, another number of samples, β without a reference.
    """
    if len(samples) != rewards_nK.numel():
        raise ValueError(f"samples: got {len(samples)} for {rewards_nK.numel()} rewards, need one each")
    if not 0 <= beta < math.inf or (beta and reference is None):
        raise ValueError(f"beta: got {beta} and reference {reference}, need a number from 0, and a reference above 0")
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in pad(samples).items()}
    parts = [rows(batch, slice(i, i + rows_at_once)) for i in range(0, len(samples), rows_at_once)]
    with scoring_mode(model):
        states = [hidden_states(model, part) for part in parts]
        logp = [
            token_logprobs(model, part, temperature=temperature, states=each).sum(1)
            for part, each in zip(parts, states, strict=True)
        ]
    batch["old_logprob"] = torch.cat(logp)
    if keep_states:
        batch["old_states"] = torch.cat(states)
    penalty = torch.zeros_like(batch["old_logprob"])
    if reference is not None:
        with reference_model(model, reference) as frozen:
            sums = [sequence_logprobs(frozen, part, temperature=temperature)[0] for part in parts]
        penalty = batch["old_logprob"] - torch.cat(sums).to(penalty)
    rewards_nK = rewards_nK.to(penalty)
    batch["advantage"] = advantages(rewards_nK - beta * penalty.view_as(rewards_nK), baseline).flatten()
    metrics = {"reward": float(rewards_nK.mean()), "reference_kl": float(penalty.mean())}
    return PolicyBatch(batch, frozen_head(model), metrics)
