"""Cox's model: the estimate by its equations, Breslow's baseline by hand, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tenfold.clinical.cox import CoxPH
from tenfold.clinical.events import EventSpec

EVENTS = (EventSpec("a", 1.0, 4),)


def batch(x: Tensor, slot: list[int], observed: list[int], at_risk: list[int] | None = None) -> dict[str, Tensor]:
    count = len(slot)
    return {
        "x": x[:, None],
        "mask": torch.ones(count, 1, x.shape[1]),
        "length": torch.ones(count, dtype=torch.int64),
        "slot": torch.tensor(slot)[:, None],
        "observed": torch.tensor(observed, dtype=torch.bool)[:, None],
        "at_risk": torch.tensor(at_risk or [1] * count, dtype=torch.bool)[:, None],
    }


def test_two_groups_by_hand() -> None:
    """Events in slots 1 (treated) and 2 (not), one of each still followed: the likelihood is maximal at exp(β) = √2."""
    data = batch(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), [1, 2, 4, 4], [1, 1, 0, 0])
    model = CoxPH(1, 0, EVENTS, ridge=0.0).fit(data)
    # β - log(2e + 2) - log(e + 2), e = exp(β), is maximal where 1 - e/(e+1) - e/(e+2) = 0: e² = 2.
    assert model.coefficients.item() == pytest.approx(math.log(2) / 2, abs=1e-6)
    e = math.sqrt(2)
    baseline = [1 / (2 * e + 2), 1 / (2 * e + 2) + 1 / (e + 2)]
    survival = model.survival(data)["a"]
    assert survival[1].tolist() == pytest.approx(
        [1, *(math.exp(-h) for h in [*baseline, baseline[1], baseline[1]])], abs=1e-6
    )
    assert survival[0, 1].item() == pytest.approx(math.exp(-e * baseline[0]), abs=1e-6)


def test_who_is_not_at_risk_counts_nowhere() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=draw)
    slot = torch.randint(1, 5, (30,), generator=draw).tolist()
    observed = (torch.rand(30, generator=draw) < 0.5).int().tolist()
    keep = [1] * 20 + [0] * 10
    part = CoxPH(2, 0, EVENTS).fit(batch(x[:20], slot[:20], observed[:20]))
    whole = CoxPH(2, 0, EVENTS).fit(batch(x, slot, observed, keep))
    assert torch.allclose(part.coefficients, whole.coefficients, atol=1e-8)
    given = batch(x, slot, observed)
    assert torch.allclose(part.survival(given)["a"], whole.survival(given)["a"], atol=1e-8)


def test_ridge_shrinks_and_ties_matter() -> None:
    draw = torch.Generator().manual_seed(0)
    data = batch(torch.randn(40, 1, generator=draw), torch.randint(1, 5, (40,), generator=draw).tolist(), [1] * 40)
    norms = [CoxPH(1, 0, EVENTS, ridge=ridge).fit(data).coefficients.abs().item() for ridge in (0.0, 0.1, 1.0)]
    assert norms[0] > norms[1] > norms[2] > 0
    assert CoxPH(1, 0, EVENTS, ridge=0.0, ties="breslow").fit(data).coefficients.abs().item() != pytest.approx(norms[0])


def test_refuses() -> None:
    data = batch(torch.zeros(2, 1), [1, 2], [0, 0])
    with pytest.raises(ValueError, match="observed: got no event 'a' among 2 patients at risk"):
        CoxPH(1, 0, EVENTS).fit(data)
    with pytest.raises(ValueError, match="among 0 patients at risk"):
        CoxPH(1, 0, EVENTS).fit(batch(torch.zeros(2, 1), [1, 2], [1, 1], [0, 0]))
    with pytest.raises(ValueError, match="ridge: got -1"):
        CoxPH(1, 0, EVENTS, ridge=-1)
