"""What a graph is like before anything is trained: sizes, degrees, and how many answers can be reached at all."""

# Shape legend: n queries

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.graph.csr import expand
from tenfold.graph.knowledge_graph import KnowledgeGraph

SOURCES = 64  # whose reached entities are marked at once, one byte an entity


@dataclass(frozen=True)
class GraphStats:
    """Section 4's table for one graph."""

    entities: int
    relations: int
    triples: dict[str, int]  # split: its size
    max_degree: int  # edges with inverses
    mean_degree: float
    median_degree: float
    self_loops: int  # training triples from an entity to itself
    unseen: dict[str, int]  # valid, test: triples with an entity that no training triple has
    reachable: dict[str, tuple[float, ...]]  # valid, test: share of answers within 1, 2, .. steps


def graph_stats(kg: KnowledgeGraph, horizon: int = 3) -> GraphStats:
    """Measure a graph.

    Args:
        kg: the graph.
        horizon: the longest walk that `reachable` counts.
    """
    degrees = kg.degrees.double()
    train = kg.splits["train"]
    seen = torch.zeros(kg.num_entities, dtype=torch.bool)
    seen[train[:, [0, 2]]] = True
    held_out = {name: kg.splits[name] for name in ("valid", "test")}
    return GraphStats(
        entities=kg.num_entities,
        relations=kg.num_relations,
        triples={name: len(triples) for name, triples in kg.splits.items()},
        max_degree=int(degrees.max()),
        mean_degree=float(degrees.mean()),
        median_degree=float(degrees.quantile(0.5)),
        self_loops=int((train[:, 0] == train[:, 2]).sum()),
        unseen={name: int((~seen[triples[:, [0, 2]]]).any(1).sum()) for name, triples in held_out.items()},
        reachable={name: _shares(kg, triples, horizon) for name, triples in held_out.items()},
    )


def distances(kg: KnowledgeGraph, source: Tensor, target: Tensor, horizon: int) -> Tensor:
    """Steps of the shortest walk from source to target [n] int64; horizon + 1 where that is longer.

    Args:
        source, target: entity ids [n].
        horizon: the longest walk looked for.
    """
    if horizon < 1:
        raise ValueError(f"horizon: got {horizon}, need at least 1")
    steps = torch.full_like(source, horizon + 1)
    into, edge = kg.incoming
    came_from = kg.sources[edge]
    sources, place = torch.unique(source, return_inverse=True)
    for first in range(0, len(sources), SOURCES):
        part = ((place >= first) & (place < first + SOURCES)).nonzero().squeeze(1)
        row, goal = place[part] - first, target[part]
        steps[part] = _from_sources(kg, into, came_from, sources[first : first + SOURCES], row, goal, horizon)
    return steps


def _from_sources(
    kg: KnowledgeGraph, into: Tensor, came_from: Tensor, sources: Tensor, row: Tensor, goal: Tensor, horizon: int
) -> Tensor:
    """`distances` from sources[row] to goal: level by level from the sources, the last step back from the goals."""
    width = kg.num_entities
    fresh = torch.arange(len(sources)) * width + sources  # marks that the last level set
    reached = torch.zeros(len(sources) * width, dtype=torch.bool)
    reached[fresh] = True
    steps = torch.full_like(goal, horizon + 1)
    steps[sources[row] == goal] = 0
    for step in range(1, horizon + 1):
        far = (steps > step).nonzero().squeeze(1)
        _, query, at = expand(into[goal[far]], into.diff()[goal[far]])
        hit = reached[row[far[query]] * width + came_from[at]]
        steps[far[query[hit]]] = step
        if step < horizon:
            node = fresh % width
            _, place, edge = expand(kg.indptr[node], kg.indptr.diff()[node])
            before = reached.clone()
            reached[(fresh - node)[place] + kg.dst[edge]] = True
            fresh = (reached & ~before).nonzero().squeeze(1)
    return steps


def _shares(kg: KnowledgeGraph, triples: Tensor, horizon: int) -> tuple[float, ...]:
    """Share of answers within 1, 2, .. horizon steps; 0 where there are no triples."""
    steps = distances(kg, triples[:, 0], triples[:, 2], horizon)
    return tuple(float((steps <= limit).sum()) / max(1, len(steps)) for limit in range(1, horizon + 1))
