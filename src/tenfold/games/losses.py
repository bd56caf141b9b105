"""The losses of self-play: imitation of recorded winners, and offline reinforcement learning mixed with fine-tuning.

Log-probabilities are means over the tokens of an utterance, its end token included: a ratio is the geometric mean of
its tokens' ratios, so that a clip of 0.2 allows far more than it would on the ratio of the whole utterance.
"""

# Shape legend: B rows, T tokens

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tenfold.align.logprobs import CACHED, Reference, auxiliary, reference_logprobs, reference_model, token_logprobs
from tenfold.align.samples import Batch
from tenfold.lm.loss import IGNORED

Ratio = Literal["mean", "sequence", "token"]
Divergence = Literal["advantage", "detached", "penalty", "k3"]
Normalise = Literal["global", "micro"]


def imitation_loss(
    model: nn.Module, batch: Batch, ref: Reference | None = None, beta: float = 0.1
) -> tuple[Tensor, dict[str, Any]]:
    """mean_b w_b [-ℓ + β1 e^ℓ (ℓ - ℓ_ref)]: maximum likelihood of the winners' words, held near the base model.

    ℓ is the mean log-probability of a row's tokens; the gradient flows through e^ℓ too.

    Args:
        model: our decoder, or a causal language model of Hugging Face.
        batch: "ids", "targets", "mask" as `align.samples.pad` gives them, or "input_ids", "labels" (-100 left out) and
            "attention_mask" in Hugging Face's form; "weights" (B,).
        ref: the base model, or "adapters off"; None takes `batch["ref_logprob"]`, sums over the tokens, (B,).
        beta: β1 >= 0.
    Returns:
        the loss, and metrics: "weight", rows; "nll", mean -ℓ; "kl_k1", mean ℓ - ℓ_ref.
    Raises:
        ValueError: beta out of range; a reference with another vocabulary.
    Source: Cheng et al. 2024, the imitation objective, as in its code.
    """
    _check(beta=beta)
    _same_vocabulary(model, ref)
    batch = _shifted(batch)
    logp_BT = token_logprobs(model, batch)
    count_B = _count(batch)
    mean_B = logp_BT.sum(1) / count_B
    d_B = mean_B - reference_logprobs(model, batch, ref).to(mean_B) / count_B
    extra, metrics = auxiliary(model)
    loss = (batch["weights"].to(mean_B) * (-mean_B + beta * mean_B.exp() * d_B)).mean() + extra
    return loss, {
        "weight": len(mean_B),
        "nll": -mean_B.detach().mean(),
        "kl_k1": d_B.detach().mean(),
        **metrics,
    }


def spag_loss(
    model: nn.Module,
    batch: Batch,
    ref: Reference | None = None,
    beta: float = 0.2,
    alpha: float = 0.5,
    clip: float = 0.2,
    ratio: Ratio = "mean",
    kl: Divergence = "advantage",
    normalise: Normalise = "global",
) -> tuple[Tensor, dict[str, Any]]:
    """Σ_rl w g / n_rl + α Σ_sft w (-ℓ) / n_sft with g = -min(A ρ, A clip(ρ, 1-ε, 1+ε)), A = r - β2 d, ρ = e^d.

    d = ℓ - ℓ_ref against the model that played. A is not detached, as in the paper's code: at θ = θ_ref the gradient is
    ∂L/∂ℓ_b = -w_b (r_b - β2) / n_rl, so utterances with r < β2 are made less likely. With K = 5 and γ = 0.8 these are the
    winner's first three. The other kinds of `kl` do not do that.

    Args:
        model, ref: as in `imitation_loss`.
        batch: as there, with "rewards" (B,), r of the played rows; "sft_mask" (B,), True at rows of fine-tuning;
            "roles" (B,), index of the speaker or -1, for the metrics; of one of several micro-batches "rl_share" and
            "sft_share", the shares of both kinds in the whole batch, see `games.batches.GameBatches`.
        beta, alpha, clip: β2 >= 0, α >= 0, ε > 0.
        ratio: d of the "mean" token, of the whole "sequence", or of each "token" with the mean taken behind the clip.
        kl: "advantage" as above; "detached" has A = r - β2 d without its gradient; "penalty" has A = r and adds β2 d to g;
            "k3" adds β2 (e^-d - 1 + d).
        normalise: n counts the rows of the whole batch ("global": 1 x 128 equals 8 x 16 micro-batches), or those of each
            micro-batch, whose means are averaged ("micro", as the paper's code does).
    Returns:
        the loss, and metrics: "weight"; "policy" and "sft", its parts; "kl_k1", "kl_k3", of d; "kl_k1_sequence", of the
        whole utterance; "ratio_mean", "ratio_max"; "clip_frac", "frac_negative_adv"; "n_rl", "n_sft", "n_role_0", ….
    Raises:
        ValueError: settings out of range; ratio="token" without a reference model; one with another vocabulary.
    Source: Cheng et al. 2024, the self-play objective, as in its code; "sequence" as in the paper; the rest is ours.
    """
    _check(beta=beta, alpha=alpha)
    if not 0 < clip < math.inf:
        raise ValueError(f"clip: got {clip}, need a number > 0")
    for name, value, known in (("ratio", ratio, Ratio), ("kl", kl, Divergence), ("normalise", normalise, Normalise)):
        if value not in get_args(known):
            raise ValueError(f"{name}: got {value!r}, need one of {', '.join(get_args(known))}")
    _same_vocabulary(model, ref)
    batch = _shifted(batch)
    logp_BT = token_logprobs(model, batch)
    count_B, total_B = _count(batch), logp_BT.sum(1)
    sft_B = batch["sft_mask"].bool()
    rl_B = ~sft_B
    weights_B, rewards_B = batch["weights"].to(total_B), batch["rewards"].to(total_B)
    # Each kind's rows are cut out, not multiplied by 0: a ratio of the other kind may be infinite.
    apart, token_share = _apart(model, {**batch, "logp": logp_BT}, rl_B, ref, by_token=ratio == "token")
    sums_B = apart.sum(1) if ratio == "token" else apart
    d = apart / count_B[rl_B] if ratio == "mean" else apart
    rewards = rewards_B[rl_B].unsqueeze(1) if ratio == "token" else rewards_B[rl_B]
    g, figures = _objective(d, rewards, beta, clip, kl)
    g_B = (g * token_share).sum(1) if ratio == "token" else g
    n_rl, n_sft, weight = _counts(batch, sft_B, normalise)
    policy = (weights_B[rl_B] * g_B).sum() / n_rl
    sft = (weights_B * -total_B / count_B)[sft_B].sum() / n_sft
    extra, metrics = auxiliary(model)
    scored = token_share > 0
    return policy + alpha * sft + extra, {
        "weight": weight,
        "policy": policy.detach(),
        "sft": sft.detach(),
        "kl_k1_sequence": _mean(sums_B.detach()),
        **{name: _mean(value[scored]) for name, value in figures.items()},
        "ratio_max": figures["ratio_mean"][scored].max() if bool(scored.any()) else d.new_zeros(()),
        "n_rl": rl_B.sum(),
        "n_sft": sft_B.sum(),
        **_role_counts(batch),
        **metrics,
    }


def _apart(
    model: nn.Module, batch: Batch, rl_B: Tensor, ref: Reference | None, *, by_token: bool
) -> tuple[Tensor, Tensor]:
    """ln π - ln π_ref of the played rows, of each token or summed, and what part of its row each of these is."""
    played = {name: batch[name][rl_B] for name in ("ids", "targets", "mask", "logp", CACHED) if name in batch}
    own_BT, kept_BT = played["logp"], played["targets"] != IGNORED
    if not by_token:
        apart_B = own_BT.sum(1)
        if len(apart_B):
            apart_B = apart_B - reference_logprobs(model, played, ref).to(apart_B)
        return apart_B, torch.ones_like(apart_B)
    if not isinstance(ref, nn.Module | str):
        raise ValueError("ref: got None, need the reference model: ratio='token' compares every token")
    if len(own_BT):
        with torch.no_grad(), reference_model(model, ref) as frozen:
            theirs_BT = token_logprobs(frozen, played)
        own_BT = own_BT - theirs_BT.to(own_BT)
    return own_BT, kept_BT.to(own_BT) / _count(played).unsqueeze(1)


def _objective(
    d: Tensor, rewards: Tensor, beta: float, clip: float, kl: Divergence
) -> tuple[Tensor, dict[str, Tensor]]:
    """g of each ratio, and what the metrics take the mean of."""
    rho = d.exp()
    advantage = rewards.expand_as(d)
    if kl in ("advantage", "detached"):
        advantage = advantage - beta * (d if kl == "advantage" else d.detach())
    plain, clipped = advantage * rho, advantage * rho.clamp(1 - clip, 1 + clip)
    g = -torch.minimum(plain, clipped)
    k3 = torch.expm1(-d) + d
    if kl == "penalty":
        g = g + beta * d
    elif kl == "k3":
        g = g + beta * k3
    figures = {
        "kl_k1": d,
        "kl_k3": k3,
        "ratio_mean": rho,
        "clip_frac": (clipped < plain).to(d),
        "frac_negative_adv": (advantage < 0).to(d),
    }
    return g, {name: value.detach() for name, value in figures.items()}


def _counts(batch: Batch, sft_B: Tensor, normalise: Normalise) -> tuple[Tensor, Tensor, int]:
    """n_rl and n_sft to divide by, at least something, and the weight of this micro-batch among the others."""
    rows = len(sft_B)
    if normalise == "global" and "rl_share" in batch:
        counts = batch["rl_share"] * rows, batch["sft_share"] * rows
    else:
        counts = (~sft_B).sum(), sft_B.sum()
    n_rl, n_sft = (torch.where(count > 0, count, torch.ones_like(count)) for count in counts)
    return n_rl, n_sft, rows if normalise == "global" else 1


def _shifted(batch: Batch) -> Batch:
    """The batch with targets where they are predicted; labels of Hugging Face stand one place later."""
    if "ids" in batch:
        return batch
    labels = batch["labels"]
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = labels[:, 1:]  # the first label follows nothing: it is neither scored nor counted
    own = {name: value for name, value in batch.items() if name not in ("input_ids", "labels", "attention_mask")}
    if "attention_mask" in batch:
        own["mask"] = batch["attention_mask"].bool()
    return {**own, "ids": batch["input_ids"], "targets": targets}


def _count(batch: Batch) -> Tensor:
    return (batch["targets"] != IGNORED).sum(1).clamp(min=1)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


def _role_counts(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "roles" not in batch:
        return {}
    return {f"n_role_{role}": (batch["roles"] == role).sum() for role in (0, 1)}


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value}, need a finite number from 0")


def _same_vocabulary(model: nn.Module, ref: Reference | None) -> None:
    """The ids of a row mean other words to a model of another tokenizer, and most would be scored without a complaint."""
    sizes = [getattr(getattr(each, "cfg", getattr(each, "config", None)), "vocab_size", None) for each in (model, ref)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ValueError(f"ref: its vocabulary has {sizes[1]} tokens, the policy's {sizes[0]}; need the same tokenizer")
