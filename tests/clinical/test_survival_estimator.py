"""The estimator: learning, shapes, both forms of labels, settings, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tenfold.clinical.survival_estimator import SurvivalEstimator
from tenfold.clinical.survival_metrics import NoComparablePairs


def people(count: int = 240, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.void]]:
    """Times that fall with the first of three columns; the second has holes, the third never varies."""
    draw = np.random.default_rng(seed)
    x = np.stack([draw.normal(50, 9, count), draw.normal(size=count), np.full(count, 3.0)], 1)
    time = draw.exponential(20 * np.exp(-(x[:, 0] - 50) / 6))
    end = draw.uniform(5, 60, count)
    x[draw.random(count) < 0.3, 1] = np.nan
    y = np.empty(count, dtype=[("event", bool), ("time", float)])
    y["event"], y["time"] = time <= end, np.minimum(time, end)
    return x, y


@pytest.fixture(scope="module")
def fitted() -> SurvivalEstimator:
    return SurvivalEstimator(n_slots=8, z_dim=4, steps=80, seed=1).fit(*people())


def test_it_learns(fitted: SurvivalEstimator) -> None:
    assert fitted.score(*people(seed=9)) > 0.73  # the law itself reaches 0.774


def test_predictions(fitted: SurvivalEstimator) -> None:
    x, y = people()
    curves = fitted.predict_survival_function(x[:5], return_array=True)
    functions = fitted.predict_survival_function(x[:5])
    assert curves.shape == (5, 9) and functions.shape == (5,)
    assert (curves[:, 0] == 1).all() and (np.diff(curves, axis=1) <= 0).all()
    assert functions[2].x.tolist() == fitted.event_times_.tolist()
    assert functions[2](fitted.event_times_[3]) == curves[2, 3]
    assert fitted.event_times_[-1] >= y["time"].max()
    risk = fitted.predict_risk(x)
    assert risk.shape == (len(x),) and (risk == fitted.predict(x)).all()
    assert risk[x[:, 0].argmax()] > risk[x[:, 0].argmin()]


def test_the_callers_random_state_is_left_alone_and_the_seed_decides() -> None:
    x, y = people(60)
    before = torch.get_rng_state()
    one, same, other = (SurvivalEstimator(4, z_dim=2, steps=3, seed=seed).fit(x, y) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.predict_risk(x) == same.predict_risk(x)).all()
    assert (one.predict_risk(x) != other.predict_risk(x)).any()


def test_labels_of_scikit_survival_and_pycox_are_the_same() -> None:
    x, y = people(60)
    swapped = np.empty(60, dtype=[("futime", float), ("death", bool)])
    swapped["futime"], swapped["death"] = y["time"], y["event"]
    given = (y, swapped, (y["time"], y["event"]), (y["time"], y["event"].astype(int)))
    risks = [SurvivalEstimator(4, z_dim=2, steps=2).fit(x, labels).predict_risk(x) for labels in given]
    assert all((risk == risks[0]).all() for risk in risks)


def test_series_are_taken_too() -> None:
    x, y = people(60)
    series = np.repeat(x[:, None], 3, 1)
    model = SurvivalEstimator(4, z_dim=2, steps=2, validation=0.0, switches={"infer_model": "lr"}).fit(series, y)
    assert model.predict_survival_function(series, return_array=True).shape == (60, 5)
    assert model.model_.config.infer_model == "lr"


def test_horizon_censors_what_comes_later() -> None:
    x, y = people(60)
    model = SurvivalEstimator(4, horizon=2.0, z_dim=2, steps=2).fit(x, y)
    assert model.event_times_.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_all_censored_trains_but_cannot_be_scored() -> None:
    x, y = people(40)
    y["event"] = False
    model = SurvivalEstimator(4, z_dim=2, steps=2).fit(x, y)
    assert np.isfinite(model.predict_risk(x)).all()
    with pytest.raises(NoComparablePairs):
        model.score(x, y)


def test_settings_by_name() -> None:
    model = SurvivalEstimator(n_slots=5)
    assert SurvivalEstimator(**model.get_params()).get_params() == model.get_params()
    assert model.set_params(steps=7).steps == 7
    with pytest.raises(ValueError, match="depth: not a setting, need one of n_slots"):
        model.set_params(depth=2)


X, Y = people(20)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[0], Y, r"X: got shape \(3,\)"),
        (X[:0], Y[:0], r"X: got shape \(0, 3\)"),
        (np.where(np.isnan(X), np.inf, X), Y, "X: got an infinite value"),
        (X, Y[:5], r"y: got shapes \(5,\) and \(5,\), need \(20,\)"),
        (X, Y["time"], "y: got ndarray, need a structured array"),
        (X, (-Y["time"], Y["event"]), r"y: got time -\S+ \(row 0\), need a finite number, at least 0"),
        (X, (np.where(Y["event"], np.nan, 1.0), Y["event"]), "y: got time nan"),
        (X, (Y["time"], 2 + Y["event"]), "y: got events other than 0 and 1"),
        (X, np.zeros(20, dtype=[("a", float), ("b", float)]), "y: got fields a, b, need one boolean"),
    ],
)
def test_data_that_do_not_fit(x: NDArray[np.float64], y: NDArray[np.void], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SurvivalEstimator(4, z_dim=2, steps=1).fit(x, y)


def test_settings_that_do_not_fit(fitted: SurvivalEstimator) -> None:
    for settings, message in (
        ({"steps": 0}, "steps: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"validation": 1.0}, "validation: got 1.0"),
        ({"horizon": -1.0}, "horizon: got -1.0"),
        ({"n_slots": 0}, "n_slots: got 0"),
        ({"switches": {"infer_model": "x"}}, "infer_model: got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            SurvivalEstimator(**settings).fit(X, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="call fit first"):
        SurvivalEstimator().predict_risk(X)
    with pytest.raises(ValueError, match="X: got 2 columns, need 3"):
        fitted.predict_risk(X[:, :2])
