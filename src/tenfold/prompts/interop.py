"""To and from DSPy, GEPA and textgrad; none of them is needed for anything else."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from tenfold.core.errors import UserError
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import FunctionScorer


def _package(name: str) -> Any:
    if find_spec(name) is None:
        raise UserError(f"{name} is not installed: pip install {name}")
    return import_module(name)


def to_dspy(prompt: str, signature: Any) -> Any:
    """A `dspy.Predict` whose instructions are the prompt.

    Args:
        prompt: the instructions.
        signature: a `dspy.Signature`, or text such as "question -> answer".
    Raises:
        UserError: dspy is not installed.
    """
    dspy = _package("dspy")
    # Text could hold instructions of its own; Signature() takes them apart.
    whole = dspy.Signature(signature) if isinstance(signature, str) else signature
    return dspy.Predict(whole.with_instructions(prompt))


def to_textgrad(prompt: str, task: str) -> Any:
    """A `textgrad.Variable` that requires gradients.

    Raises:
        UserError: textgrad is not installed.
    """
    textgrad = _package("textgrad")
    return textgrad.Variable(prompt, requires_grad=True, role_description=f"instruction for the task {task}")


def from_dspy_metric(
    metric: Callable[..., Any], *, input_field: str = "question", output_field: str = "answer"
) -> FunctionScorer:
    """A metric written for DSPy or GEPA as a scorer.

    `(example, pred, trace=None) -> float | bool` is DSPy's; GEPA's takes `pred_name` and `pred_trace` too and returns a score
    with feedback (an object or a mapping with `score` and `feedback`), which then goes to `reflect`.

    Args:
        metric: the function.
        input_field, output_field: under which names it finds the question and the answer in both arguments.
    """

    def scored(example: Example, reply: str) -> Any:
        gold, pred = (
            _record(input_field, output_field, example.input, example.target),
            _record(input_field, output_field, example.input, reply),
        )
        said = metric(gold, pred)
        return bool(said) if isinstance(said, bool) else said

    scored.__qualname__ = f"dspy metric {getattr(metric, '__qualname__', type(metric).__name__)}"
    return FunctionScorer(scored)


def _record(input_field: str, output_field: str, asked: str, answer: str) -> Any:
    """A `dspy.Example` where dspy is there, else something with the same fields."""
    fields = {input_field: asked, output_field: answer}
    if find_spec("dspy") is None:
        return SimpleNamespace(**fields)
    return import_module("dspy").Example(**fields).with_inputs(input_field)
