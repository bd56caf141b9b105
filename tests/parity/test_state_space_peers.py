"""Survival models beside pycox, scikit-survival, lifelines and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.clinical.cox import CoxPH
from tenfold.clinical.curves import survival_frame
from tenfold.clinical.events import EventSpec
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_estimator import SurvivalEstimator

K = 12


def batch(count: int = 200) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 3, generator=draw)
    hazard = 0.1 * torch.exp(0.8 * x[:, 0, 0] - 0.4 * x[:, 0, 1]).clamp(max=9)
    slot = (torch.empty(count).exponential_(generator=draw) / hazard).long() + 1
    end = torch.randint(1, K + 1, (count,), generator=draw)
    return {
        "x": x,
        "mask": torch.ones_like(x),
        "length": torch.ones(count, dtype=torch.int64),
        "slot": torch.minimum(slot, end)[:, None],
        "observed": (slot <= end)[:, None],
        "at_risk": torch.ones(count, 1, dtype=torch.bool),
    }


def test_loss_equals_pycox() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pycox.models.loss import nll_logistic_hazard
    model, data = DeepStateSpace(3, 0, [EventSpec("a", 1.0, K)], 4), batch()
    _, metrics = dssm_loss(model, data)
    logits = model.hazards(data)["a"].logit()
    wanted = nll_logistic_hazard(logits, data["slot"][:, 0] - 1, data["observed"][:, 0].float())
    assert float(metrics["nll/a"]) == pytest.approx(float(wanted), abs=2e-6)
    frame = survival_frame(model, data, "a")
    assert frame.shape == (K + 1, 200) and np.allclose(
        frame.to_numpy()[1:].T, (1 - logits.sigmoid()).cumprod(1).detach(), atol=1e-6
    )


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_equals_scikit_survival(ties: str) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    data = batch()
    x, slot, observed = data["x"][:, 0].double().numpy(), data["slot"][:, 0].numpy(), data["observed"][:, 0].numpy()
    peer = CoxPHSurvivalAnalysis(ties=ties, tol=1e-12).fit(x, Surv.from_arrays(observed, slot.astype(float)))
    model = CoxPH(3, 0, [EventSpec("a", 1.0, K)], ridge=0.0, ties=ties).fit(data)  # type: ignore[arg-type]
    assert np.allclose(model.coefficients[0], peer.coef_, atol=1e-6)
    curves = np.stack([function(np.arange(1.0, K + 1)) for function in peer.predict_survival_function(x[:20])])
    assert np.allclose(model.survival(data)["a"][:20, 1:], curves, atol=1e-6)


def test_cox_equals_lifelines_under_a_ridge() -> None:
    import pandas as pd
    from lifelines import CoxPHFitter

    data = batch()
    x = data["x"][:, 0].double()
    data["x"] = ((x - x.mean(0)) / x.std(0))[:, None].float()  # lifelines scales its columns before it penalises
    frame = pd.DataFrame(data["x"][:, 0].double().numpy(), columns=["a", "b", "c"])
    frame["time"], frame["event"] = data["slot"][:, 0].numpy(), data["observed"][:, 0].numpy()
    count = int(data["observed"].sum())
    # Its penalty stands beside the mean over all subjects, ours beside the mean over the events.
    peer = CoxPHFitter(penalizer=0.1 * count / len(frame)).fit(frame, "time", "event", fit_options={"precision": 1e-12})
    model = CoxPH(3, 0, [EventSpec("a", 1.0, K)], ridge=0.1).fit(data)
    assert np.allclose(model.coefficients[0], peer.params_, atol=1e-5)


def test_estimator_serves_scikit_learn() -> None:
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score

    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 2))
    y = np.empty(60, dtype=[("event", bool), ("time", float)])
    y["event"], y["time"] = draw.random(60) < 0.7, draw.exponential(np.exp(-x[:, 0]))
    model = SurvivalEstimator(n_slots=4, z_dim=2, steps=2)
    assert clone(model).get_params() == model.get_params()
    assert cross_val_score(model, x, y, cv=2).shape == (2,)
    assert GridSearchCV(model, {"z_dim": [2, 3]}, cv=2).fit(x, y).best_params_["z_dim"] in (2, 3)
