"""Rows of edges: order, inverses, stays; cuts of long rows by hand; PageRank against a published implementation."""

from __future__ import annotations

import itertools
from collections import defaultdict

import networkx
import numpy as np
import pytest

from tenfold.graph.edges import Prune, build_rows, edge_key, pagerank

STAY = 4  # with two relations
TRIPLES = np.array([[0, 1, 2], [0, 0, 1], [1, 0, 0], [0, 1, 2], [2, 1, 2]])


def rows_of(
    triples: np.ndarray, entities: int = 4, relations: int = 2, inverse: bool = True, **cut: object
) -> list[list[tuple[int, int]]]:
    indptr, rel, dst = build_rows(triples, entities, relations, inverse=inverse, **cut)
    edges = list(zip(rel.tolist(), dst.tolist(), strict=True))
    return [edges[first:last] for first, last in itertools.pairwise(indptr)]


def test_rows_by_hand() -> None:
    assert rows_of(TRIPLES) == [
        [(STAY, 0), (0, 1), (1, 2), (2, 1)],
        [(STAY, 1), (0, 0), (2, 0)],
        [(STAY, 2), (1, 2), (3, 0), (3, 2)],
        [(STAY, 3)],
    ]
    assert rows_of(TRIPLES, inverse=False) == [
        [(STAY, 0), (0, 1), (1, 2)],
        [(STAY, 1), (0, 0)],
        [(STAY, 2), (1, 2)],
        [(STAY, 3)],
    ]


def test_inverse_relations_of_the_triples_give_the_same_rows() -> None:
    turned = TRIPLES.copy()
    turned[1] = [1, 2, 0]  # (0, 0, 1) from its other end
    assert rows_of(turned) == rows_of(TRIPLES)


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_a_dictionary(seed: int, inverse: bool) -> None:
    triples = np.random.default_rng(seed).integers(0, [6, 3, 6], (15, 3))
    expected: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for head, relation, tail in triples.tolist():
        expected[head].add((relation, tail))
        if inverse:
            expected[tail].add((relation + 3, head))
    assert rows_of(triples, 6, 3, inverse) == [[(6, u), *sorted(expected[u])] for u in range(6)]


def test_keys_follow_the_order_of_the_rows() -> None:
    indptr, rel, dst = build_rows(TRIPLES, 4, 2)
    source = np.repeat(np.arange(4), np.diff(indptr))
    keys = edge_key(source, rel.astype(np.int64), dst.astype(np.int64), 4, 2)
    assert (np.diff(keys) > 0).all()


def test_first_edges_of_the_file_are_kept() -> None:
    # of entity 0 in order: (1, 2); (0, 1); as the inverse of (1, 0, 0), (2, 1)
    assert rows_of(TRIPLES, max_actions=2, prune="first")[0] == [(STAY, 0), (1, 2)]
    assert rows_of(TRIPLES, max_actions=3, prune="first")[0] == [(STAY, 0), (0, 1), (1, 2)]
    assert rows_of(TRIPLES, max_actions=4, prune="first") == rows_of(TRIPLES)


def star() -> np.ndarray:
    """Entity 0 beside 1, 2 and 3; 3 is beside 4 and 5 as well, and 2 beside 4."""
    return np.array([[0, 0, 1], [0, 0, 2], [0, 0, 3], [3, 0, 4], [3, 0, 5], [2, 0, 4]])


def test_targets_of_high_pagerank_are_kept() -> None:
    cut = rows_of(star(), 6, 1, max_actions=2, prune="pagerank")
    assert cut[0] == [(2, 0), (0, 2), (0, 3)]
    assert cut[3] == [(2, 3), (0, 4), (1, 0)]
    assert cut[1] == [(2, 1), (1, 0)]
    assert rows_of(star(), 6, 1, max_actions=3, prune="pagerank") == rows_of(star(), 6, 1)


@pytest.mark.parametrize("prune", ["first", "pagerank"])
def test_a_cut_graph_is_part_of_the_whole(prune: Prune) -> None:
    triples = np.random.default_rng(0).integers(0, [8, 2, 8], (60, 3))
    whole = rows_of(triples, 8)
    for limit in (2, 5, 9):
        cut = rows_of(triples, 8, max_actions=limit, prune=prune)
        longest = limit if prune == "first" else limit + 1
        for some, all_ in zip(cut, whole, strict=True):
            assert len(some) == min(len(all_), longest)
            assert some == [edge for edge in all_ if edge in some]


@pytest.mark.parametrize("seed", range(3))
def test_pagerank_is_that_of_networkx(seed: int) -> None:
    generator = np.random.default_rng(seed)
    source, target = generator.integers(0, 9, 30), generator.integers(0, 12, 30)  # 9, 10 and 11 lead nowhere
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(range(12))
    graph.add_edges_from(zip(source.tolist(), target.tolist(), strict=True))
    expected = networkx.pagerank(graph, tol=1e-12, max_iter=500)
    np.testing.assert_allclose(pagerank(source, target, 12), [expected[u] for u in range(12)], atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_actions": 1, "prune": "first"}, "max_actions: got 1, need at least 2"),
        ({"max_actions": 5}, "max_actions, prune: got 5 and None, need both or neither"),
        ({"prune": "first"}, "max_actions, prune: got None and 'first', need both or neither"),
        ({"max_actions": 5, "prune": "last"}, "prune: got 'last', need 'first', 'pagerank' or None"),
        ({"entities": 1 << 31, "relations": 1}, r"got 2147483648 entities and 1 relations, need E²\(2R \+ 1\) < 2\^63"),
    ],
)
def test_wrong_arguments_name_field_and_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(TRIPLES, **arguments)
