"""Irregular measurements of many subjects: their regular grid, and the scaling that training data give them."""

# Shape legend: N subjects, M measurements, T steps, D columns

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError

Rule = Literal["mean", "sum", "any"]  # how the values of one step become one number
LARGEST = float(np.finfo(np.float32).max)  # size of a value


def check_rules(rules: Mapping[str, Rule] | None, names: Sequence[str]) -> None:
    """UserError for a rule of a name that is not among those on the grid."""
    for name in rules or {}:
        if name not in names:
            raise UserError(f"rules: got {name!r}{did_you_mean(name, names)}, need one of {', '.join(names)}"[:400])


@dataclass(frozen=True, eq=False)
class Series:
    """Measurements by subject and, within a subject, by time.

    Attributes:
        subject: row of the subject, int32 [M], 0..subjects-1.
        hours: float64 [M], from the subject's own zero.
        column: index into `columns`, int16 [M].
        value: float32 [M], finite.
        columns: names of what is measured.
        subjects: N; some may have no measurement.
    """

    subject: NDArray[np.int32]
    hours: NDArray[np.float64]
    column: NDArray[np.int16]
    value: NDArray[np.float32]
    columns: tuple[str, ...]
    subjects: int

    @classmethod
    def of(
        cls,
        subject: NDArray[Any],
        hours: NDArray[Any],
        column: NDArray[Any],
        value: NDArray[Any],
        columns: Sequence[str],
        subjects: int,
    ) -> Series:
        """The same measurements in order; equal times keep theirs."""
        order = np.lexsort((hours, subject))  # stable
        return cls(
            np.asarray(subject, dtype=np.int32)[order],
            np.asarray(hours, dtype=np.float64)[order],
            np.asarray(column, dtype=np.int16)[order],
            np.asarray(value, dtype=np.float32)[order],
            tuple(columns),
            subjects,
        )

    def only(self, *names: str) -> Series:
        """The measurements of the named columns, numbered anew; a name that is no column has none."""
        new = np.full(len(self.columns), -1, dtype=np.int16)
        for number, name in enumerate(names):
            if name in self.columns:
                new[self.columns.index(name)] = number
        column = new[self.column]
        kept = column >= 0
        return Series(self.subject[kept], self.hours[kept], column[kept], self.value[kept], names, self.subjects)

    def last_hours(self) -> NDArray[np.float64]:
        """Time of each subject's last measurement [N]; -inf without any."""
        last = np.full(self.subjects, -np.inf)
        np.maximum.at(last, self.subject, self.hours)
        return last

    def grid(
        self, steps: int, *, start: float = 0.0, step_hours: float = 1.0, rules: Mapping[str, Rule] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values on a regular grid; step t covers the hours [start + t step_hours, start + (t+1) step_hours).

        Args:
            steps: T.
            start: hour of the first step.
            step_hours: length of a step.
            rules: by column; the default is "mean". "any" is for flags of which only the set ones are written down:
                1 where a value of the step is not 0, else 0, and observed everywhere.
        Returns:
            values [N, T, D], 0 where missing, and where they were observed.
        """
        if steps < 1 or not step_hours > 0:
            raise ValueError(f"steps, step_hours: got {steps}, {step_hours}, need at least 1 and > 0")
        step = np.floor((self.hours - start) / step_hours)
        inside = (step >= 0) & (step < steps)
        cell = self.subject[inside].astype(np.int64) * steps + step[inside].astype(np.int64)
        column, value = self.column[inside], self.value[inside]
        values = np.zeros((self.subjects, steps, len(self.columns)), dtype=np.float32)
        mask = np.zeros(values.shape, dtype=bool)
        for number, name in enumerate(self.columns):  # one at a time: float64 sums of one column only
            rule, here = (rules or {}).get(name, "mean"), column == number
            if rule not in ("mean", "sum", "any"):
                raise ValueError(f"rules: got {rule!r} for {name!r}, need mean, sum or any")
            weights = value[here] != 0 if rule == "any" else value[here]
            total = np.bincount(cell[here], weights, minlength=self.subjects * steps)
            count = np.bincount(cell[here], minlength=self.subjects * steps)
            reduced = {"mean": total / np.maximum(count, 1), "sum": total, "any": total > 0}[rule]
            values[..., number] = reduced.reshape(self.subjects, steps)
            mask[..., number] = rule == "any" or (count > 0).reshape(self.subjects, steps)
        return values, mask


def forward_fill(x: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Each missing step takes the last observed value of its column before it; 0 where there is none. [N, T, D]"""
    steps = np.where(mask, np.arange(x.shape[1])[None, :, None], -1)
    last = np.maximum.accumulate(steps, axis=1)
    filled = np.take_along_axis(x, np.maximum(last, 0), axis=1)
    return np.where(last >= 0, filled, np.float32(0.0))


@dataclass(frozen=True)
class Scaling:
    """Clip to the 0.5 and 99.5 percentiles of training data, then to mean 0 and standard deviation 1.

    A column without spread, or without any value in training, becomes 0.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def fit(cls, values: NDArray[Any], mask: NDArray[np.bool_], names: Sequence[str]) -> Scaling:
        """From the observed entries of training rows; `values` [..., D], columns are the last axis."""
        columns = []
        for number in range(values.shape[-1]):
            seen = values[..., number][mask[..., number]].astype(np.float64)
            if len(seen) == 0:
                columns.append((0.0, 0.0, 0.0, 1.0))
                continue
            low, high = np.percentile(seen, (0.5, 99.5))
            clipped = np.clip(seen, low, high)
            columns.append(
                (float(low), float(high), float(clipped.mean()), float(clipped.std()) if high > low else 1.0)
            )
        low_, high_, mean, sd = zip(*columns, strict=True) if columns else ((), (), (), ())
        return cls(tuple(names), low_, high_, mean, sd)

    def apply(self, values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Scaled values, 0 outside the mask."""
        self._check(values)
        scaled = np.zeros(values.shape, dtype=np.float32)
        for number, (low, high, mean, sd) in enumerate(zip(self.low, self.high, self.mean, self.sd, strict=True)):
            seen = mask[..., number]
            scaled[..., number][seen] = (np.clip(values[..., number][seen].astype(np.float64), low, high) - mean) / sd
        return scaled

    def undo(self, scaled: NDArray[Any]) -> NDArray[np.float32]:
        """Values in their own units; what was clipped stays clipped."""
        self._check(scaled)
        return (scaled.astype(np.float64) * self.sd + self.mean).astype(np.float32)

    def as_dict(self) -> dict[str, list[Any]]:
        """For a JSON file beside a model."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Sequence[Any]]) -> Scaling:
        """The inverse of `as_dict`."""
        scaling = cls(**{name: tuple(saved[name]) for name in ("names", "low", "high", "mean", "sd")})
        scaling.check("scaling")
        return scaling

    def check(self, where: str) -> None:
        """ValueError, of what stands at `where`, for a column that is not as long as the names, or that scales nothing."""
        for column in ("low", "high", "mean", "sd"):
            values = getattr(self, column)
            if len(values) != len(self.names):
                raise ValueError(f"{where}.{column}: got {len(values)} numbers, need {len(self.names)} (names)")
            if not np.isfinite(values).all() or (column == "sd" and min(values, default=1.0) <= 0):
                raise ValueError(f"{where}.{column}: got {values}, need finite numbers" + " > 0" * (column == "sd"))

    def _check(self, values: NDArray[Any]) -> None:
        if values.shape[-1] != len(self.names):
            raise ValueError(
                f"values: got {values.shape[-1]} columns, need {len(self.names)} ({', '.join(self.names)})"
            )
