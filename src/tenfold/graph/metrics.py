"""Filtered ranking of tails: ranks, Hits@k and MRR of any score matrix, of scorers, and of walkers by beam search."""

# Shape legend: Q queries, E entities, W beam, T steps

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from tenfold.graph.answers import AnswerIndex, Ragged
from tenfold.graph.beam import beam_search
from tenfold.graph.embed import Scorer, check_vocabulary
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import Policy

Ties = Literal["realistic", "optimistic", "pessimistic"]
Unreached = Literal["miss", "rank"]
HITS = (1, 3, 5, 10, 20)
TO_MANY = 1.5  # mean training tails of a head above which a relation counts as to-many
CELLS = 1 << 24  # scores laid out at once

Scores = tuple[
    Tensor, Tensor, Tensor
]  # [Q, E] with -inf for what was not reached, and the best entity's path [Q, T] twice


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Every query of an evaluation, in the order of its triples (then those of the inverse queries)."""

    triples: Tensor  # [Q, 3] source, relation, target
    ranks: Tensor  # [Q] float64, inf is a miss
    reached: Tensor  # [Q] bool: the target had a score
    top1: Tensor  # [Q] the best entity, known answers among the candidates; -1 where nothing was reached
    score: Tensor  # [Q] its score
    path_rel: Tensor  # [Q, T] the path to it, staying included; T is 0 for a scorer
    path_dst: Tensor  # [Q, T]


def rank_targets(
    scores_QE: Tensor,
    target: Tensor,
    known: Tensor | Ragged | None = None,
    *,
    ties: Ties = "realistic",
    unreached: Unreached = "miss",
) -> Tensor:
    """Rank of each target among all entities, the other known answers removed.

    Args:
        scores_QE: higher is better; -inf marks an entity that was not reached.
        target: [Q] entity ids.
        known: the known answers, bool [Q, E] or rows of entity ids (`AnswerIndex.of`), which are removed; the target
            itself is always kept. None removes nothing.
        ties: "optimistic" places the target before all of equal score (1 + number greater), "pessimistic" behind them
            (number greater or equal, itself included), "realistic" takes the mean of both.
        unreached: a target of score -inf "miss"es (rank inf), or gets its "rank" among all that were not reached.
    Returns:
        [Q] float64 ranks from 1 on; inf is a miss.
    Raises:
        ValueError: shapes that do not fit, NaN among the scores.
    Source: Berrendorf et al. 2020, arXiv 2002.06914, section 3 (the three kinds of rank).
    """
    if scores_QE.ndim != 2 or target.shape != scores_QE.shape[:1]:
        raise ValueError(f"target: got {list(target.shape)}, need [Q] beside scores [Q, E] {list(scores_QE.shape)}")
    if ties not in ("realistic", "optimistic", "pessimistic"):
        raise ValueError(f"ties: got {ties!r}, need 'realistic', 'optimistic' or 'pessimistic'")
    if unreached not in ("miss", "rank"):
        raise ValueError(f"unreached: got {unreached!r}, need 'miss' or 'rank'")
    if bool(scores_QE.isnan().any()):
        raise ValueError("scores: got NaN, need numbers or -inf")
    if len(target) and not (int(target.min()) >= 0 and int(target.max()) < scores_QE.shape[1]):
        raise ValueError(f"target: got ids {int(target.min())}..{int(target.max())}, need 0..{scores_QE.shape[1] - 1}")
    own = scores_QE.gather(1, target[:, None])
    greater, equal = scores_QE > own, scores_QE == own
    if isinstance(known, Ragged):
        rows, known = known, torch.zeros_like(greater)
        known[rows.row, rows.values] = True
    if known is not None:
        greater, equal = greater & ~known, equal & ~known
    equal = equal.scatter(1, target[:, None], True)
    optimistic = greater.sum(1).double() + 1
    pessimistic = optimistic - 1 + equal.sum(1)
    ranks = {
        "optimistic": optimistic,
        "pessimistic": pessimistic,
        "realistic": (optimistic + pessimistic) / 2,
    }[ties]
    return ranks.masked_fill(own.squeeze(1) == -math.inf, math.inf) if unreached == "miss" else ranks


def rank_metrics(
    scores_QE: Tensor,
    target: Tensor,
    known: Tensor | Ragged | None = None,
    ties: Ties = "realistic",
    unreached: Unreached = "miss",
) -> dict[str, float]:
    """MRR and Hits@k of any score matrix; arguments as in `rank_targets`.

    Returns:
        "mrr", "hits@1", "hits@3", "hits@5", "hits@10", "hits@20" in [0, 1].
    """
    return summarize(rank_targets(scores_QE, target, known, ties=ties, unreached=unreached))


def summarize(ranks: Tensor) -> dict[str, float]:
    """Mean reciprocal rank and shares of ranks up to k; a rank of inf is a miss and adds 0.

    Args:
        ranks: [Q], at least one.
    """
    if len(ranks) == 0:
        raise ValueError("ranks: got none, need at least one query")
    return {
        "mrr": float((1 / ranks).mean()),
        **{f"hits@{k}": float((ranks <= k).double().mean()) for k in HITS},
    }


def evaluate(
    model: Policy[Any] | Scorer,
    kg: KnowledgeGraph,
    split: str | Tensor = "test",
    *,
    width: int = 128,
    horizon: int = 3,
    reduce: Literal["max", "sum"] = "max",
    filtered: bool = True,
    ties: Ties = "realistic",
    unreached: Unreached = "miss",
    unseen: Literal["miss", "drop"] = "miss",
    eval_mask: Literal["train", "all"] = "train",
    mask_inverse: bool = True,
    both_sides: bool = False,
) -> dict[str, Any]:
    """Rank the tail of every triple: of a walker by beam search, of a scorer by all its scores.

    Papers on walkers rank tails only; so does this, unless `both_sides`.

    Args:
        model: a walker or a scorer of the same entities and relations as `kg`.
        kg: the graph, with the splits.
        split: "train", "valid" or "test", or triples [n, 3] of ids.
        width, horizon, reduce: of the beam search.
        filtered: known answers of train, valid and test other than the target are removed.
        ties, unreached: as in `rank_targets`.
        unseen: triples with an entity that no training triple has count as a "miss", or are left out ("drop").
        eval_mask: answers that the last step of a walk may not end on: those of the training triples (MultiHopKG), or
            of "all" splits, which uses test answers in the search and is more favourable (MINERVA).
        mask_inverse: as in `WalkEnv`.
        both_sides: also rank heads, as tails of the inverse queries.
    Returns:
        "mrr", "hits@1", "hits@3", "hits@5", "hits@10", "hits@20", "coverage" (share of queries whose target had a
        score), "queries", "unseen" (queries with an unseen entity, dropped or missed); the same under "to_one/..." and
        "to_many/..." for relations of at most, and of more than, 1.5 training tails a head on average (absent where
        there is no such query); and "per_query", an `Evaluation`.
    Raises:
        ValueError: a model of another vocabulary, a split without triples, or one left without triples.
    """
    for name, value, allowed in (("unseen", unseen, ("miss", "drop")), ("eval_mask", eval_mask, ("train", "all"))):
        if value not in allowed:
            raise ValueError(f"{name}: got {value!r}, need one of {', '.join(map(repr, allowed))}")
    if isinstance(split, str) and split not in kg.splits:
        raise ValueError(f"split: got {split!r}, need one of {', '.join(map(repr, kg.splits))}")
    train, everything = kg.answers("train"), kg.answers("train", "valid", "test")
    scores: Callable[[Tensor], Scores]
    if isinstance(model, Scorer):
        check_vocabulary(model, kg)
        scores = partial(_score, model)
    else:
        env = WalkEnv(kg, horizon, mask_inverse=mask_inverse, known=train if eval_mask == "train" else everything)
        scores = partial(_walk, model, env, width, reduce)

    triples = _queries(kg, kg.splits[split] if isinstance(split, str) else split, both_sides)
    stranger = _strangers(kg)[triples[:, [0, 2]]].any(1)
    report: dict[str, Any] = {"unseen": int(stranger.sum())}
    if unseen == "drop":
        triples, stranger = triples[~stranger], stranger[~stranger]
    if len(triples) == 0:
        raise ValueError(f"split: got {split if isinstance(split, str) else 'triples'!r} with nothing to rank")
    parts = []
    for at in torch.arange(len(triples), device=triples.device).split(max(1, CELLS // kg.num_entities)):
        source, relation, target = triples[at].T
        scores_QE, path_rel, path_dst = scores(triples[at])
        best, top1 = scores_QE.max(1)
        scores_QE[stranger[at], target[stranger[at]]] = -math.inf
        known = everything.of(source, relation) if filtered else None
        ranks = rank_targets(scores_QE, target, known, ties=ties, unreached=unreached)
        reached = scores_QE.gather(1, target[:, None]).squeeze(1) > -math.inf
        parts.append((ranks, reached, top1.where(best > -math.inf, -1), best, path_rel, path_dst))
    per_query = Evaluation(triples, *map(torch.cat, zip(*parts, strict=True)))
    many = _tails_per_head(kg, train)[triples[:, 1]] > TO_MANY
    for prefix, chosen in (("", many | True), ("to_one/", ~many), ("to_many/", many)):
        report |= {prefix + name: value for name, value in _summary(per_query, chosen).items()}
    return {**report, "per_query": per_query}


def _walk(policy: Policy[Any], env: WalkEnv, width: int, reduce: Literal["max", "sum"], triples: Tensor) -> Scores:
    """Log-probabilities of the ends that the beam kept, -inf for all other entities; the best end's path."""
    source, relation, target = triples.T
    found = beam_search(policy, env, source, relation, width, t=target, reduce=reduce)
    # One column more takes the free slots of the beam, whose entity is -1.
    scores_QE = found.scores.new_full((len(triples), env.kg.num_entities + 1), -math.inf)
    scores_QE.scatter_(1, found.entities % scores_QE.shape[1], found.scores)
    return scores_QE[:, :-1], found.path_rel[:, 0], found.path_dst[:, 0]


def _score(scorer: Scorer, triples: Tensor) -> Scores:
    """Log-odds of all tails, without paths."""
    nowhere = triples.new_empty(len(triples), 0)
    with torch.no_grad():
        return scorer.logits_t(triples[:, 0], triples[:, 1]), nowhere, nowhere


def _queries(kg: KnowledgeGraph, triples: Tensor, both_sides: bool) -> Tensor:
    """The triples, and behind them their inverses where heads are ranked too."""
    if not both_sides:
        return triples
    if not kg.doubled:
        raise ValueError("both_sides: got a graph without inverse relations, need one made with inverse=True")
    head, relation, tail = triples.T
    return torch.cat([triples, torch.stack([tail, kg.inverse(relation), head], 1)])


def _strangers(kg: KnowledgeGraph) -> Tensor:
    """[E] bool: entities that no training triple (and no triple of a separate graph) has."""
    unseen = torch.ones(kg.num_entities, dtype=torch.bool, device=kg.indptr.device)
    for name in ("train", "graph"):
        if name in kg.splits:
            unseen[kg.splits[name][:, [0, 2]].flatten()] = False
    return unseen


def _tails_per_head(kg: KnowledgeGraph, train: AnswerIndex) -> Tensor:
    """[2R] mean number of training tails that a head of the relation has; 0 for a relation without triples."""
    relation = train.queries % train.relations
    count = train.ptr.diff().float()
    tails = count.new_zeros(2 * kg.num_relations).index_add_(0, relation, count)
    return tails / torch.bincount(relation, minlength=len(tails)).clamp(min=1)


def _summary(per_query: Evaluation, chosen: Tensor) -> dict[str, float]:
    """Figures of the chosen queries; none where no query is chosen."""
    if not bool(chosen.any()):
        return {}
    return {
        **summarize(per_query.ranks[chosen]),
        "coverage": float(per_query.reached[chosen].double().mean()),
        "queries": int(chosen.sum()),
    }
