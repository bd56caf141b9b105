"""A simulator whose best forecast tasks are known: two variables carry the outcome, six are loud and useless."""

# Shape legend: N subjects, T history steps, H future steps, F variables

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tenfold.clinical.forecast_data import ForecastDataset, Reading

Array = NDArray[np.float64]
Preset = Literal["sim", "sim_raw"]

SIGNAL, LOUD, NOISE = tuple(range(4)), tuple(range(4, 10)), tuple(range(10, 16))
_RELEVANT, _LOUD_COEFFICIENT = 0.95, 0.99
_MIX = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [0.7, -0.7]])  # of r1, r2 in variables 0 to 3
_SIGNAL_NOISE, _LOUD_GAIN, _LOUD_NOISE = 0.7, 3.0, 0.3
_SLOPE, _OFFSET = 2.2, -1.5
_MISSING = 0.3


@dataclass(frozen=True)
class PlantedForecast:
    """Sixteen variables driven by eight hidden AR(1) states of variance 1; the outcome depends on two of these.

    r1 and r2 have coefficient 0.95, n1 to n6 0.99; ε is standard normal, drawn anew everywhere.

    | variable | value | of the outcome it tells |
    |---|---|---|
    | 0, 1 | r1 + 0.7 ε, r2 + 0.7 ε | half each |
    | 2 | 0.7 (r1 + r2) + 0.7 ε | all |
    | 3 | 0.7 (r1 - r2) + 0.7 ε | nothing, a decoy |
    | 4 to 9 | 3 n_j + 0.3 ε | nothing, loud and easy to forecast |
    | 10 to 15 | ε | nothing |

    P(outcome) = σ(2.2 (r1 + r2) - 1.5) with the states at the last step of the history; 30 % of all entries are missing.

    Args:
        preset: "sim" divides each variable by its known standard deviation, "sim_raw" does not.
        history: T.
        horizon: H.
    """

    preset: Preset = "sim"
    history: int = 24
    horizon: int = 10

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset: got {self.preset!r}, need one of {', '.join(get_args(Preset))}")
        if self.history < 1 or self.horizon < 1:
            raise ValueError(f"history, horizon: got {self.history}, {self.horizon}, need at least 1")

    @property
    def features(self) -> tuple[str, ...]:
        names = ["r1", "r2", "sum", "difference"]
        return (*names, *(f"loud{j}" for j in range(1, 7)), *(f"noise{j}" for j in range(1, 7)))

    @property
    def scale(self) -> Array:
        """Standard deviation of each variable, by which the history and the future were divided, [F]."""
        if self.preset == "sim_raw":
            return np.ones(16)
        signal = np.sqrt((_MIX**2).sum(1) + _SIGNAL_NOISE**2)
        return np.concatenate([signal, np.full(6, math.hypot(_LOUD_GAIN, _LOUD_NOISE)), np.ones(6)])

    def sample(
        self,
        train: int = 3000,
        valid: int = 60,
        test: int = 1000,
        *,
        labelled: int | None = 60,
        seed: int = 0,
    ) -> ForecastDataset:
        """Draw subjects.

        Args:
            train, valid, test: subjects of each part.
            labelled: training subjects whose outcome is known, the first ones; None, or more than there are, is all.
            seed: of everything.
        """
        count = train + valid + test
        labelled = train if labelled is None else min(labelled, train)
        if min(train, valid, test, labelled) < 0 or count == 0:
            raise ValueError(f"train, valid, test, labelled: got {train}, {valid}, {test}, {labelled}, need counts")
        rng = np.random.default_rng(seed)
        steps = self.history + self.horizon
        states = _autoregressions(np.array([_RELEVANT] * 2 + [_LOUD_COEFFICIENT] * 6), count, steps, rng)
        noise = rng.standard_normal((count, steps, 16))
        relevant, loud = states[..., :2], states[..., 2:]
        values = [
            relevant @ _MIX.T + _SIGNAL_NOISE * noise[..., :4],
            _LOUD_GAIN * loud + _LOUD_NOISE * noise[..., 4:10],
            noise[..., 10:],
        ]
        series = np.concatenate(values, -1) / self.scale
        mask = rng.random(series.shape) >= _MISSING
        chance = expit(_SLOPE * relevant[:, self.history - 1].sum(-1) + _OFFSET)
        eligible = np.ones(count, dtype=bool)
        eligible[labelled:train] = False
        x = np.where(mask, series, 0.0).astype(np.float32)
        parts = ["train"] * train + ["valid"] * valid + ["test"] * test
        return ForecastDataset(
            x=x[:, : self.history],
            mask=mask[:, : self.history],
            y=x[:, self.history :],
            y_mask=mask[:, self.history :],
            labels=(rng.random(count) < chance)[:, None],
            eligible=eligible[:, None],
            features=self.features,
            targets=("outcome",),
            ids=[f"{seed}-{row}" for row in range(count)],
            parts=tuple(parts),
            reading=Reading(fill=False),  # half the variables change from step to step: an old value tells nothing
        )

    def oracle_proba(self, x: NDArray[np.floating], mask: NDArray[np.bool_]) -> Array:
        """P(outcome | history), exact: a Kalman filter of r1 and r2, then σ averaged over the posterior of their sum.

        Args:
            x: [N, T, F], scaled as this preset does.
            mask: where x was observed.
        Returns:
            [N].
        """
        mean, covariance = self.filter(x, mask)
        return _mean_of_sigmoid(mean.sum(-1), covariance.sum((-1, -2)))

    def filter(self, x: NDArray[np.floating], mask: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Mean [N, 2] and covariance [N, 2, 2] of (r1, r2) at the last step of the history."""
        signal = np.asarray(x, dtype=np.float64)[..., :4] * self.scale[:4]
        seen = np.asarray(mask, dtype=bool)[..., :4]
        mean, covariance = np.zeros((len(signal), 2)), np.tile(np.eye(2), (len(signal), 1, 1))
        for t in range(signal.shape[1]):
            if t:
                mean = _RELEVANT * mean
                covariance = _RELEVANT**2 * covariance + (1 - _RELEVANT**2) * np.eye(2)
            # What is seen adds information, and what is not adds none.
            weight = seen[:, t, :, None] * _MIX / _SIGNAL_NOISE**2
            value = np.where(seen[:, t], signal[:, t], 0.0)
            precision = np.linalg.inv(covariance)
            information = (precision @ mean[..., None])[..., 0] + (weight * value[..., None]).sum(1)
            covariance = np.linalg.inv(precision + weight.swapaxes(-1, -2) @ _MIX)
            mean = (covariance @ information[..., None])[..., 0]
        return mean, covariance


def _autoregressions(coefficient: Array, count: int, steps: int, rng: np.random.Generator) -> Array:
    """Stationary AR(1) states of variance 1, [count, steps, states]."""
    noise = rng.standard_normal((count, steps, len(coefficient)))
    states = noise.copy()
    for t in range(1, steps):
        states[:, t] = coefficient * states[:, t - 1] + np.sqrt(1 - coefficient**2) * noise[:, t]
    return states


def _mean_of_sigmoid(mean: Array, variance: Array, nodes: int = 32) -> Array:
    """E σ(slope·s + offset) for s ~ N(mean, variance), by Gauss–Hermite quadrature."""
    point, weight = np.polynomial.hermite_e.hermegauss(nodes)
    s = mean[:, None] + np.sqrt(variance)[:, None] * point
    return expit(_SLOPE * s + _OFFSET) @ weight / math.sqrt(2 * math.pi)
