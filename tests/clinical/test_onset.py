"""When organ failure begins: rules at their edges, and what a trigger makes of the times."""

from __future__ import annotations

import numpy as np
import pytest

from tenfold.clinical.onset import ONSETS, at_trigger, creatinine_rise
from tenfold.clinical.series import Series


def of(name: str, *subjects: list[float]) -> Series:
    """Subjects with the given values of one variable at hours 0, 1, 2, ..."""
    rows = [(row, hour, value) for row, values in enumerate(subjects) for hour, value in enumerate(values)]
    subject, hours, value = (np.array(column) for column in zip(*rows, strict=True))
    return Series.of(subject, hours, np.zeros(len(rows)), value, (name,), len(subjects) + 1)  # the last has no value


@pytest.mark.parametrize(
    ("values", "hour"),
    [
        ([1.0, 1.29], np.inf),
        ([1.2, 1.5], 1.0),  # 0.3 above, which is not so in floating point
        ([1.1, 1.4], 1.0),
        ([0.4, 0.59], np.inf),
        ([0.4, 0.6], 1.0),  # half as much again
        ([2.0, 1.5, 1.9], 2.0),  # against the lowest so far, not the first
        ([2.0, 1.5, 1.7], np.inf),
        ([5.0], np.inf),
        ([0.0, 0.0], np.inf),
        ([1.0, 2.0, 3.0], 1.0),
    ],
)
def test_a_rise_of_creatinine(values: list[float], hour: float) -> None:
    # A subject with higher and one with lower values stand before: the running minimum must not cross over.
    first = creatinine_rise(of("Creatinine", [9.0, 9.0], [0.1, 0.1], values))
    assert first.tolist() == [np.inf, np.inf, hour, np.inf]


def test_a_rise_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    subjects = [list(np.round(rng.uniform(0.3, 3, rng.integers(1, 9)), 1)) for _ in range(200)]
    got = creatinine_rise(of("Creatinine", *subjects))
    for values, hour in zip(subjects, got, strict=False):
        tenths = [round(10 * value) for value in values]
        hits = [i for i, v in enumerate(tenths) if v >= min(tenths[: i + 1]) + 3 or 2 * v >= 3 * min(tenths[: i + 1])]
        assert hour == (hits[0] if hits else np.inf)


@pytest.mark.parametrize(
    ("event", "name", "values", "hour"),
    [
        ("circulatory", "MAP", [55.0, 10.0, 0.0, 54.9], 3.0),
        ("circulatory", "NIMAP", [60.0, 10.1], 1.0),
        ("neuro", "GCS", [9.0, 8.0], 1.0),
        ("coagulation", "Platelets", [100.0, 0.0, 99.0], 2.0),
        ("ventilation", "MechVent", [0.0, 1.0], 1.0),
        ("ventilation", "HR", [1.0, 1.0], np.inf),
    ],
)
def test_thresholds(event: str, name: str, values: list[float], hour: float) -> None:
    assert ONSETS[event](of(name, values)).tolist() == [hour, np.inf]


def test_what_a_trigger_makes_of_times() -> None:
    first = np.array([11.9, 12.0, 20.0, np.inf, np.inf, 20.0])
    last = np.array([40.0, 40.0, 40.0, 30.0, 11.0, 11.0])
    time, observed, at_risk = at_trigger(first, last, 12.0)
    assert time.tolist() == [0.0, 0.0, 8.0, 18.0, 0.0, 8.0]
    assert observed.tolist() == [False, True, True, False, False, True]
    assert at_risk.tolist() == [False, True, True, True, False, True]
