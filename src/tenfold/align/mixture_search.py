"""Tuning the weights of a data mixture: one weight up or down at a time, kept where the score rises.

Source: Gunter et al. 2024, arXiv 2407.21075, supervised fine-tuning (w_i -> w_i ± Δ).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Weights = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """A mixture that was tried, and its score."""

    weights: Weights
    score: float


def search_mixture(
    start: Mapping[str, float],
    evaluate: Callable[[Weights], float],
    *,
    delta: float = 0.1,
    smallest: float = 0.025,
    trials: int = 50,
) -> list[Trial]:
    """Hill climbing on mixture weights.

    Each round tries every weight up and down by Δ, the others rescaled to keep the sum 1, and takes the best mixture if
    it beats the present one; else Δ is halved. It ends below the smallest Δ, or with the trials. No mixture is
    evaluated twice.

    Args:
        start: source to weight, positive, at least two sources; normalised to sum 1.
        evaluate: score of a model trained on a mixture, higher is better.
        delta: Δ at first, in (0, 1).
        smallest: Δ at last.
        trials: evaluations at most.
    Returns:
        all trials in order; the best is `max(trials, key=lambda trial: trial.score)`.
    Raises:
        ValueError: settings out of range, a score that is not finite.
    """
    if len(start) < 2 or not all(math.isfinite(w) and w > 0 for w in start.values()):
        raise ValueError(f"start: got {dict(start)}, need finite weights > 0 of two sources or more")
    if not 0 < smallest <= delta < 1:
        raise ValueError(f"delta, smallest: got {delta}, {smallest}, need 0 < smallest <= delta < 1")
    if trials < 1:
        raise ValueError(f"trials: got {trials}, need at least 1")
    known: dict[tuple[float, ...], Trial] = {}

    def score(weights: Weights) -> Trial:
        key = tuple(round(weight, 9) for weight in weights.values())
        if key not in known:
            value = evaluate(dict(weights))
            if not math.isfinite(value):
                raise ValueError(f"evaluate: got {value} for {weights}, need a finite score")
            known[key] = Trial(weights, value)
        return known[key]

    total = sum(start.values())
    best = score({name: weight / total for name, weight in start.items()})
    while delta >= smallest:
        round_best = best
        for name in start:
            for step in (delta, -delta):
                moved = shifted(best.weights, name, step)
                if moved is None:
                    continue
                if len(known) >= trials:
                    return list(known.values())
                round_best = max(round_best, score(moved), key=lambda trial: trial.score)
        if round_best is best:
            delta /= 2
        best = round_best
    return list(known.values())


def shifted(weights: Mapping[str, float], name: str, step: float) -> Weights | None:
    """Weights of sum 1 with one of them moved by `step` and the others rescaled; None where it would leave (0, 1)."""
    moved = weights[name] + step
    if not 0 < moved < 1:
        return None
    scale = (1 - moved) / (1 - weights[name])
    return {other: moved if other == name else weight * scale for other, weight in weights.items()}
