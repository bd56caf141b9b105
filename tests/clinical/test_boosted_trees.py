"""Trees kept as tensors answer as scikit-learn's own, and damaged ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from tenfold.clinical.boosted_trees import DTYPES, Forest


@pytest.fixture(scope="module")
def grown() -> tuple[HistGradientBoostingClassifier, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 4] = rng.integers(0, 3, 600)
    label = rng.random(600) < 1 / (1 + np.exp(2 - np.nan_to_num(x[:, 0]) - np.isnan(x[:, 1]) - x[:, 4]))
    return HistGradientBoostingClassifier(max_iter=12, max_leaf_nodes=6, random_state=0).fit(x, label), x


def by_hand(forest: Forest, row: np.ndarray) -> float:
    """One row, one tree after the other: the slow twin."""
    logit = float(forest.intercept)
    for root in forest.roots.tolist():
        node = root
        while int(forest.left[node]) != node:
            asked = row[int(forest.feature[node])]
            leftward = forest.missing_left[node] if np.isnan(asked) else asked <= forest.threshold[node]
            node = int(forest.left[node] if leftward else forest.right[node])
        logit += float(forest.value[node])
    return logit


def test_answers_are_those_of_scikit_learn(grown: tuple[HistGradientBoostingClassifier, np.ndarray]) -> None:
    model, x = grown
    forest = Forest.of(model, 5)
    mine = forest(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mine, model.decision_function(x), atol=1e-12)
    assert [by_hand(forest, row) for row in x[:20]] == pytest.approx(mine[:20].tolist(), abs=1e-12)
    edge = np.where(np.isnan(x), x, np.nan_to_num(x))
    edge[: len(forest.threshold), 0] = forest.threshold[:600].numpy()  # at a threshold itself: left
    np.testing.assert_allclose(forest(torch.from_numpy(edge)).numpy(), model.decision_function(edge), atol=1e-12)


def test_a_split_on_what_is_missing_is_kept_in_finite_numbers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    x[rng.random(x.shape) < 0.4] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(
        x, np.isnan(x[:, 1]) ^ (rng.random(600) < 0.1)
    )
    assert any(np.isinf(each[0].nodes["num_threshold"]).any() for each in model._predictors)
    forest = Forest.of(model, 2)
    assert forest.threshold.isfinite().all()  # as folders of models need it
    np.testing.assert_allclose(forest(torch.from_numpy(x)).numpy(), model.decision_function(x), atol=1e-12)


def test_the_first_trees_are_a_stage(grown: tuple[HistGradientBoostingClassifier, np.ndarray]) -> None:
    model, x = grown
    stages = list(model.staged_decision_function(x))
    for trees in (1, 7, 12):
        mine = Forest.of(model, 5).first(trees, -0.5, 5)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(mine, stages[trees - 1].ravel() - 0.5, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("left", 0, 0, "children or features out of range"),  # a circle
        ("right", 0, 10**6, "children or features out of range"),
        ("left", 3, 1, "children or features out of range"),  # back towards the root
        ("feature", 0, 5, "children or features out of range"),
        ("feature", 0, -1, "children or features out of range"),
        ("roots", 1, 10**6, "roots: got nodes out of range"),
        ("roots", 0, -1, "roots: got nodes out of range"),
    ],
)
def test_damaged_trees_are_refused(
    name: str, place: int, value: int, message: str, grown: tuple[HistGradientBoostingClassifier, np.ndarray]
) -> None:
    nodes = {key: tensor.clone() for key, tensor in Forest.of(grown[0], 5).named_buffers()}
    nodes[name][place] = value
    with pytest.raises(ValueError, match=message):
        Forest(nodes, 5)


def test_tensors_of_another_shape_are_refused(grown: tuple[HistGradientBoostingClassifier, np.ndarray]) -> None:
    nodes = dict(Forest.of(grown[0], 5).named_buffers())
    for name in DTYPES:
        with pytest.raises(ValueError, match="nodes: got"):
            Forest({key: tensor for key, tensor in nodes.items() if key != name}, 5)
        with pytest.raises(ValueError, match=f"{name}: got|need"):
            Forest(nodes | {name: nodes[name].to(torch.float16)}, 5)
    with pytest.raises(ValueError, match="threshold: got"):
        Forest(nodes | {"threshold": nodes["threshold"][:-1]}, 5)
