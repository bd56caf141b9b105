"""When organ failure begins, from measurements: the first time that a rule holds, and what that means at a trigger.

The columns have the names of the PhysioNet Challenge 2012; other sources name theirs alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.series import Series

Onset = Callable[[Series], NDArray[np.float64]]  # hours of the first time [N], inf where never


def first_where(
    series: Series, columns: Sequence[str], hit: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Hours [N] of the first value, among the named columns, for which `hit` is true; inf where there is none."""
    chosen = series.only(*columns)
    rows = hit(chosen.value)
    first = np.full(series.subjects, np.inf)
    np.minimum.at(first, chosen.subject[rows], chosen.hours[rows])
    return first


def creatinine_rise(series: Series) -> NDArray[np.float64]:
    """First creatinine (mg/dl) at least 0.3 above, or 1.5 times, the lowest value of the subject up to then.

    Source: after KDIGO 2012, stage 1 of acute kidney injury, without its windows of 48 hours and 7 days.
    """
    chosen = series.only("Creatinine")
    # Whole thousandths: in floating point 1.2 + 0.3 <= 1.5 depends on the rounding of the decimals.
    milli = np.rint(np.clip(chosen.value, 0, 1e6).astype(np.float64) * 1000).astype(np.int64)
    # One running minimum for all subjects: each later subject lies a step lower than anything before it.
    step = np.int64(1) << 32
    offset = chosen.subject.astype(np.int64) * step
    lowest = np.minimum.accumulate(milli - offset) + offset
    rows = (milli >= lowest + 300) | ((2 * milli >= 3 * lowest) & (milli > lowest))
    first = np.full(series.subjects, np.inf)
    np.minimum.at(first, chosen.subject[rows], chosen.hours[rows])
    return first


ONSETS: dict[str, Onset] = {
    "kidney": creatinine_rise,
    "circulatory": lambda series: first_where(series, ("MAP", "NIMAP"), lambda mmhg: (mmhg > 10) & (mmhg < 55)),
    "neuro": lambda series: first_where(series, ("GCS",), lambda score: score <= 8),
    "coagulation": lambda series: first_where(series, ("Platelets",), lambda count: (count > 0) & (count < 100)),
    "ventilation": lambda series: first_where(series, ("MechVent",), lambda flag: flag >= 1),
}

COLUMNS = ("Creatinine", "MAP", "NIMAP", "GCS", "Platelets", "MechVent")  # that the rules read


def at_trigger(
    first: NDArray[np.float64], last: NDArray[np.float64], trigger: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """What a survival model is told of an event at the trigger.

    Args:
        first: hours of the event [N], inf where it was not seen.
        last: hours of the end of follow-up [N].
        trigger: hour of the prediction.
    Returns:
        time_hours after the trigger, observed, at_risk (each [N]). A subject whose event came before the trigger, or
        whose follow-up ends before it, is not at risk; its time is 0.
    """
    observed = np.isfinite(first) & (first >= trigger)
    at_risk = observed | (~np.isfinite(first) & (last >= trigger))
    time = np.where(observed, np.where(observed, first, 0.0), last) - trigger
    return np.where(at_risk, time, 0.0), observed, at_risk
