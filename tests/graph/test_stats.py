"""Distances against a search over sets, and the published table of the prepared graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.graph import stats
from tenfold.graph.edges import Prune
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.stats import distances, graph_stats


def searched(kg: KnowledgeGraph, source: int, target: int, horizon: int) -> int:
    """Breadth-first search over sets."""
    reached = {source}
    for step in range(horizon + 1):
        if target in reached:
            return step
        reached |= {v for u in reached for v in kg.neighbours(u)[1].tolist()}
    return horizon + 1


@pytest.mark.parametrize(
    ("inverse", "max_actions", "prune"), [(True, None, None), (False, None, None), (True, 3, "first")]
)
@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_distances_are_those_of_a_search(
    horizon: int, inverse: bool, max_actions: int | None, prune: Prune | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "SOURCES", 4)  # several rounds
    for seed in range(6):
        triples = np.random.default_rng(seed).integers(0, [10, 2, 10], (9, 3))
        kg = KnowledgeGraph.from_triples(
            triples,
            entity_names=list("abcdefghij"),
            relation_names=["r", "q"],
            inverse=inverse,
            max_actions=max_actions,
            prune=prune,
        )
        source, target = torch.cartesian_prod(torch.arange(10), torch.arange(10)).unbind(1)
        pairs = zip(source.tolist(), target.tolist(), strict=True)
        assert distances(kg, source, target, horizon).tolist() == [searched(kg, *pair, horizon) for pair in pairs]


def test_stats_by_hand() -> None:
    kg = KnowledgeGraph.from_triples(
        [("a", "r", "b"), ("b", "r", "c"), ("a", "r", "a"), ("a", "r", "b")],
        valid=[("a", "q", "c")],
        test=[("a", "r", "d"), ("c", "r", "c"), ("c", "q", "b"), ("e", "r", "d")],
    )
    measured = graph_stats(kg, horizon=2)
    assert (measured.entities, measured.relations) == (5, 2)
    assert measured.triples == {"train": 4, "valid": 1, "test": 4}
    assert (measured.max_degree, measured.mean_degree, measured.median_degree) == (3, 6 / 5, 1)
    assert measured.self_loops == 1
    assert measured.unseen == {"valid": 0, "test": 2}
    assert measured.reachable == {"valid": (0.0, 1.0), "test": (0.5, 0.5)}


def test_stats_of_training_triples_alone() -> None:
    assert graph_stats(KnowledgeGraph.from_triples([("a", "r", "b")])).reachable["test"] == (0.0, 0.0, 0.0)


def test_horizon_is_checked() -> None:
    kg = KnowledgeGraph.from_triples([("a", "r", "b")])
    with pytest.raises(ValueError, match="horizon: got 0, need at least 1"):
        graph_stats(kg, horizon=0)


# entities, relations, sizes, degrees (most, mean, median), self-loops, unseen in test, reachable within 1, 2, 3 steps
TABLE = {
    "umls": (135, 46, (5216, 652, 661), (306, 77, 58), 0, 0, (0.637, 1, 1)),
    "kinship": (104, 25, (8544, 1068, 1074), (174, 164, 164.5), 0, 0, (0.815, 1, 1)),
    "wn18rr": (40943, 11, (86835, 3034, 3134), (482, 4.2, 3), 7, 210, (0.350, 0.443, 0.657)),
    "nell-995": (75492, 200, (149678, 543, 3992), (2411, 4.0, 1), 42, 1159, (0.291, 0.413, 0.672)),
    "fb15k-237": (14541, 237, (272115, 17535, 20466), (7614, 37.4, 22), 1625, 28, (0.004,)),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_prepared_graphs_are_those_of_the_table(name: str, data_dir: Path) -> None:
    entities, relations, sizes, (most, mean, median), self_loops, unseen, reachable = TABLE[name]
    kg = KnowledgeGraph.from_tsv(data_dir / "06-kg-ssrl" / name)
    measured = graph_stats(kg, horizon=len(reachable))
    assert (measured.entities, measured.relations, tuple(measured.triples.values())) == (entities, relations, sizes)
    digits = 0 if mean > 50 else 1
    assert (measured.max_degree, round(measured.mean_degree, digits), measured.median_degree) == (most, mean, median)
    assert (measured.self_loops, measured.unseen["test"]) == (self_loops, unseen)
    assert tuple(round(share, 3) for share in measured.reachable["test"]) == reachable
    # Rows and their search keys, nothing as wide as the largest degree: 886 MB would be a table for fb15k-237.
    assert kg.nbytes <= 12e6
    assert kg.nbytes == 8 * (kg.num_entities + 1) + 16 * (kg.num_edges + kg.num_entities)


@pytest.mark.slow
def test_almost_all_answers_of_fb15k_237_are_within_three_steps(data_dir: Path) -> None:
    kg = KnowledgeGraph.from_tsv(data_dir / "06-kg-ssrl" / "fb15k-237")
    assert graph_stats(kg).reachable["test"] == pytest.approx((0.0044464, 0.7384931, 0.9968729), abs=1e-7)
