"""Measures by hand, by their limits and by a second way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tenfold.core.statistics import mcnemar, wilson
from tenfold.prompts.candidates import summary
from tenfold.prompts.diagnostics import (
    following_rate,
    jaccard,
    jensen_shannon,
    nmi,
    nmi_test,
    one_step_success,
    paraphrase_sensitivity,
    prior_bias,
    reflection_correctness,
    repetition,
    shuffled,
)
from tenfold.prompts.result import choose_final, mcnemar_p
from tenfold.prompts.word_diff import word_diff


def test_correctness_counts_any_true_cause() -> None:
    assert reflection_correctness(["a", "b", "c", "other"], [{"a"}, {"a", "b"}, "d", set()]) == 0.5
    with pytest.raises(ValueError, match="got 1 and 0"):
        reflection_correctness(["a"], [])


def test_jensen_shannon_and_prior_bias() -> None:
    assert jensen_shannon(["a", "b"], ["b", "a"]) == 0 and prior_bias(["a"], ["b"]) == 0
    assert prior_bias({"a": 3, "b": 1}, {"a": 0.75, "b": 0.25}) == pytest.approx(1)
    p, q = {"a": 0.5, "b": 0.5}, {"a": 1.0}
    m = {"a": 0.75, "b": 0.25}
    by_hand = 0.5 * sum(v * math.log2(v / m[k]) for k, v in p.items()) + 0.5 * math.log2(1 / 0.75)
    assert jensen_shannon(p, q) == pytest.approx(by_hand, abs=1e-12)


def test_mutual_information() -> None:
    a = list("aabbcc")
    assert nmi(a, a) == pytest.approx(1) and nmi(a, ["x"] * 6) == 0
    assert nmi(list("aabb"), list("abab")) == pytest.approx(0, abs=1e-12)
    assert nmi(a, list("xxyyzz")) == nmi(list("xxyyzz"), a)
    value, p = nmi_test(list("ab") * 40, list("xy") * 40, 200)
    assert value == pytest.approx(1) and p == pytest.approx(1 / 201)
    assert nmi_test(["a"] * 10, list("abcdefghij"), 50)[1] == 1.0


def test_repetition() -> None:
    assert jaccard("one two three four", "one two three five") == pytest.approx(1 / 3)
    same = repetition(["the very same words here"] * 4)
    assert same == {"mean": 1.0, "distinct": 0.25, "n": 4}
    apart = repetition(["alpha beta gamma", "one two three", "red green blue"])
    assert apart == {"mean": 0.0, "distinct": 1.0, "n": 3}
    chain = np.array([[1, 0.9, 0], [0.9, 1, 0.95], [0, 0.95, 1]])
    assert repetition(["a", "b", "c"], chain)["distinct"] == pytest.approx(1 / 3)
    assert repetition(["one"]) == {"mean": None, "distinct": 1.0, "n": 1} and repetition([])["n"] == 0


def test_following() -> None:
    found = following_rate([[True, False], [True, True]])
    assert found == {"rate": 0.75, "steps": [1.0, 0.5], "n": 2} and following_rate([])["rate"] is None


def test_one_step_success_by_validity() -> None:
    edits = [(True, 0.2, 0.01), (True, 0.2, 0.2), (False, -0.3, 0.01), (None, 0.1, None)]
    found = one_step_success(edits)
    assert (found["valid"], found["invalid"], found["all"], found["n"]) == (0.5, 0.0, 0.25, 4)
    assert one_step_success([])["all"] is None


def test_paraphrase_noise() -> None:
    found = paraphrase_sensitivity([0.4, 0.5, 0.6], 0.05)
    assert found["std"] == pytest.approx(0.1) and found["range"] == pytest.approx(0.2) and found["within_noise"] is True
    assert paraphrase_sensitivity([0.4, 0.5], 0.2)["within_noise"] is False
    with pytest.raises(ValueError, match="at least 2 paraphrases"):
        paraphrase_sensitivity([0.4])


def test_shuffled_moves_every_one() -> None:
    values = [str(i) for i in range(30)]
    moved = shuffled(values, 3)
    assert sorted(moved) == sorted(values) and all(a != b for a, b in zip(values, moved, strict=True))


def test_the_final_choice_is_the_shortest_that_is_not_worse() -> None:
    best = np.array([1.0] * 30 + [0.0] * 20)
    close, worse = best.copy(), np.zeros(50)
    close[0] = 0
    assert choose_final(["a longer prompt", "short", "no"], np.stack([best, close, worse])) == 1
    assert choose_final(["same", "same"], np.stack([best, best])) == 0
    assert mcnemar_p(best, worse) == mcnemar(30, 0).p_value and mcnemar_p(best, best) == 1.0
    graded = best * 0.5
    assert mcnemar_p(graded, best) is None and choose_final(["long one", "x"], np.stack([best, graded])) == 0


def test_scores_have_wilsons_interval() -> None:
    row = summary([1.0, 1.0, 0.0, 1.0])
    assert (row["mean"], row["low"], row["high"]) == (0.75, wilson(3, 4).low, wilson(3, 4).high)
    assert summary([])["mean"] is None


def test_word_differences_hold_both_texts() -> None:
    old, new = "Count the fruits, please.", "Count only the ripe fruits."
    pieces = word_diff(old, new)
    assert "".join(text for kind, text in pieces if kind != "gone") == new
    assert "".join(text for kind, text in pieces if kind != "new") == old
    assert ("new", "only ") in pieces or ("new", " only") in pieces
