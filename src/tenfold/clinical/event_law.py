"""The discrete-time law of one event: hazards, survival and likelihood, kept as logarithms."""

# Shape legend: B batch, K slots, N samples; "..." any batch axes

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST, MOST = 1e-20, 0.99999  # bounds of a hazard where it is given out as a probability


@dataclass(frozen=True)
class EventLaw:
    """P(T = k) and P(T > k) of every patient over slots k = 1..K.

    The logarithms stay exact where a hazard nears 0 or 1 and survival underflows; only the probability view is clipped.

    Args:
        log_hazard: log λ_k, (..., K).
        log_stay: log(1 - λ_k), (..., K).
    Source: Xue et al. 2020, arXiv 2407.19371: S(t) = Π_(s<=t) (1 - λ_s).
    """

    log_hazard: Tensor
    log_stay: Tensor

    @staticmethod
    def from_logits(logits: Tensor) -> EventLaw:
        """Args: logits of the hazards, (..., K)."""
        return EventLaw(F.logsigmoid(logits), F.logsigmoid(-logits))

    @staticmethod
    def from_hazards(hazards: Tensor) -> EventLaw:
        """Args: hazards, (..., K), clipped to [1e-20, 0.99999]."""
        hazards = hazards.clamp(LEAST, MOST)
        return EventLaw(hazards.log(), (-hazards).log1p())

    @staticmethod
    def from_log_stay(log_stay: Tensor) -> EventLaw:
        """Args: log(1 - λ), (..., K), at most 0."""
        # The bound keeps the logarithm and its gradient finite where a hazard rounds to 0.
        return EventLaw((-log_stay.clamp(max=-LEAST).expm1()).log(), log_stay)

    @staticmethod
    def from_pmf_logits(logits: Tensor) -> EventLaw:
        """Args: logits of T = k, (..., K), of which a softmax with logit 0 for T > K makes probabilities (DeepHit)."""
        logits = F.pad(logits, (0, 1))
        still = logits.flip(-1).logcumsumexp(-1).flip(-1)  # log P(T >= k), but for a constant
        return EventLaw((logits - still)[..., :-1], still.diff(dim=-1))

    def average(self) -> EventLaw:
        """The law whose survival is the mean over the first axis."""
        log_survival = self.log_stay.cumsum(-1).logsumexp(0) - math.log(self.log_stay.shape[0])
        return EventLaw.from_log_stay(log_survival.diff(dim=-1, prepend=torch.zeros_like(log_survival[..., :1])))

    @property
    def hazard(self) -> Tensor:
        """λ_k, (..., K), in [1e-20, 0.99999]."""
        return self.log_hazard.exp().clamp(LEAST, MOST)

    @property
    def log_survival(self) -> Tensor:
        """log S at the end of slot k = 0..K, (..., K + 1)."""
        return F.pad(self.log_stay.cumsum(-1), (1, 0))

    @property
    def survival(self) -> Tensor:
        """S at the end of slot k = 0..K, (..., K + 1); the first is 1."""
        return self.log_survival.exp()

    def log_likelihood(self, slot: Tensor, observed: Tensor, tail: Tensor | None = None) -> Tensor:
        """log P(T = slot) of an event, log P(T > slot) of a censoring, patient by patient.

        Args:
            slot: (B,) int64 in 1..K; a censored patient survives its slot.
            observed: (B,) bool.
            tail: (B,) slots beyond K, each survived at the last hazard; None for none.
        Returns:
            (B,).
        """
        log_survival = self.log_survival
        until = log_survival.gather(-1, slot[:, None]).squeeze(-1)
        before = log_survival.gather(-1, slot[:, None] - 1).squeeze(-1)
        event = before + self.log_hazard.gather(-1, slot[:, None] - 1).squeeze(-1)
        value = torch.where(observed.bool(), event, until)
        return value if tail is None else value + tail.to(value) * self.log_stay[:, -1]
