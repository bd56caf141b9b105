"""A small graph whose truth is known: one relation follows from the others by two rules."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.graph.edges import Ints
from tenfold.graph.knowledge_graph import KnowledgeGraph

RELATIONS = ("a", "b", "c", "q")


def synthetic_kg(
    kind: Literal["rules"] = "rules", seed: int = 0, *, entities: int = 80, degree: float = 1.2, held_out: float = 0.3
) -> KnowledgeGraph:
    """Random edges a, b and c; (s, q, t) holds if and only if a path a∘b or b∘c∘a leads from s to t.

    The q edges held out are halved into validation and test; their paths stay in the graph, so every one of them
    can be answered within three steps.

    Args:
        kind: the only one there is.
        seed: of the edges and of those held out.
        entities: E, at least 2.
        degree: mean edges of each of a, b and c that leave an entity.
        held_out: share of the q edges that are not trained on, in [0, 1).
    """
    if kind != "rules":
        raise ValueError(f"kind: got {kind!r}, need 'rules'")
    if entities < 2 or degree <= 0 or not 0 <= held_out < 1:
        raise ValueError(f"got {entities=}, {degree=}, {held_out=}; need >= 2, > 0, in [0, 1)")
    generator = np.random.default_rng(seed)
    a, b, c = generator.random((3, entities, entities)) < degree / entities
    q = (a @ b) | (b @ c @ a)
    facts = np.concatenate([_triples(matrix, relation) for relation, matrix in enumerate((a, b, c))])
    queries = generator.permutation(_triples(q, RELATIONS.index("q")))
    kept = len(queries) - round(held_out * len(queries))
    valid, test = np.array_split(queries[kept:], 2)
    return KnowledgeGraph.from_triples(
        np.concatenate([facts, queries[:kept]]),
        valid,
        test,
        entity_names=[f"e{number}" for number in range(entities)],
        relation_names=RELATIONS,
    )


def _triples(matrix: NDArray[np.bool_], relation: int) -> Ints:
    """(head, relation, tail) [n, 3] for every true entry."""
    return np.insert(np.argwhere(matrix), 1, relation, axis=1)
