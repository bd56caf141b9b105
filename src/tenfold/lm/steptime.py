"""Equal-step-time comparison: measure steps, fix the budget by the Chinchilla rule, give every model the same seconds.

Source: Du et al. 2024 (arXiv 2405.15052): measure complexity by step time, not FLOPs or active parameters; 20 tokens a
parameter from Hoffmann et al. 2022 (arXiv 2203.15556).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from tenfold.core.timing import Timing, interleaved
from tenfold.lm.planner import plan

__all__ = ["Budget", "StepMeter", "StepTime", "chinchilla", "equal_time_steps", "plan"]


class StepTime(TypedDict):
    """`median` and `iqr` in seconds a step; `tokens_per_s` is None where the tokens of a step were not given."""

    median: float
    iqr: float
    tokens_per_s: float | None


@dataclass(frozen=True)
class StepMeter:
    """Times training steps.

    Attributes:
        warmup: untimed steps first: the first steps compile, allocate and fill caches.
        clock: seconds; `time.process_time` is steadier for one thread on a loaded machine.
    """

    warmup: int = 5
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup: got {self.warmup}, need at least 0")

    def measure(self, step: Callable[[], object], n: int, tokens: int | None = None) -> StepTime:
        """Median seconds of one step; waits for the device before each reading of the clock.

        Args:
            step: does one step; its result is dropped.
            n: timed steps, at least 1 (50 or more for a budget).
            tokens: tokens of one step, for `tokens_per_s`.
        """
        return self.measure_interleaved({"step": step}, n, tokens)["step"]

    def measure_interleaved(
        self, steps: Mapping[str, Callable[[], object]], n: int, tokens: int | Mapping[str, int] | None = None
    ) -> dict[str, StepTime]:
        """Time several models' steps in turn (A, B, A, B, …), so that a drifting machine slows all of them alike.

        Args:
            steps: name to a call that does one step.
            n: timed steps of each, at least 1.
            tokens: tokens of one step, for all or by name.
        Returns:
            name to its step time.
        """
        timings = interleaved(steps, n, warmup=self.warmup, clock=self.clock)
        counts = tokens if isinstance(tokens, Mapping) else dict.fromkeys(steps, tokens)
        return {name: _step_time(timing, counts.get(name)) for name, timing in timings.items()}


def _step_time(timing: Timing, tokens: int | None) -> StepTime:
    median = timing.median
    rate = None if tokens is None else tokens / median if median > 0 else math.inf
    return {"median": median, "iqr": timing.iqr, "tokens_per_s": rate}


@dataclass(frozen=True)
class Budget:
    """How long the dense reference trains; every rival gets the same seconds.

    Attributes:
        params: parameters of the dense reference (all of them).
        tokens_per_param: training tokens a parameter.
        batch_tokens: tokens a step.
        tokens: training tokens, params · tokens_per_param.
        steps: whole steps, tokens // batch_tokens.
    """

    params: int
    tokens_per_param: float
    batch_tokens: int
    tokens: int
    steps: int

    def seconds(self, step_s: float) -> float:
        """Seconds the dense reference trains when its step takes `step_s`."""
        return self.steps * step_s


def chinchilla(params: float, batch_tokens: int, tokens_per_param: float = 20) -> Budget:
    """Compute-optimal training length of a dense model: 20 tokens a parameter.

    Args:
        params: all parameters of the *dense reference*, also when the rival has more.
        batch_tokens: tokens a step.
        tokens_per_param: 20 in the paper.
    Raises:
        ValueError: a number that is not positive, or a batch larger than the whole budget.
    """
    for name, value in (("params", params), ("batch_tokens", batch_tokens), ("tokens_per_param", tokens_per_param)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: got {value}, need a positive finite number")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, need at least 1")
    tokens = round(params * tokens_per_param)
    steps = tokens // int(batch_tokens)
    if steps < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, need at most the budget of {tokens} tokens (one step)")
    return Budget(int(params), tokens_per_param, int(batch_tokens), tokens, steps)


def equal_time_steps(budget_s: float, step_s: float) -> int:
    """Whole steps of `step_s` seconds that fit into `budget_s` seconds.

    Raises:
        ValueError: a time that is not positive and finite, or a budget shorter than one step.
    """
    for name, value in (("budget_s", budget_s), ("step_s", step_s)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}: got {value}, need positive finite seconds")
    # The reference itself must get its own n back: (n · t) / t may round to just below n.
    steps = math.floor(budget_s / step_s * (1 + 1e-12))
    if steps < 1:
        raise ValueError(f"budget_s: got {budget_s:g} s, need at least one step ({step_s:g} s)")
    return steps
