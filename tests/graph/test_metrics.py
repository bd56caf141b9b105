"""Ranks by hand, against a slow twin, and the evaluation of scorers and walkers on small graphs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.graph.answers import Ragged
from tenfold.graph.environment import State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.metrics import HITS, evaluate, rank_metrics, rank_targets
from tenfold.graph.policies import MinervaPolicy

NONE = -math.inf


class TableScorer:
    """A scorer of given log-odds, the same for every query."""

    def __init__(self, kg: KnowledgeGraph, row: list[float], entities: int | None = None) -> None:
        self.num_entities, self.num_relations = entities or kg.num_entities, kg.num_relations
        self.row = torch.tensor(row)

    def logits_t(self, head: Tensor, relation: Tensor) -> Tensor:
        return self.row.repeat(len(head), 1)

    def score_t(self, head: Tensor, relation: Tensor) -> Tensor:
        return self.logits_t(head, relation).sigmoid()

    def score_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        return self.row[tail].sigmoid()


def slow_rank(scores: list[float], target: int, known: set[int], ties: str) -> float:
    """The rank by its definition: the other known answers leave the list, the rest is compared one by one."""
    others = [score for entity, score in enumerate(scores) if entity != target and entity not in known]
    first = 1 + sum(score > scores[target] for score in others)
    last = first + sum(score == scores[target] for score in others)
    return {"optimistic": first, "pessimistic": last, "realistic": (first + last) / 2}[ties]


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.1, 0.5], [NONE, 2.0, NONE, 1.0, NONE]])
    target = torch.tensor([2, 0])
    known = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]).bool()

    def ranks(**options: Any) -> list[float]:
        return rank_targets(scores, target, known, **options).tolist()

    assert ranks(unreached="rank", ties="optimistic") == [1, 2]
    assert ranks(unreached="rank", ties="pessimistic") == [3, 4]
    assert ranks(unreached="rank", ties="realistic") == [2, 3]
    assert ranks() == [2, math.inf]
    assert rank_targets(scores, target).tolist() == [3, math.inf]


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic", "realistic"])
def test_ranks_are_those_of_the_definition(ties: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        scores = torch.randint(-2, 3, (4, 9), generator=generator).float()
        scores[scores == -2] = NONE
        target = torch.randint(0, 9, (4,), generator=generator)
        known = torch.rand(4, 9, generator=generator) < 0.3
        expected = [
            slow_rank(row.tolist(), int(t), set(k.nonzero().flatten().tolist()), ties)
            for row, t, k in zip(scores, target, known, strict=True)
        ]
        row, entity = known.nonzero().T
        rows = Ragged(entity, row, torch.cat([torch.zeros(1).long(), known.sum(1).cumsum(0)]))
        assert rank_targets(scores, target, known, ties=ties, unreached="rank").tolist() == expected
        assert rank_targets(scores, target, rows, ties=ties, unreached="rank").tolist() == expected


def test_metrics_by_hand() -> None:
    scores = torch.zeros(4, 30)
    scores[:, :4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    scores[3, 29] = NONE
    metrics = rank_metrics(scores, torch.tensor([0, 1, 3, 29]))
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 0) / 4)
    assert [metrics[f"hits@{k}"] for k in HITS] == [0.25, 0.5, 0.75, 0.75, 0.75]
    assert rank_metrics(scores, torch.tensor([0, 1, 3, 29]), unreached="rank")["hits@20"] == 0.75


def test_order_of_entities_and_of_queries_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, target = torch.rand(20, 15, generator=generator).round(decimals=1), torch.arange(20) % 15
    entities, queries = torch.randperm(15, generator=generator), torch.randperm(20, generator=generator)
    moved = rank_targets(scores[queries][:, entities], entities.argsort()[target[queries]])
    assert torch.equal(moved, rank_targets(scores, target)[queries])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ties": "best"}, "ties: got 'best', need 'realistic'"),
        ({"unreached": "zero"}, "unreached: got 'zero', need 'miss' or 'rank'"),
        ({"target": torch.tensor([1])}, r"target: got \[1\], need \[Q\] beside scores \[Q, E\] \[2, 3\]"),
        ({"scores_QE": torch.tensor([[0.0, math.nan, 1.0]] * 2)}, "scores: got NaN"),
        ({"scores_QE": torch.zeros(0, 3), "target": torch.zeros(0).long()}, "ranks: got none"),
    ],
)
def test_faulty_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"scores_QE": torch.zeros(2, 3), "target": torch.tensor([0, 1]), **change}
    with pytest.raises(ValueError, match=message):
        rank_metrics(**arguments)


@pytest.fixture
def kg() -> KnowledgeGraph:
    """Entities a..f; `likes` leads from a head to two, `is` to one. f occurs in test alone."""
    train = [("a", "likes", "b"), ("a", "likes", "c"), ("b", "likes", "c"), ("b", "likes", "d"), ("a", "is", "d")]
    train += [("c", "is", "e"), ("d", "is", "e")]
    return KnowledgeGraph.from_triples(
        train, [("b", "likes", "a")], [("b", "likes", "e"), ("a", "is", "e"), ("c", "likes", "f")]
    )


def test_a_scorer_by_hand(kg: KnowledgeGraph) -> None:
    scorer = TableScorer(kg, [5.0, 4.0, 4.0, 3.0, 2.0, 9.0])  # entities a..f
    metrics = evaluate(scorer, kg)
    per_query = metrics["per_query"]
    # (b, likes, e): a, c and d are known, so b and f are before it; (a, is, e): d is known, f, a, b, c before it.
    assert per_query.ranks.tolist() == [3, 5, math.inf]
    assert per_query.reached.tolist() == [True, True, False]
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 5) / 3)
    assert metrics["coverage"] == pytest.approx(2 / 3)
    assert (metrics["queries"], metrics["unseen"]) == (3, 1)
    assert (metrics["to_many/queries"], metrics["to_one/queries"]) == (2, 1)
    assert metrics["to_one/mrr"] == pytest.approx(1 / 5)
    assert per_query.top1.tolist() == [5, 5, 5]
    assert evaluate(scorer, kg, filtered=False)["per_query"].ranks.tolist() == [6, 6, math.inf]
    assert evaluate(scorer, kg, unreached="rank")["per_query"].ranks.tolist() == [3, 5, 6]
    dropped = evaluate(scorer, kg, unseen="drop")
    assert (dropped["queries"], dropped["unseen"]) == (2, 1)
    assert dropped["mrr"] == pytest.approx((1 / 3 + 1 / 5) / 2)


def test_heads_are_ranked_as_tails_of_the_inverse(kg: KnowledgeGraph) -> None:
    scorer = TableScorer(kg, [5.0, 4.0, 4.0, 3.0, 2.0, 1.0])
    metrics = evaluate(scorer, kg, both_sides=True, unseen="drop")
    # (e, likes_inv, b): nothing else is known, c is tied with b. (e, is_inv, a): c and d are known.
    assert metrics["per_query"].ranks.tolist()[2:] == [2.5, 1]
    assert metrics["per_query"].triples.tolist()[2:] == [[4, 3, 1], [4, 2, 0]]
    assert metrics["queries"] == 4


def test_a_scorer_in_parts_is_a_scorer_at_once(kg: KnowledgeGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = TableScorer(kg, [5.0, 4.0, 4.0, 3.0, 2.0, 9.0])
    whole = evaluate(scorer, kg, "train")
    monkeypatch.setattr("tenfold.graph.metrics.CELLS", 1)
    parts = evaluate(scorer, kg, "train")
    assert torch.equal(whole.pop("per_query").ranks, parts.pop("per_query").ranks)
    assert whole == parts


def random_graph(seed: int) -> KnowledgeGraph:
    triples = torch.randint(0, 12, (70, 3), generator=torch.Generator().manual_seed(seed))
    triples[:, 1] %= 3
    return KnowledgeGraph.from_triples(triples[:50], triples[50:60], triples[60:], entity_names=list("abcdefghijkl"))


def every_end(policy: Any, env: WalkEnv, state: State, hidden: Any, score: float, best: list[float]) -> None:
    """The score of the best walk to each entity, by going through all of them."""
    if state.step == env.horizon:
        best[int(state.node)] = max(best[int(state.node)], score)
        return
    actions = env.actions(state)
    for choice, log_p in enumerate(policy.logits(state, hidden, actions).log_softmax(0).tolist()):
        after = env.step(state, torch.tensor([choice]))
        every_end(policy, env, after, policy.advance(hidden, after.last_relation, after.node), score + log_p, best)


@torch.no_grad()
@pytest.mark.parametrize("eval_mask", ["train", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_a_walker_is_ranked_by_all_its_walks(seed: int, eval_mask: Any) -> None:
    kg = random_graph(seed)
    torch.manual_seed(seed)
    policy = MinervaPolicy(kg, dim=3, hidden=4).eval()
    ranks = evaluate(policy, kg, width=4096, horizon=2, eval_mask=eval_mask)["per_query"].ranks
    env = WalkEnv(kg, 2, known=kg.answers("train") if eval_mask == "train" else kg.answers())
    for query, rank in zip(kg.splits["test"], ranks.tolist(), strict=True):
        state = env.reset(*query[:, None])
        best = [NONE] * kg.num_entities
        every_end(policy, env, state, policy.init(state), 0.0, best)
        target = int(query[2])
        others = set(kg.answers().of(query[None, 0], query[None, 1]).values.tolist()) - {target}
        assert rank == (math.inf if best[target] == NONE else slow_rank(best, target, others, "realistic"))


def test_a_walker_gives_paths_and_counts_what_it_reached() -> None:
    kg = random_graph(0)
    torch.manual_seed(0)
    policy = MinervaPolicy(kg, dim=3, hidden=4)
    per_query = evaluate(policy, kg, "valid", horizon=2, width=5)["per_query"]
    assert torch.equal(per_query.reached, per_query.ranks < math.inf)
    assert torch.equal(per_query.path_dst[:, -1], per_query.top1)
    assert per_query.path_rel.shape == (10, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unseen": "keep"}, "unseen: got 'keep', need one of 'miss', 'drop'"),
        ({"eval_mask": "none"}, "eval_mask: got 'none', need one of 'train', 'all'"),
        ({"split": torch.zeros(0, 3).long()}, "split: got 'triples' with nothing to rank"),
    ],
)
def test_faulty_settings_are_named(change: dict[str, Any], message: str, kg: KnowledgeGraph) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(TableScorer(kg, [0.0] * 6), kg, **change)


def test_other_vocabularies_are_refused(kg: KnowledgeGraph) -> None:
    with pytest.raises(ValueError, match="scorer has 135 entities, graph has 6"):
        evaluate(TableScorer(kg, [0.0] * 6, entities=135), kg)
    one_way = KnowledgeGraph.from_triples([("a", "r", "b")], inverse=False)
    with pytest.raises(ValueError, match="both_sides: got a graph without inverse relations"):
        evaluate(TableScorer(one_way, [0.0] * 2), one_way, "train", both_sides=True)
