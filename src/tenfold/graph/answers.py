"""Which entities answer a query (source, relation): sorted pairs, found by binary search."""

# Shape legend: B queries, G distinct queries that have an answer, P answers of all of them, N entities in question

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenfold.graph.csr import expand, find_sorted, pick


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one after the other."""

    values: Tensor  # [N]
    row: Tensor  # [N] int64: the row of each value
    ptr: Tensor  # [B + 1] int64: row b is values[ptr[b] : ptr[b + 1]]


@dataclass(frozen=True, eq=False)
class AnswerIndex:
    """The answers of every query of a set of triples; made by `from_triples` or `KnowledgeGraph.answers`.

    Args:
        queries: source · relations + relation, ascending [G] int64.
        ptr: where the answers of each begin among the pairs [G + 1] int64.
        pairs: number of the query · num_entities + answer, ascending [P] int64.
        num_entities: E.
        relations: relation ids are below this.
    """

    queries: Tensor
    ptr: Tensor
    pairs: Tensor
    num_entities: int
    relations: int

    @classmethod
    def from_triples(cls, triples: Tensor, num_entities: int, relations: int) -> AnswerIndex:
        """Index triples (source, relation, answer) [n, 3] int64; one that comes twice counts once."""
        query = triples[:, 0] * relations + triples[:, 1]
        queries, number = torch.unique(query, return_inverse=True)
        pairs = torch.unique(number * num_entities + triples[:, 2])
        first = torch.arange(len(queries) + 1, device=pairs.device) * num_entities
        return cls(queries, torch.searchsorted(pairs, first), pairs, num_entities, relations)

    def of(self, source: Tensor, relation: Tensor) -> Ragged:
        """The answers of each query, ascending; an unknown query has none.

        Args:
            source, relation: ids [B] int64.
        """
        return self._answers(self._number(source, relation))

    def contains(self, source: Tensor, relation: Tensor, entity: Tensor, row: Tensor | None = None) -> Tensor:
        """Whether entities answer queries; -1 answers none.

        Args:
            source, relation: ids [B] int64.
            entity: ids [N] int64.
            row: the query that each entity is asked for [N] int64, in 0..B-1; None: its own (N = B).
        Returns:
            [N] bool.
        """
        number = self._number(source, relation)
        if row is not None:
            number = pick(number, row)
        found = find_sorted(self.pairs, number * self.num_entities + entity) >= 0
        return found & (number >= 0) & (entity >= 0)

    def to(self, device: torch.device | str) -> AnswerIndex:
        """The same index on another device."""
        return replace(self, queries=self.queries.to(device), ptr=self.ptr.to(device), pairs=self.pairs.to(device))

    def _number(self, source: Tensor, relation: Tensor) -> Tensor:
        """Which query each is among the known ones [B], -1 for an unknown one."""
        return find_sorted(self.queries, source * self.relations + relation)

    def _answers(self, number: Tensor) -> Ragged:
        known = number.clamp(min=0)
        start = pick(self.ptr, known)
        ptr, row, at = expand(start, pick(self.ptr, number + 1) - start)  # for -1, from 0 to 0
        return Ragged(pick(self.pairs, at) - pick(known * self.num_entities, row), row, ptr)
