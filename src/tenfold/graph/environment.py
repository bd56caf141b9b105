"""Walks over a graph for many agents at once: where they stand, what they may do, one step on.

A walk answers the query (source, relation, ?): it starts at the source, takes `horizon` steps, each along an edge or
staying, and its last entity is the answer.
"""

# Shape legend: Q queries, A agents (queries x rollouts, those of a query adjacent), N actions of all agents, T horizon

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tenfold.graph.answers import AnswerIndex
from tenfold.graph.csr import expand, pick
from tenfold.graph.knowledge_graph import KnowledgeGraph


@dataclass(frozen=True, eq=False)
class State:
    """Where every agent stands after `step` steps. All tensors are int64."""

    query: Tensor  # [A] its query: the place in the call of `reset`, 0..Q-1
    source: Tensor  # [A]
    relation: Tensor  # [A]
    target: Tensor  # [A] the answer sought, -1 where it is unknown
    node: Tensor  # [A] where it stands
    previous: Tensor  # [A] where it stood a step ago, -1 at step 0
    last_relation: Tensor  # [A] the relation it came by, `kg.start` at step 0
    path_rel: Tensor  # [A, step] the relations taken
    path_dst: Tensor  # [A, step] the entities they led to
    step: int = 0

    def __len__(self) -> int:
        return len(self.node)

    def select(self, rows: Tensor) -> State:
        """The agents `rows` [B] int64, in that order; an agent may come several times."""
        return State(
            query=pick(self.query, rows),
            source=pick(self.source, rows),
            relation=pick(self.relation, rows),
            target=pick(self.target, rows),
            node=pick(self.node, rows),
            previous=pick(self.previous, rows),
            last_relation=pick(self.last_relation, rows),
            path_rel=pick(self.path_rel, rows),
            path_dst=pick(self.path_dst, rows),
            step=self.step,
        )


@dataclass(frozen=True, eq=False)
class Actions:
    """What every agent may do, one agent after the other; no agent is without an action. All tensors are int64.

    An agent's actions stand in the order of the graph: staying first, then by (relation, entity).
    """

    row: Tensor  # [N] the agent
    rel: Tensor  # [N] the relation walked, `kg.no_op` for staying
    dst: Tensor  # [N] the entity it leads to
    ptr: Tensor  # [A + 1] agent a has the actions ptr[a] .. ptr[a + 1] - 1

    def __len__(self) -> int:
        return len(self.row)


class WalkEnv:
    """The rules of the walk.

    Three masks take actions away, in training and in evaluation alike:
    1. the edge in question, source -relation-> target at the source, and its inverse at the target;
    2. at the last step, whatever ends on another known answer of the query, which would be no mistake;
    3. an agent that these leave without an action may stay.
    An agent whose target is unknown is under none of them, unless `targets="all"`.

    Args:
        kg: the graph walked.
        horizon: T, steps of a walk, at least 1.
        mask_inverse: also take the inverse edge away (MultiHopKG); False as in MINERVA.
        known: the answers of mask 2; None leaves it out.
        mask_query: False leaves mask 1 out.
        targets: "all" takes away the edges of the graph to every answer of the query, whatever the target, and
            leaves mask 2 out: for labels of all answers, and for answering without looking the answer up.
    Source: Das et al. 2018 (MINERVA) section 2.2; Lin et al. 2018 (MultiHopKG) section 3.4; arXiv 2405.13640.
    """

    def __init__(
        self,
        kg: KnowledgeGraph,
        horizon: int = 3,
        *,
        mask_inverse: bool = True,
        known: AnswerIndex | None = None,
        mask_query: bool = True,
        targets: Literal["single", "all"] = "single",
    ) -> None:
        if horizon < 1:
            raise ValueError(f"horizon: got {horizon}, need at least 1")
        if targets not in ("single", "all"):
            raise ValueError(f"targets: got {targets!r}, need 'single' or 'all'")
        self.kg = kg
        self.horizon = horizon
        self.mask_inverse = mask_inverse
        self.mask_query = mask_query
        self.targets = targets
        self.known = known if targets == "single" else None
        self._latest: tuple[State, Actions] | None = None

    def reset(self, s: Tensor, r: Tensor, t: Tensor | None = None, rollouts: int = 1) -> State:
        """Agents at the sources of queries.

        Args:
            s, r: source and relation ids [Q]; inverse relations are as good as any.
            t: the answer sought [Q], -1 where it is unknown; None: everywhere.
            rollouts: agents a query.
        Returns:
            State of A = Q · rollouts agents at step 0.
        """
        if rollouts < 1:
            raise ValueError(f"rollouts: got {rollouts}, need at least 1")
        if t is None:
            t = torch.full_like(s, -1)
        for name, ids, low, high in (
            ("s", s, 0, self.kg.num_entities),
            ("r", r, 0, self.kg.no_op),
            ("t", t, -1, self.kg.num_entities),
        ):
            if ids.shape != s.shape or ids.dim() != 1:
                raise ValueError(f"{name}: got shape {list(ids.shape)}, need [Q] as s, r and t")
            if ids.is_floating_point():
                raise ValueError(f"{name}: got {ids.dtype}, need integer ids")
            if len(ids) and not (low <= int(ids.min()) and int(ids.max()) < high):
                raise ValueError(f"{name}: got ids {int(ids.min())}..{int(ids.max())}, need {low}..{high - 1}")
        source, relation, target = (ids.long().repeat_interleave(rollouts) for ids in (s, r, t))
        nothing = source.new_empty(len(source), 0)
        return State(
            query=torch.arange(len(s), device=s.device).repeat_interleave(rollouts),
            source=source,
            relation=relation,
            target=target,
            node=source,
            previous=torch.full_like(source, -1),
            last_relation=torch.full_like(source, self.kg.start),
            path_rel=nothing,
            path_dst=nothing,
        )

    def actions(self, state: State) -> Actions:
        """The actions that the masks leave, of every agent.

        The latest answer is kept, so that asking again for the same state costs nothing.

        Raises:
            ValueError: the walk is over.
        """
        if state.step >= self.horizon:
            raise ValueError(f"state: got step {state.step}, need one before the horizon {self.horizon}")
        if self._latest is None or self._latest[0] is not state:
            self._latest = state, self._actions(state)
        return self._latest[1]

    def step(self, state: State, choice: Tensor) -> State:
        """Walk on.

        Args:
            state: before the step.
            choice: actions, as places in the flat `actions(state)`: one of each agent [A], or any number of them in
                any order (a beam). Agent i of the new state goes on from the agent that action choice[i] belongs to.
        """
        actions = self.actions(state)
        before = state.select(pick(actions.row, choice))
        relation, node = pick(actions.rel, choice), pick(actions.dst, choice)
        return State(
            query=before.query,
            source=before.source,
            relation=before.relation,
            target=before.target,
            node=node,
            previous=before.node,
            last_relation=relation,
            path_rel=torch.cat([before.path_rel, relation[:, None]], 1),
            path_dst=torch.cat([before.path_dst, node[:, None]], 1),
            step=state.step + 1,
        )

    def _actions(self, state: State) -> Actions:
        kg = self.kg
        start = pick(kg.indptr, state.node)
        count = pick(kg.indptr, state.node + 1) - start
        ptr, row, edge = expand(start, count)
        gone = torch.cat([*self._query_edges(state, ptr[:-1] - start), self._other_answers(state, row, edge)])
        if len(gone):
            keep = torch.ones(len(edge), dtype=torch.bool, device=edge.device)
            keep[gone] = False
            left = count - torch.bincount(pick(row, (~keep).nonzero().squeeze(1)), minlength=len(count))
            keep[ptr[:-1][left == 0]] = True  # staying is the first action of a row
            kept = keep.nonzero().squeeze(1)
            row, edge = pick(row, kept), pick(edge, kept)
            torch.cumsum(left.clamp_(min=1), 0, out=ptr[1:])
        return Actions(row, pick(kg.rel, edge).long(), pick(kg.dst, edge).long(), ptr)

    def _query_edges(self, state: State, shift: Tensor) -> list[Tensor]:
        """The places among the actions of those that mask 1 takes away; a place is an edge of an agent + its shift."""
        if not self.mask_query:
            return []
        kg, opposite = self.kg, self.kg.inverse(state.relation)
        places = []
        if self.targets == "all":
            agent = (state.node == state.source).nonzero().squeeze(1)
            source, relation = pick(state.source, agent), pick(state.relation, agent)
            bounds = (kg.key(source, relation, torch.full_like(source, end)) for end in (0, kg.num_entities))
            begin, end = (torch.searchsorted(kg.keys, bound) for bound in bounds)
            _, row, edge = expand(begin, end - begin)
            places.append(pick(pick(shift, agent), row) + edge)
            backward = kg.find(state.node, opposite, state.source)
            if self.mask_inverse:
                places.append((shift + backward)[backward >= 0])
            return places
        ends = (state.source, state.relation, state.target), (state.target, opposite, state.source)
        for here, relation, there in ends[: 2 if self.mask_inverse else 1]:
            agent = (state.node == here).nonzero().squeeze(1)
            edge = kg.find(pick(here, agent), pick(relation, agent), pick(there, agent))
            places.append((pick(shift, agent) + edge)[edge >= 0])
        return places

    def _other_answers(self, state: State, row: Tensor, edge: Tensor) -> Tensor:
        """The places of the actions that mask 2 takes away."""
        if self.known is None or state.step < self.horizon - 1:
            return edge[:0]
        node = pick(self.kg.dst, edge).long()
        answer = self.known.contains(state.source, state.relation, node, row).nonzero().squeeze(1)
        target = pick(state.target, pick(row, answer))
        return answer[(target >= 0) & (pick(node, answer) != target)]
