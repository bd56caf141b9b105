"""Are predicted curves calibrated? Survival at the own time of death is uniform under the true law (D-calibration)."""

# Shape legend: n subjects, G grid points, bins

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tenfold.clinical.survival_inputs import Floats, Values, curves, last_step, right_censored


class DCalibration(NamedTuple):
    """p-value and chi-squared statistic of "all bins hold the same share", and the shares [bins], low survival first."""

    p_value: float
    statistic: float
    share: Floats


def d_calibration(
    time: Values, observed: Values, survival: Values, grid: Values, *, bins: int = 10, slots: bool = False
) -> DCalibration:
    """Shares of subjects by their predicted survival at their own time; a censored one is spread over all below.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        survival: [n, G] in [0, 1], subjects by grid.
        grid: [G] increasing times; a curve holds its value from one of them up to the next.
        bins: equal parts of [0, 1], at least 2.
        slots: time comes in slots that end at the grid points. The survival drops by a whole slot at once, so a subject
            with the event is spread over its drop; otherwise the shares could not be even under the true law. The
            p-value is then an upper bound.
    Source: Haider et al. 2020, section 3.4.
    """
    from scipy import special  # slow to import; most uses never need it

    if bins < 2:
        raise ValueError(f"bins: got {bins}, need at least 2")
    times, flags = right_censored(time, observed)
    matrix, points = curves(survival, grid, len(times))
    row, step = np.arange(len(times)), last_step(points, times)
    value = matrix[row, step].astype(np.float64)
    low, high = np.where(flags, value, 0.0), value
    if slots:
        before = np.where(step > 0, matrix[row, step - 1], 1.0)
        high = np.where(flags, np.maximum(before, value), value)
    edges = np.linspace(0, 1, bins + 1)
    spread = (high - low)[:, None]
    # The share of each subject below each edge; a point of no spread lies in the bin that it starts or is inside of.
    below = np.where(spread > 0, (edges - low[:, None]) / np.where(spread > 0, spread, 1), edges > low[:, None]).clip(
        0, 1
    )
    below[:, -1] = 1.0
    held = np.diff(below, axis=1).sum(0)
    expected = len(times) / bins
    statistic = float(((held - expected) ** 2).sum() / expected)
    return DCalibration(float(special.chdtrc(bins - 1, statistic)), statistic, held / len(times))
