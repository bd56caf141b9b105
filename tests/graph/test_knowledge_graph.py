"""Names and ids, look-ups, files of graphs and damage to them, and the prepared graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.synthetic import synthetic_kg

TRAIN = [("b", "likes", "a"), ("a", "sees", "c"), ("b", "likes", "c"), ("c", "sees", "c")]
TEST = [("d", "likes", "a"), ("a", "hears", "b")]


@pytest.fixture
def kg() -> KnowledgeGraph:
    return KnowledgeGraph.from_triples(TRAIN, test=TEST)


def test_names_are_numbered_in_sorted_order(kg: KnowledgeGraph) -> None:
    assert kg.entity_names == ("a", "b", "c", "d")
    assert kg.relation_names == ("hears", "likes", "sees", "hears_inv", "likes_inv", "sees_inv")
    assert (kg.num_entities, kg.num_relations, kg.no_op, kg.start, kg.relation_rows) == (4, 3, 6, 7, 9)
    assert kg.splits["train"].tolist() == [[1, 1, 0], [0, 2, 2], [1, 1, 2], [2, 2, 2]]
    assert kg.splits["test"].tolist() == [[3, 1, 0], [0, 0, 1]]
    assert kg.splits["valid"].shape == (0, 3)
    assert [kg.entity_id(name) for name in "dcba"] == [3, 2, 1, 0]
    assert [kg.relation_id(name) for name in ("sees", "sees_inv")] == [2, 5]


def test_only_training_triples_are_edges(kg: KnowledgeGraph) -> None:
    assert kg.num_edges == 8
    assert kg.degrees.tolist() == [2, 2, 4, 0]
    rel, dst = kg.neighbours(2)
    assert list(zip(rel.tolist(), dst.tolist(), strict=True)) == [(2, 2), (4, 1), (5, 0), (5, 2)]
    assert [tensor.tolist() for tensor in kg.neighbours(3)] == [[], []]


def test_without_inverses() -> None:
    kg = KnowledgeGraph.from_triples(TRAIN, test=TEST, inverse=False)
    assert kg.relation_names == ("hears", "likes", "sees")
    assert (kg.num_relations, kg.no_op, kg.num_edges, kg.degrees.tolist()) == (3, 6, 4, [1, 2, 1, 0])
    into, edge = kg.incoming
    came_from = [kg.sources[edge[into[u] : into[u + 1]]].tolist() for u in range(4)]
    assert came_from == [[0, 1], [1], [0, 1, 2, 2], [3]]


def test_a_graph_of_its_own_is_walked_instead() -> None:
    kg = KnowledgeGraph.from_triples([("a", "x", "b")], graph=[("b", "y", "c")])
    assert kg.degrees.tolist() == [0, 1, 1]
    assert kg.splits["graph"].tolist() == [[1, 1, 2]]


def test_edges_are_found(kg: KnowledgeGraph) -> None:
    everything = torch.cartesian_prod(torch.arange(4), torch.arange(7), torch.arange(4)).unbind(1)
    found = kg.find(*everything)
    edges = list(zip(kg.sources.tolist(), kg.rel.tolist(), kg.dst.tolist(), strict=True))
    wanted = zip(*(ids.tolist() for ids in everything), strict=True)
    assert found.tolist() == [edges.index(edge) if edge in edges else -1 for edge in wanted]
    unknown = torch.tensor([-1, 0, 3]), torch.tensor([0, 0, 0]), torch.tensor([0, -1, -1])
    assert kg.find(*unknown).tolist() == [-1, -1, -1]


def test_an_inverse_has_an_inverse(kg: KnowledgeGraph) -> None:
    assert kg.inverse(torch.arange(7)).tolist() == [3, 4, 5, 0, 1, 2, 6]


def test_answers_of_splits(kg: KnowledgeGraph) -> None:
    likes, hears = torch.tensor([1]), torch.tensor([0])
    assert kg.answers("train").of(torch.tensor([1]), likes).values.tolist() == [0, 2]
    assert kg.answers("train").of(torch.tensor([0]), kg.inverse(likes)).values.tolist() == [1]
    assert kg.answers("train").of(torch.tensor([0]), hears).values.tolist() == []
    assert kg.answers("train", "test").of(torch.tensor([0]), kg.inverse(likes)).values.tolist() == [1, 3]
    assert kg.answers().of(torch.tensor([0]), hears).values.tolist() == [1]
    forward = KnowledgeGraph.from_triples(TRAIN, inverse=False)
    assert forward.answers("train").of(torch.tensor([0]), torch.tensor([0 + 2])).values.tolist() == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda kg: kg.entity_id("asprin"), "unknown entity 'asprin'; nearest: 'aspirin'"),
        (lambda kg: kg.relation_id("treat"), "unknown relation 'treat'; nearest: 'treats'"),
        (lambda kg: kg.relation_id("treats_in"), "unknown relation 'treats_in'; nearest: 'treats_inv'"),
        (lambda kg: kg.entity_id(""), "unknown entity ''; no name is near"),
    ],
)
def test_unknown_names_say_the_nearest(ask: Callable[[KnowledgeGraph], int], message: str) -> None:
    kg = KnowledgeGraph.from_triples([("aspirin", "treats", "headache")])
    with pytest.raises(KeyError) as caught:
        ask(kg)
    assert str(caught.value) == message
    assert isinstance(caught.value, UserError)


def test_triples_of_ids() -> None:
    rows = [[0, 0, 1], [1, 0, 2], [2, 1, 0]]
    for triples in (rows, np.array(rows, dtype=np.int32), torch.tensor(rows)):
        kg = KnowledgeGraph.from_triples(triples)
        assert (kg.entity_names, kg.relation_names) == (("0", "1", "2"), ("0", "1", "0_inv", "1_inv"))
        assert kg.splits["train"].tolist() == rows
    named = KnowledgeGraph.from_triples(rows, entity_names=["z", "y", "x", "w"], relation_names=["r", "q"])
    assert (named.entity_names[0], named.num_entities, named.relation_names[3]) == ("z", 4, "q_inv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": []}, "no triples in train"),
        ({"train": [(0, 0, 1)], "graph": []}, "no triples in graph"),
        ({"train": [(0, 0)]}, r"train: got shape \[1, 2\]"),
        ({"train": [(0, 0, -1)]}, "train: got shape .* from -1, need ids .* from 0"),
        ({"train": [(0, 0, 1)], "entity_names": ["a"]}, "entity_names: got 1 names, need one for id 1"),
        ({"train": [(0, 2, 1)], "relation_names": ["r"]}, "relation_names: got 1 names, need one for id 2"),
        ({"train": [(0, 0, 1)], "entity_names": ["a", "a"]}, "entity_names: got a name twice"),
        ({"train": [(0, 0, 1)], "relation_names": ["r_inv"]}, "relation_names: got a name that ends in _inv"),
        ({"train": [("a", "r", "b")], "entity_names": ["a", "b"]}, "entity_names, relation_names: got them beside"),
        ({"train": [(0, 0, 1)], "max_actions": 1, "prune": "first"}, "max_actions: got 1, need at least 2"),
    ],
)
def test_wrong_arguments_name_field_and_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeGraph.from_triples(**arguments)


def test_inverse_names_that_pair_are_inverses() -> None:
    forward = [("a", "r", "b"), ("b", "r", "c")]
    backward = [("b", "r_inv", "a"), ("c", "r_inv", "b")]
    kg = KnowledgeGraph.from_triples(forward + backward, test=[("c", "r_inv", "a")])
    plain = KnowledgeGraph.from_triples(forward)
    for name in ("indptr", "rel", "dst"):
        assert torch.equal(getattr(kg, name), getattr(plain, name))
    assert kg.relation_names == ("r", "r_inv")
    assert kg.splits["test"].tolist() == [[2, 1, 0]]


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ([("a", "r_inv", "b")], "relation 'r_inv': ends in _inv, .* no relation 'r'; rename it, or .*inverse=False"),
        ([("a", "r", "b"), ("b", "r_inv_inv", "a")], "relation 'r_inv_inv': ends in _inv.* no relation 'r_inv'"),
        ([("a", "r", "b"), ("a", "r_inv", "b")], "relation 'r_inv': its edges are not those of 'r' turned round"),
        ([("a", "r", "b"), ("b", "r", "c"), ("b", "r_inv", "a")], "relation 'r_inv': its edges are not those of 'r'"),
    ],
)
def test_inverse_names_that_do_not_pair_are_refused(triples: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeGraph.from_triples(triples)
    assert KnowledgeGraph.from_triples(triples, inverse=False).num_edges == len(triples)


def test_saved_graphs_come_back(tmp_path: Path, kg: KnowledgeGraph) -> None:
    cut = KnowledgeGraph.from_triples(TRAIN, graph=TRAIN, inverse=False, max_actions=2, prune="first")
    for graph in (kg, cut, synthetic_kg(seed=1)):
        graph.save(tmp_path / "graph.npz")
        back = KnowledgeGraph.load(tmp_path / "graph.npz")
        assert (back.entity_names, back.relation_names) == (graph.entity_names, graph.relation_names)
        assert (back.doubled, back.num_relations) == (graph.doubled, graph.num_relations)
        for name in ("indptr", "rel", "dst"):
            assert torch.equal(getattr(back, name), getattr(graph, name))
        assert back.splits.keys() == graph.splits.keys()
        assert all(torch.equal(back.splits[name], graph.splits[name]) for name in graph.splits)


def test_saved_graphs_are_no_pickles(tmp_path: Path, kg: KnowledgeGraph) -> None:
    kg.save(tmp_path / "graph.npz")
    with np.load(tmp_path / "graph.npz", allow_pickle=False) as file:
        assert {file[name].dtype.kind for name in file.files} <= {"i", "u"}


def change(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    def apply(arrays: dict) -> None:
        arrays[name] = value(arrays[name].copy())

    return apply


def rename(field: str, value: object) -> Callable[[dict], None]:
    def apply(arrays: dict) -> None:
        names = json.loads(arrays["names"].tobytes()) | {field: value}
        arrays["names"] = np.frombuffer(json.dumps(names).encode(), np.uint8)

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("rel"),
        lambda arrays: arrays.pop("names"),
        change("rel", lambda rel: rel.astype(np.int64)),
        change("rel", lambda rel: rel[:-1]),
        change("rel", lambda rel: rel[::-1].copy()),
        change("rel", lambda rel: rel + 1),
        change("rel", lambda rel: np.where(rel == 6, 0, rel).astype(np.int32)),
        change("dst", lambda dst: dst + 1),
        change("dst", lambda dst: dst - 1),
        change("dst", lambda dst: dst[:-1]),
        change("indptr", lambda indptr: indptr[:-1]),
        change("indptr", lambda indptr: indptr[::-1].copy()),
        change("indptr", lambda indptr: indptr + 1),
        change("indptr", np.zeros_like),
        change("split_train", lambda triples: triples + 4),
        change("split_train", lambda triples: triples[:, :2]),
        change("split_test", lambda triples: triples - 9),
        rename("entities", ["a", "b", "c"]),
        rename("entities", ["a", "b", "c", "c"]),
        rename("entities", ["a", "b", "c", 4]),
        rename("relations", ["likes"]),
        rename("relations", ["a", "b", "c", "d", "e", "f", "g"]),
        rename("relations", ["a", "b", "c", "d", "e", "e"]),
        lambda arrays: arrays.pop("split_valid"),
        rename("relations", None),
    ],
)
def test_damaged_graphs_are_refused(tmp_path: Path, kg: KnowledgeGraph, damage: Callable[[dict], None]) -> None:
    file = tmp_path / "graph.npz"
    kg.save(file)
    with np.load(file, allow_pickle=False) as saved:
        arrays = dict(saved)
    damage(arrays)
    np.savez(file, **arrays)
    with pytest.raises(UserError, match=rf"{file}: no saved graph \("):
        KnowledgeGraph.load(file)


@pytest.mark.parametrize("content", [None, b"", b"no graph", b"PK\x03\x04 torn"])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "graph.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: no saved graph \("):
        KnowledgeGraph.load(file)


def test_a_torn_graph_is_refused(tmp_path: Path, kg: KnowledgeGraph) -> None:
    file = tmp_path / "graph.npz"
    kg.save(file)
    whole = file.read_bytes()
    for end in range(0, len(whole), 97):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match="no saved graph"):
            KnowledgeGraph.load(file)
