"""The evidence lower bound of a state-space model, term by term."""

# Shape legend: B batch, T steps, D observations, U interventions, Z latent

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.clinical.history import History
from tenfold.clinical.state_space_config import Reduction

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class ElboTerms:
    """Log-densities of each patient and step; 0 behind a patient's length.

    Args:
        trans: log p(z_t | z_(t-1), u_t) of t = 2..T, (B, T - 1).
        emis: log p(x_t | z_t) of the observed entries, (B, T).
        init: log p(z_1), (B,).
        ent: -log q(z_t), (B, T).
        interv: log p(u_t | z_(t-1)) of t = 2..T, (B, T - 1); None where interventions are not forecast.
        valid: (B, T) bool, below the length.
    """

    trans: Tensor
    emis: Tensor
    init: Tensor
    ent: Tensor
    interv: Tensor | None
    valid: Tensor

    def reduce(self, reduction: Reduction) -> dict[str, Tensor]:
        """Each term as one number.

        Args:
            reduction: "sum" over steps, then the mean over patients: their total is the bound. "official": each term's
                mean over all its steps, so that the first step weighs as much as all others together.
        """
        terms = {"trans": self.trans, "emis": self.emis, "init": self.init, "ent": self.ent}
        if self.interv is not None:
            terms["interv"] = self.interv
        first = self.valid[:, 0]
        counts = {"init": first.sum()} | dict.fromkeys(("trans", "interv"), self.valid[:, 1:].sum())
        if reduction == "official":
            every = self.valid.sum()
            return {name: term.sum() / counts.get(name, every).clamp(min=1) for name, term in terms.items()}
        return {name: term.sum() / len(first) for name, term in terms.items()}


def sample(mu_BTZ: Tensor, scale: Tensor, noise_BTZ: Tensor) -> Tensor:
    """z = μ + L ε, (B, T, Z), for a diagonal or triangular scale."""
    if scale.ndim == mu_BTZ.ndim:
        return mu_BTZ + scale * noise_BTZ
    return mu_BTZ + (scale @ noise_BTZ[..., None]).squeeze(-1)


def log_normal(squares: Tensor, log_variance: Tensor) -> Tensor:
    """log N(r; 0, diag(exp(log_variance))) from r² (..., Z): (...)."""
    return -0.5 * (squares @ (-log_variance).exp() + (log_variance + LOG_2PI).sum())


def state_terms(
    mu: Tensor, scale: Tensor, z: Tensor, noise: Tensor, ahead: Tensor, log_variance: Tensor, *, analytic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Transition, initial and entropy terms.

    Args:
        mu, z, noise: the posterior's mean, its draw and the normal numbers of that draw, (B, T, Z).
        scale: (B, T, Z), or (B, T, Z, Z) lower triangles.
        ahead: mean of z_t given the draw of z_(t-1), t = 2..T, (B, T - 1, Z).
        log_variance: of the transition, (Z,).
        analytic: take the expectation over z_t in closed form instead of at the draw; with the draw of z_(t-1) this makes
            -(trans + init + ent) the divergence of q(z_t) from its prior.
    Returns:
        trans (B, T - 1), init (B,), ent (B, T).
    """
    diagonal = scale if scale.ndim == mu.ndim else scale.diagonal(dim1=-2, dim2=-1)
    target, squares = (mu, noise.new_ones(())) if analytic else (z, noise.square())
    ent = diagonal.log().sum(-1) + 0.5 * (squares.expand_as(mu).sum(-1) + mu.shape[-1] * LOG_2PI)
    residual = (target[:, 1:] - ahead).square()
    start = target[:, 0].square()
    if analytic:
        variance = scale.square() if scale.ndim == mu.ndim else scale.square().sum(-1)
        residual, start = residual + variance[:, 1:], start + variance[:, 0]
    return log_normal(residual, log_variance), log_normal(start, torch.zeros_like(log_variance)), ent


def emission_term(history: History, predicted: Tensor, log_variance: Tensor, *, count_missing: bool) -> Tensor:
    """log p(x_t | z_t) over the observed entries, (B, T).

    Args:
        predicted: C(z_t), (B, T, D).
        log_variance: of the observations, (D,).
        count_missing: missing entries keep their constant -½ log 2πR (official).
    """
    squares = torch.where(history.mask, history.x - predicted, 0.0).square()
    if count_missing:
        return log_normal(squares, log_variance)
    constant = history.mask.to(predicted) @ (log_variance + LOG_2PI)
    return -0.5 * (squares @ (-log_variance).exp() + constant)
