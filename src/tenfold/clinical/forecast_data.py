"""Subjects with a history, the future of every variable, and outcomes: what forecast pretraining reads."""

# Shape legend: N subjects, T history steps, H future steps, F variables, C outcomes

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tenfold.clinical.events import EventTimeDataset, rows_of_parts
from tenfold.clinical.series import Scaling, forward_fill


@dataclass(frozen=True)
class Reading:
    """How measurements on a grid become what a model reads: the same in training and ever after, so it is kept with the model.

    A grid ends with its trigger for every subject; entries are scaled, then bounded, and those of the history filled.

    Args:
        scaling: of the source's variables, which may be more than the model's; None leaves values as they are.
        largest: a scaled value lies within ± this many standard deviations; None sets no bound.
        flags: variables of which only the set ones are written down: observed at every step, 0 where nothing is.
        fill: a missing entry of the history takes the last value before it, 0 where there is none; without, always 0.
    """

    scaling: Scaling | None = None
    largest: float | None = None
    flags: tuple[str, ...] = ()
    fill: bool = True

    def __post_init__(self) -> None:
        if self.largest is not None and not 0 < self.largest < math.inf:
            raise ValueError(f"largest: got {self.largest}, need a finite number > 0")

    def bounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled values within their bound."""
        return x if self.largest is None else np.clip(x, -self.largest, self.largest)

    def history(self, x: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What the encoder reads, [N, T, F], of scaled values and where they were observed."""
        return forward_fill(self.bounded(x), mask) if self.fill else self.bounded(np.where(mask, x, np.float32(0.0)))

    def grid(self, dataset: EventTimeDataset) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values and mask of a data set, [N, T, D], moved so that every subject's last step is the one before its trigger.

        Args:
            dataset: scaled as here; a subject of fewer steps has them first, as survival models read them.
        """
        steps = dataset.x.shape[1]
        step = (np.arange(steps) - (steps - dataset.length)[:, None])[..., None]
        begun, place = step >= 0, np.maximum(step, 0)
        x = np.where(begun, np.take_along_axis(dataset.x, place, axis=1), np.float32(0.0))
        mask = np.take_along_axis(dataset.mask, place, axis=1) & begun
        unset = self.unset(dataset.observation_names)
        for column in (column for column, name in enumerate(dataset.observation_names) if name in self.flags):
            x[..., column] = np.where(begun[..., 0], x[..., column], unset[column])
            mask[..., column] = True
        return x, mask

    def unset(self, names: Sequence[str]) -> NDArray[np.float32]:
        """The scaled value of a 0 of each variable of the source, [D]."""
        zeros = np.zeros((1, len(names)), np.float32)
        return zeros[0] if self.scaling is None else self.scaling.apply(zeros, np.ones_like(zeros, dtype=bool))[0]


@dataclass(frozen=True, eq=False)
class ForecastDataset:
    """History and future of N subjects with binary outcomes after the history.

    Attributes:
        x: history [N, T, F], float32, as `reading` says.
        mask: where x was observed, bool [N, T, F].
        y: future [N, H, F], scaled as x, never filled.
        y_mask: where y was observed.
        labels: bool [N, C].
        eligible: which labels exist, bool [N, C].
        features: names of the F variables.
        targets: names of the C outcomes.
        ids: the patient of each row; the split is by SHA-256 of the id unless `parts` says otherwise.
        reading: how x and y were made of measurements, to be kept with a model.
    """

    x: NDArray[np.float32]
    mask: NDArray[np.bool_]
    y: NDArray[np.float32]
    y_mask: NDArray[np.bool_]
    labels: NDArray[np.bool_]
    eligible: NDArray[np.bool_]
    features: tuple[str, ...]
    targets: tuple[str, ...]
    ids: list[str] = field(default_factory=list)
    parts: tuple[str, ...] = ()
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.y.ndim != 3:
            raise ValueError(f"x, y: got shapes {self.x.shape}, {self.y.shape}, need [N, T, F], [N, H, F]")
        count, _, width = self.x.shape
        outcomes = (count, len(self.targets))
        needs = {
            "mask": self.x.shape,
            "y": (count, self.y.shape[1], width),
            "y_mask": self.y.shape,
            "labels": outcomes,
            "eligible": outcomes,
        }
        for name, shape in needs.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: got shape {getattr(self, name).shape}, need {shape}")
        if len(self.features) != width:
            raise ValueError(f"features: got {len(self.features)} names, need {width}")
        for name, mask in (("x", self.mask), ("y", self.y_mask)):
            bad = ~np.isfinite(getattr(self, name)) & mask
            if bad.any():
                raise ValueError(
                    f"{name}: got a value that is not finite where the mask is set (row {np.argwhere(bad)[0][0]})"
                )
        object.__setattr__(self, "ids", list(self.ids) or [str(row) for row in range(count)])

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: ArrayLike | None = None, target: str | None = None) -> dict[str, Tensor]:
        """x, mask, y, y_mask of the given rows (all without any); with a target also its label [B], float32.

        Without a target no label is touched.
        """
        index = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        arrays = {name: torch.from_numpy(getattr(self, name)[index]) for name in ("x", "mask", "y", "y_mask")}
        if target is not None:
            arrays["label"] = torch.from_numpy(self.label(target, index).astype(np.float32))
        return arrays

    def label(self, target: str, rows: ArrayLike) -> NDArray[np.bool_]:
        """Outcome of the given rows.

        Raises:
            ValueError: an unknown target, or a row that has no such label.
        """
        column, index = self._column(target), np.asarray(rows, dtype=np.int64)
        if not self.eligible[index, column].all():
            row = index[~self.eligible[index, column]][0]
            raise ValueError(f"rows: got row {row}, which has no label {target!r}; see `eligible`")
        return self.labels[index, column]

    def split(self, target: str | None = None) -> dict[str, NDArray[np.int64]]:
        """Rows of "train", "valid" and "test"; with a target only those that have its label."""
        rows = rows_of_parts(self.ids, self.parts)
        if target is None:
            return rows
        has_label = self.eligible[:, self._column(target)]
        return {part: index[has_label[index]] for part, index in rows.items()}

    def labelled(
        self, target: str, percent: float, *, part: str = "train", seed: int = 0, minimum: int = 10
    ) -> NDArray[np.int64]:
        """Rows of a part whose label of `target` may be read; the sets of smaller percentages lie within the larger.

        The rows are ordered by SHA-256 of "seed:id". The first ceil(percent/100 n) are taken, and where they hold fewer
        than `minimum` positives or negatives, the next of these in the same order.

        Args:
            target: the outcome.
            percent: in (0, 100].
            part: "train", or "valid" for the outer loop.
            seed: of the order.
            minimum: positives and negatives wanted at least, as far as the part has them.
        Raises:
            ValueError: percent out of range, or no positive or no negative at all.
        """
        if not 0 < percent <= 100:
            raise ValueError(f"label_percent: got {percent}, need a number in (0, 100]")
        rows = self.split(target)[part]
        keys = [hashlib.sha256(f"{seed}:{self.ids[row]}".encode()).digest() for row in rows]
        ordered = rows[np.array(sorted(range(len(rows)), key=keys.__getitem__), dtype=np.int64)]
        labels = self.label(target, ordered)
        taken = np.arange(len(ordered)) < np.ceil(len(ordered) * percent / 100)
        for kind in (True, False):
            taken[np.flatnonzero(labels == kind)[:minimum]] = True
        for kind, name in ((True, "positives"), (False, "negatives")):
            if not (labels[taken] == kind).any():
                raise ValueError(f"target {target!r} has 0 {name} among {int(taken.sum())} labels")
        return ordered[taken]

    def _column(self, target: str) -> int:
        if target not in self.targets:
            raise ValueError(f"target: got {target!r}, need one of {', '.join(self.targets)}")
        return self.targets.index(target)


def forecast_from_events(dataset: EventTimeDataset, horizon: int, *, flags: Sequence[str] = ()) -> ForecastDataset:
    """The last `horizon` steps before the trigger become the future; each event within its grid becomes an outcome.

    So every source of event times (MIMIC-III, MEDS, own tables) also serves forecast pretraining. The history ends
    `horizon` steps before the trigger, from which the outcomes are counted, for every subject.

    Args:
        dataset: with a context of more than `horizon` steps; its rows at risk of an event are eligible, unless
            follow-up ends before the grid does.
        horizon: H.
        flags: see `Reading`.
    """
    steps = dataset.x.shape[1] - horizon
    if horizon < 1 or steps < 1:
        raise ValueError(f"horizon: got {horizon}, need 1..{dataset.x.shape[1] - 1}, less than the context's steps")
    reading = Reading(dataset.scaling.get("observations"), flags=tuple(flags))
    x, mask = reading.grid(dataset)
    ends = np.array([spec.slot_hours * spec.n_slots for spec in dataset.events])
    within = dataset.time_hours < ends
    return ForecastDataset(
        x=reading.history(x[:, :steps], mask[:, :steps]),
        mask=mask[:, :steps],
        y=reading.bounded(x[:, steps:]),
        y_mask=mask[:, steps:],
        labels=dataset.observed & within,
        eligible=dataset.at_risk & (dataset.observed | ~within),
        features=dataset.observation_names,
        targets=tuple(spec.name for spec in dataset.events),
        ids=dataset.ids,
        parts=dataset.parts,
        reading=reading,
    )
