"""Labels against the slow truth: all action sequences, tried one after the other."""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.graph import reach as reach_module
from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import PathLabeller
from tenfold.graph.reach import Pairs, Reach

Walk = tuple[tuple[int, int], ...]  # (relation, entity) of each step
RULES, TARGETS = ("reach", "multihop", "minerva"), ("single", "all")


class Maze:
    """A small random graph and the queries asked of it, from dicts and loops alone."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.entities, self.relations, self.horizon = draw.randint(3, 6), draw.randint(1, 3), 1 + seed % 4
        self.inverse, self.mask_inverse = draw.random() < 0.7, draw.random() < 0.7
        size = draw.randint(2, 9)
        self.train = [(self.entity(draw), draw.randrange(self.relations), self.entity(draw)) for _ in range(size)]
        self.train += self.train[:2]  # duplicates
        stray = (self.entity(draw), draw.randrange(self.relations), self.entity(draw))
        self.queries = [draw.choice(self.train), draw.choice(self.train), stray]
        if self.inverse:
            s, r, t = draw.choice(self.train)
            self.queries.append((t, self.opposite(r), s))
        self.kg = KnowledgeGraph.from_triples(
            torch.tensor(self.train),
            entity_names=[f"e{i}" for i in range(self.entities)],
            relation_names=[f"r{i}" for i in range(self.relations)],
            inverse=self.inverse,
            **({"max_actions": 4, "prune": "first"} if draw.random() < 0.2 else {}),
        )
        self.actions, self.walks = cache(self.actions), cache(self.walks)  # type: ignore[method-assign]
        self.edges: dict[int, list[tuple[int, int]]] = {}
        for u, r, v in zip(self.kg.sources.tolist(), self.kg.rel.tolist(), self.kg.dst.tolist(), strict=True):
            self.edges.setdefault(u, []).append((r, v))

    def entity(self, draw: random.Random) -> int:
        return draw.randrange(self.entities)

    def opposite(self, r: int) -> int:
        return (r + self.relations) % (2 * self.relations)

    def answers(self, s: int, r: int) -> set[int]:
        both = [*self.train, *((t, self.opposite(q), h) for h, q, t in self.train if self.inverse)]
        return {t for h, q, t in both if (h, q) == (s, r)}

    def actions(self, query: tuple[int, int, int], targets: str, node: int, step: int) -> list[tuple[int, int]]:
        s, r, t = query
        known = self.answers(s, r)

        def masked(q: int, v: int) -> bool:
            if targets == "all":
                asked = (node, q) == (s, r)
                back = (q, v) == (self.opposite(r), s)
            else:
                asked = (node, q, v) == (s, r, t)
                back = (node, q, v) == (t, self.opposite(r), s)
            other = step == self.horizon - 1 and targets == "single" and v != t and v in known
            return asked or (back and self.mask_inverse) or other

        return [a for a in self.edges[node] if not masked(*a)] or [(2 * self.relations, node)]

    def walks(self, query: tuple[int, int, int], targets: str, node: int, step: int) -> list[Walk]:
        """Every sequence of actions to the horizon."""
        if step == self.horizon:
            return [()]
        return [
            ((q, v), *rest)
            for q, v in self.actions(query, targets, node, step)
            for rest in self.walks(query, targets, v, step + 1)
        ]

    def allowed(self, rule: str, walk: Walk, s: int, goal: set[int]) -> bool:
        """Whether a whole walk from the source is one that the rule would have labelled all along."""
        if walk[-1][1] not in goal:
            return False
        if rule == "minerva":
            first = next(i for i, (_, v) in enumerate(walk) if v in goal)
            stays = all(q == 2 * self.relations for q, _ in walk[first + 1 :])
            return stays and all(v != s for _, v in walk[:first])
        return True

    def positive(
        self, rule: str, targets: str, query: tuple[int, int, int], past: Walk, previous: int
    ) -> set[tuple[int, int]]:
        """The labels of one state, from all ways to go on and from all walks there are."""
        s, r, t = query
        goal = {t} | (self.answers(s, r) if targets == "all" else set())
        node = past[-1][1] if past else s
        actions = self.actions(query, targets, node, len(past))
        good = {
            rest[0]
            for rest in self.walks(query, targets, node, len(past))
            if self.allowed(rule, (*past, *rest), s, goal)
        }
        if rule == "reach" and node in goal:
            good = {(2 * self.relations, node)}
        if good or not past:
            return good
        solvable = any(self.allowed(rule, walk, s, goal) for walk in self.walks(query, targets, s, 0))
        return {a for a in actions if a[1] == previous} if solvable else set()


def labellers(maze: Maze, **options: Any) -> list[PathLabeller]:
    known = maze.kg.answers("train") if options.get("targets", "single") == "single" else None
    options |= {"mask_inverse": maze.mask_inverse, "known": known}
    return [
        PathLabeller(maze.kg, maze.horizon, method="bitset", **options),
        PathLabeller(maze.kg, maze.horizon, method="sparse", max_frontier=3, **options),
    ]


def ways(state: State, agent: int) -> tuple[Walk, int]:
    """What an agent did, and where it stood before its last step."""
    return tuple(zip(state.path_rel[agent].tolist(), state.path_dst[agent].tolist(), strict=True)), int(
        state.previous[agent]
    )


def sample(actions: Actions, among: Tensor | None, generator: torch.Generator) -> Tensor:
    """One action of every agent; of those `among` the flat actions where it has any."""
    score = torch.rand(len(actions), generator=generator)
    score = score if among is None else score + among
    order = score.argsort(stable=True)
    best = torch.empty(len(actions.ptr) - 1, dtype=torch.int64)
    best[actions.row[order]] = order  # the last write of each agent is its largest
    return best


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("rule", RULES)
def test_labels_are_those_of_all_action_sequences(rule: str, targets: str) -> None:
    counts = {"positive": 0, "negative": 0, "dropped": 0, "later": 0}
    for seed in range(200):
        maze = Maze(seed)
        bits, keys = labellers(maze, labels=rule, targets=targets)
        state = bits.env.reset(*torch.tensor(maze.queries).T, rollouts=2)
        generator = torch.Generator().manual_seed(seed)
        reach = bits.reach(state)
        for step in range(maze.horizon):
            actions = bits.env.actions(state)
            positive, weight = bits(state, actions, reach)
            again = keys(state, actions)
            assert torch.equal(positive, again.positive) and torch.equal(weight, again.weight)
            for agent, query in enumerate(q for q in maze.queries for _ in range(2)):
                rows = slice(int(actions.ptr[agent]), int(actions.ptr[agent + 1]))
                offered = list(zip(actions.rel[rows].tolist(), actions.dst[rows].tolist(), strict=True))
                assert sorted(offered) == sorted(maze.actions(query, targets, int(state.node[agent]), step))
                expected = maze.positive(rule, targets, query, *ways(state, agent))
                assert {a for a, y in zip(offered, positive[rows].tolist(), strict=True) if y} == expected
                assert weight[agent] == bool(expected)
                counts["dropped"] += not expected
                counts["later"] += bool(expected) and step > 0
            counts["positive"] += int(positive.sum())
            counts["negative"] += int((~positive).sum())
            state = bits.env.step(state, sample(actions, None, generator))
    assert min(counts.values()) > 100, counts


@pytest.fixture(scope="module")
def hall() -> tuple[KnowledgeGraph, Tensor]:
    """A graph with hubs, of 300 entities, and 150 queries: three words of bits."""
    generator = torch.Generator().manual_seed(0)
    ends = (300 * torch.rand(700, 2, generator=generator) ** 2.5).long()
    relation = torch.randint(0, 5, (700, 1), generator=generator)
    triples = torch.cat([ends[:, :1], relation, ends[:, 1:]], 1)
    kg = KnowledgeGraph.from_triples(triples, entity_names=[str(i) for i in range(300)])
    return kg, triples[torch.randperm(700, generator=generator)[:150]]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("rule", RULES)
def test_every_way_to_the_sets_gives_the_same(
    hall: tuple[KnowledgeGraph, Tensor], rule: str, targets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kg, queries = hall
    everyone = torch.arange(kg.num_entities).repeat(len(queries))
    asked = torch.arange(len(queries)).repeat_interleave(kg.num_entities)
    found = []
    for method, dense, frontier in [("bitset", 0, 10**6), ("bitset", 10**9, 10**6), ("bitset", 0, 500),
                                    ("sparse", 4, 10**6), ("sparse", 4, 500), ("auto", 4, 10**6)]:  # fmt: skip
        # 0: never a pull; 10^9: always one where it may be
        monkeypatch.setattr(reach_module, "DENSE", dense)
        labeller = PathLabeller(kg, 4, labels=rule, targets=targets, method=method, max_frontier=frontier)
        reach = labeller.reach(labeller.env.reset(*queries.T, rollouts=2))
        found.append(([reach.within(asked, everyone, j) for j in range(4)], reach.solvable))
    sizes = [int(level.sum()) for level in found[0][0]]
    assert sizes == sorted(sizes) and sizes[0] >= 150 and sizes[3] > 5 * sizes[1]
    for levels, solvable in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(levels, found[0][0], strict=True))
        assert torch.equal(solvable, found[0][1])


def test_auto_keeps_its_memory_within_bounds(
    hall: tuple[KnowledgeGraph, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    kg, queries = hall
    labeller = PathLabeller(kg, 3)
    state = labeller.env.reset(*queries.T)
    assert isinstance(labeller.reach(state).levels[-1], reach_module.BitSets)
    monkeypatch.setattr(reach_module, "BITSET_BYTES", 3 * 3 * 300 * 8 - 1)
    assert isinstance(labeller.reach(state).levels[-1], reach_module.KeySets)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_positive_actions_alone_always_end_on_a_target(
    hall: tuple[KnowledgeGraph, Tensor], rule: str, targets: str, horizon: int
) -> None:
    kg, queries = hall
    labeller = PathLabeller(kg, horizon, labels=rule, targets=targets)
    state = labeller.env.reset(*queries.T, rollouts=3)
    reach, generator = labeller.reach(state), torch.Generator().manual_seed(0)
    solvable = reach.solvable[state.query]
    for _ in range(horizon):
        actions = labeller.env.actions(state)
        labels = labeller(state, actions, reach)
        assert torch.equal(labels.weight > 0, solvable)
        state = labeller.env.step(state, sample(actions, labels.positive, generator))
    assert solvable.sum() > 50 and reach.within(state.query, state.node, 0)[solvable].all()
    if targets == "single":
        assert torch.equal(state.node == state.target, reach.within(state.query, state.node, 0))


@pytest.mark.parametrize("targets", TARGETS)
def test_after_a_negative_action_no_walk_ends_on_a_target(hall: tuple[KnowledgeGraph, Tensor], targets: str) -> None:
    kg, queries = hall
    labeller = PathLabeller(kg, 3, labels="multihop", targets=targets, fallback="drop")
    state = labeller.env.reset(*queries.T, rollouts=40)
    reach, generator = labeller.reach(state), torch.Generator().manual_seed(0)
    strayed = torch.zeros(len(state), dtype=torch.bool)
    for _ in range(3):
        actions = labeller.env.actions(state)
        labels = labeller(state, actions, reach)
        assert not labels.positive[strayed[actions.row]].any() and not labels.weight[strayed].any()
        choice = sample(actions, None, generator)
        strayed |= ~labels.positive[choice]
        state = labeller.env.step(state, choice)
    assert 0 < strayed.sum() < len(state)
    assert torch.equal(~strayed, reach.within(state.query, state.node, 0))


def test_gold_by_hand() -> None:
    """a -p-> b -p-> c, a -q-> c: the query (a, q, c) loses its own edge, and two steps by p remain."""
    kg = KnowledgeGraph.from_triples([("a", "p", "b"), ("b", "p", "c"), ("a", "q", "c"), ("d", "p", "d")])
    a, b, c = (kg.entity_id(name) for name in "abc")
    p, q = kg.relation_id("p"), kg.relation_id("q")
    labeller = PathLabeller(kg, 3)
    state = labeller.env.reset(torch.tensor([a]), torch.tensor([q]), torch.tensor([c]))
    actions = labeller.env.actions(state)
    assert list(zip(actions.rel.tolist(), actions.dst.tolist(), strict=True)) == [(kg.no_op, a), (p, b)]
    assert labeller(state, actions).positive.tolist() == [True, True]  # waiting once leaves two steps
    state = labeller.env.step(state, torch.tensor([0]))
    assert labeller(state, labeller.env.actions(state)).positive.tolist() == [False, True]
    state = labeller.env.step(state, torch.tensor([0]))  # now c is out of reach: back to a, which is where it stood
    labels = labeller(state, labeller.env.actions(state))
    assert labels.positive.tolist() == [True, False] and labels.labelled == 1
    positive, weight = PathLabeller(kg, 3, fallback="drop")(state, labeller.env.actions(state))
    assert not positive.any() and weight.tolist() == [0]
    minerva = PathLabeller(kg, 3, labels="minerva", mask_inverse=False)
    state = minerva.env.reset(torch.tensor([a]), torch.tensor([q]), torch.tensor([c]))
    assert minerva(state, minerva.env.actions(state)).positive.tolist() == [False, True]  # no waiting at the source


def test_a_parallel_edge_keeps_the_source_in_reach() -> None:
    alone = KnowledgeGraph.from_triples([("a", "q", "c"), ("c", "q", "b")])
    double = KnowledgeGraph.from_triples([("a", "q", "c"), ("c", "q", "b"), ("a", "p", "c")])
    for kg, expected in ((alone, False), (double, True)):
        labeller = PathLabeller(kg, 2)
        a, c = torch.tensor([kg.entity_id("a")]), torch.tensor([kg.entity_id("c")])
        reach = labeller.reach(labeller.env.reset(a, torch.tensor([kg.relation_id("q")]), c))
        assert reach.within(torch.tensor([0]), a, 1).tolist() == [expected]
        assert reach.solvable.tolist() == [expected]


def test_all_answers_are_those_of_training_and_graph() -> None:
    kg = KnowledgeGraph.from_triples(
        [("a", "q", "b")], graph=[("a", "q", "c"), ("a", "p", "d"), ("d", "p", "b"), ("d", "p", "c")]
    )
    labeller = PathLabeller(kg, 2, targets="all")
    a, q, b = kg.entity_id("a"), kg.relation_id("q"), kg.entity_id("b")
    reach = labeller.reach(labeller.env.reset(torch.tensor([a]), torch.tensor([q]), torch.tensor([b])))
    asked, everyone = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    names = [[kg.entity_names[i] for i in everyone[reach.within(asked, everyone, j)]] for j in (0, 1)]
    assert names == [["b", "c"], ["b", "c", "d"]]  # a leads to c by the query's own relation alone


@pytest.mark.parametrize("rule", RULES)
def test_queries_may_be_given_apart(hall: tuple[KnowledgeGraph, Tensor], rule: str) -> None:
    kg, queries = hall
    labeller = PathLabeller(kg, 3, labels=rule, known=kg.answers("train"))
    state = labeller.env.reset(*queries.T, rollouts=4)
    state = labeller.env.step(state, sample(labeller.env.actions(state), None, torch.Generator().manual_seed(0)))
    expected = labeller(state, labeller.env.actions(state))
    positive, weight = labeller(*queries.T, state)
    assert torch.equal(positive, expected.positive) and torch.equal(weight, expected.weight)
    some = state.select(torch.arange(len(state)).flip(0)[::3])  # not all queries, in another order
    actions = labeller.env.actions(some)
    assert torch.equal(labeller(some, actions).weight, weight[torch.arange(len(state)).flip(0)[::3]])


def test_duplicate_triples_change_nothing(hall: tuple[KnowledgeGraph, Tensor]) -> None:
    kg, queries = hall
    doubled = KnowledgeGraph.from_triples(kg.splits["train"].repeat(2, 1), entity_names=kg.entity_names)
    one, two = PathLabeller(kg, 3), PathLabeller(doubled, 3)
    state = one.env.reset(*queries.T)
    assert torch.equal(one(state, one.env.actions(state)).positive, two(state, two.env.actions(state)).positive)


def test_permuted_entities_permute_the_labels(hall: tuple[KnowledgeGraph, Tensor]) -> None:
    kg, queries = hall
    moved = torch.randperm(kg.num_entities, generator=torch.Generator().manual_seed(1))

    def move(triples: Tensor) -> Tensor:
        return torch.stack([moved[triples[:, 0]], triples[:, 1], moved[triples[:, 2]]], 1)

    def edges(kg: KnowledgeGraph, queries: Tensor, renamed: Tensor) -> set[tuple[int, ...]]:
        labeller = PathLabeller(kg, 3)
        state = labeller.env.reset(*queries.T)
        actions = labeller.env.actions(state)
        labels = labeller(state, actions)
        columns = actions.row, actions.rel, renamed[actions.dst], labels.positive
        return set(zip(*(column.tolist() for column in columns), strict=True))

    other = KnowledgeGraph.from_triples(move(kg.splits["train"]), entity_names=kg.entity_names)
    assert edges(kg, queries, moved) == edges(other, move(queries), torch.arange(kg.num_entities))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon: got 0, need at least 1"),
        ({"labels": "paths"}, "labels: got 'paths', need one of 'reach', 'multihop', 'minerva'"),
        ({"targets": "some"}, "targets: got 'some', need one of 'single', 'all'"),
        ({"fallback": "none"}, "fallback: got 'none', need one of 'backtrack', 'drop'"),
        ({"method": "dense"}, "method: got 'dense', need one of 'auto', 'bitset', 'sparse'"),
        ({"max_frontier": 0}, "max_frontier: got 0, need at least 1"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathLabeller(Maze(0).kg, **{"horizon": 2} | options)


def test_bad_states() -> None:
    kg = Maze(1).kg
    labeller, longer = PathLabeller(kg, 1), WalkEnv(kg, 2)
    none = torch.tensor([0])
    state = longer.reset(none, none)
    with pytest.raises(ValueError, match="state: got unknown targets"):
        labeller(state, longer.actions(state))
    state = longer.reset(none, none, none)
    state = longer.step(state, none)
    with pytest.raises(ValueError, match="state: got step 1, need one before the horizon 1"):
        labeller(state, longer.actions(state))


def test_pairs_are_the_edges_without_their_names() -> None:
    for seed in range(50):
        maze = Maze(seed)
        pairs = Pairs.of(maze.kg)
        forth, back = {}, {}
        for u in range(maze.entities):
            rows, into = (slice(*map(int, ptr[u : u + 2])) for ptr in (pairs.ptr, pairs.back_ptr))
            forth |= {(u, v): r for v, r in zip(pairs.node[rows].tolist(), pairs.relation[rows].tolist(), strict=True)}
            back |= {
                (v, u): r
                for v, r in zip(pairs.back_node[into].tolist(), pairs.back_relation[into].tolist(), strict=True)
            }
        named = {
            (u, v): [r for r, w in maze.edges[u] if w == v]
            for u, v in itertools.product(range(maze.entities), repeat=2)
        }
        assert forth == back == {pair: rs[0] if len(rs) == 1 else -1 for pair, rs in named.items() if rs}


def test_an_empty_frontier_ends_the_search() -> None:
    kg = KnowledgeGraph.from_triples([("a", "q", "b"), ("c", "q", "d")])
    pairs, one = Pairs.of(kg), torch.tensor([0])
    for method in ("bitset", "sparse"):
        reach = Reach(pairs, one, one, one, torch.tensor([3]), 3, method=method)
        assert [reach.within(one.expand(4), torch.arange(4), j).tolist() for j in range(4)] == [
            [False, False, False, True],
            *[[False, False, True, True]] * 3,
        ]
