"""Any trained PyKEEN model as a scorer of triples; nothing of PyKEEN is imported."""

# Shape legend: B queries, E entities

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tenfold.graph.knowledge_graph import KnowledgeGraph


class PykeenScorer:
    """A trained PyKEEN model, frozen, under the ids of a graph; `from_pykeen` makes it."""

    def __init__(self, model: Any, entity: Tensor, relation: Tensor) -> None:
        self.model = copy.copy(model)  # a second handle on the same weights, whose switch may be set
        self.model.predict_with_sigmoid = False
        self.entity, self.relation = (
            entity.to(model.device),
            relation.to(model.device),
        )  # the model's id of each entity and base relation of the graph
        self.num_entities, self.num_relations = len(entity), len(relation)

    @torch.no_grad()
    def logits_t(self, head: Tensor, relation: Tensor) -> Tensor:
        """The model's raw scores of every tail, [B], [B] -> [B, E]; an inverse relation asks it for heads."""
        known, base, inverse = self.entity[head], self.relation[relation % self.num_relations], self._inverse(relation)
        scores_BE = torch.empty(len(head), self.num_entities, device=self.entity.device)
        for rows, predict, pair in (
            (~inverse, self.model.predict_t, (known, base)),
            (inverse, self.model.predict_h, (base, known)),
        ):
            if bool(rows.any()):
                scores_BE[rows] = predict(torch.stack(pair, 1)[rows])[:, self.entity].to(scores_BE)
        return scores_BE

    @torch.no_grad()
    def logits_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """The model's raw scores of single triples, [B] each -> [B]; the same numbers as in `logits_t`."""
        inverse = self._inverse(relation)
        first, last = torch.where(inverse, tail, head), torch.where(inverse, head, tail)
        base = self.relation[relation % self.num_relations]
        triple = torch.stack([self.entity[first], base, self.entity[last]], 1)
        scores = torch.empty(len(head), device=self.entity.device)
        for rows, predict in ((~inverse, self.model.predict_hrt), (inverse, self._predict_reversed)):
            if bool(rows.any()):
                scores[rows] = predict(triple[rows]).squeeze(1).to(scores)
        return scores

    def score_t(self, head: Tensor, relation: Tensor) -> Tensor:
        """The sigmoid of `logits_t`, [B, E] in (0, 1)."""
        return self.logits_t(head, relation).sigmoid()

    def score_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """The sigmoid of `logits_hrt`, [B] in (0, 1)."""
        return self.logits_hrt(head, relation, tail).sigmoid()

    def _inverse(self, relation: Tensor) -> Tensor:
        return relation >= self.num_relations

    def _predict_reversed(self, triple: Tensor) -> Tensor:
        """A model trained with inverse triples has relations of its own for them: 2 r + 1 beside 2 r."""
        if not self.model.use_inverse_triples:
            return self.model.predict_hrt(triple)
        return self.model.eval().score_hrt_inverse(triple * torch.tensor([1, 2, 1], device=triple.device))


def from_pykeen(model: Any, factory: Any, kg: KnowledgeGraph | None = None) -> PykeenScorer:
    """Score with a trained PyKEEN model, so that any of its models can shape rewards and be ranked.

    Args:
        model: a `pykeen.models.Model`.
        factory: the `TriplesFactory` it was trained on.
        kg: the graph whose ids the scorer takes; entities and relations are matched by name. None: the factory's own
            ids, for a graph that was made from its `mapped_triples`.
    Raises:
        ValueError: the factory and the graph do not have the same names.
    """
    if kg is None:
        return PykeenScorer(model, torch.arange(factory.num_entities), torch.arange(factory.real_num_relations))
    maps = []
    for what, ids, names in (
        ("entities", factory.entity_to_id, kg.entity_names),
        ("relations", factory.relation_to_id, kg.relation_names[: kg.num_relations]),
    ):
        if len(ids) != len(names):
            raise ValueError(f"scorer has {len(ids)} {what}, graph has {len(names)}")
        if missing := [name for name in names if name not in ids]:
            raise ValueError(f"scorer lacks {len(missing)} {what} of the graph, as {missing[0]!r}")
        maps.append(torch.tensor([ids[name] for name in names]))
    return PykeenScorer(model, *maps)
