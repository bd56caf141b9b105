"""Grids of irregular measurements and their scaling, against loops and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tenfold.clinical.cohort import before_trigger
from tenfold.clinical.series import Scaling, Series, forward_fill

NAMES = ("HR", "Urine", "MechVent")


def random_series(seed: int = 0, size: int = 400) -> Series:
    rng = np.random.default_rng(seed)
    return Series.of(
        rng.integers(0, 7, size), rng.uniform(-2, 8, size), rng.integers(0, 3, size), rng.normal(size=size), NAMES, 9
    )


def test_grid_equals_a_loop() -> None:
    series = random_series()
    rules = {"Urine": "sum", "MechVent": "any"}
    values, mask = series.grid(4, start=1.0, step_hours=1.5, rules=rules)  # type: ignore[arg-type]
    for subject in range(9):
        for step in range(4):
            for column, name in enumerate(NAMES):
                low = 1.0 + 1.5 * step
                here = (series.subject == subject) & (series.column == column)
                inside = series.value[here & (series.hours >= low) & (series.hours < low + 1.5)].astype(np.float64)
                got = values[subject, step, column]
                if name == "MechVent":
                    assert mask[subject, step, column]
                    assert got == (len(inside) > 0)
                else:
                    assert mask[subject, step, column] == (len(inside) > 0)
                    expected = 0.0 if len(inside) == 0 else inside.sum() if name == "Urine" else inside.mean()
                    assert got == pytest.approx(expected, abs=1e-6)


def test_a_step_begins_where_the_last_one_ends() -> None:
    series = Series.of(np.zeros(3), np.array([0.0, 1.0, 2.0]), np.zeros(3), np.array([1.0, 2.0, 3.0]), ("HR",), 1)
    values, mask = series.grid(2)
    assert values.ravel().tolist() == [1.0, 2.0]
    assert mask.all()


def test_the_order_of_measurements_does_not_matter_to_a_grid() -> None:
    series = random_series()
    order = np.random.default_rng(1).permutation(len(series.value))
    parts = (series.subject, series.hours, series.column, series.value)
    mixed = Series.of(*(part[order] for part in parts), NAMES, 9)
    assert np.array_equal(mixed.hours, series.hours)
    assert (np.diff(series.subject) >= 0).all()
    assert (np.diff(series.hours)[np.diff(series.subject) == 0] >= 0).all()
    assert np.allclose(mixed.grid(6)[0], series.grid(6)[0], atol=1e-6)


def test_only_numbers_columns_anew() -> None:
    series = random_series()
    part = series.only("Urine", "absent", "HR")
    assert part.columns == ("Urine", "absent", "HR")
    for name in ("HR", "Urine"):
        whole = series.value[series.column == NAMES.index(name)]
        assert np.array_equal(part.value[part.column == part.columns.index(name)], whole)
    assert len(series.only().value) == 0
    assert series.only().grid(3)[0].shape == (9, 3, 0)


def test_last_hours() -> None:
    series = Series.of(np.array([0, 0, 2]), np.array([5.0, 1.0, 3.0]), np.zeros(3), np.zeros(3), ("HR",), 3)
    assert series.last_hours().tolist() == [5.0, -np.inf, 3.0]


def test_bad_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="steps, step_hours: got 0"):
        random_series().grid(0)
    with pytest.raises(ValueError, match="rules: got 'median' for 'HR', need mean, sum or any"):
        random_series().grid(2, rules={"HR": "median"})  # type: ignore[dict-item]


def test_forward_fill_by_hand() -> None:
    x = np.array([[[0.0], [2.0], [0.0], [4.0], [0.0]]], dtype=np.float32)
    mask = np.array([[[False], [True], [False], [True], [False]]])
    assert forward_fill(x, mask).ravel().tolist() == [0.0, 2.0, 2.0, 4.0, 4.0]


def test_the_grid_ends_at_the_trigger_and_sees_nothing_after_it() -> None:
    hours = np.array([-30.0, -2.5, -0.5, 0.0, 1.0, -3.2])
    subject = np.array([0, 1, 1, 1, 1, 0])
    series = Series.of(subject, hours, np.zeros(6), np.array([9.0, 1.0, 2.0, 7.0, 8.0, 3.0]), ("HR",), 4)
    first = np.array([-30.0, -2.5, 0.5, np.inf])
    moved, length = before_trigger(series, first, steps=4, step_hours=1.0)
    assert length.tolist() == [4, 3, 0, 0]
    values, mask = moved.grid(4)
    assert values[0, :, 0].tolist() == [3.0, 0.0, 0.0, 0.0]
    assert values[1, :, 0].tolist() == [1.0, 0.0, 2.0, 0.0]
    assert mask.sum() == 3


def test_scaling_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, (100, 4, 3))
    mask = rng.random((100, 4, 3)) < 0.7
    mask[..., 1] = False
    values[..., 2] = 3.0
    values[0, 0, 0], mask[0, 0, 0] = 1e6, True  # an artefact
    scaling = Scaling.fit(values, mask, ("a", "never", "constant"))
    scaled = scaling.apply(values, mask)
    assert scaled.dtype == np.float32
    assert (scaled[~mask] == 0).all()
    assert scaled[mask[..., 0], 0].mean() == pytest.approx(0, abs=1e-5)
    assert scaled[mask[..., 0], 0].std() == pytest.approx(1, abs=1e-5)
    assert abs(scaled[0, 0, 0]) < 5
    low, high = np.percentile(values[mask[..., 0], 0], (0.5, 99.5))
    assert (scaling.low[0], scaling.high[0]) == (low, high)
    assert (scaled[..., 1:] == 0).all()
    assert (scaling.apply(np.full((1, 3), 77.0), np.ones((1, 3), dtype=bool))[0, 1:] == [0, 74]).tolist() == [
        True,
        False,
    ]


def test_scaling_undone_and_kept() -> None:
    values = np.random.default_rng(0).normal(50, 10, (1000, 2))
    mask = np.ones((1000, 2), dtype=bool)
    scaling = Scaling.fit(values, mask, ("a", "b"))
    inside = (values > scaling.low).all(axis=1) & (values < scaling.high).all(axis=1)
    assert np.allclose(scaling.undo(scaling.apply(values, mask))[inside], values[inside], atol=1e-4)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.as_dict()))) == scaling
    with pytest.raises(ValueError, match=r"values: got 3 columns, need 2 \(a, b\)"):
        scaling.apply(np.zeros((1, 3)), np.ones((1, 3), dtype=bool))
    with pytest.raises(ValueError, match=r"scaling.mean: got 1 numbers, need 2 \(names\)"):
        Scaling.from_dict({**scaling.as_dict(), "mean": [0.0]})
    with pytest.raises(ValueError, match=r"scaling.sd: got \(0.0, 1.0\), need finite numbers > 0"):
        Scaling.from_dict({**scaling.as_dict(), "sd": [0.0, 1.0]})
