"""Speed of training between two log rows, and a profiler trace of a few steps."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch


class Meter:
    """Targets a second and model FLOP utilisation over the steps since the last reading.

    Args:
        flops_per_step: operations of one step, forward and backward, of all processes.
        peak_flops: operations a second of all processes at their best.
    """

    def __init__(self, flops_per_step: float | None = None, peak_flops: float | None = None) -> None:
        if (flops_per_step is None) != (peak_flops is None):
            raise ValueError(f"flops_per_step, peak_flops: got {flops_per_step}, {peak_flops}, need both or neither")
        self.flops_per_step = flops_per_step
        self.peak_flops = peak_flops
        self.steps = 0
        self.weight = 0.0
        self.seconds = 0.0

    def add(self, weight: float, seconds: float) -> None:
        """Count one step of `weight` targets."""
        self.steps += 1
        self.weight += weight
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Targets a second; 0 before the first step."""
        return self.weight / self.seconds if self.seconds > 0 else 0.0

    def read(self) -> dict[str, float]:
        """`tokens_per_s`, and `mfu` where it is known; starts anew."""
        figures = {"tokens_per_s": self.rate}
        if self.flops_per_step is not None and self.peak_flops is not None and self.seconds > 0:
            figures["mfu"] = self.flops_per_step * self.steps / (self.seconds * self.peak_flops)
        self.steps, self.weight, self.seconds = 0, 0.0, 0.0
        return figures


class Tracer:
    """Traces `steps` steps after three untraced ones and writes a Chrome trace; `steps=None` does nothing."""

    def __init__(self, path: Path, steps: int | None) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"profile: got {steps}, need at least 1 step or None")
        self.profiler: torch.profiler.profile | None = None
        if steps is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.profiler = torch.profiler.profile(
                schedule=torch.profiler.schedule(wait=2, warmup=1, active=steps, repeat=1),
                on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
            )

    def __enter__(self) -> Tracer:
        if self.profiler is not None:
            self.profiler.start()
        return self

    def step(self) -> None:
        """Call after each step."""
        if self.profiler is not None:
            self.profiler.step()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.profiler is not None:
            self.profiler.stop()
