"""Best of N: of several responses to a prompt the one that scores highest, to learn from or to answer with."""

# Shape legend: n prompts, N responses each

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.align.rollout import Response
from tenfold.align.samples import Sample


def best_of(scores: Sequence[float]) -> int:
    """Index of the highest score, the first of equal ones.

    Raises:
        ValueError: no scores, or one that is not finite.
    """
    if not scores or not all(map(math.isfinite, scores)):
        raise ValueError(f"scores: got {list(scores)}, need finite numbers, at least one")
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def rejection_samples(
    responses: Sequence[Sequence[Response]], scores: Sequence[Sequence[float]], *, minimum: float = -math.inf
) -> list[Sample]:
    """The best finished response of each prompt, as samples for supervised fine-tuning.

    Args:
        responses: of each prompt.
        scores: of each response, finite.
        minimum: prompts whose best response scores less give none.
    """
    kept = []
    for group, given in zip(responses, scores, strict=True):
        # A response that was cut teaches never to stop.
        whole = [(score, response) for score, response in zip(given, group, strict=True) if response.finished]
        if whole:
            score, response = whole[best_of([score for score, _ in whole])]
            if score >= minimum:
                kept.append(response.sample)
    return kept


def best_of_curve(scores_nN: ArrayLike) -> NDArray[np.float64]:
    """Expected score of the best of 1, 2, … N responses, mean over prompts, (N,).

    Every subset of k of the N counts alike, so all N responses serve every k.

    Args:
        scores_nN: of N responses to each of n prompts.
    """
    scores = np.asarray(scores_nN, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"scores: got shape {scores.shape}, need (prompts, responses) of finite numbers")
    mean = np.sort(scores, axis=1).mean(0)
    N = len(mean)
    curve = np.empty(N)
    for k in range(1, N + 1):
        # The i-th smallest is the best of k in C(i, k - 1) subsets of C(N, k).
        curve[k - 1] = sum(math.comb(i, k - 1) / math.comb(N, k) * mean[i] for i in range(k - 1, N))
    return curve
