"""Interleaved timing: machines drift, so rival functions are timed in turn (A, B, A, B, …) and compared pairwise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


def synchronize() -> None:
    """Wait for the device, so that a clock read afterwards covers the work issued before it."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, in the order they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """Distance between the quartiles, in seconds; 0 for fewer than two repeats."""
        if len(self.seconds) < 2:
            return 0.0
        quartiles = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return quartiles[2] - quartiles[0]


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every function `repeats` times in turn.

    Args:
        functions: name to a call without arguments; its result is dropped.
        repeats: timed calls of each, at least 1.
        warmup: untimed calls of each, first.
        clock: seconds; `time.process_time` is the steadier clock on a loaded machine with one thread.
    Returns:
        name to its timing, seconds a call.
    """
    if repeats < 1:
        raise ValueError(f"repeats: got {repeats}, need at least 1")
    for function in functions.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            synchronize()
            start = clock()
            function()
            synchronize()
            seconds[name].append(clock() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(timings: Mapping[str, Timing], numerator: str, denominator: str) -> float:
    """Median over repeats of the pairwise ratio: drift that slows both members of a pair cancels."""
    pairs = zip(timings[numerator].seconds, timings[denominator].seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)
