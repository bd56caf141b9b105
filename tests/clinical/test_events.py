"""Slots of event times, and the data set that checks itself."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.clinical.events import EventSpec, EventTimeDataset, part_of, to_slots
from tenfold.core.stream import ArrayStream

DAYS = EventSpec("death", 24.0, 3)


def small(**changed: Any) -> EventTimeDataset:
    """Three patients, two steps, two observations, one intervention, two events."""
    fields: dict[str, Any] = {
        "x": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
        "mask": np.ones((3, 2, 2), dtype=bool),
        "u": np.zeros((3, 2, 1)),
        "length": [2, 1, 0],
        "static": np.ones((3, 1)),
        "time_hours": [[0.0, 5.0], [30.0, 1.0], [72.0, 0.0]],
        "observed": [[1, 0], [1, 1], [1, 0]],
        "at_risk": [[True, True], [True, True], [True, False]],
        "events": (DAYS, EventSpec("kidney", 2.0, 3)),
        "ids": ["7", "8", "9"],
    }
    return EventTimeDataset(**{**fields, **changed})


@pytest.mark.parametrize(
    ("hours", "slot", "tail"),
    [(0.0, 1, 0), (23.999, 1, 0), (24.0, 2, 0), (71.999, 3, 0), (72.0, 3, 1), (95.0, 3, 1), (96.0, 3, 2)],
)
def test_slots_by_hand(hours: float, slot: int, tail: int) -> None:
    for observed in (True, False):
        got = to_slots(np.array([hours]), np.array([observed]), DAYS)
        assert [part.item() for part in got] == [slot, observed and tail == 0, tail]
        official = to_slots(np.array([hours]), np.array([observed]), DAYS, beyond="official")
        assert [part.item() for part in official] == [slot, observed, tail]


def test_slots_equal_a_loop() -> None:
    times = np.random.default_rng(0).uniform(0, 200, 500)
    slot, _, tail = to_slots(times, np.ones(500, dtype=bool), DAYS)
    for time, k, rest in zip(times, slot, tail, strict=True):
        index = int(time // 24)
        assert (k, rest) == ((index + 1, 0) if index < 3 else (3, index - 2))


def test_tensors_give_tensors_of_the_right_kind() -> None:
    parts = to_slots(torch.tensor([1.0, 100.0]), torch.tensor([True, True]), DAYS)
    assert [part.dtype for part in parts] == [torch.int64, torch.bool, torch.int64]
    assert [part.tolist() for part in parts] == [[1, 3], [True, False], [0, 2]]


@pytest.mark.parametrize(
    ("time", "observed", "beyond", "message"),
    [
        ([1.0, -1.0], [0, 0], "censor", r"time_hours must be finite and ≥ 0 \(row 1, event 'death'\)"),
        ([np.nan], [0], "censor", r"time_hours must be finite and ≥ 0 \(row 0, event 'death'\)"),
        ([1.0], [2], "censor", r"observed: got values other than 0 and 1 \(row 0\)"),
        ([1.0], [1, 0], "censor", r"observed: got shape \(2,\), need \(1,\)"),
        ([1.0], [1], "drop", "beyond: got 'drop', need 'censor' or 'official'"),
    ],
)
def test_slots_refuse(time: list[float], observed: list[int], beyond: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_slots(time, observed, DAYS, beyond)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", 1.0, 1), "name: got ''"),
        (("a", 0.0, 1), r"slot_hours: got 0.0, need > 0 \(event 'a'\)"),
        (("a", float("nan"), 1), "slot_hours: got nan"),
        (("a", 1.0, 0), "n_slots: got 0, need at least 1"),
        (("a", 1e308, 1), r"slot_hours: got 1e\+308, need > 0 \(event 'a'\), at most 1000000"),
        (("a", 1.0, 10**9), r"n_slots: got 1000000000, need at least 1 \(event 'a'\), at most 10000"),
        (("a", 1.0, 1, -1.0), "weight: got -1.0"),
    ],
)
def test_specs_refuse(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventSpec(*fields)


def test_a_batch_has_what_models_read() -> None:
    batch = small().batch([1, 0])
    kinds = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert kinds == {
        "x": ((2, 2, 2), torch.float32),
        "mask": ((2, 2, 2), torch.bool),
        "u": ((2, 2, 1), torch.float32),
        "length": ((2,), torch.int64),
        "static": ((2, 1), torch.float32),
        "slot": ((2, 2), torch.int64),
        "observed": ((2, 2), torch.bool),
        "at_risk": ((2, 2), torch.bool),
        "tail": ((2, 2), torch.int64),
    }
    assert batch["slot"].tolist() == [[2, 1], [1, 3]]
    assert batch["observed"].tolist() == [[True, True], [True, False]]


def test_events_past_the_grid_in_a_batch() -> None:
    assert not small().batch()["observed"][2, 0]
    official = small().batch(beyond="official")
    assert official["observed"][2, 0]
    assert official["tail"][2, 0] == 1


def test_a_batch_feeds_the_streams() -> None:
    batches = list(ArrayStream(small().batch(), 2, epochs=1, shuffle=False))
    assert [len(batch["x"]) for batch in batches] == [2, 1]


def test_what_is_masked_out_becomes_zero() -> None:
    mask = np.ones((3, 2, 2), dtype=bool)
    mask[0, 0, 1] = False
    x = np.full((3, 2, 2), 3.0)
    x[0, 0, 1] = np.nan
    data = small(x=x, mask=mask)
    assert data.x[0, 0, 1] == 0.0
    assert np.isnan(x[0, 0, 1])  # the caller's array stays as it was


def test_names_and_ids_have_defaults() -> None:
    data = small(ids=[])
    assert data.ids == ["0", "1", "2"]
    assert data.observation_names == ("x0", "x1")
    assert (data.intervention_names, data.static_names) == (("u0",), ("static0",))


def test_a_subset_keeps_rows_together() -> None:
    data = small(parts=("train", "test", "valid"), prediction_time=np.arange(3).astype("M8[us]"))
    part = data.subset(np.array([False, True, True]))
    assert part.ids == ["8", "9"]
    assert part.parts == ("test", "valid")
    assert np.array_equal(part.x, data.x[1:])
    assert part.prediction_time is not None
    assert part.prediction_time.astype(int).tolist() == [1, 2]
    assert len(data.subset(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((3, 2))}, r"x: got shape \(3, 2\), need \[N, T, D\]"),
        ({"mask": np.ones((3, 2, 1), dtype=bool)}, r"mask: got shape \(3, 2, 1\), need \(3, 2, 2\) as x"),
        ({"mask": np.full((3, 2, 2), 0.5)}, "mask: got values other than 0 and 1"),
        ({"u": None}, r"u: got None, need an array \[N, T, U\]"),
        ({"u": np.zeros((3, 1, 1))}, r"u: got shape \(3, 1, 1\), need \(3, 2, any\)"),
        ({"u": np.full((3, 2, 1), np.inf)}, r"u: got a value that is not finite \(row 0\)"),
        ({"x": np.full((3, 2, 2), np.nan)}, r"x: got a value that is not finite \(row 0\)"),
        ({"static": np.zeros(3)}, r"static: got shape \(3,\), need \(3, any\)"),
        ({"length": [2, 3, 0]}, r"length: got 3 \(row 1\), need 0..2, the steps of x"),
        ({"length": [2, -1, 0]}, r"length: got -1 \(row 1\)"),
        ({"time_hours": np.zeros((3, 1))}, r"time_hours: got shape \(3, 1\), need \(3, 2\)"),
        ({"time_hours": [[1, 1], [1, -1], [1, 1]]}, r"time_hours must be finite and ≥ 0 \(row 1, event 'kidney'\)"),
        ({"time_hours": [[np.inf, 1], [1, 1], [1, 1]]}, r"time_hours must be finite and ≥ 0 \(row 0, event 'death'\)"),
        ({"observed": [[0, 3], [0, 0], [0, 0]]}, r"observed: got values other than 0 and 1 \(row 0\)"),
        ({"events": ()}, "events: got none, need at least one EventSpec"),
        ({"events": (DAYS, DAYS)}, "events: got death, death, need names that differ"),
        ({"ids": ["1", "2"]}, "ids: got 2, need 3, one a row"),
        ({"observation_names": ("HR",)}, "observation_names: got 1, need 2, one a column"),
        ({"intervention_names": ("a", "b")}, "intervention_names: got 2, need 1"),
        ({"parts": ("train", "dev", "test")}, r"parts: got \['dev'\], need train, valid, test"),
        ({"prediction_time": np.zeros(2, dtype="M8[us]")}, "prediction_time: got 2, need 3"),
    ],
)
def test_bad_data_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changed)


def test_the_split_is_by_patient_and_fixed() -> None:
    first = {str(i): hashlib.sha256(str(i).encode()).digest()[0] for i in range(300)}
    for identifier, byte in first.items():
        assert part_of(identifier) == ("train" if byte < 154 else "valid" if byte < 205 else "test")
    data = small(ids=["7", "8", "7"])
    rows = data.split()
    assert sorted(np.concatenate(list(rows.values())).tolist()) == [0, 1, 2]
    assert any({0, 2} <= set(part.tolist()) for part in rows.values())


def test_a_split_of_the_source_wins() -> None:
    rows = small(parts=("test", "train", "test")).split()
    assert {part: index.tolist() for part, index in rows.items()} == {"train": [1], "valid": [], "test": [0, 2]}


def test_a_dataset_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().length = np.zeros(3)  # type: ignore[misc]
