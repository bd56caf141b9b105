"""The walkers: what an agent remembers of its walk, and how it scores the actions before it."""

# Shape legend: A agents, N actions of all agents, H width of the history, D width of what is scored or fed

from __future__ import annotations

from functools import reduce
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from tenfold.graph.environment import Actions, State
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.ragged import gather_dot

Memory = TypeVar("Memory")
Hidden = tuple[tuple[Tensor, Tensor], ...]  # (h, c) of each LSTM layer, each [A, H]


class Policy(Protocol[Memory]):
    """A walker. It sees the query, the place and its own walk, never the target, labels or rewards.

    What it remembers is passed in and out, so one module walks any number of batches, and a beam reorders its rows.
    """

    def init(self, state: State) -> Memory:
        """The memory of agents before their first step."""
        ...

    def logits(self, state: State, hidden: Memory, actions: Actions) -> Tensor:
        """Unnormalised scores [N] of the actions."""
        ...

    def advance(self, hidden: Memory, relation: Tensor, node: Tensor) -> Memory:
        """The memory after each agent walked `relation` [A] to `node` [A]."""
        ...

    def select(self, hidden: Memory, rows: Tensor) -> Memory:
        """The memory of agents `rows` (int64), in that order; an agent may come several times."""
        ...


class PathLSTM(nn.Module):
    """A stack of LSTM layers that takes one action of every agent at a time."""

    def __init__(self, width_in: int, width: int, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers: got {layers}, need at least 1")
        self.cells = nn.ModuleList(nn.LSTMCell(width if layer else width_in, width) for layer in range(layers))

    def forward(self, x_AD: Tensor, hidden: Hidden | None) -> Hidden:
        """The state after `x_AD`; hidden None is the state of zeros."""
        after = []
        for layer, cell in enumerate(self.cells):
            h_AH, c_AH = cell(x_AD, hidden[layer] if hidden is not None else None)
            after.append((h_AH, c_AH))
            x_AD = h_AH
        return tuple(after)


class _Walker(nn.Module):
    """The parts both policies share: embeddings of relations and, where they are used, entities; an LSTM over the walk."""

    history: PathLSTM

    def __init__(self, kg: KnowledgeGraph, width: int, use_entity: bool, emb_dropout: float = 0.0) -> None:
        super().__init__()
        self.relation = nn.Embedding(kg.relation_rows, width)
        self.entity = nn.Embedding(kg.num_entities, width) if use_entity else None
        self.emb_dropout = nn.Dropout(emb_dropout)

    def init(self, state: State) -> Hidden:
        """The history after the start: a made-up relation, `kg.start`, that led to the source."""
        return self.history(self._action(state.last_relation, state.node), None)

    def advance(self, hidden: Hidden, relation: Tensor, node: Tensor) -> Hidden:
        """The history after each agent walked `relation` [A] to `node` [A]."""
        return self.history(self._action(relation, node), hidden)

    def select(self, hidden: Hidden, rows: Tensor) -> Hidden:
        """The histories of agents `rows`."""
        return tuple((h_AH[rows], c_AH[rows]) for h_AH, c_AH in hidden)

    def _action(self, relation: Tensor, node: Tensor) -> Tensor:
        """[r ‖ e] of one action an agent; r alone without entities."""
        return torch.cat([self.emb_dropout(table(ids)) for table, ids in self._tables(relation, node)], dim=-1)

    def _context(self, state: State, hidden: Hidden) -> list[Tensor]:
        """What both networks read: the history, the entity stood on (where entities are used), the query's relation."""
        here = [] if self.entity is None else [self.emb_dropout(self.entity(state.node))]
        return [hidden[-1][0], *here, self.emb_dropout(self.relation(state.relation))]

    def _score(self, out_AD: Tensor, actions: Actions) -> Tensor:
        """⟨[r ‖ e], out⟩ of every action.

        Dropout falls on rows of the tables, one mask a step: an action has no embedding of its own to drop from.
        """
        tables = [self._dropped(table, ids) for table, ids in self._tables(actions.rel, actions.dst)]
        parts = out_AD.chunk(len(tables), dim=-1)
        return reduce(
            torch.add,
            (
                gather_dot(part, rows, actions.row, column, actions.ptr)
                for part, (rows, column) in zip(parts, tables, strict=True)
            ),
        )

    def _dropped(self, table: nn.Embedding, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The table under dropout, and where `ids` stand in it; of a table with more rows than `ids`, the rows in use."""
        if self.training and self.emb_dropout.p and len(ids) < table.num_embeddings:
            rows, ids = ids.unique(return_inverse=True)
            return self.emb_dropout(table(rows)), ids
        return self.emb_dropout(table.weight), ids

    def _tables(self, relation: Tensor, node: Tensor) -> list[tuple[nn.Embedding, Tensor]]:
        tables = [(self.relation, relation)]
        return tables if self.entity is None else [*tables, (self.entity, node)]


class MinervaPolicy(_Walker):
    """MINERVA's walker: an LSTM of the relations walked and a two-layer network that points at an action's embedding.

    Args:
        kg: the graph, for the sizes of the tables.
        dim: d; embeddings are 2d wide.
        hidden: h; the LSTM is m·h wide, the network's inner layer 4h, with m = 2, or 4 with entities.
        use_entity: also embed entities, in actions and in the place stood on.
        layers: of the LSTM.
    Source: Das et al. 2018, arXiv 1711.05851, section 2.3. The LSTM has no peepholes; its forget gates start at bias 1,
        everything else Xavier-uniform with bias 0, as in the released code.
    """

    def __init__(
        self, kg: KnowledgeGraph, *, dim: int = 50, hidden: int = 50, use_entity: bool = False, layers: int = 1
    ) -> None:
        if min(dim, hidden) < 1:
            raise ValueError(f"dim, hidden: got {dim}, {hidden}, need at least 1")
        super().__init__(kg, 2 * dim, use_entity)
        m = 4 if use_entity else 2
        self.history = PathLSTM(m * dim, m * hidden, layers)
        self.inner = nn.Linear(m * hidden + m * dim, 4 * hidden)
        self.outer = nn.Linear(4 * hidden, m * dim)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)
            if name.endswith("bias_ih"):
                parameter.detach()[m * hidden : 2 * m * hidden] = 1  # gates: input, forget, cell, output

    def logits(self, state: State, hidden: Hidden, actions: Actions) -> Tensor:
        """Scores [N] of the actions."""
        x_AD = torch.cat(self._context(state, hidden), dim=-1)
        return self._score(self.outer(self.inner(x_AD).relu()).relu(), actions)


class MultiHopPolicy(_Walker):
    """MultiHopKG's walker: entities and relations embedded, a deep LSTM of the walk, dropout throughout.

    Args:
        kg: the graph, for the sizes of the tables.
        dim: width of an embedding, of entities as of relations.
        history: width of the LSTM.
        layers: of the LSTM.
        emb_dropout: share of embedding components dropped. The embeddings of the actions share one mask a step.
        ff_dropout: share of components dropped behind both linear layers.
        relation_only: leave entities out of actions and state.
    Source: Lin et al. 2018, arXiv 1808.10568, section 3.2. Xavier-uniform embeddings and linear layers, Xavier-normal
        LSTM, biases 0, as in the released code.
    """

    def __init__(
        self,
        kg: KnowledgeGraph,
        *,
        dim: int = 200,
        history: int = 200,
        layers: int = 3,
        emb_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        relation_only: bool = False,
    ) -> None:
        if min(dim, history) < 1:
            raise ValueError(f"dim, history: got {dim}, {history}, need at least 1")
        super().__init__(kg, dim, not relation_only, emb_dropout)
        action = dim if relation_only else 2 * dim
        self.history = PathLSTM(action, history, layers)
        self.W1 = nn.Linear(history + action, action)
        self.W2 = nn.Linear(action, action)
        self.ff_dropout = nn.Dropout(ff_dropout)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif name.startswith("history"):
                nn.init.xavier_normal_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def logits(self, state: State, hidden: Hidden, actions: Actions) -> Tensor:
        """Scores [N] of the actions."""
        x_AD = torch.cat(self._context(state, hidden), dim=-1)
        x_AD = self.ff_dropout(self.W1(x_AD).relu())
        return self._score(self.ff_dropout(self.W2(x_AD)), actions)
