"""Ranks, metrics and the three scorers against PyKEEN, with its weights copied into ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pykeen import models
from pykeen.evaluation import RankBasedEvaluator
from pykeen.triples import TriplesFactory
from torch import Tensor

from tenfold.graph.embed import ComplEx, ConvE, DistMult, EmbeddingScorer
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.metrics import HITS, Ties, evaluate, rank_metrics, rank_targets
from tenfold.graph.pykeen_scorer import PykeenScorer, from_pykeen

TIES: tuple[Ties, ...] = ("optimistic", "pessimistic", "realistic")
ENTITIES, RELATIONS = 23, 4


def ranking(**options: Any) -> RankBasedEvaluator:
    """Their evaluator with the figures compared here, and not the fifty others."""
    names, arguments = ["inverse_harmonic_mean_rank", *["hits_at_k"] * len(HITS)], [{}, *({"k": k} for k in HITS)]
    return RankBasedEvaluator(metrics=names, metrics_kwargs=arguments, add_defaults=False, **options)


def triples(count: int, seed: int) -> Tensor:
    drawn = torch.randint(0, ENTITIES, (count, 3), generator=torch.Generator().manual_seed(seed))
    drawn[:, 1] %= RELATIONS
    return drawn.unique(dim=0)


@pytest.fixture(scope="module")
def splits() -> tuple[Tensor, ...]:
    """train, valid, test, without a triple in common; every entity and relation is in the first."""
    every = triples(400, 0)
    every = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(1))]
    train, valid, test = every.split([len(every) - 80, 30, 50])
    assert len(train[:, [0, 2]].unique()) == ENTITIES
    return train, valid, test


def factory(mapped: Tensor, *, inverse: bool = False) -> TriplesFactory:
    """Ids under names whose alphabetical order is not that of the ids."""
    entities = {f"e{(7 * i) % ENTITIES:02}": i for i in range(ENTITIES)}
    relations = {f"r{3 - i}": i for i in range(RELATIONS)}
    return TriplesFactory(mapped, entities, relations, create_inverse_triples=inverse)


@pytest.fixture(scope="module")
def kg(splits: tuple[Tensor, ...]) -> KnowledgeGraph:
    return KnowledgeGraph.from_triples(*splits)


def pykeen_model(name: str, mapped: Tensor, *, inverse: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(models, name)(triples_factory=factory(mapped, inverse=inverse), random_seed=0, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def tables(model: Any) -> tuple[Tensor, Tensor]:
    """The weights of entities and relations; complex ones as real parts, then imaginary parts."""
    found = []
    for representation in (model.entity_representations[0], model.relation_representations[0]):
        weight = representation().detach()
        found.append(torch.cat([weight.real, weight.imag], 1) if weight.is_complex() else weight)
    return found[0], found[1]


def copied(kind: type[EmbeddingScorer], model: Any, dim: int) -> EmbeddingScorer:
    scorer = kind(ENTITIES, RELATIONS, dim).eval()
    entity, relation = tables(model)
    with torch.no_grad():
        scorer.entity.copy_(entity)
        scorer.relation[:RELATIONS].copy_(relation)
    return scorer


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_metrics_of_a_score_matrix(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(60, ENTITIES, generator=generator).round(decimals=1)
    scores[torch.rand(scores.shape, generator=generator) < 0.4] = -torch.inf
    target = torch.randint(0, ENTITIES, (60,), generator=generator)
    known = torch.rand(scores.shape, generator=generator) < 0.2
    removed = known.scatter(1, target[:, None], False)
    evaluator = ranking(clear_on_finalize=False)
    hrt = torch.stack([target, target, target], 1)
    for part in torch.arange(60).split(25):
        evaluator.process_scores_(
            hrt[part],
            "tail",
            scores[part].masked_fill(removed[part], torch.nan),
            scores[part].gather(1, target[part, None]),
        )
    theirs = evaluator.finalize()
    for ties in TIES:
        ranks = rank_targets(scores, target, known, ties=ties, unreached="rank")
        assert np.array_equal(ranks.numpy(), np.concatenate(evaluator.ranks["tail", ties]))
        ours = rank_metrics(scores, target, known, ties, unreached="rank")
        assert ours["mrr"] == pytest.approx(theirs.get_metric(f"tail.{ties}.inverse_harmonic_mean_rank"), abs=1e-6)
        for k in HITS:
            assert ours[f"hits@{k}"] == pytest.approx(theirs.get_metric(f"tail.{ties}.hits_at_{k}"), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "inverse"), [("DistMult", False), ("TransE", False), ("ComplEx", True), ("ConvE", True)]
)
def test_evaluation_of_a_model(name: str, inverse: bool, kg: KnowledgeGraph, splits: tuple[Tensor, ...]) -> None:
    model = pykeen_model(name, splits[0], inverse=inverse, embedding_dim=12)
    evaluator = ranking(filtered=True)
    theirs = evaluator.evaluate(
        model, splits[2], additional_filter_triples=list(splits[:2]), batch_size=16, use_tqdm=False
    )
    scorer = from_pykeen(model, factory(splits[0]))
    for ties in TIES:
        tails = evaluate(scorer, kg, ties=ties, unreached="rank")
        both = evaluate(scorer, kg, ties=ties, unreached="rank", both_sides=True)
        for side, ours in (("tail", tails), ("both", both)):
            assert ours["mrr"] == pytest.approx(
                theirs.get_metric(f"{side}.{ties}.inverse_harmonic_mean_rank"), abs=1e-6
            )
            for k in HITS:
                assert ours[f"hits@{k}"] == pytest.approx(theirs.get_metric(f"{side}.{ties}.hits_at_{k}"), abs=1e-6)


@pytest.mark.parametrize(("kind", "name"), [(DistMult, "DistMult"), (ComplEx, "ComplEx")])
def test_bilinear_scores_with_copied_weights(
    kind: type[EmbeddingScorer], name: str, splits: tuple[Tensor, ...]
) -> None:
    model = pykeen_model(name, splits[0], embedding_dim=16)
    agree(copied(kind, model, 16), model, splits[2])


def test_conve_scores_with_copied_weights(splits: tuple[Tensor, ...]) -> None:
    """PyKEEN has one batch norm more, between filters and ReLU, which is set to change nothing."""
    model = pykeen_model("ConvE", splits[0], embedding_dim=40, embedding_height=5, embedding_width=8, output_channels=6)
    theirs = model.interaction
    norm_in, _, filters, extra, *_ = theirs.hr2d
    linear, _, norm_out, _ = theirs.hr1d
    extra.running_mean.zero_()
    extra.running_var.fill_(1 - extra.eps)
    scorer = ConvE(ENTITIES, RELATIONS, 40, height=5, channels=6).eval()
    entity, relation = tables(model)
    torch.nn.init.normal_(model.entity_representations[1]._embeddings.weight)
    with torch.no_grad():
        scorer.entity.copy_(entity)
        scorer.relation[:RELATIONS].copy_(relation)
        scorer.bias.copy_(model.entity_representations[1]())  # type: ignore[union-attr]
        scorer.filters.copy_(filters.weight)
        scorer.filters_bias.copy_(filters.bias)
    for ours, other in ((scorer.norm_in, norm_in), (scorer.norm_out, norm_out), (scorer.linear, linear)):
        ours.load_state_dict(other.state_dict())
    agree(scorer, model, splits[2])


@torch.no_grad()
def agree(scorer: EmbeddingScorer, model: Any, hrt: Tensor) -> None:
    head, relation, tail = hrt.T
    torch.testing.assert_close(scorer.logits_t(head, relation), model.predict_t(hrt[:, :2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        scorer.logits_hrt(head, relation, tail), model.predict_hrt(hrt).squeeze(1), atol=1e-5, rtol=1e-5
    )
    assert scorer.logits_t(head, relation).std() > 1e-3
    torch.testing.assert_close(scorer.score_hrt(head, relation, tail), model.predict_hrt(hrt).squeeze(1).sigmoid())


@pytest.mark.parametrize("inverse", [False, True])
def test_a_model_under_the_names_of_another_graph(inverse: bool, splits: tuple[Tensor, ...]) -> None:
    model = pykeen_model("ComplEx", splits[0], inverse=inverse, embedding_dim=8, predict_with_sigmoid=True)
    named = factory(splits[0])
    entity, relation = named.entity_id_to_label, named.relation_id_to_label
    rows = [(entity[h], relation[r], entity[t]) for h, r, t in splits[0].tolist()]
    kg = KnowledgeGraph.from_triples(rows)
    scorer = from_pykeen(model, named, kg)
    assert isinstance(scorer, PykeenScorer)
    theirs = model.predict_hrt(splits[0]).squeeze(1)  # in the order of `rows`
    ours = scorer.score_hrt(*kg.splits["train"].T)
    torch.testing.assert_close(ours, theirs)
    head, r, tail = kg.splits["train"].T
    both = torch.cat([r, kg.inverse(r)])
    ends = torch.cat([head, tail]), torch.cat([tail, head])
    every = scorer.score_t(ends[0], both)
    torch.testing.assert_close(every[torch.arange(len(both)), ends[1]], scorer.score_hrt(ends[0], both, ends[1]))
    backwards = model.predict_h(splits[0][:, 1:])[torch.arange(len(r)), splits[0][:, 0]]
    torch.testing.assert_close(every[torch.arange(len(r)) + len(r), head], backwards)
    assert model.predict_with_sigmoid


def test_a_model_of_other_names_is_refused(kg: KnowledgeGraph, splits: tuple[Tensor, ...]) -> None:
    model = pykeen_model("DistMult", splits[0], embedding_dim=4)
    with pytest.raises(ValueError, match="scorer lacks 23 entities of the graph, as '0'"):
        from_pykeen(model, factory(splits[0]), kg)
    small = KnowledgeGraph.from_triples([("e00", "r0", "e01")])
    with pytest.raises(ValueError, match="scorer has 23 entities, graph has 2"):
        from_pykeen(model, factory(splits[0]), small)
