"""The cohort death48 and the data set of forecasts: outcomes, filling, nested labels."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.clinical.death48 import death48
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.forecast_data import ForecastDataset, Reading, forecast_from_events
from tenfold.clinical.physionet2012 import HOURLY, read_physionet2012
from tenfold.clinical.series import Scaling


@pytest.fixture(scope="module")
def cohort(data_dir: Path) -> ForecastDataset:
    return death48(data_dir / "03-04-clinical", sets=["a"])


def toy(count: int = 40, **changed: Any) -> ForecastDataset:
    fields: dict[str, Any] = {
        "x": np.zeros((count, 3, 2), np.float32),
        "mask": np.ones((count, 3, 2), bool),
        "y": np.zeros((count, 1, 2), np.float32),
        "y_mask": np.ones((count, 1, 2), bool),
        "labels": np.arange(count)[:, None] % 8 == 0,
        "eligible": np.ones((count, 1), bool),
        "features": ("a", "b"),
        "targets": ("t",),
        "parts": ("train",) * count,
    }
    return ForecastDataset(**{**fields, **changed})


def test_gold_counts(cohort: ForecastDataset) -> None:
    counts = {name: int(cohort.labels[cohort.eligible[:, i], i].sum()) for i, name in enumerate(cohort.targets)}
    assert counts == {"hospital_death": 554, "kidney24": 167, "long_stay": 1025}
    assert dict(zip(cohort.targets, cohort.eligible.sum(axis=0).tolist(), strict=True)) == {
        "hospital_death": 4000,
        "kidney24": 4000 - 462,
        "long_stay": 4000 - 554 - 60,
    }
    assert (cohort.x.shape, cohort.y.shape) == ((4000, 24, 37), (4000, 10, 37))
    assert len(cohort.split()["train"]) == 2363


def test_history_is_filled_and_the_future_is_not(cohort: ForecastDataset, data_dir: Path) -> None:
    series = read_physionet2012(data_dir / "03-04-clinical", ["a"]).series()
    values, mask = series.grid(24, rules=HOURLY)
    future, future_mask = series.grid(10, start=24.0, rules=HOURLY)
    assert np.array_equal(cohort.mask, mask)
    assert np.array_equal(cohort.y_mask, future_mask)
    scaling = cohort.reading.scaling
    assert scaling is not None
    scaled = np.clip(scaling.apply(values, mask), -5, 5)
    stay, feature = 0, cohort.features.index("HR")
    last = 0.0
    for step in range(24):
        last = scaled[stay, step, feature] if mask[stay, step, feature] else last
        assert cohort.x[stay, step, feature] == last
    assert np.array_equal(cohort.y, np.clip(scaling.apply(future, future_mask), -5, 5))
    assert (cohort.y[~cohort.y_mask] == 0).all()
    assert np.abs(cohort.x).max() <= 5


def test_nothing_of_the_future_is_in_the_history(cohort: ForecastDataset, data_dir: Path) -> None:
    series = read_physionet2012(data_dir / "03-04-clinical", ["a"]).series()
    early = series.hours < 24
    assert early.sum() < len(early)
    values, mask = type(series)(
        series.subject[early], series.hours[early], series.column[early], series.value[early], series.columns, 4000
    ).grid(24, rules=HOURLY)
    assert np.array_equal(mask, cohort.mask)
    assert np.array_equal(values, series.grid(24, rules=HOURLY)[0])


def test_without_outcomes_nothing_is_known_of_them(data_dir: Path) -> None:
    sample = data_dir / "03-04-clinical" / "raw_sample"
    labelled, bare = death48(sample), death48(sample / "set-a", labelled=False)
    assert np.array_equal(labelled.x, bare.x) and np.array_equal(labelled.mask, bare.mask)
    assert labelled.eligible.any() and not bare.eligible.any() and not bare.labels[:, [0, 2]].any()


def test_labelled_rows_of_deaths(cohort: ForecastDataset) -> None:
    """2 deaths among 24 labels at 1 %, hence the rule of ten; 237 labels at 10 %."""
    train = cohort.split("hospital_death")["train"]
    order = sorted(train.tolist(), key=lambda row: hashlib.sha256(f"0:{cohort.ids[row]}".encode()).digest())
    bare = cohort.labelled("hospital_death", 1, minimum=0)
    assert bare.tolist() == order[:24]
    assert cohort.label("hospital_death", bare).sum() == 2
    one, ten, all_ = (cohort.labelled("hospital_death", percent) for percent in (1, 10, 100))
    assert (len(one), len(ten), len(all_)) == (32, 237, 2363)
    assert cohort.label("hospital_death", one).sum() == 10
    assert set(one) <= set(ten) <= set(all_) == set(train)
    assert set(cohort.labelled("hospital_death", 10, seed=1)) != set(ten)


@pytest.mark.parametrize("target", ["hospital_death", "kidney24", "long_stay"])
def test_labelled_rows_are_nested_and_stay_in_their_part(cohort: ForecastDataset, target: str) -> None:
    parts = cohort.split(target)
    assert not set(parts["train"]) & set(parts["test"])
    for part in ("train", "valid"):
        rows = [set(cohort.labelled(target, percent, part=part)) for percent in (0.1, 1, 5, 10, 50, 100)]
        for less, more in pairwise(rows):
            assert less <= more
        assert rows[-1] == set(parts[part])


def test_a_batch_without_a_target_touches_no_label() -> None:
    class Guarded(ForecastDataset):
        def label(self, target: str, rows: Any) -> Any:
            raise AssertionError("a label was read")

    data = toy()
    guarded = Guarded(**{name: getattr(data, name) for name in ForecastDataset.__dataclass_fields__})
    assert set(guarded.batch([0, 1])) == {"x", "mask", "y", "y_mask"}
    with pytest.raises(AssertionError, match="a label was read"):
        guarded.batch([0, 1], "t")
    batch = data.batch([0, 1], "t")
    assert batch["label"].dtype == torch.float32
    assert batch["label"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changed", "percent", "message"),
    [
        ({}, 0, r"label_percent: got 0, need a number in \(0, 100\]"),
        ({}, 101, "label_percent: got 101"),
        ({}, float("nan"), "label_percent: got nan"),
        ({"labels": np.zeros((40, 1), bool)}, 30, "target 't' has 0 positives among 12 labels"),
        ({"labels": np.ones((40, 1), bool)}, 30, "target 't' has 0 negatives among 12 labels"),
    ],
)
def test_labels_refuse(changed: dict[str, Any], percent: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**changed).labelled("t", percent)


def test_unknown_targets_and_rows_without_label() -> None:
    with pytest.raises(ValueError, match="target: got 'death', need one of t"):
        toy().label("death", [0])
    eligible = np.ones((40, 1), bool)
    eligible[3] = False
    data = toy(eligible=eligible)
    assert 3 not in data.split("t")["train"]
    with pytest.raises(ValueError, match="rows: got row 3, which has no label 't'"):
        data.label("t", [2, 3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((40, 3), np.float32)}, "x, y: got shapes"),
        ({"y": np.zeros((40, 1, 3), np.float32)}, r"y: got shape \(40, 1, 3\), need \(40, 1, 2\)"),
        ({"labels": np.zeros((40, 2), bool)}, r"labels: got shape \(40, 2\), need \(40, 1\)"),
        ({"features": ("a",)}, "features: got 1 names, need 2"),
        ({"x": np.full((40, 3, 2), np.nan, np.float32)}, r"x: got a value that is not finite .*\(row 0\)"),
    ],
)
def test_bad_data_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**changed)


def test_event_times_become_forecasts() -> None:
    mask = np.ones((3, 4, 1), bool)
    mask[0, 1] = False
    events = EventTimeDataset(
        x=np.arange(1.0, 13.0).reshape(3, 4, 1),
        mask=mask,
        u=np.zeros((3, 4, 0)),
        length=[4, 4, 4],
        static=np.zeros((3, 0)),
        time_hours=[[1.0], [3.0], [9.0]],
        observed=[[1], [0], [1]],
        at_risk=[[1], [1], [1]],
        events=(EventSpec("kidney", 2.0, 3),),
    )
    data = forecast_from_events(events, horizon=1)
    assert data.x[0].ravel().tolist() == [1.0, 1.0, 3.0]
    assert data.y.ravel().tolist() == [4.0, 8.0, 12.0]
    assert data.labels.ravel().tolist() == [True, False, False]
    assert data.eligible.ravel().tolist() == [True, False, True]  # the second left before the grid ended
    with pytest.raises(ValueError, match=r"horizon: got 4, need 1\.\.3"):
        forecast_from_events(events, horizon=4)


def short_subjects(names: tuple[str, ...] = ("a",), **scaling: Any) -> EventTimeDataset:
    """Six steps to the trigger of which the value tells the number; the second subject has four of them, the third none."""
    length = np.array([6, 4, 0])
    left = length[:, None] - np.arange(6)  # as survival models read them: the first steps hold what there is
    mask = np.repeat(left[..., None] > 0, len(names), axis=2)
    return EventTimeDataset(
        x=np.repeat(left[..., None], len(names), axis=2),
        mask=mask,
        u=np.zeros((3, 6, 0)),
        length=length,
        static=np.zeros((3, 0), np.float32),
        time_hours=np.ones((3, 1)),
        observed=np.ones((3, 1), bool),
        at_risk=np.ones((3, 1), bool),
        events=(EventSpec("kidney", 2.0, 3),),
        observation_names=names,
        scaling=scaling,
    )


def test_every_subjects_future_ends_with_the_trigger() -> None:
    plain = Scaling(("a",), (-np.inf,), (np.inf,), (0.0,), (1.0,))
    data = forecast_from_events(short_subjects(observations=plain), horizon=2)
    assert data.x[..., 0].tolist() == [[6, 5, 4, 3], [0, 0, 4, 3], [0, 0, 0, 0]]
    assert data.mask[..., 0].tolist() == [[True] * 4, [False, False, True, True], [False] * 4]
    assert data.y[..., 0].tolist() == [[2, 1], [2, 1], [0, 0]]
    assert data.y_mask[..., 0].tolist() == [[True] * 2, [True] * 2, [False] * 2]


def test_a_flag_is_observed_before_the_first_record_too() -> None:
    scaling = Scaling(("a", "b"), (0.0, 0.0), (9.0, 9.0), (3.0, 1.0), (2.0, 4.0))
    data = forecast_from_events(short_subjects(("a", "b"), observations=scaling), horizon=2, flags=("b", "absent"))
    assert data.mask[..., 1].all() and data.y_mask[..., 1].all() and not data.mask[2, :, 0].any()
    assert data.x[1, :, 1].tolist() == [-0.25, -0.25, 4, 3]  # (0 - 1) / 4 where nobody wrote


def test_a_reading_bounds_and_fills() -> None:
    x = np.array([[[7.0], [0.0], [-9.0], [0.0]]], np.float32)
    mask = np.array([[[True], [False], [True], [False]]])
    assert Reading(largest=5.0).history(x, mask).ravel().tolist() == [5, 5, -5, -5]
    assert Reading(largest=5.0, fill=False).history(x, mask).ravel().tolist() == [5, 0, -5, 0]
    assert Reading().history(x, mask).ravel().tolist() == [7, 7, -9, -9]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"largest": 0.0}, "largest: got 0.0, need a finite number > 0"),
        ({"largest": np.inf}, "largest: got inf"),
    ],
)  # fmt: skip
def test_a_reading_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**changed)
