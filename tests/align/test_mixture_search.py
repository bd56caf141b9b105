"""The search for mixture weights finds known optima and keeps to its budget."""

from __future__ import annotations

import math

import pytest

from tenfold.align.mixture_search import Weights, search_mixture, shifted

BEST = {"prose": 0.55, "code": 0.3, "maths": 0.15}


def closeness(weights: Weights) -> float:
    return -sum((weights[name] - BEST[name]) ** 2 for name in BEST)


def test_it_climbs_to_the_best_mixture() -> None:
    trials = search_mixture(dict.fromkeys(BEST, 1.0), closeness, delta=0.2, smallest=0.01, trials=200)
    best = max(trials, key=lambda trial: trial.score)
    assert trials[0].weights == pytest.approx(dict.fromkeys(BEST, 1 / 3))
    assert best.weights == pytest.approx(BEST, abs=0.02)
    assert len({tuple(trial.weights.values()) for trial in trials}) == len(trials)
    assert all(sum(trial.weights.values()) == pytest.approx(1) for trial in trials)
    assert all(min(trial.weights.values()) > 0 for trial in trials)


def test_the_budget_holds() -> None:
    seen: list[Weights] = []

    def evaluate(weights: Weights) -> float:
        seen.append(weights)
        return closeness(weights)

    assert len(search_mixture(BEST, evaluate, trials=5)) == len(seen) == 5


def test_moving_one_weight_rescales_the_others() -> None:
    assert shifted({"a": 0.5, "b": 0.3, "c": 0.2}, "a", 0.25) == pytest.approx({"a": 0.75, "b": 0.15, "c": 0.1})
    assert shifted({"a": 0.5, "b": 0.5}, "a", -0.5) is None
    assert shifted({"a": 0.5, "b": 0.5}, "a", 0.5) is None


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        ({"a": 1.0}, {}, "start: got"),
        ({"a": 1.0, "b": 0.0}, {}, "start: got"),
        ({"a": 1.0, "b": 1.0}, {"delta": 0.01}, "delta, smallest: got 0.01, 0.025"),
        ({"a": 1.0, "b": 1.0}, {"trials": 0}, "trials: got 0"),
    ],
)
def test_bad_settings(start: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_mixture(start, lambda weights: 0.0, **options)
    with pytest.raises(ValueError, match="evaluate: got nan"):
        search_mixture(BEST, lambda weights: math.nan)
