"""Answers of a walker whose every score is known, saved folders, and what they say to bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.graph.environment import Actions, State
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy
from tenfold.graph.reasoner import Answer, Reasoner, Step

POLICIES: list[Callable[[KnowledgeGraph], Any]] = [
    lambda kg: MinervaPolicy(kg, dim=3, hidden=5),
    lambda kg: MinervaPolicy(kg, dim=4, hidden=2, use_entity=True, layers=2),
    lambda kg: MultiHopPolicy(kg, dim=4, history=3, layers=2, emb_dropout=0.3, ff_dropout=0.1),
    lambda kg: MultiHopPolicy(kg, dim=5, history=5, layers=1, relation_only=True),
]


class Preferring:
    """A walker that weighs actions by their relation alone, however it came."""

    def __init__(self, kg: KnowledgeGraph, **weights: float) -> None:
        self.logit = torch.zeros(kg.relation_rows)
        for name, weight in weights.items():
            self.logit[kg.no_op if name == "stay" else kg.relation_id(name)] = math.log(weight)

    def init(self, state: State) -> None:
        return None

    def logits(self, state: State, hidden: None, actions: Actions) -> Tensor:
        return self.logit[actions.rel]

    def advance(self, hidden: None, relation: Tensor, node: Tensor) -> None:
        return None

    def select(self, hidden: None, rows: Tensor) -> None:
        return None


@pytest.fixture
def kg() -> KnowledgeGraph:
    """aspirin inhibits cox, cox causes pain, aspirin treats pain; nothing leads to or from zinc."""
    train = [("aspirin", "inhibits", "cox"), ("cox", "causes", "pain"), ("aspirin", "treats", "pain")]
    return KnowledgeGraph.from_triples(train, test=[("zinc", "treats", "pain")])


@pytest.fixture
def model(kg: KnowledgeGraph) -> Reasoner:
    """An action has its weight's share of those of its row: 3 for `treats`, 2 for `causes` and staying, else 1."""
    return Reasoner(Preferring(kg, treats=3, causes=2, stay=2), kg, horizon=2)


def test_an_answer_by_hand(model: Reasoner) -> None:
    # aspirin: stay 2, inhibits 1, treats 3. pain: stay 2, causes_inv 1, treats_inv 1. cox: stay 2, causes 2, inhibits_inv 1.
    best, *rest = model.answer("aspirin", "treats")
    assert best == Answer(
        source="aspirin",
        relation="treats",
        entity="pain",
        score=pytest.approx(math.log(3 / 6 * 2 / 4)),
        prob=best.prob,
        path=[("treats", "pain")],
        known=True,
    )
    assert [answer.entity for answer in rest] == ["aspirin", "cox"]
    assert sum(answer.prob for answer in (best, *rest)) == pytest.approx(1)
    assert best.prob / rest[0].prob == pytest.approx(math.exp(best.score - rest[0].score))
    assert str(best) == f"pain  {best.prob:.1%} [known]  aspirin -treats-> pain"


def test_staying_is_not_shown_and_inverses_are(model: Reasoner) -> None:
    (pain, cox, *_) = model.answer("pain", "treats_inv", k=3)
    assert {answer.entity: answer.path for answer in (pain, cox)}["aspirin"] == [("treats_inv", "aspirin")]
    itself = next(answer for answer in model.answer("cox", "treats", 9) if answer.entity == "cox")
    assert "cox" not in [entity for _, entity in itself.path[:-1]]


def test_known_answers_are_kept_or_must_be_found_by_another_way(model: Reasoner) -> None:
    def paths(**options: Any) -> dict[str, Any]:
        return {answer.entity: (answer.path, answer.known) for answer in model.answer("aspirin", "treats", **options)}

    assert paths()["pain"] == ([("treats", "pain")], True)
    assert paths(known="mask")["pain"] == ([("inhibits", "cox"), ("causes", "pain")], True)


def test_names_ids_and_batches_are_one(model: Reasoner, kg: KnowledgeGraph) -> None:
    sources, relations = ["aspirin", "pain", "zinc"], ["treats", "causes_inv", "inhibits"]
    expected = [model.answer(s, r) for s, r in zip(sources, relations, strict=True)]
    ids = [kg.entity_id(name) for name in sources], [kg.relation_id(name) for name in relations]
    assert model.answer(sources, relations) == expected
    assert model.answer(*ids) == expected
    assert model.answer(*map(torch.tensor, ids)) == expected
    assert model.answer(np.array(ids[0]), relations) == expected
    assert model.answer(ids[0][0], "treats") == expected[0]
    assert model.answer(sources, "treats")[0] == expected[0]
    assert model.answer([], "treats") == []
    assert model.answer(["aspirin"], "treats") == [expected[0]]


def test_an_entity_without_an_edge_answers_itself(model: Reasoner) -> None:
    (answer,) = model.answer("zinc", "treats", k=9)
    assert (answer.entity, answer.path, answer.isolated, answer.known) == ("zinc", [], True, False)
    assert (answer.score, answer.prob) == (0, 1)
    assert str(answer) == "zinc  100.0% [isolated]  zinc (is itself)"


def test_one_answer_is_one_line(kg: KnowledgeGraph) -> None:
    assert "\n" not in str(Answer("a\nb", "r\r", "c\u2028d", 0.0, 1.0, [("r\n", "c\u2028d")]))


def test_steps_of_a_training_triple(model: Reasoner) -> None:
    answers = model.answer("aspirin", "treats", steps=True)
    pain = answers[0]
    # The edge in question is masked: two actions are left at the source, and only one of them can still arrive.
    assert pain.steps == [
        Step("aspirin", "treats", "pain", [("inhibits", "cox")], 2),
        Step("pain", "NO_OP", "pain", [("NO_OP", "pain")], 2),
    ]
    assert all(answer.steps is None for answer in answers[1:])
    (masked,) = (a for a in model.answer("aspirin", "treats", known="mask", steps=True) if a.known)
    assert masked.steps == [
        Step("aspirin", "inhibits", "cox", [("inhibits", "cox")], 2),
        Step("cox", "causes", "pain", [("causes", "pain")], 3),
    ]
    batch = model.answer(["zinc", "aspirin", "cox"], ["treats", "treats", "causes"], steps=True)
    assert batch[1] == answers
    assert [len(a.steps) for a in batch[2] if a.steps] == [2]


def test_a_walk_that_only_the_edge_in_question_saves_has_no_positive_action() -> None:
    kg = KnowledgeGraph.from_triples([("a", "r", "b"), ("a", "q", "c"), ("c", "p", "b")])
    model = Reasoner(Preferring(kg, r_inv=9, q=0.1), kg, horizon=2)
    (b,) = (answer for answer in model.answer("a", "r", steps=True) if answer.entity == "b")
    assert b.steps == [Step("a", "NO_OP", "a", [("q", "c")], 2), Step("a", "r", "b", [], 2)]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("asprin", "treats"), {}, KeyError, "unknown entity 'asprin'; nearest: 'aspirin'"),
        (("aspirin", "treat_inv"), {}, KeyError, "unknown relation 'treat_inv'; nearest: 'treats_inv'"),
        ((4, "treats"), {}, ValueError, r"entity: got id 4, need 0\.\.3"),
        ((0, -1), {}, ValueError, r"relation: got id -1, need 0\.\.5"),
        ((["aspirin", "cox"], ["treats"]), {}, ValueError, "relation: got 1 for 2 entities"),
        (("aspirin", "treats"), {"k": 0}, ValueError, "k: got 0, need at least 1"),
        (("aspirin", "treats"), {"known": "drop"}, ValueError, "known: got 'drop', need 'keep' or 'mask'"),
    ],
)
def test_faulty_queries_are_named(arguments: Any, options: Any, error: Any, message: str, model: Reasoner) -> None:
    with pytest.raises(error, match=message):
        model.answer(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, r"horizon: got 0, need 1\.\.64"),
        ({"width": 0}, r"width: got 0, need 1\.\.65536"),
        ({"reduce": "mean"}, "reduce: got 'mean', need 'max' or 'sum'"),
    ],
)
def test_faulty_settings_are_named(change: Any, message: str, kg: KnowledgeGraph) -> None:
    with pytest.raises(ValueError, match=message):
        Reasoner(Preferring(kg), kg, **change)


@pytest.mark.parametrize("make", POLICIES)
def test_a_saved_folder_answers_the_same(make: Any, kg: KnowledgeGraph, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Reasoner(make(kg), kg, horizon=2, width=7, reduce="sum")
    model.save(tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "config.json",
        "graph.npz",
        "model.safetensors",
    ]
    loaded = Reasoner.load(tmp_path / "model")
    assert (loaded.horizon, loaded.width, loaded.reduce) == (2, 7, "sum")
    queries = ["aspirin", "cox", "zinc"], ["treats", "causes", "inhibits_inv"]
    assert loaded.answer(*queries, steps=True) == model.answer(*queries, steps=True)
    assert str(loaded.policy) == str(model.policy)


def test_a_save_that_dies_leaves_no_whole_folder(
    kg: KnowledgeGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Reasoner(MinervaPolicy(kg), kg)
    model.save(tmp_path)

    def die(*_: Any) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr("tenfold.graph.reasoner.save_file", die)
    with pytest.raises(OSError, match="went away"):
        model.save(tmp_path)
    with pytest.raises(UserError, match=r"file not found: .*config\.json"):
        Reasoner.load(tmp_path)
    monkeypatch.undo()
    model.save(tmp_path)
    assert Reasoner.load(tmp_path).answer("aspirin", "treats") == model.answer("aspirin", "treats")


def test_a_policy_of_ones_own_cannot_be_saved(model: Reasoner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy: got Preferring, need MinervaPolicy or MultiHopPolicy"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def config(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **change}))

    return apply


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"file not found: .*config\.json"),
        (lambda f: (f / "config.json").write_text("{"), r"not valid JSON: .*config\.json"),
        (lambda f: (f / "config.json").write_text("[]"), "need a JSON object"),
        (config(format=1), "format: got 1, need 2"),
        (config(policy="oracle"), "policy: got 'oracle', need one of minerva, multihop"),
        (config(policy=["minerva"]), "policy: need"),
        (config(options={"depth": 3}), "options do not make a minerva policy: .*depth"),
        (config(options={"dim": -1}), "options do not make a minerva policy: dim, hidden: got -1"),
        (config(options={"dim": "big"}), "options do not make a minerva policy"),
        (
            config(options={"dim": 10**12}),
            r"tensor history\.cells\.0\.bias_hh: got float32 \[40\], need float32 \[400\]",
        ),
        (config(options={"layers": 10**9}), "layers: got 1000000000, need at most 9"),
        (config(options={"dim": 4, "hidden": 5}), "tensor .*: got float32 .*; the files are of two models"),
        (config(horizon=0), r"config\.json: horizon: got 0, need 1\.\.64"),
        (config(width=10**9), "width: got 1000000000"),
        (config(reduce="mean"), "reduce: got 'mean'"),
        (config(mask_inverse="yes"), "mask_inverse: need"),
        (config(trained=[10**6]), "trained: got ids that are no relations"),
        (config(trained=[[1]]), r"config\.json: unhashable"),
        (lambda f: (f / "model.safetensors").unlink(), r"file not found: .*model\.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), "not a whole safetensors file"),
        (weights(lambda t: t.pop("inner.bias")), r"tensor inner\.bias: got none, need float32 \[20\]"),
        (weights(lambda t: t.update(more=torch.zeros(1))), r"tensor more: got float32 \[1\], need none"),
        (weights(lambda t: t.update({"inner.bias": torch.zeros(20).long()})), r"tensor inner\.bias: got int64"),
        (lambda f: (f / "graph.npz").unlink(), r"graph\.npz: no saved graph"),
        (lambda f: (f / "graph.npz").write_bytes(b"PK\x03\x04"), r"graph\.npz: no saved graph"),
    ],
)
def test_damaged_folders_are_named(damage: Any, message: str, kg: KnowledgeGraph, tmp_path: Path) -> None:
    Reasoner(MinervaPolicy(kg, dim=3, hidden=5), kg).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Reasoner.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_weights_of_another_graph(kg: KnowledgeGraph, tmp_path: Path) -> None:
    Reasoner(MinervaPolicy(kg), kg).save(tmp_path)
    KnowledgeGraph.from_triples([("a", "r", "b")]).save(tmp_path / "graph.npz")
    with pytest.raises(UserError, match=r"tensor relation\.weight: got float32 \[9, 100\], need float32 \[5, 100\]"):
        Reasoner.load(tmp_path)
