"""The supervised losses of the paper's released code, oddities included, for comparison with its figures.

Both belong to padded tables. The padding is counted here, not made: its scores enter the sums with their number.
"""

# Shape legend: A agents, N actions of all agents at one step, T horizon

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tenfold.graph.environment import Actions, State
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import Policy
from tenfold.graph.ragged import segment_log_softmax, segment_logsumexp, segment_max, segment_sum

TABLE = 200  # MINERVA: actions of every entity in the padded table
BUCKET = 10  # MultiHopKG: entities of n actions are padded to the next multiple of this above n


class PaddingScores:
    """A policy that also scores, at every step, the padding that an agent would find in MINERVA's table.

    Args:
        policy: the walker.
        kg: whose last relation is the padding; it leads nowhere, so the agent's own entity stands for its target.
    """

    def __init__(self, policy: Policy[Any], kg: KnowledgeGraph) -> None:
        self.init, self.advance, self.select = policy.init, policy.advance, policy.select
        self.policy, self.relation = policy, kg.relation_rows - 1
        self.scores: list[Tensor] = []  # [A] of each step

    def logits(self, state: State, hidden: Any, actions: Actions) -> Tensor:
        """The policy's scores [N] of the actions."""
        agent = torch.arange(len(state) + 1, device=state.node.device)
        padding = Actions(agent[:-1], torch.full_like(state.node, self.relation), state.node, agent)
        self.scores.append(self.policy.logits(state, hidden, padding))
        return self.policy.logits(state, hidden, actions)


def minerva_step(logits: Tensor, padding: Tensor, positive: Tensor, actions: Actions) -> Tensor:
    """Cross-entropy [A] of one step; the loss is the mean of the squares of its sums over the steps.

    Raw scores of the whole table are brought to 0..1 by the batch's extremes and each row to the sum 1; logarithms are
    taken of that, bounded by 1e-7 on either side.

    Args:
        logits, positive: scores and labels of the actions [N].
        padding: score of each agent's padding [A].
        actions: of all agents.
    """
    row, ptr = actions.row, actions.ptr
    padded = (TABLE - ptr.diff()).clamp(min=0)
    everything = torch.cat([logits, padding[padded > 0]])
    low = everything.min()
    width = (everything.max() - low).clamp(min=torch.finfo(everything.dtype).tiny)
    share_N, share_A = (logits - low) / width, (padding - low) / width
    if bool(((segment_max(share_N, ptr) == 0) & ((share_A == 0) | (padded == 0))).any()):
        share_N, share_A = share_N + 1e-4, share_A + 1e-4  # a row of zeros could not be brought to the sum 1
    total = segment_sum(share_N, ptr) + padded * share_A
    log_share = (share_N / total.index_select(0, row)).clamp(1e-7, 1 - 1e-7).log()
    return -segment_sum(log_share * positive, ptr)


def multihop_loss(
    logits: Sequence[Tensor], positive: Sequence[Tensor], actions: Sequence[Actions], sizes: Sequence[Tensor]
) -> Tensor:
    """The loss of a batch: the probabilities go through a second softmax, over rows padded to the width of their bucket.

    Means over the agents of each bucket are summed over the steps and divided by the most buckets of a step.

    Args:
        logits, positive, actions: of each step.
        sizes: of each step, the number of actions [A] that the graph has where each agent stands, before any mask.
    """
    losses, most = [], 1
    for z, y, a, size in zip(logits, positive, actions, sizes, strict=True):
        p = segment_log_softmax(z, a.row, a.ptr).exp()
        bucket = size // BUCKET
        padded = (bucket + 1) * BUCKET - a.ptr.diff()  # masked actions have probability 0, as padding has
        norm = torch.logaddexp(segment_logsumexp(p, a.row, a.ptr), padded.to(p).log())
        loss = -segment_sum((p - norm.index_select(0, a.row)) * y, a.ptr)
        number, place, count = torch.unique(bucket, return_inverse=True, return_counts=True)
        losses.append((loss / count[place]).sum())
        most = max(most, len(number))
    return torch.stack(losses).sum() / most
