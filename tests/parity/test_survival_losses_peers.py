"""Survival losses against pycox and torchsurv, values and gradients."""

from __future__ import annotations

import warnings
from typing import Literal

import pytest
import torch
from pycox.models.data import pair_rank_mat
from pycox.models.loss import nll_logistic_hazard, rank_loss_deephit_single
from pycox.models.loss import nll_pmf as pycox_nll_pmf
from torch import Tensor
from torchsurv.loss import cox, weibull

from tenfold.clinical.survival_losses import (
    cox_ph_loss,
    deephit_rank_loss,
    exponential_nll,
    nll_discrete_hazard,
    nll_pmf,
    weibull_nll,
)

B, K = 64, 12


def labelled(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(B, K, generator=generator, dtype=dtype)
    slot = torch.randint(1, K + 1, (B,), generator=generator)
    return logits.requires_grad_(), slot, torch.rand(B, generator=generator) < 0.6


def agree(mine: Tensor, theirs: Tensor, leaf: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)
    (gradient,), (expected,) = (torch.autograd.grad(loss, leaf, retain_graph=True) for loss in (mine, theirs))
    torch.testing.assert_close(gradient, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_losses_of_slots(seed: int) -> None:
    logits, slot, observed = labelled(seed)
    agree(nll_discrete_hazard(logits, slot, observed), nll_logistic_hazard(logits, slot - 1, observed), logits)
    agree(nll_pmf(logits, slot, observed), pycox_nll_pmf(logits, slot - 1, observed), logits, 1e-5)
    pairs = torch.from_numpy(pair_rank_mat(slot.numpy(), observed.float().numpy()))
    theirs = rank_loss_deephit_single(logits, slot - 1, observed.float(), pairs, 0.2)
    agree(deephit_rank_loss(logits, slot, observed, sigma=0.2), theirs, logits, 1e-5)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("times", ["distinct", "tied", "all tied"])
@pytest.mark.parametrize("seed", range(3))
def test_cox(seed: int, times: str, ties: Literal["efron", "breslow"]) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_risk = torch.randn(B, generator=generator).requires_grad_()
    observed = torch.rand(B, generator=generator) < 0.6
    time = {
        "distinct": torch.rand(B, generator=generator),
        "tied": torch.randint(1, 9, (B,), generator=generator).float(),
        "all tied": torch.ones(B),
    }[times]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of ties
        theirs = cox.neg_partial_log_likelihood(log_risk, observed, time, ties_method=ties, reduction="sum")
    agree(cox_ph_loss(log_risk, time, observed, ties=ties, reduction="sum"), theirs, log_risk, 1e-5)
    agree(cox_ph_loss(log_risk, time, observed, ties=ties), theirs / observed.sum(), log_risk)


@pytest.mark.parametrize("seed", range(3))
def test_weibull_and_exponential(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = (0.5 * torch.randn(B, 2, generator=generator)).requires_grad_()
    time, observed = torch.rand(B, generator=generator) + 0.1, torch.rand(B, generator=generator) < 0.6
    theirs = weibull.neg_log_likelihood_weibull(parameters, observed, time)
    agree(weibull_nll(parameters[:, 0], parameters[:, 1], time, observed), theirs, parameters)
    theirs = weibull.neg_log_likelihood_weibull(parameters[:, :1], observed, time)
    agree(exponential_nll(-parameters[:, 0], time, observed), theirs, parameters)
