"""Best of N."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tenfold.align.rejection import best_of, best_of_curve, rejection_samples
from tenfold.align.rollout import Response
from tenfold.align.samples import Sample


def response(token: int, finished: bool = True) -> Response:
    return Response(str(token), Sample.of([0], [token]), finished)


def test_the_highest_score_wins_and_the_first_of_equals() -> None:
    assert best_of([0.1, 0.7, 0.7, -2.0]) == 1
    for scores in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="scores: got"):
            best_of(scores)


def test_only_finished_and_good_enough_responses_are_kept() -> None:
    responses = [
        [response(1), response(2), response(3, finished=False)],
        [response(4, finished=False)],
        [response(5), response(6)],
    ]
    scores = [[0.1, 0.5, 0.9], [1.0], [0.2, 0.3]]
    assert [sample.ids[-1] for sample in rejection_samples(responses, scores)] == [2, 6]
    assert [sample.ids[-1] for sample in rejection_samples(responses, scores, minimum=0.5)] == [2]
    with pytest.raises(ValueError, match="zip"):
        rejection_samples(responses, scores[:2])


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    scores = np.random.default_rng(0).integers(0, 5, size=(3, 6)).astype(float)
    slow = [np.mean([[max(each) for each in itertools.combinations(row, k)] for row in scores]) for k in range(1, 7)]
    np.testing.assert_allclose(best_of_curve(scores), slow)
    for bad in (np.zeros(3), np.zeros((0, 2)), np.array([[math.nan]])):
        with pytest.raises(ValueError, match="scores: got shape"):
            best_of_curve(bad)
