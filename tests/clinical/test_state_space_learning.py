"""The joint model on the simulator whose law is known: one training, half a minute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.clinical.cox import CoxPH
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_metrics import concordance_index
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import Schedule
from tenfold.core.stream import ArrayStream

STEPS = 320


@pytest.mark.slow
def test_joint_model_comes_near_the_law_and_passes_cox() -> None:
    simulator = HmmIcuSim()
    train, test = simulator.dataset(3000, 1).batch(), simulator.dataset(2000, 2).batch()
    events = simulator.dataset(1, 0).events
    truth = simulator.true_survival(*(test[name].numpy() for name in ("x", "mask", "u")))

    def concordance(survival: dict[str, Tensor]) -> float:
        scores = [
            concordance_index(test["slot"][:, i], test["observed"][:, i], 1 - survival[event.name][:, -1])
            for i, event in enumerate(events)
        ]
        return float(np.mean(scores))

    model = DeepStateSpace(
        6,
        1,
        events,
        16,
        analytic_kl=True,
        forecast_interv=True,
        sys_id_weight=0.003,
        generator=torch.Generator().manual_seed(0),
    )
    stream = ArrayStream(train, 128, seed=0)
    state = TrainState(model, torch.optim.Adam(model.parameters(), 5e-3), Schedule(0, STEPS), stream)
    batches = iter(stream)
    for _ in range(STEPS):
        train_step(state, dssm_loss, [next(batches)], clip_norm=5.0)  # type: ignore[arg-type]
    model.eval()
    with torch.no_grad():
        survival = model.survival(test)
    error = np.mean([np.abs(survival[event.name].numpy() - truth[event.name]).mean() for event in events])
    oracle = concordance({name: torch.from_numpy(curve) for name, curve in truth.items()})
    found = concordance(survival)
    assert error < 0.035
    assert found > 0.5 + 0.95 * (oracle - 0.5)
    assert found > concordance(CoxPH(6, 1, events).fit(train).survival(test)) + 0.015
