"""Checked tensors of series and labels, and which labels serve which purpose."""

# Shape legend: N series, T history steps, H future steps, F variables

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenfold.clinical.series import forward_fill

Columns = dict[str, Tensor]

HISTORY, FUTURE = ("x", "mask"), ("y", "y_mask")
ENOUGH = 20  # positives and negatives that the weights' gradient needs


def read_columns(
    what: str, data: Mapping[str, Any] | Iterable[Mapping[str, Any]], names: Sequence[str], *, fill: bool = True
) -> Columns:
    """The named columns of a data set as tensors; no other column is touched.

    Args:
        what: of the data, in messages.
        data: a mapping of columns, x and y [N, steps, F], masks alike, label [N]; or an iterable of such batches.
        names: of the columns wanted.
        fill: a history's value that is neither observed nor finite becomes the last observed one before it.
    Returns:
        float32 values, what is neither observed nor finite filled forward or else 0, bool masks, float32 labels.
    Raises:
        ValueError: a column that is missing, of another shape, or not finite where observed; labels other than 0 and 1.
    """
    if isinstance(data, Mapping):
        columns = {name: torch.as_tensor(_named(what, data, name)) for name in names}
    else:
        batches = [{name: torch.as_tensor(_named(what, batch, name)) for name in names} for batch in data]
        if not batches:
            raise ValueError(f"{what}: got no batch, need at least one")
        columns = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    count = len(columns[names[0]])
    for name, column in columns.items():
        if len(column) != count or column.ndim != (1 if name == "label" else 3):
            raise ValueError(f"{what}.{name}: got shape {tuple(column.shape)}, need {count} rows of one layout")
    for values, mask in (HISTORY, FUTURE):
        if values in columns:
            columns[values], columns[mask] = _observed(what, values, columns[values], columns[mask])
            columns[values] = _filled(columns[values], columns[mask], fill and values == "x")
    if "label" in columns:
        label = columns["label"].float()
        if not ((label == 0) | (label == 1)).all():
            raise ValueError(f"{what}.label: got values other than 0 and 1")
        columns["label"] = label
    return columns


def check_both(target: str, label: Tensor) -> None:
    """Raise where a class has no label."""
    positives = int(label.sum())
    for name, count in (("positives", positives), ("negatives", len(label) - positives)):
        if count == 0:
            raise ValueError(f"target {target!r} has 0 {name} among {len(label)} labels")


def rows(columns: Columns, index: Tensor | slice) -> Columns:
    """Some rows of every column."""
    return {name: column[index] for name, column in columns.items()}


def joined(first: Columns, second: Columns) -> Columns:
    """The rows of both, of the columns that both have."""
    return {name: torch.cat([column, second[name]]) for name, column in first.items() if name in second}


@dataclass(frozen=True)
class Labels:
    """Labelled series, and what the outer loop measures itself on.

    Args:
        labelled: series that heads learn from.
        val: series of the outer loop.
        folds: 0 while `val` has enough labels of both kinds; else the number of parts of all labelled series together
            that take turns, or 1: head and outer loss both see all of them.
    """

    labelled: Columns
    val: Columns
    folds: int

    @staticmethod
    def of(labelled: Columns, val: Columns, folds: int) -> Labels:
        positives = int(val["label"].sum())
        enough = min(positives, len(val["label"]) - positives) >= ENOUGH
        return Labels(labelled, val, 0 if enough else folds)

    def everything(self) -> Columns:
        return joined(self.labelled, self.val)

    def of_round(self, number: int) -> tuple[Columns, Columns]:
        """Series for the head, and for the outer loss, of one round."""
        if not self.folds:
            return self.labelled, self.val
        pool = self.everything()
        if self.folds == 1:
            return pool, pool
        # Every fold gets its share of both kinds: dealt out in the order of the labels.
        order = torch.argsort(pool["label"], stable=True)
        outer = torch.empty(len(order), dtype=torch.bool, device=order.device)
        outer[order] = torch.arange(len(order), device=order.device) % self.folds == number % self.folds
        return rows(pool, ~outer), rows(pool, outer)


def summary_features(columns: Columns) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Last, mean, least and largest observed value of every variable, [N, 4F]; 0 where there is none."""
    x, mask = columns["x"].double(), columns["mask"]
    some = mask.any(1)
    steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
    last = x.gather(1, (mask * steps).argmax(1, keepdim=True)).squeeze(1)
    mean = torch.where(mask, x, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    low, high = torch.where(mask, x, torch.inf).amin(1), torch.where(mask, x, -torch.inf).amax(1)
    parts = [torch.where(some, part, 0.0) for part in (last, mean, low, high)]
    return torch.cat(parts, -1).cpu().numpy()


def _named(what: str, data: Mapping[str, Any], name: str) -> Any:
    try:
        return data[name]
    except KeyError:
        raise ValueError(f"{what}: got no column {name!r}, need it") from None


def _observed(what: str, name: str, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if values.shape != mask.shape:
        raise ValueError(
            f"{what}.{name}: got shape {tuple(values.shape)}, its mask {tuple(mask.shape)}, need one shape"
        )
    mask, values = mask.bool(), values.float()
    finite = values.isfinite()
    if (bad := mask & ~finite).any():
        row, step, variable = bad.nonzero()[0].tolist()
        got = values[row, step, variable].item()
        raise ValueError(f"{what}.{name}: got {got} at row {row}, step {step}, variable {variable}, which is observed")
    return values, mask


def _filled(values: Tensor, mask: Tensor, forward: bool) -> Tensor:
    """Values that are finite everywhere; what the caller filled in stays."""
    finite = values.isfinite()
    if not forward or finite.all():
        return torch.where(finite, values, 0.0)
    last = torch.from_numpy(forward_fill(values.cpu().numpy(), mask.cpu().numpy()))
    return torch.where(finite, values, last.to(values.device))
