"""The discrete-time law of an event: conservation, gold values, and the loss over several events."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.survival_model import event_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAWS = {
    "logits": EventLaw.from_logits(draw(5, 7)),
    "hazards": EventLaw.from_hazards(draw(5, 7).sigmoid()),
    "pmf": EventLaw.from_pmf_logits(draw(5, 7)),
    "log_stay": EventLaw.from_log_stay(-draw(5, 7).exp()),
    "average": EventLaw.from_logits(draw(4, 5, 7)).average(),
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_probabilities_sum_to_one_and_survival_falls(law: EventLaw) -> None:
    mass = (law.log_survival[:, :-1] + law.log_hazard).exp()
    assert torch.allclose(mass.sum(1) + law.survival[:, -1], torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (law.survival.diff(dim=1) <= 0).all()
    assert torch.equal(law.survival[:, 0], torch.ones(5, dtype=torch.float64))
    assert torch.allclose((1 - law.hazard).cumprod(1), law.survival[:, 1:], atol=1e-12)


def test_likelihood_equals_a_loop() -> None:
    hazards, slot = draw(6, 4).sigmoid(), torch.tensor([1, 2, 3, 4, 4, 1])
    observed, tail = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool), torch.tensor([0, 0, 0, 2, 3, 0])
    for law in (EventLaw.from_hazards(hazards), EventLaw.from_logits(hazards.logit())):
        for row, value in enumerate(law.log_likelihood(slot, observed, tail).tolist()):
            lam, k = hazards[row].tolist(), int(slot[row])
            wanted = sum(math.log(1 - h) for h in lam[: k - 1])
            wanted += math.log(lam[k - 1]) if observed[row] else math.log(1 - lam[k - 1])
            wanted += int(tail[row]) * math.log(1 - lam[-1])
            assert value == pytest.approx(wanted, abs=1e-12)


def test_extreme_logits_stay_finite_in_float32() -> None:
    logits = torch.tensor([[-120.0, 120.0, 60.0]], requires_grad=True)
    law = EventLaw.from_logits(logits)
    assert law.log_survival[0].tolist() == pytest.approx([0, 0, -120, -180])
    assert law.hazard[0].tolist() == pytest.approx([1e-20, 0.99999, 0.99999])
    law.log_likelihood(torch.tensor([3]), torch.tensor([False])).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    averaged = EventLaw.from_logits(torch.full((3, 1, 200), 20.0)).average()
    assert float(averaged.log_survival[0, -1]) == pytest.approx(-4000, rel=1e-5)


def test_average_is_of_survival_and_not_of_hazards() -> None:
    law = EventLaw.from_hazards(torch.tensor([[[0.5, 0.5]], [[0.1, 0.1]]], dtype=torch.float64)).average()
    assert law.survival[0].tolist() == pytest.approx([1, 0.7, (0.25 + 0.81) / 2])
    assert law.hazard[0, 1].item() == pytest.approx(1 - 0.53 / 0.7)


def test_probabilities_of_slots_are_a_softmax() -> None:
    logits = draw(3, 4)
    mass = torch.cat([logits, torch.zeros(3, 1, dtype=torch.float64)], 1).softmax(1)
    law = EventLaw.from_pmf_logits(logits)
    assert torch.allclose((law.log_survival[:, :-1] + law.log_hazard).exp(), mass[:, :-1], atol=1e-14)


EVENTS = (EventSpec("a", 1.0, 3, weight=2.0), EventSpec("b", 2.0, 2))


def labels() -> dict[str, Tensor]:
    return {
        "slot": torch.tensor([[1, 2], [3, 9], [2, 1]]),  # 9: not at risk, so any number may stand there
        "observed": torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.bool),
        "at_risk": torch.tensor([[1, 1], [1, 0], [0, 1]], dtype=torch.bool),
        "tail": torch.tensor([[0, 0], [2, 0], [0, 0]]),
    }


def test_loss_is_the_weighted_sum_of_means_over_those_at_risk() -> None:
    laws = {event.name: EventLaw.from_hazards(torch.full((3, event.n_slots), 0.5)) for event in EVENTS}
    loss, metrics = event_loss(laws, labels(), EVENTS)
    assert float(metrics["nll/a"]) == pytest.approx(math.log(2) * (1 + 3) / 2)
    assert float(metrics["nll/b"]) == pytest.approx(math.log(2) * (2 + 1) / 2)
    assert float(loss) == pytest.approx(2 * float(metrics["nll/a"]) + float(metrics["nll/b"]))
    assert float(metrics["weight"]) == 3
    tailed = event_loss(laws, labels(), EVENTS, last_slot=True)[1]
    assert float(tailed["nll/a"]) == pytest.approx(math.log(2) * (1 + 3 + 2) / 2)


def test_an_event_nobody_is_at_risk_of_costs_nothing() -> None:
    logits = torch.zeros(3, 3, requires_grad=True)
    batch = {name: column[:, :1] for name, column in labels().items()} | {"at_risk": torch.zeros(3, 1)}
    loss, _ = event_loss({"a": EventLaw.from_logits(logits)}, batch, EVENTS[:1])
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot": torch.tensor([[0, 1], [1, 1], [1, 1]])}, r"slot: got 0\.\.1 for event 'a', need 1\.\.3"),
        ({"slot": torch.tensor([[1, 3], [1, 1], [1, 1]])}, r"slot: got 1\.\.3 for event 'b', need 1\.\.2"),
        ({"observed": torch.ones(3)}, r"observed: got shape \(3,\), need \(3, 2\)"),
        ({"at_risk": torch.ones(3, 1)}, r"at_risk: got shape \(3, 1\), need \(3, 2\)"),
        ({"tail": None}, "need 'tail' too"),
    ],
)
def test_labels_that_do_not_fit(change: dict[str, Tensor | None], message: str) -> None:
    laws = {event.name: EventLaw.from_logits(torch.zeros(3, event.n_slots)) for event in EVENTS}
    batch = {name: column for name, column in (labels() | change).items() if column is not None}
    with pytest.raises(ValueError, match=message):
        event_loss(laws, batch, EVENTS, last_slot=True)
