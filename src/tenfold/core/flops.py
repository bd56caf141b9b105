"""Peak matrix-multiplication speed of this machine, the yardstick of model FLOP utilisation."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from tenfold.core.timing import synchronize


def measure_peak(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    size: int = 1024,
    repeats: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """FLOP/s of the fastest of several square matrix products, with the threads this process has.

    Args:
        size: rows and columns of the matrices; large enough to leave the caches' shadow, 8192 on a GPU.
        repeats: products timed, after two untimed ones.
    Returns:
        2 size³ / (seconds of the fastest product).
    """
    if size < 1 or repeats < 1:
        raise ValueError(f"size, repeats: got {size}, {repeats}, need at least 1")
    # Drawn, not constant: a GPU that multiplies equal numbers draws less power and runs faster than it ever will on data.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, dtype=dtype, generator=generator) for _ in range(2))
    seconds = []
    for _ in range(repeats + 2):
        synchronize()
        start = clock()
        torch.mm(a, b)
        synchronize()
        seconds.append(clock() - start)
    return 2.0 * size**3 / min(seconds[2:])
