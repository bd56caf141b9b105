"""The simulator: its law, and the oracle against exact conditioning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from tenfold.clinical.binary_metrics import binary_metrics
from tenfold.clinical.planted_forecast import PlantedForecast


def test_the_law_is_as_it_says() -> None:
    sim = PlantedForecast("sim_raw")
    data = sim.sample(train=20_000, valid=0, test=0, labelled=None, seed=1)
    x, mask = data.x.astype(float), data.mask
    assert x.shape == (20_000, 24, 16) and data.y.shape == (20_000, 10, 16)
    assert mask.mean() == pytest.approx(0.7, abs=0.002) and data.y_mask.mean() == pytest.approx(0.7, abs=0.002)
    assert not x[~mask].any()
    scale = PlantedForecast("sim").scale
    np.testing.assert_allclose([x[..., i][mask[..., i]].std() for i in range(16)], scale, rtol=0.02)
    np.testing.assert_allclose(scale[[0, 2, 4, 10]], [1.2207, 1.2124, 3.0150, 1.0], atol=1e-4)

    def covariance(a: int, b: int, lag: int) -> float:
        both = mask[:, 0, a] & mask[:, lag, b]
        return float(np.mean(x[both, 0, a] * x[both, lag, b]))

    for a, b, lag, expected in [
        (0, 0, 1, 0.95),
        (0, 0, 10, 0.95**10),
        (0, 1, 0, 0.0),
        (0, 2, 0, 0.7),
        (1, 3, 0, -0.7),
        (2, 3, 0, 0.0),
        (4, 4, 10, 9 * 0.99**10),
        (4, 5, 0, 0.0),
        (12, 12, 1, 0.0),
    ]:
        assert covariance(a, b, lag) == pytest.approx(expected, abs=0.05 * scale[a] * scale[b])
    # The future follows the history without a gap.
    both = mask[:, -1, 4] & data.y_mask[:, 0, 4]
    assert np.mean(x[both, -1, 4] * data.y[both, 0, 4]) == pytest.approx(9 * 0.99, abs=0.3)
    label = data.labels[:, 0]
    signs = [np.corrcoef(label[mask[:, -1, i]], x[mask[:, -1, i], -1, i])[0, 1] for i in range(16)]
    assert signs[0] > 0.3 and signs[1] > 0.3 and signs[2] > 0.5 and np.abs(signs[3:]).max() < 0.03


def test_the_presets_differ_by_known_scales() -> None:
    raw, scaled = (PlantedForecast(preset).sample(20, 0, 0, seed=3) for preset in ("sim_raw", "sim"))
    np.testing.assert_allclose(raw.x, scaled.x * PlantedForecast("sim").scale, rtol=1e-5, atol=1e-6)
    assert np.array_equal(raw.labels, scaled.labels)


def test_the_filter_is_exact_conditioning() -> None:
    sim = PlantedForecast("sim", history=6, horizon=2)
    data = sim.sample(5, 0, 0, seed=0)
    mean, covariance = sim.filter(data.x, data.mask)
    lag = 0.95 ** np.abs(np.arange(6)[:, None] - np.arange(6))
    mix = np.array([[1, 0], [0, 1], [0.7, 0.7], [0.7, -0.7]])
    gain = mix / sim.scale[:4, None]
    joint = np.kron(lag, gain @ gain.T) + np.kron(np.eye(6), np.diag(0.49 / sim.scale[:4] ** 2))
    cross = np.kron(lag[-1:], gain.T)  # of (r1, r2) at the end with all that could be seen
    for row in range(5):
        seen = data.mask[row, :, :4].ravel()
        weight = cross[:, seen] @ np.linalg.inv(joint[np.ix_(seen, seen)])
        np.testing.assert_allclose(mean[row], weight @ data.x[row, :, :4].ravel()[seen].astype(float), atol=1e-10)
        np.testing.assert_allclose(covariance[row], np.eye(2) - weight @ cross[:, seen].T, atol=1e-10)
    total, variance = mean.sum(-1), covariance.sum((-1, -2))
    for row, chance in enumerate(sim.oracle_proba(data.x, data.mask)):
        sd = np.sqrt(variance[row])

        def integrand(z: float, row: int = row, sd: float = sd) -> float:
            return float(expit(2.2 * (total[row] + sd * z) - 1.5) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))

        assert chance == pytest.approx(quad(integrand, -12, 12, epsabs=1e-12)[0], abs=1e-6)


def test_the_oracle_is_calibrated_and_good() -> None:
    sim = PlantedForecast()
    data = sim.sample(0, 0, 12_000, seed=5)
    figures = binary_metrics(data.labels[:, 0], sim.oracle_proba(data.x, data.mask))
    assert 0.875 < figures["auc_roc"] < 0.905 and figures["ece"] < 0.015
    nothing = sim.oracle_proba(data.x[:1] * 0, data.mask[:1] & False)
    assert nothing[0] == pytest.approx(data.labels.mean(), abs=0.01)


def test_parts_labels_and_seeds() -> None:
    sim = PlantedForecast()
    data = sim.sample(100, 20, 30, labelled=10, seed=2)
    assert {name: len(rows) for name, rows in data.split().items()} == {"train": 100, "valid": 20, "test": 30}
    assert {name: len(rows) for name, rows in data.split("outcome").items()} == {"train": 10, "valid": 20, "test": 30}
    assert np.array_equal(data.x, sim.sample(100, 20, 30, labelled=10, seed=2).x)
    assert not np.array_equal(data.x, sim.sample(100, 20, 30, labelled=10, seed=3).x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PlantedForecast("loud"), "preset: got 'loud', need one of sim, sim_raw"),  # type: ignore[arg-type]
        (lambda: PlantedForecast(horizon=0), "history, horizon: got 24, 0"),
        (lambda: PlantedForecast().sample(10, labelled=-1), "got 10, 60, 1000, -1, need counts"),
        (lambda: PlantedForecast().sample(0, 0, 0), "got 0, 0, 0, 0, need counts"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
