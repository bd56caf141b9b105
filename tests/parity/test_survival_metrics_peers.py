"""Survival metrics against scikit-survival, pycox and lifelines, on data full of ties."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import lifelines
import numpy as np
import pandas as pd
import pytest
import sksurv.metrics as peer
from lifelines.datasets import load_rossi
from lifelines.statistics import multivariate_logrank_test
from numpy.typing import NDArray
from pycox.evaluation import EvalSurv
from pycox.evaluation.concordance import concordance_td as pycox_concordance
from pycox.utils import idx_at_times
from sklearn.metrics import roc_auc_score
from sksurv.datasets import load_veterans_lung_cancer, load_whas500
from sksurv.nonparametric import CensoringDistributionEstimator, cumulative_incidence_competing_risks
from sksurv.util import Surv

from tenfold.clinical import survival_metrics as ours

METHODS: tuple[Literal["antolini", "adj_antolini"], ...] = ("antolini", "adj_antolini")
CASES = [(seed, kind) for kind in ("continuous", "slots", "tied risk", "all tied risk") for seed in range(6)]


@dataclass
class Cohort:
    train_time: NDArray[np.float64]
    train_observed: NDArray[np.bool_]
    time: NDArray[np.float64]
    observed: NDArray[np.bool_]
    risk: NDArray[np.float64]
    survival: NDArray[np.float64]
    grid: NDArray[np.float64]

    @property
    def structured(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        return (
            Surv.from_arrays(self.train_observed, self.train_time),
            Surv.from_arrays(self.observed, self.time),
        )

    @property
    def times(self) -> NDArray[np.float64]:
        chosen = np.unique(np.quantile(self.time, [0.1, 0.3, 0.5, 0.7]))
        return chosen[chosen < self.time.max()]


def cohort(seed: int, kind: str, subjects: int = 70) -> Cohort:
    """Follow-up of 70 subjects, and of a training set whose last one is followed longest and has the event."""
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 9, subjects).astype(float) if kind == "slots" else rng.exponential(5, subjects)
    observed = rng.random(subjects) < 0.6
    train_time = np.r_[time, rng.choice(time, 30), time.max() + 1]
    train_observed = rng.random(len(train_time)) < 0.5
    train_observed[-1] = True
    risk, grid = rng.normal(size=subjects), np.array([0.0, 1, 2, 4, 7, 8])
    survival = np.sort(rng.random((subjects, len(grid))), axis=1)[:, ::-1]
    if kind == "tied risk":
        risk, survival = risk.round(), survival.round(1)
    if kind == "all tied risk":
        risk, survival = np.zeros(subjects), np.full_like(survival, 0.5)
    return Cohort(train_time, train_observed, time, observed, risk, survival, grid)


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_concordance(seed: int, kind: str) -> None:
    c = cohort(seed, kind)
    theirs = peer.concordance_index_censored(c.observed, c.time, c.risk)[0]
    assert ours.concordance_index(c.time, c.observed, c.risk) == pytest.approx(theirs, abs=1e-12)
    for tau in (None, float(np.quantile(c.time, 0.6))):
        theirs = peer.concordance_index_ipcw(*c.structured, c.risk, tau)[0]
        value = ours.concordance_ipcw(c.train_time, c.train_observed, c.time, c.observed, c.risk, tau)
        assert value == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_concordance_over_time(seed: int, kind: str, method: Literal["antolini", "adj_antolini"]) -> None:
    c = cohort(seed, kind)
    step = idx_at_times(c.grid, c.time, "post")
    theirs = pycox_concordance(c.time, c.observed, np.ascontiguousarray(c.survival.T), step, method)
    assert ours.concordance_td(c.time, c.observed, c.survival, c.grid, method) == pytest.approx(theirs, abs=1e-12)
    everyone = np.full(len(c.time), 3.0)
    if method == "adj_antolini":
        step = idx_at_times(c.grid, everyone, "post")
        theirs = pycox_concordance(everyone, c.observed, np.ascontiguousarray(c.survival.T), step, method)
        assert ours.concordance_td(everyone, c.observed, c.survival, c.grid, method) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_brier_and_dynamic_auc(seed: int, kind: str) -> None:
    c = cohort(seed, kind)
    survival = ours.survival_at(c.survival, c.grid, c.times)
    data = c.train_time, c.train_observed, c.time, c.observed
    _, theirs = peer.brier_score(*c.structured, survival, c.times)
    np.testing.assert_allclose(ours.brier_score(*data, survival, c.times), theirs, rtol=0, atol=1e-12)
    theirs = peer.integrated_brier_score(*c.structured, survival, c.times)
    assert ours.integrated_brier_score(*data, survival, c.times) == pytest.approx(theirs, abs=1e-12)
    for risk in (c.risk, 1 - survival):
        areas, mean = peer.cumulative_dynamic_auc(*c.structured, risk, c.times)
        value = ours.cumulative_dynamic_auc(*data, risk, c.times)
        np.testing.assert_allclose(value.auc, areas, rtol=0, atol=1e-12)
        assert value.mean == pytest.approx(mean, abs=1e-12)
    one = c.times[1:2]
    value = ours.cumulative_dynamic_auc(*data, c.risk, one)
    assert value.mean == pytest.approx(peer.cumulative_dynamic_auc(*c.structured, c.risk, one)[1], abs=1e-12)


@pytest.mark.parametrize("load", [load_whas500, load_veterans_lung_cancer])
def test_cohorts_of_scikit_survival(load: object) -> None:
    features, labels = load()  # type: ignore[operator]
    event, follow_up = labels.dtype.names
    risk = features.select_dtypes("number").iloc[:, 0].to_numpy(dtype=float)
    observed, time = labels[event], labels[follow_up]
    times, data = np.quantile(time, [0.2, 0.4, 0.6]), (time, observed, time, observed)
    value = ours.concordance_index(time, observed, risk)
    assert value == pytest.approx(peer.concordance_index_censored(observed, time, risk)[0], abs=1e-12)
    areas, mean = peer.cumulative_dynamic_auc(labels, labels, risk, times)
    assert ours.cumulative_dynamic_auc(*data, risk, times).mean == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(ours.cumulative_dynamic_auc(*data, risk, times).auc, areas, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_brier_and_log_likelihood_of_pycox(seed: int) -> None:
    """Its weights come from the test data, by the left limit, and their sum divides. No ties: it counts events at the
    time of a censoring among those at risk of it."""
    c = cohort(seed, "continuous")
    curves = EvalSurv(pd.DataFrame(c.survival.T, index=c.grid), c.time, c.observed.astype(int), censor_surv="km")
    survival, data = ours.survival_at(c.survival, c.grid, c.times), (c.time, c.observed, c.time, c.observed)
    for value, theirs in ((ours.brier_score, curves.brier_score), (ours.nbll, curves.nbll)):
        mine = value(*data, survival, c.times, left_limit=True, normalize="weights")
        np.testing.assert_allclose(mine, theirs(c.times).to_numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", ["continuous", "slots"])
@pytest.mark.parametrize("seed", range(4))
def test_curves_without_a_model(seed: int, kind: str) -> None:
    c = cohort(seed, kind)
    fitted = lifelines.KaplanMeierFitter().fit(c.time, c.observed).survival_function_
    curve = ours.kaplan_meier(c.time, c.observed)
    np.testing.assert_array_equal(curve.time, fitted.index)
    np.testing.assert_allclose(curve.value, fitted.iloc[:, 0], rtol=0, atol=1e-12)
    ties: Literal["nelson_aalen", "fleming_harrington"]
    for ties, smoothing in (("nelson_aalen", False), ("fleming_harrington", True)):
        fitter = lifelines.NelsonAalenFitter(nelson_aalen_smoothing=smoothing).fit(c.time, c.observed)
        value = ours.nelson_aalen(c.time, c.observed, ties=ties).value
        np.testing.assert_allclose(value, fitter.cumulative_hazard_.iloc[:, 0], rtol=0, atol=1e-12)
    weights = CensoringDistributionEstimator().fit(c.structured[0]).predict_ipcw(c.structured[1])
    censoring = ours.Censoring(c.train_time, c.train_observed)
    np.testing.assert_allclose(censoring.event_weights(c.time, c.observed), weights, atol=1e-12)


@pytest.mark.parametrize("kind", ["continuous", "slots"])
@pytest.mark.parametrize("seed", range(4))
def test_competing_causes_and_log_rank(seed: int, kind: str) -> None:
    c, rng = cohort(seed, kind), np.random.default_rng(seed)
    cause = np.where(c.observed, rng.integers(1, 4, len(c.time)), 0)
    time, incidence = cumulative_incidence_competing_risks(cause, c.time)
    curve = ours.aalen_johansen(c.time, cause)
    np.testing.assert_array_equal(curve.time[1:], time)
    np.testing.assert_allclose(curve.value[1:].T, incidence[1:], rtol=0, atol=1e-12)
    group = rng.choice(np.array(["a", "b", "c"]), len(c.time))
    theirs = multivariate_logrank_test(c.time, group, c.observed)
    value = ours.logrank(c.time, c.observed, group)
    assert value == pytest.approx((theirs.test_statistic, theirs.p_value), rel=1e-9)


def test_the_rossi_cohort() -> None:
    data = load_rossi()
    time, observed, fin = (data[name].to_numpy() for name in ("week", "arrest", "fin"))
    theirs = lifelines.statistics.logrank_test(time[fin == 0], time[fin == 1], observed[fin == 0], observed[fin == 1])
    assert ours.logrank(time, observed, fin).p_value == pytest.approx(theirs.p_value, rel=1e-9)
    fitted = lifelines.KaplanMeierFitter().fit(time, observed)
    np.testing.assert_allclose(
        ours.kaplan_meier(time, observed).at(np.arange(53)),
        fitted.survival_function_at_times(np.arange(53)),
        atol=1e-12,
    )


@pytest.mark.parametrize("seed", range(4))
def test_area_of_plain_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, score = rng.random(50) < 0.3, rng.normal(size=50).round(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ours.roc_auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
