"""How often the right item is among the nearest."""

# Shape legend: Q queries, N items, E width

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def retrieval(
    queries: Tensor,
    items: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    query_groups: Tensor | None = None,
    item_groups: Tensor | None = None,
) -> dict[str, float]:
    """Share of queries with a right item among their k nearest by cosine.

    Args:
        queries, items: (Q, E) and (N, E).
        ks: numbers of items looked at, each in 1..N.
        query_groups, item_groups: int64 (Q,) and (N,); items of the query's group are right. None: query i has item i.
    Returns:
        {"R@1": share, …, "median_rank": of the best right item, from 1}. A wrong item that ties with a right one comes first.
    Raises:
        ValueError: shapes that do not fit, k beyond the pool, a query without a right item.
    """
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries, items: got shapes {tuple(queries.shape)} and {tuple(items.shape)}, need one width")
    if not ks or min(ks) < 1 or max(ks) > len(items):
        raise ValueError(f"ks: got {tuple(ks)}, need numbers in 1..{len(items)} (items)")
    if (query_groups is None) != (item_groups is None):
        raise ValueError("query_groups, item_groups: got one of them, need both or neither")
    if query_groups is None or item_groups is None:
        if len(queries) != len(items):
            raise ValueError(f"queries, items: got {len(queries)} and {len(items)}, need groups where they differ")
        query_groups = item_groups = torch.arange(len(items))
    right = query_groups[:, None] == item_groups[None]
    if lonely := (~right.any(1)).nonzero().flatten().tolist():
        raise ValueError(f"query {lonely[0]}: no item of its group ({len(lonely)} such queries)")
    scores = F.normalize(queries.float(), dim=-1) @ F.normalize(items.float(), dim=-1).T
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    rank = ((scores >= best) & ~right).sum(1) + 1
    found = {f"R@{k}": float((rank <= k).float().mean()) for k in ks}
    return found | {"median_rank": float(rank.float().median())}
