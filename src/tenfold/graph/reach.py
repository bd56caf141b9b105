"""From where an answer can still be reached in so many steps: backwards from the answers of many queries at once.

Labels need these sets, never a list of paths. There are two ways to keep them: "bitset" has one bit a query for every
entity, 64 queries to a machine word; "sparse" has sorted pairs of query and entity.
"""

# Shape legend: E entities, P pairs of entities with an edge between, Q queries, W words of 64 queries, N anything flat

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from tenfold.graph.csr import expand, find_sorted
from tenfold.graph.knowledge_graph import KnowledgeGraph

Method = Literal["auto", "bitset", "sparse"]

DENSE = 4  # a push visits an entity at the cost of so many pair-words of a pull (measured)
BITSET_BYTES = (
    256 << 20
)  # where the bits would take more, "auto" is sparse; so it is where fewer pairs than words are expected


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which entities have an edge to which, themselves included (staying), however many relations join them.

    A relation is that of the pair's only edge, -1 where the pair has several. All tensors are on the CPU.
    """

    ptr: Tensor  # [E + 1] int64: entity u leads to node[ptr[u] : ptr[u + 1]]
    node: Tensor  # [P] int64
    relation: Tensor  # [P] int32
    back_ptr: Tensor  # [E + 1] int64: to entity v leads back_node[back_ptr[v] : back_ptr[v + 1]]
    back_count: Tensor  # [E] int64: how many these are
    back_node: Tensor  # [P] int64
    back_relation: Tensor  # [P] int32

    @classmethod
    def of(cls, kg: KnowledgeGraph) -> Pairs:
        """The pairs of a graph: its edges as they are walked, after pruning."""
        size, everyone = kg.num_entities, torch.arange(kg.num_entities + 1)
        source, rel, dst = (tensor.cpu() for tensor in (kg.sources, kg.rel, kg.dst))
        pair, number, count = torch.unique(source * size + dst, return_inverse=True, return_counts=True)
        # Any of a pair's edges may win this; its relation is kept only where it is the only one.
        relation = rel.new_empty(len(pair)).scatter_(0, number, rel).masked_fill_(count > 1, -1)
        first, last = pair // size, pair % size
        back = last.argsort(stable=True)
        ptr, back_ptr = torch.searchsorted(first, everyone), torch.searchsorted(last[back], everyone)
        return cls(ptr, last, relation, back_ptr, back_ptr.diff(), first[back], relation[back])

    @cached_property
    def growth(self) -> float:
        """By how much a step back widens a frontier: the mean number of predecessors of an entity that an edge came from."""
        count = self.back_count.double()
        return float(count.square().sum() / count.sum())


class BitSets:
    """A set of entities a query: bit q mod 64 of word [q div 64, entity].

    Args:
        words: [W, E] int64.
    """

    def __init__(self, words: Tensor) -> None:
        self.words = words

    def contains(self, query: Tensor, node: Tensor) -> Tensor:
        """[N] bool of pairs [N]."""
        return (self.words.view(-1).index_select(0, self._place(query, node)) >> (query & 63) & 1).bool()

    def add(self, query: Tensor, node: Tensor) -> None:
        """Put pairs [N] in; a pair may come several times."""
        np.bitwise_or.at(self.words.view(-1).numpy(), self._place(query, node).numpy(), _bit(query).numpy())

    def remove(self, query: Tensor, node: Tensor) -> None:
        """Take pairs [N] out."""
        np.bitwise_and.at(self.words.view(-1).numpy(), self._place(query, node).numpy(), (~_bit(query)).numpy())

    def copy(self) -> BitSets:
        """The same sets, to be changed apart."""
        return BitSets(self.words.clone())

    def predecessors(self, pairs: Pairs) -> BitSets:
        """All entities with an edge into these sets: the OR of the words that each of them leads to."""
        words, starts = torch.empty_like(self.words), pairs.ptr[:-1].numpy()  # no row is empty: all lead to themselves
        for word, these in zip(words, self.words, strict=True):  # a word at a time stays in the cache
            np.bitwise_or.reduceat(these.index_select(0, pairs.node).numpy(), starts, out=word.numpy())
        return BitSets(words)

    def _place(self, query: Tensor, node: Tensor) -> Tensor:
        return (query >> 6) * self.words.shape[1] + node


class KeySets:
    """A set of entities a query.

    Args:
        keys: query · E + entity [N] int64, ascending, each once.
        num_entities: E.
    """

    def __init__(self, keys: Tensor, num_entities: int) -> None:
        self.keys, self.num_entities = keys, num_entities

    def contains(self, query: Tensor, node: Tensor) -> Tensor:
        """[N] bool of pairs [N]."""
        return find_sorted(self.keys, query * self.num_entities + node) >= 0

    def add(self, query: Tensor, node: Tensor) -> None:
        """Put pairs [N] in; a pair may come several times."""
        self.keys = torch.unique(torch.cat([self.keys, query * self.num_entities + node]))

    def copy(self) -> KeySets:
        """The same sets, to be changed apart."""
        return KeySets(self.keys, self.num_entities)


Sets = BitSets | KeySets


class Reach:
    """R_j of every query: the entities from which a walk of at most j steps ends on a target, for j = 0..steps.

    The edges of the query's relation from its source to its targets are no part of a walk.

    Args:
        pairs: of the graph.
        source, relation: of the queries [Q] int64.
        owner, target: the query and the entity of every target [N] int64; each query has at least one.
        steps: the largest j.
        through_source: False: a walk neither waits at the source nor comes back to it.
        method: how the sets are kept; "auto" takes bits unless they would be large or hold few entities.
        max_frontier: pairs to look at in one go; more take several.
    Source: a breadth-first search from the targets that pushes from few entities and pulls to all (Beamer et al. 2012,
        "Direction-optimizing breadth-first search"), for 64 queries a word (Then et al. 2014, "The more the merrier").
    """

    def __init__(
        self,
        pairs: Pairs,
        source: Tensor,
        relation: Tensor,
        owner: Tensor,
        target: Tensor,
        steps: int,
        *,
        through_source: bool = True,
        method: Method = "auto",
        max_frontier: int = 2_000_000,
    ) -> None:
        self.pairs, self.source, self.relation = pairs, source, relation
        self.through_source, self.max_frontier = through_source, max_frontier
        size, words = len(pairs.ptr) - 1, -(-len(source) // 64)
        if method == "auto":
            first = int(pairs.back_count.index_select(0, target).sum())
            expected = sum(first * pairs.growth**step for step in range(steps))
            small = (steps + 1) * words * size * 8 <= BITSET_BYTES
            method = "bitset" if small and expected >= words * size else "sparse"
        level: Sets = KeySets(owner.new_empty(0), size)
        if method == "bitset":
            level = BitSets(owner.new_zeros(words, size))
        level.add(owner, target)
        self.levels = [level]
        pull = False
        for step in range(steps):
            # Once a pull pays, the next one does: a frontier so wide seldom shrinks, and a pull does not say what is new.
            if step and method == "bitset" and not pull:
                pull = DENSE * int(pairs.back_count.index_select(0, target).sum()) > words * len(pairs.node)
            if pull:
                self._pull()
            else:
                owner, target = self._push(owner, target)

    def within(self, query: Tensor, node: Tensor, steps: int) -> Tensor:
        """Whether entities are in R_steps.

        Args:
            query, node: [N] int64, on any device.
            steps: j.
        Returns:
            [N] bool.
        """
        return self.levels[steps].contains(query.cpu(), node.cpu()).to(node.device)

    @cached_property
    def solvable(self) -> Tensor:
        """[Q] bool, on the CPU: a walk of steps + 1 from the source can end on a target."""
        pairs = self.pairs
        start = pairs.ptr[self.source]
        _, query, at = expand(start, pairs.ptr[self.source + 1] - start)
        node = pairs.node[at]
        own = (pairs.relation[at] == self.relation[query]) & self.levels[0].contains(query, node)
        leads = self.levels[-1].contains(query, node) & ~own
        return torch.bincount(query[leads], minlength=len(self.source)) > 0

    def _push(self, query: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Add the next level, from the pairs [N] that the last step found; return the pairs that this one found."""
        pairs, level, size = self.pairs, self.levels[-1].copy(), len(self.pairs.ptr) - 1
        first = len(self.levels) == 1
        if not first:
            new = (~self.levels[-2].contains(query, node)).nonzero().squeeze(1)
            query, node = _distinct(query[new], node[new], size)
        start, count = pairs.back_ptr[node], pairs.back_count[node]
        goes = max(1, -(-int(count.sum()) // self.max_frontier))
        cuts = torch.searchsorted(count.cumsum(0), torch.arange(1, goes) * self.max_frontier).tolist()
        found = []
        for low, high in itertools.pairwise([0, *cuts, len(node)]):
            _, row, at = expand(start[low:high], count[low:high])
            owner, entity = query[low:high].index_select(0, row), pairs.back_node.index_select(0, at)
            if first or not self.through_source:  # what may not be walked becomes staying
                home = (entity == self.source.index_select(0, owner)).nonzero().squeeze(1)
                if self.through_source:  # the query's own edges end on targets: only the first step meets them
                    home = home[pairs.back_relation[at[home]] == self.relation[owner[home]]]
                entity[home] = node[low:high][row[home]]
            level.add(owner, entity)
            found.append((owner, entity) if goes == 1 else _distinct(owner, entity, size))
        self.levels.append(level)
        owners, entities = zip(*found, strict=True)
        return torch.cat(owners), torch.cat(entities)

    def _pull(self) -> None:
        """Add the next level: every entity looks where it leads to. Targets count no more; the first step led there."""
        targets, level = cast(BitSets, self.levels[0]), cast(BitSets, self.levels[-1])
        back = BitSets(level.words & ~targets.words).predecessors(self.pairs)
        if not self.through_source:
            back.remove(torch.arange(len(self.source)), self.source)
        back.words |= level.words
        self.levels.append(back)


def _bit(query: Tensor) -> Tensor:
    return torch.ones_like(query) << (query & 63)


def _distinct(query: Tensor, node: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pairs [N], each once, by query and entity."""
    keys = torch.unique(query * size + node)
    query = keys // size
    return query, keys - query * size
