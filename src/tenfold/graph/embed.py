"""Embedding scorers of triples (DistMult, ComplEx, ConvE), which shape rewards and stand beside walkers in tables.

All three score a triple as <query(h, r), e_t> + b_t, so one forward pass gives the scores of every tail.
"""

# Shape legend: B queries, E entities, R base relations, D width of a table row

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core import checkpoint
from tenfold.core.fit import Every, Loss, TrainState, fit
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream
from tenfold.graph.answers import AnswerIndex
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.nn.linear import Linear, draw_normal, init_generator

Kind = Literal["conve", "complex", "distmult"]


@runtime_checkable
class Scorer(Protocol):
    """What shaping and evaluation ask of an embedding model: the log-odds of a triple, and their sigmoid."""

    num_entities: int
    num_relations: int  # base relations; ids num_relations..2 num_relations - 1 are their inverses

    def logits_t(self, head: Tensor, relation: Tensor) -> Tensor: ...  # [B], [B] -> [B, E]
    def score_t(self, head: Tensor, relation: Tensor) -> Tensor: ...  # the same in (0, 1)
    def score_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor: ...  # [B] in (0, 1)


def check_vocabulary(scorer: Scorer, kg: KnowledgeGraph) -> None:
    """ValueError where a scorer was made for other entities or relations than the graph's."""
    for what, has, needs in (
        ("entities", scorer.num_entities, kg.num_entities),
        ("relations", scorer.num_relations, kg.num_relations),
    ):
        if has != needs:
            raise ValueError(f"scorer has {has} {what}, graph has {needs}")


class EmbeddingScorer(nn.Module):
    """Tables of entities and relations (with inverses); a kind of model adds `query`.

    Args:
        num_entities: E.
        num_relations: R, without inverses.
        dim: size of an embedding; ComplEx has so many complex numbers.
        dropout: on the rows of both tables, in training.
        generator: where the weights are drawn from (Xavier-normal).
    """

    parts = 1  # real numbers in one dimension of an embedding

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        dim: int = 200,
        *,
        dropout: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(num_entities, num_relations, dim) < 1:
            raise ValueError(
                f"num_entities, num_relations, dim: got {num_entities}, {num_relations}, {dim}, need at least 1"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}, need 0 <= dropout < 1")
        self.num_entities, self.num_relations, self.dim, self.dropout = num_entities, num_relations, dim, dropout
        self.entity = nn.Parameter(torch.empty(num_entities, self.parts * dim))
        self.relation = nn.Parameter(torch.empty(2 * num_relations, self.parts * dim))
        self.bias: nn.Parameter | None = None
        generator = init_generator(generator)
        for table in (self.entity, self.relation):
            draw_normal(table, math.sqrt(2 / (len(table) + dim)), generator)

    def query(self, head_BD: Tensor, relation_BD: Tensor) -> Tensor:
        """The vector whose product with a tail's embedding is the score, without the tail's bias."""
        raise NotImplementedError

    def logits_t(self, head: Tensor, relation: Tensor) -> Tensor:
        """Log-odds of every tail.

        Args:
            head: [B] entity ids.
            relation: [B] relation ids; those from R on are inverses.
        Returns:
            [B, E].
        """
        entity_ED, query_BD = self._query(head, relation)
        logits = query_BD @ entity_ED.T
        return logits if self.bias is None else logits + self.bias

    def logits_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Log-odds of single triples, [B] each -> [B]."""
        entity_ED, query_BD = self._query(head, relation)
        logits = (query_BD * entity_ED[tail]).sum(-1)
        return logits if self.bias is None else logits + self.bias[tail]

    def score_t(self, head: Tensor, relation: Tensor) -> Tensor:
        """Probability of every tail, [B], [B] -> [B, E]: the sigmoid of `logits_t`."""
        return self.logits_t(head, relation).sigmoid()

    def score_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Probability of single triples, [B] each -> [B]: the f of a shaped reward."""
        return self.logits_hrt(head, relation, tail).sigmoid()

    def _query(self, head: Tensor, relation: Tensor) -> tuple[Tensor, Tensor]:
        entity_ED = F.dropout(self.entity, self.dropout, self.training)
        relation_BD = F.dropout(self.relation[relation], self.dropout, self.training)
        return entity_ED, self.query(entity_ED[head], relation_BD)


class DistMult(EmbeddingScorer):
    """Sum over dimensions of h r t; the same for a triple and its reverse.

    Source: Yang et al. 2015, arXiv 1412.6575.
    """

    def query(self, head_BD: Tensor, relation_BD: Tensor) -> Tensor:
        return head_BD * relation_BD


class ComplEx(EmbeddingScorer):
    """Real part of the sum over dimensions of h r conj(t); a row holds the real parts, then the imaginary ones.

    Source: Trouillon et al. 2016, arXiv 1606.06357, Eq. 9-11.
    """

    parts = 2

    def query(self, head_BD: Tensor, relation_BD: Tensor) -> Tensor:
        (h_re, h_im), (r_re, r_im) = head_BD.chunk(2, -1), relation_BD.chunk(2, -1)
        return torch.cat([h_re * r_re - h_im * r_im, h_re * r_im + h_im * r_re], -1)


class ConvE(EmbeddingScorer):
    """Head and relation as one picture, 3 x 3 filters over it, a linear map back to the width of an embedding.

    As released with MultiHopKG: batch norms stand before the filters and before the last ReLU, none between filters and
    ReLU, and a tail has a bias.

    Args:
        num_entities, num_relations, dropout, generator: as in `EmbeddingScorer`.
        dim: height x width.
        height: rows of an embedding seen as a picture; it divides `dim`. None: as square as can be, 10 x 20 of 200.
        channels: filters.
        feature_dropout: on single values after the filters.
        hidden_dropout: after the linear map.
    Source: Dettmers et al. 2018, arXiv 1707.01476, Eq. 1.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        dim: int = 200,
        *,
        height: int | None = None,
        channels: int = 32,
        dropout: float = 0.3,
        feature_dropout: float = 0.2,
        hidden_dropout: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        generator = init_generator(generator)
        super().__init__(num_entities, num_relations, dim, dropout=dropout, generator=generator)
        height = height or max(n for n in range(1, math.isqrt(dim) + 1) if dim % n == 0)
        if height < 2 or dim % height or dim // height < 3:
            raise ValueError(
                f"height: got {height}, need one from 2 on that divides {dim} (dim) into 3 or more columns"
            )
        self.picture = (height, dim // height)
        self.bias = nn.Parameter(torch.zeros(num_entities))
        self.norm_in = nn.BatchNorm2d(1)
        self.filters = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.filters_bias = nn.Parameter(torch.zeros(channels))
        draw_normal(self.filters, 1 / 3, generator)  # fan-in 9
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.linear = Linear(channels * (2 * height - 2) * (dim // height - 2), dim, bias=True, generator=generator)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        self.norm_out = nn.BatchNorm1d(dim)

    def query(self, head_BD: Tensor, relation_BD: Tensor) -> Tensor:
        picture = torch.cat([head_BD.view(-1, 1, *self.picture), relation_BD.view(-1, 1, *self.picture)], 2)
        features = F.conv2d(self.norm_in(picture), self.filters, self.filters_bias).relu()
        hidden_BD = self.linear(self.feature_dropout(features).flatten(1))
        return self.norm_out(self.hidden_dropout(hidden_BD)).relu()


KINDS: dict[str, type[EmbeddingScorer]] = {"conve": ConvE, "complex": ComplEx, "distmult": DistMult}


@dataclass(frozen=True)
class ScorerConfig:
    """How `train_scorer` trains: as MultiHopKG does, but for a fixed number of epochs in place of early stopping."""

    dim: int = 200
    """size of an embedding"""
    epochs: int = 400
    """passes over the distinct queries (source, relation) of the training triples and their inverses"""
    batch_size: int = 512
    """queries in a step"""
    lr: float = 0.003
    """Adam's learning rate"""
    label_smoothing: float = 0.1
    """share taken from the answers' labels; 1 / E is then added to all labels"""
    dropout: float = 0.3
    """on the rows of both tables"""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dim", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.batch_size < 2:  # batch norms need two
            raise ValueError(f"batch_size: got {self.batch_size}, need at least 2")
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr}, need > 0")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need 0 <= {name} < 1")


def one_vs_all_loss(answers: AnswerIndex, label_smoothing: float = 0.0) -> Loss:
    """Binary cross-entropy of every entity against the answers of a query, for `fit` and `train_step`.

    A label is (1 - smoothing) [answer] + 1 / E where smoothing is on, else [answer]. The labels are never laid out:
    the cross-entropy of logit x and label y is softplus(x) - x y.

    Args:
        answers: of the training queries.
        label_smoothing: in [0, 1).
    Returns:
        loss(model, batch) of batches {"source": [B], "relation": [B]}; its weight is B.
    Source: Dettmers et al. 2018, Eq. 2.
    """

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        assert isinstance(model, EmbeddingScorer)
        source, relation = batch["source"], batch["relation"]
        logits_BE = model.logits_t(source, relation)
        positive = answers.of(source, relation)
        of_answers = logits_BE[positive.row, positive.values].sum() * (1 - label_smoothing)
        of_all = logits_BE.sum() / model.num_entities if label_smoothing else 0.0
        total = F.softplus(logits_BE).sum() - of_answers - of_all
        return total / logits_BE.numel(), {"weight": len(source)}

    return loss


def train_scorer(
    kg: KnowledgeGraph,
    kind: Kind = "conve",
    config: ScorerConfig = ScorerConfig(),
    *,
    run: Run | None = None,
    name: str | None = None,
) -> EmbeddingScorer:
    """Train an embedding model on the training triples, and on their inverses where the graph has them.

    Args:
        kg: its training triples are learnt.
        kind: "conve", "complex" or "distmult".
        config: sizes and steps.
        run: the folder that takes log rows and checkpoints; a training that was stopped goes on from there, and one that
            is finished is read back. None keeps nothing.
        name: of this training within the run; None: "scorer-KIND".
    Returns:
        The model in evaluation mode, its weights frozen.
    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, need one of {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(config.seed)
    model = KINDS[kind](kg.num_entities, kg.num_relations, config.dim, dropout=config.dropout, generator=generator)
    answers = kg.answers("train")
    queries = {"source": answers.queries // answers.relations, "relation": answers.queries % answers.relations}
    batch_size = min(config.batch_size, len(answers.queries))
    steps = max(1, config.epochs * len(answers.queries) // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), config.lr, fused=True)
    state = TrainState(model, optimizer, stream=ArrayStream(queries, batch_size, seed=config.seed), seed=config.seed)
    loss = one_vs_all_loss(answers, config.label_smoothing)
    name = name or f"scorer-{kind}"
    with ExitStack() as stack:
        if run is None:
            folder: Any = _Nowhere(Path(stack.enter_context(TemporaryDirectory())))
        else:
            folder = run
            checkpoint.resume(run, state, name)
        fit(
            state,
            loss,
            run=folder,
            steps=steps,
            name=name,
            clip_norm=None,
            every=Every(log=50, save=2000),
            progress=run is not None,
        )
    return model.eval().requires_grad_(False)


class _Nowhere:
    """A run folder that is thrown away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, step: int, **metrics: Any) -> None:
        """Nobody reads it."""
