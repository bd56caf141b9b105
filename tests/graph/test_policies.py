"""Both walkers against padded-free but plain versions of their equations, and the initial values of the published codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.graph.environment import State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy

POLICIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "minerva": (MinervaPolicy, {"dim": 3, "hidden": 4}),
    "minerva_entities": (MinervaPolicy, {"dim": 3, "hidden": 4, "use_entity": True, "layers": 2}),
    "multihop": (MultiHopPolicy, {"dim": 3, "history": 5}),
    "multihop_dropout": (MultiHopPolicy, {"dim": 3, "history": 5, "emb_dropout": 0.3, "ff_dropout": 0.1}),
    "multihop_relations": (MultiHopPolicy, {"dim": 3, "history": 5, "layers": 1, "relation_only": True}),
}


@pytest.fixture(scope="module")
def kg() -> KnowledgeGraph:
    triples = torch.randint(0, 9, (30, 3), generator=torch.Generator().manual_seed(0))
    triples[:, 1] %= 3
    triples[0] = torch.tensor([8, 2, 8])
    return KnowledgeGraph.from_triples(triples)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest, kg: KnowledgeGraph) -> Any:
    torch.manual_seed(0)
    kind, options = POLICIES[request.param]
    return kind(kg, **options).double().eval()


def queries(kg: KnowledgeGraph, t: Tensor | None = None) -> tuple[WalkEnv, State]:
    env = WalkEnv(kg, 3)
    return env, env.reset(torch.tensor([0, 3, 8]), torch.tensor([1, 4, 2]), t, rollouts=2)


def walk(policy: Any, env: WalkEnv, state: State) -> tuple[State, Any]:
    """Two steps, each agent's last action."""
    hidden = policy.init(state)
    for _ in range(2):
        state = env.step(state, env.actions(state).ptr[1:] - 1)
        hidden = policy.advance(hidden, state.last_relation, state.node)
    return state, hidden


def plain_lstm(policy: Any, x_ATD: Tensor) -> Tensor:
    """The last output of torch's own stacked LSTM with the same weights."""
    cells = list(policy.history.cells)
    lstm = nn.LSTM(cells[0].input_size, cells[0].hidden_size, len(cells), batch_first=True).double()
    with torch.no_grad():
        for layer, cell in enumerate(cells):
            for name, parameter in cell.named_parameters():
                getattr(lstm, f"{name}_l{layer}").copy_(parameter)
    return lstm(x_ATD)[0][:, -1]


def test_logits_and_gradients_equal_the_equations(policy: Any, kg: KnowledgeGraph) -> None:
    env, start = queries(kg)
    state, hidden = walk(policy, env, start)
    actions = env.actions(state)
    ours = policy.logits(state, hidden, actions)

    def embed(relation: Tensor, node: Tensor) -> Tensor:
        r = policy.relation.weight[relation]
        return r if policy.entity is None else torch.cat([r, policy.entity.weight[node]], -1)

    relations = torch.cat([start.last_relation[:, None], state.path_rel], 1)
    nodes = torch.cat([start.source[:, None], state.path_dst], 1)
    h = plain_lstm(policy, embed(relations, nodes))
    here = [] if policy.entity is None else [policy.entity.weight[state.node]]
    x = torch.cat([h, *here, policy.relation.weight[state.relation]], -1)
    if isinstance(policy, MinervaPolicy):
        out = policy.outer(policy.inner(x).relu()).relu()
    else:
        out = policy.W2(policy.W1(x).relu())
    plain = (embed(actions.rel, actions.dst) * out[actions.row]).sum(-1)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)

    weight = torch.randn(len(ours), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tables = [table.weight for table in (policy.relation, policy.entity) if table is not None]
    gradients = [torch.autograd.grad((value * weight).sum(), tables, retain_graph=True) for value in (ours, plain)]
    # The plain LSTM holds copies of the weights, so the tables stand for all that lies behind them.
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=1e-10)


def test_agents_do_not_know_of_each_other_nor_of_the_target(policy: Any, kg: KnowledgeGraph) -> None:
    env, start = queries(kg)
    state, hidden = walk(policy, env, start)
    logits = policy.logits(state, hidden, env.actions(state))
    one = torch.tensor([3])
    alone = policy.logits(state.select(one), policy.select(hidden, one), env.actions(state.select(one)))
    ptr = env.actions(state).ptr
    torch.testing.assert_close(alone, logits[ptr[3] : ptr[4]], atol=1e-12, rtol=1e-12)
    told = State(**{**vars(state), "target": torch.full_like(state.node, 5)})
    assert torch.equal(policy.logits(told, hidden, env.actions(state)), logits)


def test_select_reorders_the_memory(policy: Any, kg: KnowledgeGraph) -> None:
    env, start = queries(kg)
    _, hidden = walk(policy, env, start)
    rows = torch.tensor([5, 0, 0, 2])
    picked, expected = policy.select(hidden, rows), walk(policy, env, start.select(rows))[1]
    torch.testing.assert_close(picked, expected, atol=1e-12, rtol=1e-12)


def test_permuted_entities_permute_the_scores(policy: Any, kg: KnowledgeGraph) -> None:
    order = torch.randperm(kg.num_entities, generator=torch.Generator().manual_seed(2))
    train = kg.splits["train"].clone()
    train[:, [0, 2]] = order[train[:, [0, 2]]]
    other_kg = KnowledgeGraph.from_triples(train)
    env, start = queries(kg)
    other_env = WalkEnv(other_kg, 3)
    other_start = other_env.reset(order[start.source], start.relation)
    scores = policy.logits(start, policy.init(start), env.actions(start))
    if policy.entity is not None:
        with torch.no_grad():
            policy.entity.weight[order] = policy.entity.weight.clone()
    other_actions = other_env.actions(other_start)
    other_scores = policy.logits(other_start, policy.init(other_start), other_actions)

    def by_action(actions: Any, values: Tensor, rename: Tensor) -> dict[tuple[int, int, int], float]:
        keys = zip(actions.row.tolist(), actions.rel.tolist(), rename[actions.dst].tolist(), strict=True)
        return dict(zip(keys, values.tolist(), strict=True))

    ours = by_action(env.actions(start), scores, order)
    assert by_action(other_actions, other_scores, torch.arange(len(order))) == pytest.approx(ours, abs=1e-12)


def test_widths_of_the_paper(kg: KnowledgeGraph) -> None:
    def shapes(module: nn.Module) -> dict[str, list[int]]:
        return {name: list(p.shape) for name, p in module.named_parameters() if "bias" not in name}

    assert shapes(MinervaPolicy(kg)) == {
        "relation.weight": [kg.relation_rows, 100],
        "history.cells.0.weight_ih": [400, 100],
        "history.cells.0.weight_hh": [400, 100],
        "inner.weight": [200, 200],
        "outer.weight": [100, 200],
    }
    assert shapes(MinervaPolicy(kg, use_entity=True)) == {
        "relation.weight": [kg.relation_rows, 100],
        "entity.weight": [kg.num_entities, 100],
        "history.cells.0.weight_ih": [800, 200],
        "history.cells.0.weight_hh": [800, 200],
        "inner.weight": [200, 400],
        "outer.weight": [200, 200],
    }
    multihop = shapes(MultiHopPolicy(kg))
    assert multihop["W1.weight"] == [400, 600] and multihop["W2.weight"] == [400, 400]
    assert multihop["history.cells.0.weight_ih"] == [800, 400] and "history.cells.3.weight_ih" not in multihop
    assert multihop["entity.weight"] == [kg.num_entities, 200]
    assert shapes(MultiHopPolicy(kg, relation_only=True))["W1.weight"] == [200, 400]


def test_initial_values() -> None:
    kg = KnowledgeGraph.from_triples([[i, i % 40, (i + 1) % 400] for i in range(400)])
    torch.manual_seed(0)
    for policy in (MinervaPolicy(kg, use_entity=True), MultiHopPolicy(kg)):
        for name, p in policy.named_parameters():
            if "bias" in name:
                forget = torch.zeros(len(p))
                if name == "history.cells.0.bias_ih" and isinstance(policy, MinervaPolicy):
                    forget[len(p) // 4 : len(p) // 2] = 1
                assert torch.equal(p, forget), name
                continue
            std = math.sqrt(2 / sum(p.shape))  # Xavier, either way
            assert p.std().item() == pytest.approx(std, rel=0.05), name
            uniform = p.abs().max() <= 1.0001 * math.sqrt(3) * std
            assert bool(uniform) == (not (name.startswith("history") and isinstance(policy, MultiHopPolicy))), name


def test_dropout_only_in_training(kg: KnowledgeGraph) -> None:
    env, state = queries(kg)
    actions = env.actions(state)
    for option in ("emb_dropout", "ff_dropout"):
        policy = MultiHopPolicy(kg, dim=8, history=8, **{option: 0.5})
        noisy = [policy.logits(state, policy.init(state), actions) for _ in range(2)]
        assert not torch.equal(*noisy)
        policy.eval()
        still = [policy.logits(state, policy.init(state), actions) for _ in range(2)]
        assert torch.equal(*still)


def test_embedding_dropout_keeps_the_expected_score(kg: KnowledgeGraph) -> None:
    env, state = queries(kg)
    actions = env.actions(state)
    torch.manual_seed(0)
    policy = MultiHopPolicy(kg, dim=4, history=4, emb_dropout=0.3).double()
    out = torch.randn(len(state), 8, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([policy._score(out, actions) for _ in range(4000)])
        exact = policy.eval()._score(out, actions)
    assert ((draws.mean(0) - exact).abs() <= 4.5 * draws.std(0) / math.sqrt(4000)).all()


def test_dropout_falls_on_the_rows_in_use_of_a_large_table(kg: KnowledgeGraph) -> None:
    policy = MultiHopPolicy(kg, dim=64, history=4, emb_dropout=0.5)
    table = policy.entity
    assert table is not None
    few, many = torch.tensor([2, 0, 2]), torch.arange(len(table.weight)).repeat(2)
    for ids, kept in ((few, 2), (many, len(table.weight))):
        rows, place = policy._dropped(table, ids)
        assert len(rows) == kept and torch.equal(rows[place[0]], rows[place[-1]]) == (ids[0] == ids[-1])
        dropped, doubled = rows[place] == 0, 2 * table(ids)
        assert 0.3 < dropped.float().mean() < 0.7 and torch.equal(rows[place][~dropped], doubled[~dropped])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MinervaPolicy, {"dim": 0}, "dim, hidden: got 0, 50"),
        (MinervaPolicy, {"layers": 0}, "layers: got 0"),
        (MultiHopPolicy, {"history": 0}, "dim, history: got 200, 0"),
        (MultiHopPolicy, {"emb_dropout": 1.5}, "dropout probability"),
    ],
)
def test_bad_settings(kg: KnowledgeGraph, kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(kg, **options)
