"""Intervals and tests against scipy and values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tenfold.core.statistics import mcnemar, paired_bootstrap, paired_t, plus_minus, select, wilson


def test_paired_t_by_hand_and_against_scipy() -> None:
    # Mean 2, sd 1, n 3: half width 4.30265 / sqrt(3).
    interval = paired_t([1.0, 2.0, 3.0])
    assert interval.value == 2.0
    assert interval.ci95 == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    a, b = np.random.default_rng(0).normal(size=(2, 8))
    theirs = stats.ttest_rel(a, b)
    ours = paired_t(a - b)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_paired_t_without_spread() -> None:
    assert paired_t([0.5, 0.5]).ci95 == (0.5, 0.5)
    assert paired_t([0.0, 0.0]).p_value == 1.0
    tenths = paired_t([0.1] * 3)  # whose mean is not 0.1 to the last bit
    assert tenths.low == tenths.value == tenths.high == pytest.approx(0.1, rel=1e-15)
    assert tenths.p_value == 0.0


def test_bootstrap_agrees_with_scipy() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.2, 1, 60), generator.normal(0, 1, 60)
    ours = paired_bootstrap(a, b, n=20_000)
    theirs = stats.bootstrap((a - b,), np.mean, n_resamples=20_000, method="percentile", rng=generator)
    assert ours.value == pytest.approx((a - b).mean())
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert ours == paired_bootstrap(a, b, n=20_000)
    assert ours != paired_bootstrap(a, b, n=20_000, seed=1)


def test_bootstrap_of_clusters_is_wider_and_equals_that_of_their_means() -> None:
    group = np.random.default_rng(2).normal(size=20)
    differences = np.repeat(group, 5)
    plain = paired_bootstrap(differences, np.zeros(100))
    clustered = paired_bootstrap(differences, np.zeros(100), clusters=[f"doc{i // 5}" for i in range(100)])
    assert clustered.high - clustered.low > 1.8 * (plain.high - plain.low)  # sqrt(5) = 2.2 in the limit
    by_hand = stats.bootstrap((group,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0))
    assert clustered.ci95 == pytest.approx(tuple(by_hand.confidence_interval), abs=0.03)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """Two players of known strength on 100 words, again and again: 95 % of the intervals hold the true difference."""
    draw = np.random.default_rng(1)
    trials, words, strong, weak = 800, 100, 0.65, 0.5
    hits = 0
    for trial in range(trials):
        a, b = ((draw.random(words) < chance).astype(float) for chance in (strong, weak))
        interval = paired_bootstrap(a, b, n=400, seed=trial)
        hits += interval.low <= strong - weak <= interval.high
    assert 0.93 <= hits / trials <= 0.97


def test_wilson_by_hand_and_at_the_ends() -> None:
    assert wilson(8, 10).ci95 == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # (p + z²/2n ± ...) / (1 + z²/n)
    assert wilson(0, 10).low == pytest.approx(0)
    assert wilson(10, 10).high == pytest.approx(1)
    assert wilson(0, 10).high == pytest.approx(0.2775328, abs=1e-6)  # z² / (n + z²)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(1, 5).p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(5, 1).p_value == mcnemar(1, 5).p_value
    assert mcnemar(3, 3).p_value == 1.0
    assert mcnemar(0, 0).p_value == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_t([1.0]), "differences: got 1, need at least 2"),
        (lambda: paired_t([1.0, float("nan")]), "differences: .* finite"),
        (lambda: paired_t([1.0, 2.0], confidence=95), "confidence: got 95"),
        (lambda: paired_bootstrap([1.0] * 9, [0.0] * 9), "got 9 items, need at least 30"),
        (lambda: paired_bootstrap([1.0] * 40, [0.0] * 41), "got 40 and 41 items"),
        (lambda: paired_bootstrap([1.0] * 40, [0.0] * 40, n=1), "n: got 1"),
        (lambda: paired_bootstrap([1.0] * 40, [0.0] * 40, clusters=["a"] * 40), "clusters: got 1, need at least 2"),
        (lambda: paired_bootstrap([1.0] * 40, [0.0] * 40, clusters=["a"] * 3), "clusters: got 3"),
        (lambda: wilson(3, 2), "k, n: got 3, 2"),
        (lambda: mcnemar(-1, 2), "b, c: got -1, 2"),
    ],
)
def test_statistics_refuse(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_of_trainings_by_seed() -> None:
    rows = [{"seed": seed, "model": model} for model in "ab" for seed in (2, 0, 1)]
    assert [row["seed"] for row in select(rows, model="a")] == [0, 1, 2]
    assert select(rows, model="b", seed=2) == [{"seed": 2, "model": "b"}]
    assert select(rows, model="c") == []


def test_a_figure_over_seeds_as_text() -> None:
    assert plus_minus([0.5]) == "0.500"
    assert plus_minus([1.0, 2.0, 3.0], 2) == "2.00 ± 2.48"  # t of 2 degrees of freedom, 4.3027, over the root of 3
    assert plus_minus([1.0, math.nan]) == "n/a"
