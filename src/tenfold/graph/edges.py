"""Triples to rows of edges: inverses, one stay an entity, no duplicates; long rows cut by file order or PageRank."""

# Shape legend: n triples, E entities, R relations (without inverses), M edges with the stays

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Prune = Literal["first", "pagerank"]
Ints = NDArray[np.int64]
Ids = TypeVar("Ids", Ints, Tensor)


def edge_key(source: Ids, relation: Ids, target: Ids, num_entities: int, num_relations: int) -> Ids:
    """One number an edge, in the order (source, relation, target); staying, relation 2R, comes before all others."""
    slots = 2 * num_relations + 1
    return (source * slots + (relation + 1) % slots) * num_entities + target


def build_rows(
    triples: Ints,
    num_entities: int,
    num_relations: int,
    *,
    inverse: bool = True,
    max_actions: int | None = None,
    prune: Prune | None = None,
) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
    """The edges of a graph by source, each row sorted by (relation, target) behind its stay.

    Args:
        triples: (head, relation, tail) [n, 3]; one that comes twice counts once.
        num_entities, num_relations: E, R; relation r + R is the inverse of r, relation 2R is staying.
        inverse: also an edge back for every triple.
        max_actions: the most actions of an entity, at least 2; None keeps all.
        prune: what a longer row keeps. "first": the stay and max_actions - 1 edges in the order of the triples
            (MINERVA). "pagerank": the stay and the max_actions edges with the targets of highest PageRank (MultiHopKG).
    Returns:
        indptr int64 [E + 1], relation int32 [M], target int32 [M].
    Raises:
        ValueError: a wrong cap, or more entities and relations than 63 bits can number.
    """
    _check_cap(max_actions, prune)
    if num_entities**2 * (2 * num_relations + 1) >= 2**63:
        raise ValueError(f"graph: got {num_entities} entities and {num_relations} relations, need E²(2R + 1) < 2^63")
    head, relation, tail = triples.T
    if inverse:  # an edge and its inverse stand side by side: both have the triple's place in the order
        back = (relation + num_relations) % (2 * num_relations)
        pairs = (head, tail), (relation, back), (tail, head)
        head, relation, tail = (np.stack(pair, axis=1).ravel() for pair in pairs)
    everyone = np.arange(num_entities, dtype=np.int64)
    stay = np.full_like(everyone, 2 * num_relations)
    columns = (everyone, head), (stay, relation), (everyone, tail)
    source, kind, target = (np.concatenate(column) for column in columns)
    keys = edge_key(source, kind, target, num_entities, num_relations)
    order = np.unique(keys, return_index=True)[1]
    source, kind, target = source[order], kind[order], target[order]
    if max_actions is not None:
        if prune == "first":
            kept = _best(source, order, num_entities, max_actions)
        else:
            edges = kind != stay[0]
            rank = pagerank(source[edges], target[edges], num_entities)
            kept = _best(source, np.where(edges, -rank[target], -np.inf), num_entities, max_actions + 1)
        source, kind, target = source[kept], kind[kept], target[kept]
    return _pointers(source, num_entities), kind.astype(np.int32), target.astype(np.int32)


def pagerank(source: Ints, target: Ints, num_entities: int, damping: float = 0.85) -> NDArray[np.float64]:
    """PageRank of every entity [E], to 1e-10 in all; parallel edges count, an entity without edges jumps anywhere.

    Source: Page et al. 1999.
    """
    degree = np.bincount(source, minlength=num_entities)
    rank = np.full(num_entities, 1 / num_entities)
    while True:  # every round shrinks the change by the damping
        flow = np.bincount(target, (rank / np.maximum(degree, 1))[source], num_entities)
        jump = 1 - damping + damping * rank[degree == 0].sum()
        rank, before = damping * flow + jump / num_entities, rank
        if np.abs(rank - before).sum() < 1e-10:
            return rank


def _check_cap(max_actions: int | None, prune: Prune | None) -> None:
    if max_actions is not None and max_actions < 2:
        raise ValueError(f"max_actions: got {max_actions}, need at least 2 (or None for all)")
    if prune not in (None, "first", "pagerank"):
        raise ValueError(f"prune: got {prune!r}, need 'first', 'pagerank' or None")
    if (max_actions is None) != (prune is None):
        raise ValueError(f"max_actions, prune: got {max_actions} and {prune!r}, need both or neither")


def _best(source: Ints, rank: NDArray[np.number], num_entities: int, limit: int) -> NDArray[np.bool_]:
    """The `limit` edges of lowest rank of every row [M]; of equals, those that stand first."""
    order = np.lexsort((rank, source))
    place = np.arange(len(source)) - _pointers(source, num_entities)[source]
    kept = np.zeros(len(source), dtype=np.bool_)
    kept[order[place < limit]] = True
    return kept


def _pointers(source: Ints, num_entities: int) -> Ints:
    """Where each row begins [E + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(source, minlength=num_entities))])
