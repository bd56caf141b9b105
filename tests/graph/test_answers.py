"""Answers of queries against a dictionary of sets; ragged rows and binary search against plain loops."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

from tenfold.graph.answers import AnswerIndex
from tenfold.graph.csr import expand, find_sorted, pick

ENTITIES, RELATIONS = 9, 4


def random_triples(seed: int, count: int = 20) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, [ENTITIES, RELATIONS, ENTITIES], (count, 3)))


def every_query() -> tuple[torch.Tensor, torch.Tensor]:
    source, relation = torch.cartesian_prod(torch.arange(ENTITIES), torch.arange(RELATIONS)).unbind(1)
    return source, relation


def known_answers(triples: torch.Tensor) -> dict[tuple[int, int], set[int]]:
    known: dict[tuple[int, int], set[int]] = defaultdict(set)
    for head, relation, tail in triples.tolist():
        known[head, relation].add(tail)
    return known


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_those_of_a_dictionary(seed: int) -> None:
    triples = random_triples(seed)
    known = known_answers(triples)
    index = AnswerIndex.from_triples(torch.cat([triples, triples]), ENTITIES, RELATIONS)
    source, relation = every_query()
    found = index.of(source, relation)
    for number, query in enumerate(zip(source.tolist(), relation.tolist(), strict=True)):
        expected = sorted(known[query])
        assert found.values[found.ptr[number] : found.ptr[number + 1]].tolist() == expected
        assert found.values[found.row == number].tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_membership_is_that_of_a_dictionary(seed: int) -> None:
    triples = random_triples(seed)
    known = known_answers(triples)
    index = AnswerIndex.from_triples(triples, ENTITIES, RELATIONS)
    source, relation = (ids.repeat(2) for ids in every_query())  # every query twice
    row = torch.arange(len(source)).repeat_interleave(ENTITIES)
    entity = torch.arange(ENTITIES).repeat(len(source))
    expected = [
        v in known[s, r] for s, r, v in zip(source[row].tolist(), relation[row].tolist(), entity.tolist(), strict=True)
    ]
    assert index.contains(source[row], relation[row], entity).tolist() == expected
    assert index.contains(source, relation, entity, row).tolist() == expected


def test_no_entity_is_no_answer() -> None:
    index = AnswerIndex.from_triples(torch.tensor([[0, 0, 1], [1, 0, 0]]), 2, 1)
    nobody = torch.tensor([-1, -1, -1])
    assert index.contains(torch.tensor([0, 1, 7]), torch.tensor([0, 0, 0]), nobody).tolist() == [False] * 3


def test_an_index_of_nothing() -> None:
    index = AnswerIndex.from_triples(torch.zeros(0, 3, dtype=torch.int64), 2, 1)
    source = relation = torch.tensor([0, 0])
    assert index.of(source, relation).ptr.tolist() == [0, 0, 0]
    assert not index.contains(source, relation, source).any()
    assert not index.contains(source, relation, source, torch.tensor([0, 1])).any()


def test_rows_are_expanded_in_order() -> None:
    start, count = torch.tensor([5, 0, 9, 2]), torch.tensor([2, 0, 1, 3])
    ptr, row, position = expand(start, count)
    assert ptr.tolist() == [0, 2, 2, 3, 6]
    assert row.tolist() == [0, 0, 2, 3, 3, 3]
    assert position.tolist() == [5, 6, 9, 2, 3, 4]
    ptr, row, position = expand(start[:0], count[:0])
    assert (ptr.tolist(), row.tolist(), position.tolist()) == ([0], [], [])


def test_search_and_pick() -> None:
    keys = torch.tensor([2, 5, 9])
    assert find_sorted(keys, torch.tensor([9, 1, 5, 6, 2, 10])).tolist() == [2, -1, 1, -1, 0, -1]
    assert find_sorted(keys[:0], torch.tensor([1, 2])).tolist() == [-1, -1]
    assert pick(torch.tensor([[1, 2], [3, 4]]), torch.tensor([1, 0, 1])).tolist() == [[3, 4], [1, 2], [3, 4]]
