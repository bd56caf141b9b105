"""Rules against counts by hand, and the rules of a graph whose truth is known."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.rules import Rule, mine_rules, save_rules
from tenfold.graph.synthetic import synthetic_kg


@pytest.fixture
def kg() -> KnowledgeGraph:
    return KnowledgeGraph.from_triples(
        [
            ("x", "aunt", "y"),
            ("x", "aunt", "z"),
            ("x", "mother", "m"),
            ("m", "sister", "y"),
            ("m", "sister", "w"),
            ("w", "aunt", "w"),
        ]
    )


def walks(kg: KnowledgeGraph, *paths: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walks such as "x aunt: mother sister . y", a dot for staying."""
    source, relation, path, end = [], [], [], []
    for walk in paths:
        query, steps = walk.split(": ")
        *names, last = steps.split()
        source.append(kg.entity_id(query.split()[0]))
        relation.append(kg.relation_id(query.split()[1]))
        path.append([kg.no_op if name == "." else kg.relation_id(name) for name in names])
        end.append(-1 if last == "-" else kg.entity_id(last))
    return torch.tensor(source), torch.tensor(relation), torch.tensor(path), torch.tensor(end)


def test_counts_by_hand(kg: KnowledgeGraph) -> None:
    given = walks(
        kg,
        "x aunt: mother sister . y",  # true
        "x aunt: mother . sister y",  # the same pair by the same rule
        "x aunt: . mother sister w",  # false, or not known
        "x aunt: aunt . . z",
        "w aunt: . . . w",  # true, but no rule
        "x aunt: mother sister . -",  # no walk
        "x mother: mother . . m",
    )
    aunt, mother, sister = (kg.relation_id(name) for name in ("aunt", "mother", "sister"))
    rules = mine_rules(kg, *given, min_support=1)
    assert rules == [
        Rule(aunt, (aunt,), 1, 1),
        Rule(aunt, (mother, sister), 1, 2),
        Rule(mother, (mother,), 1, 1),
    ]
    assert [rule.confidence for rule in rules] == [1, 0.5, 1]
    assert rules[1].text(kg) == "aunt(x, y) <- mother(x, z1), sister(z1, y)"
    assert mine_rules(kg, *given) == []  # support 2 by default
    assert mine_rules(kg, *(column[:0] for column in given)) == []


def test_the_rules_of_a_known_world_come_out() -> None:
    kg = synthetic_kg("rules", 0)
    a, b, c, q = (kg.relation_id(name) for name in "abcq")
    asked = kg.splits["train"][kg.splits["train"][:, 1] == q]
    env, generator = WalkEnv(kg, 3, targets="all"), torch.Generator().manual_seed(0)
    state = env.reset(*asked.T, rollouts=300)
    for _ in range(3):
        actions = env.actions(state)
        number = (torch.rand(len(state), generator=generator) * actions.ptr.diff()).long()
        state = env.step(state, actions.ptr[:-1] + number)
    rules = mine_rules(kg, state.source, state.relation, state.path_rel, state.node, known=kg.answers(), min_support=20)
    assert {rule.body for rule in rules if rule.confidence == 1} == {(a, b), (b, c, a)}
    assert all(rule.confidence < 0.9 for rule in rules[2:])
    order = [(-rule.confidence, -rule.support) for rule in rules]
    assert order == sorted(order) and len(order) > 2


def test_csv(kg: KnowledgeGraph, tmp_path: Path) -> None:
    odd = KnowledgeGraph.from_triples([("x", 'is, "of"', "y")])
    save_rules([Rule(0, (0, 1), 3, 4)], odd, tmp_path / "rules.csv")
    with open(tmp_path / "rules.csv", newline="") as file:
        head, row = csv.reader(file)
    assert head == ["head", "body", "support", "pairs", "confidence"]
    assert row == ['is, "of"', 'is, "of" / is, "of"_inv', "3", "4", "0.7500"]
