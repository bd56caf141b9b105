"""Survival metrics beside pycox and scikit-survival, on the same arrays; every pair of values is checked to agree.

    python benchmarks/survival.py --threads 1 --out survival.json

Needs the peers (`pip install -c constraints.txt tenfold[peers]`).
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Literal

import numba
import numpy as np
import sksurv.metrics as peer
import torch
from numpy.typing import NDArray
from pycox.evaluation.concordance import concordance_td as pycox_concordance
from pycox.utils import idx_at_times
from rows import Row, milliseconds, parser, row, write
from sksurv.util import Surv

from tenfold.clinical.survival_metrics import (
    concordance_ipcw,
    concordance_td,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from tenfold.core.timing import interleaved, ratio

SLOTS, MEMORY_MB = 50, 500
METHODS: tuple[Literal["antolini", "adj_antolini"], ...] = ("antolini", "adj_antolini")


def follow_up(subjects: int, slots: bool) -> tuple[NDArray, NDArray, NDArray]:
    """Times, two thirds of which are events, and survival curves [subjects, SLOTS + 1]."""
    rng = np.random.default_rng(0)
    times = rng.exponential(30, subjects)
    times = np.minimum(np.ceil(times), SLOTS) if slots else times
    return times, rng.random(subjects) < 2 / 3, np.sort(rng.random((subjects, SLOTS + 1)), axis=1)[:, ::-1].copy()


def same(name: str, ours: object, theirs: object) -> None:
    if not np.allclose(ours, theirs, rtol=0, atol=1e-10):  # type: ignore[arg-type]
        raise AssertionError(f"{name}: got {ours} and {theirs}")


def over_time_rows(repeats: int) -> list[Row]:
    """Antolini's C, n = 5000, K = 50: pycox compares all pairs in compiled code; ours sorts."""
    rows = []
    for slots in (True, False):
        times, observed, survival = follow_up(5000, slots)
        grid = np.arange(SLOTS + 1.0)
        columns, step = np.ascontiguousarray(survival.T), idx_at_times(grid, times, "post")
        for method in METHODS:
            ours = partial(concordance_td, times, observed, survival, grid, method)
            theirs = partial(pycox_concordance, times, observed, columns, step, method)
            start = time.perf_counter()
            expected = theirs()
            first = time.perf_counter() - start
            same(method, ours(), expected)
            timings = interleaved({"ours": ours, "pycox": theirs}, repeats)
            name = f"{method}, {'slots' if slots else 'continuous times'}"
            note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['pycox'])}"
            rows.append(
                row(f"C over time, {name}: pycox, compiled / ours", ratio(timings, "pycox", "ours"), note, 0.67)
            )
            if slots:  # afterwards it is compiled
                value = first / timings["ours"].median
                rows.append(row(f"C over time, {method}: pycox, first call / ours", value, f"{first:.2f} s", 5.0))
    return rows


def memory_row() -> Row:
    """The peak of Antolini's C for 50 000 subjects and 50 slots, its curves not counted."""
    times, observed, survival = follow_up(50_000, slots=False)
    tracemalloc.start()
    concordance_td(times, observed, survival, np.arange(SLOTS + 1), "adj_antolini")
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return row(f"C over time, 50 000 subjects: {MEMORY_MB} MB / peak", MEMORY_MB / peak, f"{peak:.0f} MB", 1.0)


def weighted_rows(repeats: int) -> list[Row]:
    """Metrics with censoring weights, n = 20 000, beside scikit-survival."""
    times, observed, survival = follow_up(20_000, slots=False)
    train = np.r_[times, times.max() + 1], np.r_[observed, True]
    labels = Surv.from_arrays(*train[::-1]), Surv.from_arrays(observed, times)
    points, curves = np.arange(2.0, 42, 2), survival[:, 2:42:2].copy()
    data, risk, risks = (*train, times, observed), 1 - survival[:, -1], 1 - curves
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "C with censoring weights": (
            lambda: concordance_ipcw(*data, risk),
            lambda: peer.concordance_index_ipcw(*labels, risk)[0],
            min(repeats, 3),
        ),
        "dynamic AUC at 20 times, one risk": (
            lambda: cumulative_dynamic_auc(*data, risk, points).auc,
            lambda: peer.cumulative_dynamic_auc(*labels, risk, points)[0],
            repeats,
        ),
        "dynamic AUC at 20 times, a risk for each": (
            lambda: cumulative_dynamic_auc(*data, risks, points).auc,
            lambda: peer.cumulative_dynamic_auc(*labels, risks, points)[0],
            repeats,
        ),
        "integrated Brier score of 20 times": (
            lambda: integrated_brier_score(*data, curves, points),
            lambda: peer.integrated_brier_score(*labels, curves, points),
            repeats,
        ),
    }
    rows = []
    for name, (ours, theirs, times_each) in pairs.items():
        same(name, ours(), theirs())
        timings = interleaved({"ours": ours, "theirs": theirs}, times_each, warmup=1)
        note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['theirs'])}"
        bar = None if "Brier" in name else 2.0
        rows.append(row(f"{name}: scikit-survival / ours", ratio(timings, "theirs", "ours"), note, bar))
    return rows


def main() -> None:
    arguments = parser("survival metrics", repeats=7).parse_args()
    torch.set_num_threads(arguments.threads)
    numba.set_num_threads(min(arguments.threads, numba.config.NUMBA_NUM_THREADS))
    rows = [*over_time_rows(arguments.repeats), memory_row(), *weighted_rows(arguments.repeats)]
    what = f"Antolini's C of 5000 subjects and {SLOTS} slots, metrics with censoring weights of 20 000; wall time."
    write(arguments.out, "Survival metrics", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
