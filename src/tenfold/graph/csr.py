"""Rows of different lengths in flat tensors: take rows out, find values by binary search."""

# Shape legend: B rows taken, N their entries one after the other

from __future__ import annotations

import torch
from torch import Tensor


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[index] along the first axis; on CPUs four times as fast as by brackets."""
    return values.index_select(0, index)


def expand(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The positions start[b] .. start[b] + count[b] - 1 of every row, one after the other.

    Args:
        start, count: first position and length of each row [B] int64; a length may be 0.
    Returns:
        ptr [B + 1]: where each row begins in the result; row [N]: the row of each entry; position [N]. All int64.
    """
    ptr = torch.zeros(len(count) + 1, dtype=torch.int64, device=count.device)
    torch.cumsum(count, 0, out=ptr[1:])
    total = int(ptr[-1])
    row = torch.repeat_interleave(count, output_size=total)
    position = pick(start - ptr[:-1], row).add_(torch.arange(total, device=count.device))
    return ptr, row, position


def find_sorted(keys: Tensor, wanted: Tensor) -> Tensor:
    """Where values stand among ascending distinct keys, -1 for those that are not there."""
    if not len(keys):
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place.masked_fill_(pick(keys, place) != wanted, -1)
