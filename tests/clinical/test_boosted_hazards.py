"""Boosted hazards: rows and their draw by hand, the law that they come near, and that nothing later is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.clinical.boosted_hazards import BoostedHazards, patient_features, sample_slots
from tenfold.clinical.events import EventSpec
from tenfold.clinical.history import History
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.survival_model import event_loss

EVENT = EventSpec("a", 1.0, 4)
Batch = dict[str, Tensor]


def simulated(patients: int, seed: int) -> Batch:
    return HmmIcuSim().dataset(patients, seed).batch()


@pytest.fixture(scope="module")
def fitted() -> BoostedHazards:
    return BoostedHazards(6, 1, HmmIcuSim().events).fit(simulated(600, 0), simulated(200, 1), trees=15)


def test_rows_by_hand() -> None:
    """A patient survives slots 1 and 2, another has the event in slot 2, a third in slot 1, and enters no other."""
    patient, slot, label, shift = sample_slots(
        np.array([3, 5, 8]), np.array([2, 2, 1]), np.array([False, True, True]), EVENT, 100, np.random.default_rng(0)
    )
    assert sorted(zip(patient.tolist(), slot.tolist(), label.tolist(), strict=True)) == [
        (3, 1, 0), (3, 2, 0), (5, 1, 0), (5, 2, 1), (8, 1, 1)]  # fmt: skip
    assert shift == 0.0


def test_a_draw_keeps_all_events_and_says_its_share() -> None:
    rng = np.random.default_rng(0)
    slot, observed = rng.integers(1, 21, 500), rng.random(500) < 0.1
    patient, slots, label, shift = sample_slots(np.arange(500), slot, observed, EVENT, 1000, rng)
    quiet = int((slot - observed).sum())
    assert len(label) == 1000 and label.sum() == observed.sum()
    assert np.exp(shift) == pytest.approx((1000 - observed.sum()) / quiet)
    rows = set(zip(patient.tolist(), slots.tolist(), strict=True))
    assert len(rows) == 1000 and all(1 <= k <= slot[i] for i, k in rows)
    few = sample_slots(np.arange(500), slot, observed, EVENT, 1, rng)[2]
    assert few.sum() == observed.sum() and len(few) == 2 * observed.sum()  # never fewer rows than events, twice


def test_features_by_hand() -> None:
    x = torch.tensor([[[1.0, 5.0], [2.0, 0.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[1, 1], [1, 0], [1, 1]], [[0, 0], [0, 0], [0, 0]]])
    u = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [0.0], [0.0]]])
    history = History.check(x, mask, u, torch.tensor([2, 3]), torch.tensor([[7.0], [8.0]]), n_obs=2, n_interv=1, n_static=1)  # fmt: skip
    np.testing.assert_array_equal(
        patient_features(history), [[2, 5, 0, 1, 1, 7], [np.nan, np.nan, np.nan, np.nan, 0, 8]]
    )


def test_it_learns_the_law() -> None:
    """One binary value doubles the odds of a hazard that grows with the slot: hazards near the true ones."""
    rng = np.random.default_rng(0)

    def drawn(patients: int) -> Batch:
        sick = rng.integers(0, 2, patients)
        hazard = (0.02 + 0.02 * np.arange(1, 5)) * (1 + sick[:, None])
        fired = rng.random((patients, 4)) < hazard
        slot = np.where(fired.any(1), fired.argmax(1) + 1, 4)
        return {"x": torch.tensor(sick, dtype=torch.float32)[:, None, None], "mask": torch.ones(patients, 1, 1),
                "length": torch.ones(patients, dtype=torch.int64), "slot": torch.tensor(slot)[:, None],
                "observed": torch.tensor(fired.any(1))[:, None], "at_risk": torch.ones(patients, 1, dtype=torch.bool)}  # fmt: skip

    train, valid = drawn(8000), drawn(3000)
    ask = {"x": torch.tensor([[[0.0]], [[1.0]]]), "mask": torch.ones(2, 1, 1), "length": torch.ones(2, dtype=torch.int64)}  # fmt: skip
    truth = (0.02 + 0.02 * np.arange(1, 5)) * np.array([[1.0], [2.0]])
    for rows in (1_000_000, 8000):  # all rows; a fifth of those without the event
        model = BoostedHazards(1, 0, (EVENT,)).fit(train, valid, rows=rows, trees=50, seed=1)
        np.testing.assert_allclose(model.hazards(ask)["a"].numpy(), truth, rtol=0.25)
        risk = 1 - model.survival(ask)["a"][:, -1].numpy()
        marginal = risk[train["x"].long().flatten()].mean()
        assert marginal == pytest.approx(float(train["observed"].double().mean()), rel=0.05)


def test_trees_are_kept_up_to_the_least_validation_loss() -> None:
    train, valid = simulated(300, 0), simulated(300, 1)
    options = {"rate": 0.5, "leaves": 8}  # overfits soon
    short, model = (BoostedHazards(6, 1, HmmIcuSim().events).fit(train, valid, trees=trees, **options) for trees in (1, 100))  # fmt: skip
    counts = [len(forest.roots) for forest in model.forests]  # type: ignore[arg-type]
    assert max(counts) < 50 and min(counts) >= 1
    losses = [float(event_loss(each.laws(valid), valid, each.events)[0]) for each in (short, model)]
    assert losses[1] <= losses[0]


def test_a_seed_gives_the_same_trees_and_another_one_others(fitted: BoostedHazards) -> None:
    again, other = (BoostedHazards(6, 1, HmmIcuSim().events).fit(simulated(600, 0), simulated(200, 1), trees=15, seed=seed) for seed in (0, 1))  # fmt: skip
    ask = simulated(20, 5)
    assert torch.equal(again.hazards(ask)["death"], fitted.hazards(ask)["death"])
    assert not torch.equal(other.hazards(ask)["death"], fitted.hazards(ask)["death"])


def test_what_is_missing_or_behind_the_length_is_not_read(
    fitted: BoostedHazards, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = simulated(30, 6)
    ask["length"] = torch.arange(30) % 24
    clean = fitted.hazards(ask)
    assert clean["death"].shape == (30, 24)
    behind = torch.arange(24) >= ask["length"][:, None]
    spoilt = ask | {"x": torch.where(behind[..., None] | ~ask["mask"], 1e6, ask["x"])}
    assert all(torch.equal(curve, clean[name]) for name, curve in fitted.hazards(spoilt).items())
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    moved = fitted.hazards({name: column[order] for name, column in ask.items()})
    assert torch.equal(moved["kidney"], clean["kidney"][order])
    monkeypatch.setattr("tenfold.clinical.boosted_hazards.BLOCK", 100)  # four patients at a time
    assert all(torch.equal(curve, clean[name]) for name, curve in fitted.hazards(ask).items())


def test_tensors_bring_the_model_back(fitted: BoostedHazards) -> None:
    events = HmmIcuSim().events
    opened = BoostedHazards.from_tensors(6, 1, events, fitted.state_dict())
    ask = simulated(10, 7)
    assert all(torch.equal(curve, fitted.hazards(ask)[name]) for name, curve in opened.hazards(ask).items())
    for events_, tensors in (
        (events[:2], fitted.state_dict()),
        (events, {"weights": torch.zeros(1)}),
        ((*events, EVENT), fitted.state_dict()),
    ):
        with pytest.raises(ValueError, match="got"):
            BoostedHazards.from_tensors(6, 1, events_, tensors)
    with pytest.raises(ValueError, match="features out of range"):
        BoostedHazards.from_tensors(1, 1, events, fitted.state_dict())


def test_an_event_that_nobody_has_is_named() -> None:
    batch = simulated(50, 0)
    batch["observed"] = torch.zeros_like(batch["observed"])
    with pytest.raises(ValueError, match="got no event 'kidney' among 50 patients at risk"):
        BoostedHazards(6, 1, HmmIcuSim().events).fit(batch, batch)


def test_who_is_not_at_risk_counts_nowhere() -> None:
    train, valid = simulated(300, 0), simulated(100, 1)
    keep = torch.arange(300) < 200
    outside = train | {"at_risk": train["at_risk"] & keep[:, None]}
    part = {name: column[:200] for name, column in train.items()}
    first, second = (BoostedHazards(6, 1, HmmIcuSim().events).fit(each, valid, trees=10) for each in (outside, part))
    assert torch.equal(first.hazards(valid)["death"], second.hazards(valid)["death"])
