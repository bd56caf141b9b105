"""What the survival statistics accept: arrays or tensors, checked once, as numpy in double precision."""

# Shape legend: n subjects, G grid points, T evaluation times

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Values: TypeAlias = ArrayLike | torch.Tensor


def as_array(name: str, values: Values, ndim: int | None = None) -> NDArray[Any]:
    """Finite floating numbers; single precision stays single, since its ties are decided there.

    Args:
        name: of the argument, for the error.
        values: numbers, an array or a tensor on any device.
        ndim: the number of axes it must have; None takes any.
    Raises:
        ValueError: values that are not finite, or of another number of axes.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name}: got shape {list(array.shape)}, need {ndim} axes")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise ValueError(f"{name}: got a value that is not finite at row {row}, need finite numbers")
    return array


def right_censored(time: Values, observed: Values, prefix: str = "") -> tuple[Floats, Bools]:
    """Follow-up times [n] and whether each ended with the event [n].

    Raises:
        ValueError: no subject, times that are negative or not finite, `observed` other than 0 and 1, unequal shapes.
    """
    times = as_array(f"{prefix}time", time, ndim=1).astype(np.float64)
    flags = as_array(f"{prefix}observed", observed)
    if times.shape != flags.shape:
        raise ValueError(f"{prefix}observed: got shape {list(flags.shape)}, need {list(times.shape)} as {prefix}time")
    if len(times) == 0:
        raise ValueError(f"{prefix}time: got no subject, need at least one")
    if (times < 0).any():
        row = int(np.argmax(times < 0))
        raise ValueError(f"{prefix}time: got {times[row]:g} at row {row}, need times of at least 0")
    if not np.isin(flags, (0, 1)).all():
        row = int(np.argmax(~np.isin(flags, (0, 1))))
        raise ValueError(f"{prefix}observed: got {flags[row]:g} at row {row}, need 0 or 1")
    return times, flags.astype(bool)


def scores(name: str, values: Values, subjects: int) -> Floats:
    """One finite number a subject, [n]."""
    array = as_array(name, values, ndim=1)
    if len(array) != subjects:
        raise ValueError(f"{name}: got shape {list(array.shape)}, need [{subjects}], one a subject")
    return array.astype(np.float64)


def increasing(name: str, values: Values) -> Floats:
    """Times [T] that increase strictly."""
    array = np.atleast_1d(as_array(name, values)).astype(np.float64)
    if array.ndim != 1 or len(array) == 0 or (np.diff(array) <= 0).any():
        raise ValueError(f"{name}: got shape {list(array.shape)}, need one axis of strictly increasing times")
    return array


def curves(survival: Values, grid: Values, subjects: int) -> tuple[NDArray[Any], Floats]:
    """Survival curves [n, G] and the times [G] they are given at.

    Raises:
        ValueError: values outside [0, 1], a grid that does not increase, shapes that do not fit.
    """
    matrix, times = as_array("survival", survival, ndim=2), increasing("grid", grid)
    if matrix.shape != (subjects, len(times)):
        raise ValueError(f"survival: got shape {list(matrix.shape)}, need {[subjects, len(times)]}, subjects by grid")
    if matrix.size and (matrix.min() < 0 or matrix.max() > 1):
        raise ValueError(f"survival: got values in [{matrix.min():g}, {matrix.max():g}], need probabilities in [0, 1]")
    return matrix, times


def evaluation_times(times: Values, time: Floats) -> Floats:
    """Times [T] at which subjects can be told apart: from the first to before the last follow-up of the test data.

    Raises:
        ValueError: times that do not increase, or lie outside [min(time), max(time)).
    """
    checked = increasing("times", times)
    if checked[0] < time.min() or checked[-1] >= time.max():
        raise ValueError(
            f"times: got {checked[0]:g} to {checked[-1]:g}, need the follow-up [{time.min():g}, {time.max():g})"
        )
    return checked


def last_step(grid: Floats, time: Floats) -> NDArray[np.int64]:
    """Index of the last grid point at or before each time, the first one for earlier times."""
    return (np.searchsorted(grid, time, side="right") - 1).clip(0)


def survival_at(survival: Values, grid: Values, times: Values) -> Floats:
    """Curves read at other times: each holds its value from a grid point up to the next.

    Args:
        survival: [n, G] in [0, 1].
        grid: [G] increasing times.
        times: [T] increasing times.
    Returns:
        [n, T].
    """
    matrix = as_array("survival", survival, ndim=2)
    matrix, points = curves(matrix, grid, len(matrix))
    return matrix[:, last_step(points, increasing("times", times))].astype(np.float64)
