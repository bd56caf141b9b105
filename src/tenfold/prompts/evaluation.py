"""Prompts on a split of a task: a matrix of scores with everything that was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tenfold.core.statistics import Interval, wilson
from tenfold.prompts.result import compare
from tenfold.prompts.session import Outcome, Session
from tenfold.prompts.task import Split, Task, check_prompt
from tenfold.text.budget import Budget
from tenfold.text.chat import run_sync
from tenfold.text.messages import ChatModel


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores of P prompts on N examples.

    Args:
        prompts: the P prompts.
        ids: of the N examples.
        scores: [P, N] in [0, 1]; NaN where the scorer failed or the model could not read the prompt.
        predictions: N replies to each prompt.
        answers: what was read in each of them; None where nothing could be.
        format_errors: [P, N] replies without a readable answer.
        errors: of each, why there is no score; None where there is one.
    """

    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    scores: np.ndarray
    predictions: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str | None, ...], ...]
    format_errors: np.ndarray
    errors: tuple[tuple[str | None, ...], ...]

    @property
    def means(self) -> np.ndarray:
        """Mean of each prompt over the examples that have a score."""
        means: np.ndarray = np.nanmean(self.scores, axis=1)
        return means

    def interval(self, prompt: int) -> Interval:
        """Wilson's 95 % interval of a prompt; graded scores count by their sum."""
        row = self.scores[prompt][~np.isnan(self.scores[prompt])]
        return wilson(round(float(row.sum())), len(row))

    def compare(self, one: int, other: int) -> tuple[float | None, tuple[float, float] | None]:
        """(McNemar's p, bootstrap interval) of two prompts, see `tenfold.prompts.result.compare`."""
        return compare(self.scores[one], self.scores[other])


async def evaluate_async(
    prompts: Sequence[str],
    task: Task,
    split: Split,
    model: ChatModel,
    *,
    budget: Budget | None = None,
    limit: int | None = None,
) -> ScoreMatrix:
    """`evaluate` inside a running event loop."""
    if not prompts:
        raise ValueError("prompts: got none, need at least one")
    for prompt in prompts:
        check_prompt(prompt)
    examples = task.split(split)[:limit]
    session = Session(task, model, model, budget=budget)
    flat = await session.outcomes([(prompt, example) for prompt in prompts for example in examples], split)
    rows: list[list[Outcome]] = [flat[i * len(examples) : (i + 1) * len(examples)] for i in range(len(prompts))]
    return ScoreMatrix(
        tuple(prompts),
        tuple(example.id for example in examples),
        np.array([[o.value for o in row] for row in rows]),
        tuple(tuple(o.text for o in row) for row in rows),
        tuple(tuple(o.answer for o in row) for row in rows),
        np.array([[o.format_error for o in row] for row in rows]),
        tuple(tuple(o.error for o in row) for row in rows),
    )


def evaluate(
    prompts: Sequence[str],
    task: Task,
    split: Split,
    model: ChatModel,
    *,
    budget: Budget | None = None,
    limit: int | None = None,
) -> ScoreMatrix:
    """Score prompts on a split, all calls side by side as far as the model allows; the order of its replies does not matter.

    Args:
        prompts: texts.
        task: the task.
        split: "train", "val" or "test".
        model: solves the task.
        budget: caps; None: none.
        limit: the first so many examples.
    Raises:
        UserError: the scorer failed on more than 5 %, or the model failed for good.
    """
    return run_sync(evaluate_async(prompts, task, split, model, budget=budget, limit=limit))
