"""What is read off survival curves, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.clinical.curves import (
    StepFunction,
    event_correlation,
    joint_survival,
    log_cumulative_hazards,
    predicted_time,
    rmst,
    survival_frame,
    window_probability,
)
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.survival_model import Batch, SurvivalModel

CURVE = torch.tensor([[1.0, 0.8, 0.4], [1.0, 0.0, 0.0]], dtype=torch.float64)


def test_restricted_mean() -> None:
    assert rmst(CURVE, 2.0).tolist() == pytest.approx([2 * 1.8, 2.0])
    assert rmst(CURVE, 2.0, tau=3.0).tolist() == pytest.approx([2 + 0.8, 2.0])
    assert rmst(CURVE, 2.0, tau=0.0).tolist() == [0.0, 0.0]
    assert torch.equal(predicted_time(CURVE, 2.0, official=False), rmst(CURVE, 2.0))


def test_official_time_is_one_slot_late_and_holds_the_end() -> None:
    assert predicted_time(CURVE, 2.0).tolist() == pytest.approx([2 * 480 * 0.4, 0.0])
    decays = 2 * sum(0.4 * 0.5**j for j in range(480))
    assert predicted_time(CURVE, 2.0, last_slot_loss=True).tolist() == pytest.approx([decays, 0.0])
    assert predicted_time(torch.tensor([[1.0, 0.25]]), 1.0).tolist() == pytest.approx([480 * 0.25])


def test_window() -> None:
    assert window_probability(CURVE, 2.0, 0.0, 2.0)[0].item() == pytest.approx(0.2)
    assert window_probability(CURVE, 2.0, 1.0, 3.0)[0].item() == pytest.approx(0.2)
    assert window_probability(CURVE, 2.0, 2.0, 4.0)[0].item() == pytest.approx(0.4)
    assert window_probability(CURVE, 2.0, 2.0, 5.0)[0].item() == pytest.approx(0.8)
    parts = [window_probability(CURVE, 2.0, a, b) for a, b in ((0, 2), (2, 4), (4, 9))]
    assert sum(parts).tolist() == pytest.approx([1.0, 1.0])
    tenths = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6]])
    assert window_probability(tenths, 0.1, 0.0, 0.3).item() == pytest.approx(0.3)  # 0.3 / 0.1 is 2.9999999999999996
    assert window_probability(CURVE, 2.0, 0.0, 2.0, official=True)[0].item() == pytest.approx(0.6)


def test_correlation_is_pearsons() -> None:
    draw = torch.Generator().manual_seed(0)
    hazards = {name: torch.rand(9, 5 + i, generator=draw, dtype=torch.float64) / 2 for i, name in enumerate("abc")}
    survival = {name: EventLaw.from_hazards(part).survival for name, part in hazards.items()}
    over = np.stack([np.log(-np.log(part[:, -1].numpy())) for part in survival.values()])
    assert np.allclose(event_correlation(survival), np.corrcoef(over), atol=1e-12)
    found = event_correlation(survival, within=True)
    assert found.shape == (9, 3, 3)
    for row in range(9):
        assert np.allclose(found[row], np.corrcoef([part[row, :5].numpy() for part in hazards.values()]), atol=1e-9)
    flat = {"a": CURVE[:1].expand(3, -1), "b": CURVE[:1].expand(3, -1)}
    assert event_correlation(flat).isnan().all()


def test_step_function() -> None:
    step = StepFunction(np.array([0.0, 1.0, 3.0]), np.array([1.0, 0.5, 0.2]))
    assert step(np.array([0.0, 0.99, 1.0, 2.0, 3.0])).tolist() == [1.0, 1.0, 0.5, 0.5, 0.2]
    assert step(1.5) == 0.5 and step.domain == (0.0, 3.0)
    for outside in (-0.1, 3.1, math.nan):
        with pytest.raises(ValueError, match=r"need 0\.0\.\.3\.0"):
            step(outside)
    with pytest.raises(ValueError, match="y: got shape"):
        StepFunction(np.zeros(2), np.zeros(3))


class Fixed(SurvivalModel):
    events = (EventSpec("a", 2.0, 2), EventSpec("b", 1.0, 1))

    def laws(self, batch: Batch) -> dict[str, EventLaw]:
        return {"a": EventLaw.from_hazards(batch["a"]), "b": EventLaw.from_hazards(batch["a"][:, :1])}


def test_frame_has_a_row_a_time_and_a_column_a_patient() -> None:
    frame = survival_frame(Fixed(), {"a": torch.tensor([[0.5, 0.5], [0.1, 0.2], [0.0, 0.0]])}, "a")
    assert frame.index.tolist() == [0.0, 2.0, 4.0] and frame.shape == (3, 3)
    assert frame[1].tolist() == pytest.approx([1.0, 0.9, 0.72])
    with pytest.raises(ValueError, match="event: got 'c', need one of a, b"):
        survival_frame(Fixed(), {"a": torch.zeros(1, 2)}, "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CURVE[0], 2.0, 0.0, 1.0), r"survival: got shape \(3,\)"),
        ((CURVE[:, :1], 2.0, 0.0, 1.0), r"survival: got shape \(2, 1\)"),
        ((CURVE, 0.0, 0.0, 1.0), "slot_hours: got 0.0"),
        ((CURVE, 2.0, 1.0, 1.0), "start, end: got 1.0, 1.0"),
        ((CURVE, 2.0, -1.0, 1.0), "start, end: got -1.0"),
    ],
)
def test_curves_that_do_not_fit(arguments: tuple[Tensor, float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window_probability(*arguments)
    with pytest.raises(ValueError, match=r"tau: got 5\.0 h, need 0\.\.4\.0"):
        rmst(CURVE, 2.0, tau=5.0)


def test_joint_survival_is_the_mean_of_products_over_draws() -> None:
    first = EventLaw.from_hazards(torch.tensor([[[0.5, 0.5]], [[0.1, 0.0]]], dtype=torch.float64))
    second = EventLaw.from_hazards(torch.tensor([[[0.2, 0.0, 0.9]], [[0.0, 0.5, 0.9]]], dtype=torch.float64))
    laws = {"a": first, "b": second}
    # Draw one: .5 · .8 and .25 · .8; draw two: .9 · 1 and .9 · .5. The slots that both have.
    assert joint_survival(laws, ["a", "b"])[0].tolist() == pytest.approx([1, (0.4 + 0.9) / 2, (0.2 + 0.45) / 2])
    assert joint_survival(laws, ["b"])[0].tolist() == pytest.approx(second.average().survival[0].tolist())
    assert torch.equal(joint_survival(laws, ["b", "b"]), joint_survival(laws, ["b"]))  # an event is itself
    for events in ([], ["a", "c"]):
        with pytest.raises(ValueError, match="events: got"):
            joint_survival(laws, events)


def test_log_cumulative_hazards_by_hand() -> None:
    found = log_cumulative_hazards({"a": CURVE})
    assert found[0, 0].item() == pytest.approx(math.log(-math.log(0.4)))
    assert found.isfinite().all()  # survival of 0 stays finite
