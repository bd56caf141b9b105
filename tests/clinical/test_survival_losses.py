"""Losses of slots, Cox and parametric times: laws, loops, hand-made values, labels that must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tenfold.clinical.survival_losses import (
    cox_ph_loss,
    deephit_rank_loss,
    exponential_nll,
    nll_discrete_hazard,
    nll_pmf,
    weibull_nll,
)

B, K = 40, 7


def labelled(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    logits = 2 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return (
        logits,
        torch.randint(1, K + 1, (B,), generator=generator),
        torch.rand(B, generator=generator) < 0.5,
    )


def test_hazards_equal_a_loop(generator: torch.Generator) -> None:
    logits, slot, observed = labelled(generator)
    tail = torch.randint(0, 3, (B,), generator=generator)
    hazard, total = logits.sigmoid(), 0.0
    for i in range(B):
        last = int(slot[i])
        value = math.fsum(math.log(1 - float(hazard[i, k])) for k in range(last - 1))
        value += math.log(hazard[i, last - 1] if observed[i] else 1 - hazard[i, last - 1])
        total -= value + int(tail[i]) * math.log(1 - float(hazard[i, -1]))
    expected = pytest.approx(total / B, abs=1e-12)
    assert nll_discrete_hazard(logits, slot, observed, tail=tail).item() == expected
    assert nll_discrete_hazard(hazard, slot, observed, tail=tail, hazards=True).item() == expected


@pytest.mark.parametrize("loss", [nll_discrete_hazard, nll_pmf])
def test_masses_and_survival_make_one(loss: Callable[..., Tensor], generator: torch.Generator) -> None:
    logits, *_ = labelled(generator)
    for row in logits[:5]:
        mass = [loss(row[None], torch.tensor([k]), torch.tensor([True])).neg().exp() for k in range(1, K + 1)]
        left = [loss(row[None], torch.tensor([k]), torch.tensor([False])).neg().exp() for k in range(1, K + 1)]
        assert (sum(mass) + left[-1]).item() == pytest.approx(1, abs=1e-12)
        for k in range(1, K):
            assert (left[k - 1] - left[k]).item() == pytest.approx(mass[k].item(), abs=1e-12)


def test_hazards_stay_finite_in_single_precision() -> None:
    logits = torch.full((2, 500), 60.0).requires_grad_()  # 1 - λ is 0 in float32
    loss = nll_discrete_hazard(logits, torch.tensor([500, 500]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((499 + 500) * 60 / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and gradient[0, :-1].allclose(torch.tensor(0.5))


def test_deephit_equals_a_loop(generator: torch.Generator) -> None:
    logits, slot, observed = labelled(generator)
    reached = torch.nn.functional.pad(logits, (0, 1)).softmax(-1).cumsum(-1)
    total = 0.0
    for i in range(B):
        for j in range(B):
            if observed[i] and (slot[i] < slot[j] or (slot[i] == slot[j] and not observed[j])):
                at = int(slot[i]) - 1
                total += math.exp(-float(reached[i, at] - reached[j, at]) / 0.3)
    assert deephit_rank_loss(logits, slot, observed, sigma=0.3).item() == pytest.approx(total / B**2, abs=1e-12)


def test_cox_by_hand() -> None:
    """Two events at time 1 of hazards 1 and 2, then a censored one of hazard 3."""
    log_risk = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log()
    time, observed = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([True, True, False])
    breslow = -math.log(1 / 6) - math.log(2 / 6)
    efron = -math.log(1 / 6) - math.log(2 / (6 - 3 / 2))
    assert cox_ph_loss(log_risk, time, observed, ties="breslow", reduction="sum").item() == pytest.approx(breslow)
    assert cox_ph_loss(log_risk, time, observed, ties="efron", reduction="sum").item() == pytest.approx(efron)
    assert cox_ph_loss(log_risk, time, observed).item() == pytest.approx(efron / 2)


def test_cox_of_far_apart_risks_is_finite(generator: torch.Generator) -> None:
    log_risk = torch.tensor([-300.0, -301, 300, 0]).requires_grad_()
    loss = cox_ph_loss(log_risk, torch.tensor([3.0, 3, 1, 2]), torch.tensor([True, True, True, False]))
    (gradient,) = torch.autograd.grad(loss, log_risk)
    assert loss.isfinite() and gradient.isfinite().all() and gradient[:2].abs().max() > 0.1
    moved = cox_ph_loss(log_risk + 5, torch.tensor([3.0, 3, 1, 2]), torch.tensor([True, True, True, False]))
    torch.testing.assert_close(moved, loss)


def test_parametric_times_by_hand() -> None:
    log_rate, time = torch.tensor([math.log(0.5)] * 2), torch.tensor([3.0, 3.0])
    observed = torch.tensor([True, False])
    assert exponential_nll(log_rate, time, observed).item() == pytest.approx((1.5 - math.log(0.5) + 1.5) / 2)
    scale, shape = torch.tensor([math.log(2.0)] * 2), torch.tensor([math.log(3.0)] * 2)
    cumulative, density = 1.5**3, math.log(3 / 2) + 2 * math.log(1.5)
    assert weibull_nll(scale, shape, time, observed).item() == pytest.approx((2 * cumulative - density) / 2)
    same = weibull_nll(-log_rate, torch.zeros(2), time, observed)
    torch.testing.assert_close(same, exponential_nll(log_rate, time, observed))
    assert weibull_nll(scale, shape, torch.zeros(2), torch.tensor([False, False])).item() == 0


LOSSES: dict[str, Callable[..., Tensor]] = {
    "hazard": lambda p, s, o, **k: nll_discrete_hazard(p, s, o, **k),
    "pmf": lambda p, s, o, **k: nll_pmf(p, s, o, **k),
    "rank": lambda p, s, o, **k: deephit_rank_loss(p, s, o, **k),
    "cox": lambda p, s, o, **k: cox_ph_loss(p[:, 0], s, o, **k),
    "exponential": lambda p, s, o, **k: exponential_nll(p[:, 0], s, o, **k),
    "weibull": lambda p, s, o, **k: weibull_nll(p[:, 0], p[:, 1], s, o, **k),
}


@pytest.mark.parametrize("name", LOSSES)
def test_who_is_not_at_risk_takes_no_part(name: str, generator: torch.Generator) -> None:
    loss, (logits, slot, observed) = LOSSES[name], labelled(generator)
    at_risk = torch.rand(B, generator=generator) < 0.6
    wild = slot.where(at_risk, -5) if name in ("hazard", "pmf", "rank") else slot.double().where(at_risk, torch.nan)
    logits.requires_grad_()
    value = loss(logits, wild, observed, at_risk=at_risk)
    torch.testing.assert_close(value, loss(logits[at_risk], slot[at_risk], observed[at_risk]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all() and not gradient[~at_risk].any()
    nobody = loss(logits, wild, observed, at_risk=torch.zeros_like(at_risk))
    (gradient,) = torch.autograd.grad(nobody, logits)
    assert nobody.item() == 0 and not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_order_does_not_matter(name: str, generator: torch.Generator) -> None:
    logits, slot, observed = labelled(generator)
    order = torch.randperm(B, generator=generator)
    torch.testing.assert_close(
        LOSSES[name](logits[order], slot[order], observed[order]), LOSSES[name](logits, slot, observed)
    )


@pytest.mark.parametrize("name", ["hazard", "pmf", "exponential", "weibull"])
def test_a_weight_of_two_is_a_subject_twice(name: str, generator: torch.Generator) -> None:
    logits, slot, observed = labelled(generator)
    weights = torch.randint(0, 3, (B,), generator=generator).double()
    copies = torch.repeat_interleave(torch.arange(B), weights.long())
    torch.testing.assert_close(
        LOSSES[name](logits, slot, observed, weights=weights),
        LOSSES[name](logits[copies], slot[copies], observed[copies]),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_all_censored_is_finite(name: str, generator: torch.Generator) -> None:
    logits, slot, observed = labelled(generator)
    assert LOSSES[name](logits, slot, torch.zeros_like(observed)).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nll_discrete_hazard(torch.zeros(3), torch.ones(3), torch.ones(3)), r"logits: got shape \[3\]"),
        (lambda: nll_discrete_hazard(torch.zeros(2, 4), torch.ones(3), torch.ones(2)), r"slot: got shape \[3\], need"),
        (lambda: nll_pmf(torch.zeros(2, 4), torch.tensor([0, 4]), torch.ones(2)), "slot: got 0..4, need 1..4"),
        (lambda: nll_pmf(torch.zeros(2, 4), torch.tensor([1, 5]), torch.ones(2)), "slot: got 1..5, need 1..4"),
        (lambda: deephit_rank_loss(torch.zeros(1, 4), torch.ones(1), torch.ones(1), sigma=0), "sigma: got 0"),
        (lambda: cox_ph_loss(torch.zeros(2), torch.ones(2), torch.ones(3)), r"observed: got shape \[3\], need \[2\]"),
        (lambda: cox_ph_loss(torch.zeros(2), torch.ones(2), torch.ones(2), ties="exact"), "ties: got 'exact'"),  # type: ignore[arg-type]
        (lambda: cox_ph_loss(torch.zeros(1), torch.ones(1), torch.ones(1), reduction="x"), "reduction: got 'x'"),  # type: ignore[arg-type]
        (lambda: exponential_nll(torch.zeros(2, 1), torch.ones(2), torch.ones(2)), r"log_rate: got shape \[2, 1\]"),
    ],
)
def test_bad_arguments(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
