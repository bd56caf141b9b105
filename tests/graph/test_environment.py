"""Walks: actions and masks against dictionaries and lists, what no walk may do, beams, bad arguments."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.synthetic import synthetic_kg

Edge = tuple[int, int]  # relation, target
CHAIN = [("a", "x", "b"), ("b", "x", "c"), ("a", "y", "c")]  # a reaches c by y, and through b


def random_triples(seed: int, entities: int = 7, relations: int = 3, count: int = 14) -> np.ndarray:
    """Triples with self-loops and duplicates; the last entity has no edge."""
    generator = np.random.default_rng(seed)
    triples = generator.integers([0, 0, 0], [entities - 1, relations, entities - 1], (count, 3))
    return np.concatenate([triples, triples[:2]])


def random_kg(seed: int, inverse: bool = True) -> KnowledgeGraph:
    return KnowledgeGraph.from_triples(
        random_triples(seed), entity_names=list("abcdefg"), relation_names=list("xyz"), inverse=inverse
    )


class Reference:
    """The rules of the walk over a dictionary of lists, one agent at a time."""

    def __init__(self, kg: KnowledgeGraph, horizon: int, known: bool, mask_query: bool, mask_inverse: bool, all_: bool):
        self.horizon, self.known, self.all = horizon, known, all_
        self.mask_query, self.mask_inverse = mask_query, mask_inverse
        self.stay, self.relations = 2 * kg.num_relations, kg.num_relations
        self.edges: dict[int, set[Edge]] = defaultdict(set)
        self.answers: dict[Edge, set[int]] = defaultdict(set)
        for head, relation, tail in kg.splits["train"].tolist():
            self.edges[head].add((relation, tail))
            self.answers[head, relation].add(tail)
            if kg.doubled:
                self.edges[tail].add((relation + kg.num_relations, head))
                self.answers[tail, relation + kg.num_relations].add(head)

    def actions(self, s: int, r: int, t: int, u: int, step: int) -> list[Edge]:
        back = (r + self.relations) % (2 * self.relations)

        def allowed(edge: Edge) -> bool:
            v = edge[1]
            if self.mask_query:
                for tail in self.answers[s, r] if self.all else {t}:
                    if u == s and edge == (r, tail):
                        return False
                    if self.mask_inverse and u == tail and edge == (back, s):
                        return False
            last = step == self.horizon - 1 and self.known and not self.all and t >= 0
            return not (last and v != t and v in self.answers[s, r])

        actions = [edge for edge in [(self.stay, u), *sorted(self.edges[u])] if allowed(edge)]
        return actions or [(self.stay, u)]


def rows_of(actions: Actions) -> list[list[Edge]]:
    edges = list(zip(actions.rel.tolist(), actions.dst.tolist(), strict=True))
    return [edges[first:last] for first, last in itertools.pairwise(actions.ptr.tolist())]


def random_choice(actions: Actions, generator: torch.Generator) -> torch.Tensor:
    count = actions.ptr.diff()
    return actions.ptr[:-1] + (torch.rand(len(count), generator=generator) * count).long()


def every_query(kg: KnowledgeGraph) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training queries, one with an unknown answer, one from the isolated entity, inverse ones where there are any."""
    extra = torch.tensor([[0, 0, -1], [6, 1, 2]])
    s, r, t = torch.cat([kg.splits["train"], extra]).unbind(1)
    if kg.doubled:
        known = kg.splits["train"]
        s, r, t = torch.cat([s, known[:, 2]]), torch.cat([r, kg.inverse(known[:, 1])]), torch.cat([t, known[:, 0]])
    return s, r, t


SWITCHES = list(enumerate(itertools.product([False, True], repeat=5)))


@pytest.mark.parametrize(("number", "switches"), SWITCHES)
def test_actions_are_those_of_a_dictionary_of_lists(number: int, switches: tuple[bool, ...]) -> None:
    known, mask_query, mask_inverse, all_, inverse = switches
    for seed in range(number, 400, 32):  # a dozen graphs for each of the 32 combinations
        kg = random_kg(seed, inverse)
        env = WalkEnv(
            kg,
            horizon=3,
            known=kg.answers("train") if known else None,
            mask_query=mask_query,
            mask_inverse=mask_inverse,
            targets="all" if all_ else "single",
        )
        reference = Reference(kg, 3, known, mask_query, mask_inverse, all_)
        generator = torch.Generator().manual_seed(seed)
        state = env.reset(*every_query(kg), rollouts=2)
        for step in range(3):
            actions = env.actions(state)
            agents = zip(*(x.tolist() for x in (state.source, state.relation, state.target, state.node)), strict=True)
            for row, agent in zip(rows_of(actions), agents, strict=True):
                assert row == reference.actions(*agent, step)
            assert torch.equal(actions.row, torch.arange(len(state)).repeat_interleave(actions.ptr.diff()))
            assert {x.dtype for x in (actions.row, actions.rel, actions.dst, actions.ptr)} == {torch.int64}
            state = env.step(state, random_choice(actions, generator))


def test_no_walk_takes_the_edge_in_question_or_ends_on_another_answer() -> None:
    for seed in range(200):
        kg = random_kg(seed)
        index = kg.answers("train")
        env = WalkEnv(kg, horizon=3, known=index)
        generator = torch.Generator().manual_seed(seed)
        state = env.reset(*kg.splits["train"].unbind(1), rollouts=4)
        for _ in range(3):
            state = env.step(state, random_choice(env.actions(state), generator))
        here = torch.cat([state.source[:, None], state.path_dst[:, :-1]], 1)
        source, relation, target = (x[:, None] for x in (state.source, state.relation, state.target))
        forward = (here == source) & (state.path_rel == relation) & (state.path_dst == target)
        backward = (here == target) & (state.path_rel == kg.inverse(relation)) & (state.path_dst == source)
        assert not (forward | backward).any()
        other = index.contains(state.source, state.relation, state.node) & (state.node != state.target)
        only_stay = (state.last_relation == kg.no_op) & (state.previous == state.node)
        assert not (other & ~only_stay).any()


def test_duplicate_triples_change_nothing() -> None:
    for seed in range(20):
        triples = random_triples(seed)
        once = KnowledgeGraph.from_triples(np.unique(triples, axis=0))
        twice = KnowledgeGraph.from_triples(np.concatenate([triples, triples]))
        for name in ("indptr", "rel", "dst"):
            assert torch.equal(getattr(once, name), getattr(twice, name))


def test_permuted_entities_permute_the_actions() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        permuted = torch.randperm(7, generator=generator)
        triples = torch.from_numpy(random_triples(seed))
        renamed = torch.stack([permuted[triples[:, 0]], triples[:, 1], permuted[triples[:, 2]]], 1)
        kg, other = (KnowledgeGraph.from_triples(rows, entity_names=list("abcdefg")) for rows in (triples, renamed))
        env, other_env = (WalkEnv(graph, horizon=1, known=graph.answers("train")) for graph in (kg, other))
        actions = rows_of(env.actions(env.reset(*triples.unbind(1))))
        expected = [Counter((relation, int(permuted[node])) for relation, node in row) for row in actions]
        assert [Counter(row) for row in rows_of(other_env.actions(other_env.reset(*renamed.unbind(1))))] == expected


@pytest.fixture
def chain() -> KnowledgeGraph:
    return KnowledgeGraph.from_triples(CHAIN)


def query(kg: KnowledgeGraph, source: str, relation: str, target: str | None) -> tuple[torch.Tensor, ...]:
    ids = kg.entity_id(source), kg.relation_id(relation), -1 if target is None else kg.entity_id(target)
    return tuple(torch.tensor([number]) for number in ids)


def named_actions(kg: KnowledgeGraph, actions: Actions) -> list[str]:
    relations = [*kg.relation_names, "stay"]
    return [f"{relations[r]} {kg.entity_names[v]}" for r, v in rows_of(actions)[0]]


def test_masks_by_hand(chain: KnowledgeGraph) -> None:
    env = WalkEnv(chain, horizon=2)
    state = env.reset(*query(chain, "a", "y", "c"))
    assert named_actions(chain, env.actions(state)) == ["stay a", "x b"]
    state = env.step(state, torch.tensor([1]))
    assert named_actions(chain, env.actions(state)) == ["stay b", "x c", "x_inv a"]
    state = env.step(state, torch.tensor([1]))
    assert (state.path_rel.tolist(), state.path_dst.tolist()) == ([[0, 0]], [[1, 2]])
    assert (state.previous.item(), state.last_relation.item(), state.step) == (1, 0, 2)

    at_target = env.reset(*query(chain, "c", "y_inv", "a"))
    assert named_actions(chain, env.actions(at_target)) == ["stay c", "x_inv b"]
    open_question = env.reset(*query(chain, "a", "y", None))
    assert named_actions(chain, env.actions(open_question)) == ["stay a", "x b", "y c"]


@pytest.mark.parametrize(("mask_inverse", "expected"), [(True, ["stay b"]), (False, ["stay b", "x_inv a"])])
def test_the_way_back_is_masked_at_every_step(mask_inverse: bool, expected: list[str]) -> None:
    kg = KnowledgeGraph.from_triples([("a", "x", "b"), ("a", "y", "b")])
    env = WalkEnv(kg, horizon=2, mask_inverse=mask_inverse)
    state = env.step(env.reset(*query(kg, "a", "x", "b")), torch.tensor([1]))
    assert named_actions(kg, env.actions(state))[: len(expected)] == expected
    assert len(env.actions(state)) == len(expected) + 1  # y_inv a


def test_staying_comes_back_where_the_masks_leave_nothing() -> None:
    kg = KnowledgeGraph.from_triples([("a", "x", "a"), ("a", "x", "b")])
    env = WalkEnv(kg, horizon=1, known=kg.answers("train"))
    assert named_actions(kg, env.actions(env.reset(*query(kg, "a", "x", "b")))) == ["stay a"]


def test_an_isolated_entity_stays(chain: KnowledgeGraph) -> None:
    kg = KnowledgeGraph.from_triples(CHAIN, test=[("d", "x", "a")])
    env = WalkEnv(kg, horizon=2, known=kg.answers("train"))
    state = env.reset(*query(kg, "d", "x", "a"), rollouts=2)
    for _ in range(2):
        assert named_actions(kg, env.actions(state)) == ["stay d"]
        state = env.step(state, torch.tensor([0, 1]))
    assert state.node.tolist() == [3, 3]


def test_all_answers_are_masked_together() -> None:
    kg = KnowledgeGraph.from_triples([("a", "x", "b"), ("a", "x", "c"), ("a", "y", "b"), ("c", "y", "b")])
    env = WalkEnv(kg, horizon=1, known=kg.answers("train"), targets="all")
    assert named_actions(kg, env.actions(env.reset(*query(kg, "a", "x", None)))) == ["stay a", "y b"]
    elsewhere = env.reset(*query(kg, "a", "x", "c"))
    at_b = State(**vars(elsewhere) | {"node": torch.tensor([1])})
    assert named_actions(kg, env.actions(at_b)) == ["stay b", "y_inv a", "y_inv c"]


def test_rollouts_of_a_query_are_adjacent(chain: KnowledgeGraph) -> None:
    state = WalkEnv(chain).reset(torch.tensor([0, 2]), torch.tensor([1, 3]), rollouts=3)
    assert state.query.tolist() == [0, 0, 0, 1, 1, 1]
    assert state.source.tolist() == state.node.tolist() == [0, 0, 0, 2, 2, 2]
    assert state.relation.tolist() == [1, 1, 1, 3, 3, 3]
    assert state.target.tolist() == state.previous.tolist() == [-1] * 6
    assert state.last_relation.tolist() == [chain.start] * 6
    assert (state.step, len(state), state.path_rel.shape, state.path_dst.shape) == (0, 6, (6, 0), (6, 0))


def test_ids_may_be_of_any_integer_type(chain: KnowledgeGraph) -> None:
    env = WalkEnv(chain, known=chain.answers("train"))
    short, long = (
        env.reset(*(torch.tensor([i], dtype=dtype) for i in (0, 1, 2))) for dtype in (torch.int32, torch.int64)
    )
    assert rows_of(env.actions(short)) == rows_of(env.actions(long))
    assert short.source.dtype == torch.int64


def test_a_step_may_take_any_number_of_actions(chain: KnowledgeGraph) -> None:
    env = WalkEnv(chain, horizon=3)
    state = env.reset(torch.tensor([0, 1]), torch.tensor([0, 0]))
    actions = env.actions(state)
    chosen = torch.tensor([5, 0, 1, 5])
    after = env.step(state, chosen)
    assert after.query.tolist() == actions.row[chosen].tolist() == [1, 0, 0, 1]
    assert after.node.tolist() == actions.dst[chosen].tolist()
    assert after.previous.tolist() == [1, 0, 0, 1]
    again = env.step(after.select(torch.tensor([2, 0])), torch.tensor([0, 3]))
    assert again.path_dst.tolist() == [[1, 1], [0, 0]]
    assert again.query.tolist() == [0, 1]


def test_the_same_state_is_worked_out_once(chain: KnowledgeGraph) -> None:
    env = WalkEnv(chain)
    state, other = (env.reset(torch.tensor([node]), torch.tensor([0])) for node in (0, 1))
    first = env.actions(state)
    assert env.actions(state) is first
    assert rows_of(env.actions(other)) != rows_of(first) == rows_of(env.actions(state))


def test_synthetic_queries_can_be_answered() -> None:
    kg = synthetic_kg(seed=3)
    env = WalkEnv(kg, horizon=3)
    state = env.reset(*kg.splits["test"].unbind(1))
    reached = torch.zeros(len(state), dtype=torch.bool)
    for _ in range(3):
        count = len(env.actions(state))
        state = env.step(state, torch.arange(count))  # every action of every agent
    reached = torch.zeros(len(kg.splits["test"]), dtype=torch.bool)
    reached[state.query[state.node == state.target]] = True
    assert reached.all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kg: WalkEnv(kg, 0), "horizon: got 0, need at least 1"),
        (lambda kg: WalkEnv(kg, targets="both"), "targets: got 'both', need 'single' or 'all'"),
        (lambda kg: WalkEnv(kg).reset(*[torch.tensor([0])] * 3, rollouts=0), "rollouts: got 0, need at least 1"),
        (lambda kg: WalkEnv(kg).reset(*torch.tensor([[3], [0]])), r"s: got ids 3\.\.3, need 0\.\.2"),
        (lambda kg: WalkEnv(kg).reset(*torch.tensor([[0], [4]])), r"r: got ids 4\.\.4, need 0\.\.3"),
        (lambda kg: WalkEnv(kg).reset(*torch.tensor([[0], [0], [-2]])), r"t: got ids -2\.\.-2, need -1\.\.2"),
        (lambda kg: WalkEnv(kg).reset(torch.tensor([0, 1]), torch.tensor([0])), r"r: got shape \[1\], need \[Q\]"),
    ],
)
def test_wrong_arguments_name_field_and_value(chain: KnowledgeGraph, call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(chain)


def test_a_walk_ends_at_the_horizon(chain: KnowledgeGraph) -> None:
    env = WalkEnv(chain, horizon=1)
    state = env.step(env.reset(torch.tensor([0]), torch.tensor([0])), torch.tensor([0]))
    with pytest.raises(ValueError, match="state: got step 1, need one before the horizon 1"):
        env.actions(state)
