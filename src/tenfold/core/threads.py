"""Compute threads: one set of them in a process, or they wake each other up."""

from __future__ import annotations

import ctypes
from pathlib import Path


def release_compute_threads() -> bool:
    """End the idle OpenMP workers that belong to the calling thread; they come back when it computes again.

    Each thread that runs torch's parallel kernels keeps workers of its own. While there are more of them than processors,
    GNU's OpenMP lets none of them wait actively, and the many short kernels of generation lose a third of their speed
    to waking up. So a thread that hands its model to another one calls this.

    Returns:
        whether there was such a library to ask.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        library = ctypes.CDLL(next(line.split()[-1] for line in lines if "libgomp" in line))
        soft = 1  # omp_pause_soft: variables keep their values
        return bool(library.omp_pause_resource_all(soft) == 0)
    except (OSError, StopIteration, AttributeError):
        return False  # another system or another OpenMP
