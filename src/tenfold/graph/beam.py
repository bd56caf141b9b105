"""Beam search: the answers a policy finds likeliest, each with its best path."""

# Shape legend: Q queries, W beam, T horizon, A agents (the beams of all queries), N actions of all agents, E entities

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tenfold.graph.answers import AnswerIndex
from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import Policy
from tenfold.graph.ragged import segment_log_softmax, segment_top_k

# Candidates (or cells of the table of answers) weighed at once, some 100 bytes each; the memory of one agent counts as 64.
# Queries that come to more are split in halves: the memory does not grow with the batch, and results do not depend on it.
CANDIDATES = 1 << 21
AGENT = 64
MAX_WIDTH = 1 << 16


@dataclass(frozen=True, eq=False)
class BeamResult:
    """The answers of every query, best first; of equal scores the smaller id first. Free slots hold -1 and -inf."""

    entities: Tensor  # [Q, W] int64, distinct within a query
    scores: Tensor  # [Q, W] log-probabilities: of the best path, or of all paths found together
    path_rel: Tensor  # [Q, W, T] int64: the best path that ends there, staying (`kg.no_op`) included
    path_dst: Tensor  # [Q, W, T] int64

    @property
    def paths(self) -> tuple[Tensor, Tensor]:
        """The relations and the entities of the best paths."""
        return self.path_rel, self.path_dst


@torch.no_grad()
def beam_search(
    policy: Policy[Any],
    env: WalkEnv | KnowledgeGraph,
    s: Tensor,
    r: Tensor,
    width: int = 128,
    *,
    t: Tensor | None = None,
    horizon: int | None = None,
    known: AnswerIndex | None = None,
    reduce: Literal["max", "sum"] = "max",
) -> BeamResult:
    """Keep the `width` likeliest paths of every query at each step, and of the last step the likeliest ends.

    Deterministic: of paths of equal probability the one of the better parent is kept, then the earlier action.

    Args:
        policy: the walker; a module is put into evaluation mode for the search.
        env: the rules of the walk, or a graph, for the usual rules.
        s, r: source and relation ids [Q].
        width: W, from 1 to `MAX_WIDTH`.
        t: the answers sought [Q], for the masks of evaluation (`WalkEnv`); None: unknown, as when a user asks.
        horizon: T, where `env` is a graph; None: 3.
        known: answers that the last step may not end on other than t, where `env` is a graph.
        reduce: an entity counts by its best path ("max") or by all paths of the last step that end on it ("sum").
            Both see every action of the last step, before the cut to W distinct entities.
    Raises:
        ValueError: the policy gives NaN.
    Source: Das et al. 2018, arXiv 1711.05851, section 3; Lin et al. 2018, arXiv 1808.10568, section 3.
    """
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"width: got {width}, need 1..{MAX_WIDTH}")
    if reduce not in ("max", "sum"):
        raise ValueError(f"reduce: got {reduce!r}, need 'max' or 'sum'")
    if isinstance(env, KnowledgeGraph):
        env = WalkEnv(env, 3 if horizon is None else horizon, known=known)
    elif horizon is not None or known is not None:
        raise ValueError("horizon, known: got them beside a WalkEnv, need a WalkEnv made with them")
    was_training = isinstance(policy, nn.Module) and policy.training
    if isinstance(policy, nn.Module):
        policy.eval()
    try:
        return _search(policy, env, env.reset(s, r, t), width, reduce)
    finally:
        if isinstance(policy, nn.Module):
            policy.train(was_training)


def _search(policy: Policy[Any], env: WalkEnv, state: State, width: int, reduce: str) -> BeamResult:
    parts: list[BeamResult] = []
    pending = [(state, policy.init(state), torch.zeros(len(state), device=state.node.device))] if len(state) else []
    while pending:
        state, hidden, score_A = pending.pop()
        if halves := _halves(env, state, width):
            pending += [(state.select(half), policy.select(hidden, half), score_A[half]) for half in halves]
            continue
        actions = env.actions(state)
        log_p_N = segment_log_softmax(policy.logits(state, hidden, actions), actions.row, actions.ptr)
        score_N = score_A.index_select(0, actions.row) + log_p_N
        if bool(score_N.isnan().any()):
            raise ValueError(f"policy: got NaN logits at step {state.step}, need finite numbers")
        if state.step + 1 == env.horizon:
            parts.append(_ends(env, state, actions, score_N, width, reduce))
            continue
        first, queries = _span(state)
        query_N = state.query[actions.row] - first
        kept, _ = segment_top_k(score_N, query_N, _starts(query_N, queries), width)
        state = env.step(state, kept)
        hidden = policy.advance(policy.select(hidden, actions.row[kept]), state.last_relation, state.node)
        pending.append((state, hidden, score_N[kept]))
    if not parts:
        return _empty(0, width, env.horizon, torch.empty(0, device=state.node.device))
    return BeamResult(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(BeamResult)))


def _ends(env: WalkEnv, state: State, actions: Actions, score_N: Tensor, width: int, reduce: str) -> BeamResult:
    """The likeliest distinct ends of the last step: a table of all queries by all entities, no sort of the candidates."""
    first, queries = _span(state)
    entities, count = env.kg.num_entities, len(score_N)
    cell_N = (state.query[actions.row] - first) * entities + actions.dst
    best = score_N.new_full((queries * entities,), -torch.inf).scatter_reduce_(0, cell_N, score_N, "amax")
    best_N = best[cell_N]
    number_N = torch.arange(count, device=score_N.device).masked_fill_(score_N != best_N, count)
    origin = torch.full_like(best, count, dtype=torch.int64).scatter_reduce_(0, cell_N, number_N, "amin")
    if reduce == "sum":
        best = best + torch.zeros_like(best).index_add_(0, cell_N, (score_N - best_N).exp_()).log_()
    # Cells that a path reached, by (query, entity): a ragged array of the queries' distinct ends.
    cell = (origin < count).nonzero()[:, 0]
    query = cell // entities
    order, ptr = segment_top_k(best[cell], query, _starts(query, queries), width)
    cell, query = cell[order], query[order]
    slot = torch.arange(len(order), device=order.device) - ptr[query]
    last = env.step(state, origin[cell])
    result = _empty(queries, width, env.horizon, best)
    result.entities[query, slot] = last.node
    result.scores[query, slot] = best[cell]
    result.path_rel[query, slot] = last.path_rel
    result.path_dst[query, slot] = last.path_dst
    return result


def _span(state: State) -> tuple[int, int]:
    """First query and number of queries; a state here holds at least one agent of each query in between."""
    first = int(state.query[0])
    return first, int(state.query[-1]) + 1 - first


def _starts(query_N: Tensor, queries: int) -> Tensor:
    """Row starts [Q + 1] of ascending query numbers."""
    return torch.searchsorted(query_N, torch.arange(queries + 1, device=query_N.device))


def _halves(env: WalkEnv, state: State, width: int) -> list[Tensor]:
    """The agents of the later and of the earlier half of the queries, if all at once are too many candidates."""
    first, queries = _span(state)
    indptr = env.kg.indptr
    candidates = int((indptr[state.node + 1] - indptr[state.node]).sum())
    if queries == 1 or max(candidates, queries * max(env.kg.num_entities, AGENT * width)) <= CANDIDATES:
        return []
    later = state.query >= first + queries // 2
    return [later.nonzero()[:, 0], (~later).nonzero()[:, 0]]  # the earlier half comes off the stack first


def _empty(queries: int, width: int, horizon: int, like: Tensor) -> BeamResult:
    nobody = torch.full((queries, width), -1, device=like.device)
    nowhere = torch.full((queries, width, horizon), -1, device=like.device)
    return BeamResult(nobody, like.new_full((queries, width), -torch.inf), nowhere, nowhere.clone())
