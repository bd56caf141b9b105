"""Results as DSPy's and textgrad's objects, metrics of DSPy's and GEPA's kind, and intervals against statsmodels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tenfold.core.statistics import mcnemar, wilson
from tenfold.prompts.examples import Example
from tenfold.prompts.interop import from_dspy_metric, to_dspy, to_textgrad

EXAMPLE = Example("e", "What is 2 plus 3?", "5")
PROMPT = "Add {them}. 100 %"


def test_a_metric_of_dspys_kind_scores() -> None:
    def metric(example: Any, pred: Any, trace: Any = None) -> bool:
        assert example.question == EXAMPLE.input and trace is None
        return bool(example.answer == pred.answer)

    scorer = from_dspy_metric(metric)
    assert float(scorer(EXAMPLE, "5")) == 1.0 and float(scorer(EXAMPLE, "6")) == 0.0  # type: ignore[arg-type]


def test_a_metric_of_gepas_kind_gives_feedback() -> None:
    def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        return SimpleNamespace(score=0.5, feedback="carry the one")

    score: Any = from_dspy_metric(metric)(EXAMPLE, "6")
    assert float(score) == 0.5 and score.feedback == "carry the one"


def test_dspy_takes_the_prompt_as_instructions() -> None:
    dspy = pytest.importorskip("dspy", reason="needs dspy: pip install 'tenfold[peers]'")
    made = to_dspy(PROMPT, "question -> answer")
    assert isinstance(made, dspy.Predict) and made.signature.instructions == PROMPT
    assert list(made.signature.input_fields) == ["question"]


def test_dspys_prediction_of_a_score_with_feedback_is_read() -> None:
    dspy = pytest.importorskip("dspy", reason="needs dspy: pip install 'tenfold[peers]'")
    score: Any = from_dspy_metric(lambda gold, pred, *_: dspy.Prediction(score=0.25, feedback="close"))(EXAMPLE, "6")
    assert float(score) == 0.25 and score.feedback == "close"


def test_textgrad_takes_the_prompt_as_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it makes a folder of logs where it is imported
    textgrad = pytest.importorskip("textgrad", reason="needs textgrad: pip install 'tenfold[peers]'")
    made = to_textgrad(PROMPT, "sums")
    assert isinstance(made, textgrad.Variable) and made.value == PROMPT and made.requires_grad


def test_intervals_and_tests_are_those_of_statsmodels() -> None:
    proportion = pytest.importorskip(
        "statsmodels.stats.proportion", reason="needs statsmodels: pip install 'tenfold[peers]'"
    )
    tables = pytest.importorskip(
        "statsmodels.stats.contingency_tables", reason="needs statsmodels: pip install 'tenfold[peers]'"
    )
    for k, n in ((0, 5), (3, 50), (25, 50), (50, 50)):
        low, high = proportion.proportion_confint(k, n, method="wilson")
        assert (wilson(k, n).low, wilson(k, n).high) == pytest.approx((low, high), abs=1e-9)
    for b, c in ((3, 9), (0, 6), (5, 5), (20, 4)):
        assert mcnemar(b, c).p_value == pytest.approx(tables.mcnemar([[0, b], [c, 0]], exact=True).pvalue, abs=1e-9)
