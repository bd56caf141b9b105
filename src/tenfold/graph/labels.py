"""Labels of the supervised stage: of all that an agent may do, what still leads to the answer.

The agent walks by its own policy; at every state it comes to, each action that some walk of the steps left can finish
from is positive. Only sets of entities are needed (`reach`), no paths.
"""

# Shape legend: Q queries, A agents, N actions of all agents, T horizon

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from torch import Tensor

from tenfold.graph.answers import AnswerIndex
from tenfold.graph.csr import pick
from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.ragged import segment_sum
from tenfold.graph.reach import Method, Pairs, Reach

Rule = Literal["reach", "multihop", "minerva"]
Targets = Literal["single", "all"]
Fallback = Literal["backtrack", "drop"]


class Labels(NamedTuple):
    """Which actions are positive, and which agents have one."""

    positive: Tensor  # [N] bool
    weight: Tensor  # [A] float: 1, or 0 for an agent without a positive action

    @property
    def labelled(self) -> Tensor:
        """Share of agents with a positive action."""
        return self.weight.mean()


class PathLabeller:
    """Labels the actions of walks in `env`.

    With k steps taken, an action to v is positive if v is in R_{T-1-k}: from v a walk of at most T-1-k steps along
    edges that are not masked ends on a target.

    Args:
        kg: the graph walked.
        horizon: T, at least 1.
        labels: "reach": as above; an agent that stands on a target may only stay. "multihop" (the paper's code for
            MultiHopKG): without that exception. "minerva" (its code for MINERVA): a walk may neither wait at the source
            nor come back to it before its first hit of a target, may only stay from then on, and has no positive
            action once it broke one of the two rules; the source itself is no hit before the first step.
        targets: "single": the agent's own; "all": every known answer of its query and its own.
        fallback: of an agent without a positive action. "backtrack": all actions to the entity it came from, if its
            query can be solved at all; "drop": none. At the first step there is none either way.
        mask_inverse: as in `WalkEnv`; MINERVA's walks are without.
        known: answers: of `targets="all"`, where they must hold those that the graph names (None: all of these and of
            the training triples); of the mask of `env`'s last step where targets are single (None: no such mask).
        method, max_frontier: as in `Reach`; the labels are the same.
    Source: arXiv 2405.13640, the supervised stage. Its code looks for paths one by one, three steps deep.
    """

    def __init__(
        self,
        kg: KnowledgeGraph,
        horizon: int,
        *,
        labels: Rule = "reach",
        targets: Targets = "single",
        fallback: Fallback = "backtrack",
        mask_inverse: bool = True,
        known: AnswerIndex | None = None,
        method: Method = "auto",
        max_frontier: int = 2_000_000,
    ) -> None:
        for name, value, choices in (
            ("labels", labels, get_args(Rule)),
            ("targets", targets, get_args(Targets)),
            ("fallback", fallback, get_args(Fallback)),
            ("method", method, get_args(Method)),
        ):
            if value not in choices:
                raise ValueError(f"{name}: got {value!r}, need one of {', '.join(map(repr, choices))}")
        if max_frontier < 1:
            raise ValueError(f"max_frontier: got {max_frontier}, need at least 1")
        self.env = WalkEnv(kg, horizon, mask_inverse=mask_inverse, known=known, targets=targets)
        self.labels, self.fallback = labels, fallback
        self.method, self.max_frontier = method, max_frontier
        self._pairs = Pairs.of(kg)
        self._answers: AnswerIndex | None = None
        if targets == "all":
            self._answers = known or kg.answers("train", *({"graph"} & set(kg.splits)))

    def reach(self, state: State) -> Reach:
        """The sets that the labels of all steps of these walks are read from; they depend on the queries alone."""
        if int(state.target.min()) < 0:
            raise ValueError("state: got unknown targets, need the answer of every agent's query")
        agent = state.query.new_zeros(int(state.query.max()) + 1)
        agent[state.query] = torch.arange(len(state), device=agent.device)  # one agent of each query
        source, relation, target = (column[agent] for column in (state.source, state.relation, state.target))
        owner = torch.arange(len(agent), device=agent.device)
        if self._answers is not None:
            answers = self._answers.of(source, relation)
            owner, target = torch.cat([owner, answers.row]), torch.cat([target, answers.values])
        return Reach(
            self._pairs,
            source.cpu(),
            relation.cpu(),
            owner.cpu(),
            target.cpu(),
            self.env.horizon - 1,
            through_source=self.labels != "minerva",
            method=self.method,
            max_frontier=self.max_frontier,
        )

    @overload
    def __call__(self, state: State, actions: Actions, reach: Reach | None = None, /) -> Labels: ...

    @overload
    def __call__(self, s: Tensor, r: Tensor, t: Tensor, state: State, /) -> Labels: ...

    def __call__(self, *given: Any) -> Labels:
        """Label the actions of every agent.

        Args:
            state, actions: where the agents stand, and `env.actions` of it.
            reach: `self.reach` of these walks, from any of their steps; None computes it.
            s, r, t: instead of actions, the queries [Q] of the state; the actions are those of `self.env`.
        Returns:
            positive [N] bool, weight [A].
        """
        if len(given) == 4:
            *queries, state = given
            source, relation, target = (ids[state.query] for ids in queries)
            state = replace(state, source=source, relation=relation, target=target)
            return self._label(state, self.env.actions(state), self.reach(state))
        state, actions, reach = (*given, None)[:3]
        return self._label(state, actions, reach or self.reach(state))

    def _label(self, state: State, actions: Actions, reach: Reach) -> Labels:
        left = self.env.horizon - 1 - state.step
        if left < 0:
            raise ValueError(f"state: got step {state.step}, need one before the horizon {self.env.horizon}")
        row, node, ptr = actions.row, actions.dst, actions.ptr
        positive = reach.within(pick(state.query, row), node, left)
        if self.labels != "multihop":
            arrived, lost = self._walked(state, reach)
            positive &= ~pick(arrived, row) | (actions.rel == self.env.kg.no_op)
            if lost is not None:
                positive &= ~pick(lost, row)
        labelled = segment_sum(positive.float(), ptr) > 0
        if self.fallback == "backtrack" and not labelled.all():
            back = ~labelled & pick(reach.solvable.to(node.device), state.query)
            positive |= pick(state.previous.where(back, -1), row) == node
            labelled = segment_sum(positive.float(), ptr) > 0
        return Labels(positive, labelled.float())

    def _walked(self, state: State, reach: Reach) -> tuple[Tensor, Tensor | None]:
        """[A] bool each: stands on a target and may only stay; broke a rule of the walk (None: nobody)."""
        if self.labels == "reach":
            return reach.within(state.query, state.node, 0), None
        steps = state.path_dst.shape[1]
        hit = reach.within(state.query.repeat_interleave(steps), state.path_dst.flatten(), 0).view_as(state.path_dst)
        earlier = hit.cumsum(1) - hit.long() > 0
        kept = torch.where(
            earlier, state.path_rel == self.env.kg.no_op, hit | (state.path_dst != state.source[:, None])
        )
        return hit.any(1), ~kept.all(1)
