"""Losses of right-censored survival: hazards and masses in slots, DeepHit's ranking, Cox, exponential, Weibull.

Each is a mean over subjects. `weights` make it a weighted mean; those with `at_risk` False, to whom the event had
happened before, are left out, whatever their labels. Where nobody is left the loss is 0, with gradient 0.
"""

# Shape legend: B subjects, K slots, E events among them, G distinct times

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tenfold.clinical.event_law import EventLaw


def nll_discrete_hazard(
    logits_BK: Tensor,
    slot: Tensor,
    observed: Tensor,
    *,
    hazards: bool = False,
    tail: Tensor | None = None,
    weights: Tensor | None = None,
    at_risk: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of hazards in slots: Π_(k<slot) (1 - λ_k) times λ_slot for an event, 1 - λ_slot else.

    Args:
        logits_BK: of the hazards λ_k of slots k = 1..K.
        slot: [B] int64 in 1..K; a censored subject survives its slot.
        observed: [B] whether the slot is that of the event.
        hazards: the first argument holds λ itself (kept within [1e-20, 0.99999]); logits are exact for all λ.
        tail: [B] further slots beyond K, each survived at the last hazard; None for none.
        weights, at_risk: [B], see above.
    Returns:
        scalar, nats a subject.
    Raises:
        ValueError: shapes that do not fit, a slot outside 1..K.
    Source: Xue et al. 2020, section 3; Gensheimer and Narasimhan 2019.
    """
    logits_BK, slot, observed, weights, tail = _slots(logits_BK, slot, observed, at_risk, weights, tail)
    law = EventLaw.from_hazards(logits_BK) if hazards else EventLaw.from_logits(logits_BK)
    return -_mean(law.log_likelihood(slot, observed, tail), weights)


def nll_pmf(
    logits_BK: Tensor,
    slot: Tensor,
    observed: Tensor,
    *,
    weights: Tensor | None = None,
    at_risk: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of masses in slots: softmax over K slots and, with logit 0, no event within them.

    Args:
        logits_BK: of the slots k = 1..K.
        slot: [B] int64 in 1..K; a censored subject survives its slot.
        observed: [B] whether the slot is that of the event.
        weights, at_risk: [B], see above.
    Raises:
        ValueError: shapes that do not fit, a slot outside 1..K.
    Source: Lee et al. 2018 (DeepHit), L1; Kvamme and Borgan 2021.
    """
    logits_BK, slot, observed, weights, _ = _slots(logits_BK, slot, observed, at_risk, weights)
    log_mass = _masses(logits_BK)
    log_left = log_mass.flip(-1).logcumsumexp(-1).flip(-1)  # of slots from each on
    event, later = log_mass.gather(-1, slot[:, None] - 1), log_left.gather(-1, slot[:, None])
    return -_mean(torch.where(observed, event.squeeze(-1), later.squeeze(-1)), weights)


def deephit_rank_loss(
    logits_BK: Tensor, slot: Tensor, observed: Tensor, *, sigma: float = 0.1, at_risk: Tensor | None = None
) -> Tensor:
    """Who had the event should by then have had more of its mass than who outlived it: exp(-(F_i - F_j) / sigma).

    Args:
        logits_BK: as in `nll_pmf`; F is the distribution function they make.
        slot: [B] int64 in 1..K; a censored subject survives its slot.
        observed: [B] whether the slot is that of the event.
        sigma: scale of the penalty, above 0.
        at_risk: [B], see above.
    Returns:
        the mean over all B² ordered pairs; those that cannot be compared add 0.
    Source: Lee et al. 2018, L2.
    """
    if sigma <= 0:
        raise ValueError(f"sigma: got {sigma}, need a number above 0")
    logits_BK, slot, observed, *_ = _slots(logits_BK, slot, observed, at_risk)
    reached_BB = _masses(logits_BK).exp().cumsum(-1)[:, slot - 1].T  # [i, j]: F_j at the slot of i
    outlived = (slot[:, None] < slot) | ((slot[:, None] == slot) & ~observed)
    loss = torch.exp((reached_BB - reached_BB.diagonal()[:, None]) / sigma)
    return torch.where(observed[:, None] & outlived, loss, 0.0).sum() / max(loss.numel(), 1)


def cox_ph_loss(
    log_risk: Tensor,
    time: Tensor,
    observed: Tensor,
    *,
    ties: Literal["efron", "breslow"] = "efron",
    at_risk: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Negative log partial likelihood: each event against all who were still followed at its time.

    Args:
        log_risk: [B] log of the relative hazard.
        time: [B] follow-up times.
        observed: [B] whether each ended with the event.
        ties: of the events at one time, "breslow" compares each with all of them; "efron" takes their share out again,
            as if they had come one after the other in any order.
        at_risk: [B], see above.
        reduction: "mean" over the events, or their "sum".
    Source: Cox 1975; Breslow 1974; Efron 1977.
    """
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties: got {ties!r}, need 'efron' or 'breslow'")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: got {reduction!r}, need 'mean' or 'sum'")
    log_risk, time, observed = _left(at_risk, log_risk=log_risk, time=time, observed=observed.bool())
    if not bool(observed.any()):
        return log_risk.sum() * 0.0
    order = time.argsort(descending=True, stable=True)
    log_risk, time, observed = log_risk[order], time[order], observed[order]
    _, row, size = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    log_set_G = log_risk.logcumsumexp(0)[size.cumsum(0) - 1]
    event, group = log_risk[observed], row[observed]
    log_set = log_set_G[group]
    if ties == "efron":
        deaths_G = torch.bincount(group, minlength=len(size))
        rank = torch.arange(len(group), device=group.device) - (deaths_G.cumsum(0) - deaths_G)[group]
        share = rank.to(event) / deaths_G[group]
        # A share below 1 of a part of the set: the argument of the logarithm stays above 0.
        log_set = log_set + torch.log1p(-share * torch.exp(_segment_logsumexp(event, group, len(size)) - log_set))
    loss = (log_set - event).sum()
    return loss / len(event) if reduction == "mean" else loss


def exponential_nll(
    log_rate: Tensor,
    time: Tensor,
    observed: Tensor,
    *,
    weights: Tensor | None = None,
    at_risk: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of a constant hazard.

    Args:
        log_rate: [B] log of the hazard per unit of `time`.
        time: [B] follow-up times, at least 0.
        observed: [B] whether each ended with the event.
        weights, at_risk: [B], see above.
    """
    weights = torch.ones_like(log_rate) if weights is None else weights
    log_rate, time, observed, weights = _left(
        at_risk, log_rate=log_rate, time=time, observed=observed.bool(), weights=weights
    )
    return -_mean(torch.where(observed, log_rate, 0.0) - log_rate.exp() * time, weights)


def weibull_nll(
    log_scale: Tensor,
    log_shape: Tensor,
    time: Tensor,
    observed: Tensor,
    *,
    weights: Tensor | None = None,
    at_risk: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of Weibull times, whose cumulative hazard is (t / scale) ** shape.

    Args:
        log_scale, log_shape: [B]; shape 1 is the exponential law of rate 1 / scale.
        time: [B] follow-up times, at least 0; 0 is taken as the smallest positive number.
        observed: [B] whether each ended with the event.
        weights, at_risk: [B], see above.
    """
    weights = torch.ones_like(log_scale) if weights is None else weights
    log_scale, log_shape, time, observed, weights = _left(
        at_risk, log_scale=log_scale, log_shape=log_shape, time=time, observed=observed.bool(), weights=weights
    )
    since = time.to(log_scale).clamp(min=torch.finfo(log_scale.dtype).tiny).log() - log_scale
    log_cumulative = log_shape.exp() * since
    event = log_shape - log_scale + log_cumulative - since
    return -_mean(torch.where(observed, event, 0.0) - log_cumulative.exp(), weights)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean; 0 where there is no weight."""
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)


def _masses(logits_BK: Tensor) -> Tensor:
    """Log-probabilities [B, K + 1] of the slots and of no event within them."""
    return F.pad(logits_BK, (0, 1)).log_softmax(-1)


def _segment_logsumexp(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """For each of the values, the log of the sum over its group."""
    most = values.detach().new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    total = values.new_zeros(groups).index_add(0, group, (values - most[group]).exp())
    return total[group].log() + most[group]


def _left(at_risk: Tensor | None, **parts: Tensor) -> list[Tensor]:
    """The rows of those at risk, [B] each; who is left out takes no part in any arithmetic, NaN times included."""
    first, *others = parts
    if parts[first].ndim != 1:
        raise ValueError(f"{first}: got shape {list(parts[first].shape)}, need [B], one a subject")
    shape = parts[first].shape
    for name, part in (("at_risk", at_risk), *((name, parts[name]) for name in others)):
        if part is not None and part.shape != shape:
            raise ValueError(f"{name}: got shape {list(part.shape)}, need {list(shape)} as {first}")
    return list(parts.values()) if at_risk is None else [part[at_risk.bool()] for part in parts.values()]


def _slots(
    logits_BK: Tensor,
    slot: Tensor,
    observed: Tensor,
    at_risk: Tensor | None,
    weights: Tensor | None = None,
    tail: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The rows of those at risk, their slots checked: logits, slot, observed, weights, tail."""
    if logits_BK.ndim != 2:
        raise ValueError(f"logits: got shape {list(logits_BK.shape)}, need [B, K]")
    rows = torch.arange(len(logits_BK), device=logits_BK.device)
    parts = {"logits": rows, "slot": slot.long(), "observed": observed.bool()}
    parts["weights"] = logits_BK.new_ones(len(rows)) if weights is None else weights.to(logits_BK)
    if tail is not None:
        parts["tail"] = tail
    rows, slot, observed, weights, *rest = _left(at_risk, **parts)
    if bool(((slot < 1) | (slot > logits_BK.shape[1])).any()):
        raise ValueError(f"slot: got {int(slot.min())}..{int(slot.max())}, need 1..{logits_BK.shape[1]}")
    return logits_BK[rows], slot, observed, weights, rest[0] if rest else None
