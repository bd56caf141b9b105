"""Columns that are checked when read, and the labels of each round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.clinical.forecast_columns import (
    Labels,
    check_both,
    joined,
    read_columns,
    summary_features,
)

X = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
ONES = np.ones((2, 3, 4))
GOOD: dict[str, Any] = {"x": X, "mask": ONES, "label": [0, 1]}


class Guarded(Mapping[str, Any]):
    """Columns whose label must not be read."""

    def __getitem__(self, name: str) -> Any:
        if name == "label":
            raise AssertionError("a label was read")
        return GOOD[name]

    def __iter__(self) -> Iterator[str]:
        return iter(GOOD)

    def __len__(self) -> int:
        return len(GOOD)


def test_only_named_columns_are_touched() -> None:
    read = read_columns("unlabelled", Guarded(), ("x", "mask"))
    assert read["x"].dtype == torch.float32 and read["mask"].dtype == torch.bool
    assert read.keys() == {"x", "mask"}


def test_batches_are_joined() -> None:
    batches = [{name: column[i : i + 1] for name, column in GOOD.items()} for i in range(2)]
    read = read_columns("labelled", iter(batches), tuple(GOOD))
    whole = read_columns("labelled", GOOD, tuple(GOOD))
    assert all(torch.equal(read[name], whole[name]) for name in GOOD)


def test_what_is_not_observed_may_be_anything() -> None:
    x, mask = X.copy(), ONES.copy()
    x[0, 1, 2], mask[0, 1, 2] = np.nan, 0
    mask[1, 0, 0] = 0  # filled forward, say: it stays
    read = read_columns("X", {"x": x, "mask": mask}, ("x", "mask"))
    assert read["x"][0, 1, 2] == X[0, 0, 2] and read["x"][1, 0, 0] == 12
    assert read_columns("X", {"x": x, "mask": mask}, ("x", "mask"), fill=False)["x"][0, 1, 2] == 0
    x[0, 0, 2], mask[0, 0, 2] = np.nan, 0
    assert (read_columns("X", {"x": x, "mask": mask}, ("x", "mask"))["x"][0, :2, 2] == 0).all()  # nothing before it
    futures = read_columns("X", {"y": x, "y_mask": mask}, ("y", "y_mask"))
    assert futures["y"][0, 1, 2] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, "labelled: got no column 'mask'"),
        ({"x": X[:1]}, r"labelled.mask: got shape \(2, 3, 4\), need 1 rows|need one shape"),
        ({"x": X[0], "mask": ONES[0]}, r"labelled.x: got shape \(3, 4\)"),
        ({"mask": ONES[:, :2]}, r"labelled.x: got shape \(2, 3, 4\), its mask \(2, 2, 4\)"),
        ({"label": [0, 2]}, "labelled.label: got values other than 0 and 1"),
        ({"label": [[0], [1]]}, r"labelled.label: got shape \(2, 1\)"),
        ({"x": np.where(X == 6, np.nan, X)}, "labelled.x: got nan at row 0, step 1, variable 2, which is observed"),
        ({"x": np.where(X == 23, np.inf, X)}, "labelled.x: got inf at row 1, step 2, variable 3"),
    ],
)
def test_faults_are_named(change: dict[str, Any], message: str) -> None:
    data = {name: column for name, column in {**GOOD, **change}.items() if column is not None}
    with pytest.raises(ValueError, match=message):
        read_columns("labelled", data, tuple(GOOD))
    with pytest.raises(ValueError, match="labelled: got no batch"):
        read_columns("labelled", [], tuple(GOOD))


@pytest.mark.parametrize(("label", "kind"), [([0] * 12, "positives"), ([1] * 12, "negatives"), ([], "positives")])
def test_both_classes_are_needed(label: list[float], kind: str) -> None:
    with pytest.raises(ValueError, match=f"target 'death' has 0 {kind} among {len(label)} labels"):
        check_both("death", torch.tensor(label))


def series(positives: int, negatives: int, start: int = 0) -> dict[str, torch.Tensor]:
    label = torch.tensor([1.0] * positives + [0.0] * negatives)
    x = (start + torch.arange(len(label), dtype=torch.float32))[:, None, None]
    return {"x": x, "mask": torch.ones_like(x, dtype=torch.bool), "label": label}


def test_enough_validation_labels_serve_the_weights_alone() -> None:
    labels = Labels.of(series(5, 5), series(20, 20, 100), folds=3)
    head, outer = labels.of_round(7)
    assert head is labels.labelled and outer is labels.val
    assert Labels.of(series(5, 5), series(19, 50), folds=3).folds == 3


def test_folds_take_turns_and_share_both_classes() -> None:
    labels = Labels.of(series(7, 11), series(8, 4, 100), folds=3)
    seen = []
    for number in range(3):
        head, outer = labels.of_round(number)
        assert not set(head["x"].flatten().tolist()) & set(outer["x"].flatten().tolist())
        assert len(head["x"]) + len(outer["x"]) == 30 and outer["label"].sum() == 5
        assert torch.equal(labels.of_round(number + 3)[1]["x"], outer["x"])
        seen += outer["x"].flatten().tolist()
    assert sorted(seen) == sorted(labels.everything()["x"].flatten().tolist())
    one = Labels.of(series(7, 11), series(8, 4, 100), folds=1)
    head, outer = one.of_round(0)
    assert len(head["x"]) == len(outer["x"]) == 30


def test_joining_keeps_the_columns_of_both() -> None:
    both = joined({"x": torch.zeros(2), "label": torch.zeros(2)}, {"x": torch.ones(1), "y": torch.ones(1)})
    assert both.keys() == {"x"} and both["x"].tolist() == [0, 0, 1]


def test_summaries_by_hand() -> None:
    x = torch.tensor([[[1.0, 9.0], [3.0, 9.0], [2.0, 9.0], [7.0, 9.0]]])
    mask = torch.tensor([[[True, False], [True, False], [True, False], [False, False]]])
    assert summary_features({"x": x, "mask": mask}).tolist() == [[2, 0, 2, 0, 1, 0, 3, 0]]  # last, mean, min, max
