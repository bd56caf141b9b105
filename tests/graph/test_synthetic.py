"""The graph of two rules: exactly the queries that the rules give, and a way to every answer."""

from __future__ import annotations

import pytest
import torch

from tenfold.graph.stats import graph_stats
from tenfold.graph.synthetic import synthetic_kg


@pytest.mark.parametrize("seed", range(3))
def test_q_holds_where_a_path_leads(seed: int) -> None:
    kg = synthetic_kg("rules", seed, entities=30)
    matrix = torch.zeros(4, 30, 30, dtype=torch.int64)
    for triples in kg.splits.values():
        matrix[triples[:, 1], triples[:, 0], triples[:, 2]] += 1
    a, b, c, q = matrix
    assert matrix.max() == 1  # the splits have no triple in common
    assert torch.equal(q > 0, (a @ b + b @ c @ a) > 0)


def test_only_q_is_held_out_and_all_of_it_can_be_reached() -> None:
    kg = synthetic_kg(seed=0)
    held_out = torch.cat([kg.splits["valid"], kg.splits["test"]])
    assert set(held_out[:, 1].tolist()) == {kg.relation_id("q")}
    trained = int((kg.splits["train"][:, 1] == kg.relation_id("q")).sum())
    assert len(held_out) == round(0.3 * (len(held_out) + trained)) > 50
    assert graph_stats(kg, 3).reachable["test"][2] == graph_stats(kg, 3).reachable["valid"][2] == 1


def test_the_seed_decides() -> None:
    one, again, other = synthetic_kg(seed=1), synthetic_kg(seed=1), synthetic_kg(seed=2)
    assert all(torch.equal(one.splits[name], again.splits[name]) for name in one.splits)
    assert one.splits["train"].tolist() != other.splits["train"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "walks"}, "kind: got 'walks', need 'rules'"),
        ({"entities": 1}, "got entities=1"),
        ({"degree": 0.0}, r"degree=0\.0"),
        ({"held_out": 1.0}, r"held_out=1\.0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_kg(**arguments)
