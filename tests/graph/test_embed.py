"""The scorers by their definitions, the loss against laid-out labels, and the trainer: it learns, repeats and resumes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tenfold.graph.embed import (
    KINDS,
    ComplEx,
    ConvE,
    DistMult,
    EmbeddingScorer,
    Scorer,
    ScorerConfig,
    check_vocabulary,
    one_vs_all_loss,
    train_scorer,
)
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.metrics import evaluate

E, R = 9, 2


def make(kind: str, **options: Any) -> EmbeddingScorer:
    return KINDS[kind](E, R, 12, generator=torch.Generator().manual_seed(0), **options)


def queries(count: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    head, tail = torch.randint(0, E, (2, count), generator=generator)
    return head, torch.randint(0, 2 * R, (count,), generator=generator), tail


@pytest.fixture
def kg() -> KnowledgeGraph:
    """Two families of three generations: the parent of a parent is a grandparent."""
    rows = []
    for family in "xy":
        for child in "cde":
            rows += [(f"{family}b", "parent", family + child), (f"{family}a", "grandparent", family + child)]
        rows += [(f"{family}a", "parent", f"{family}b")]
    return KnowledgeGraph.from_triples(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_one_score_is_an_entry_of_all_scores(kind: str) -> None:
    scorer = make(kind, dropout=0.0).eval()
    head, relation, tail = queries()
    every = scorer.logits_t(head, relation)
    assert every.shape == (30, E)
    torch.testing.assert_close(every[torch.arange(30), tail], scorer.logits_hrt(head, relation, tail))
    torch.testing.assert_close(scorer.score_t(head, relation), every.sigmoid())
    torch.testing.assert_close(scorer.score_hrt(head, relation, tail), every[torch.arange(30), tail].sigmoid())
    assert isinstance(scorer, Scorer)


def test_distmult_is_the_same_turned_round() -> None:
    scorer = make("distmult").eval()
    head, relation, tail = queries()
    e, r = scorer.entity, scorer.relation
    expected = (e[head] * r[relation] * e[tail]).sum(1)
    torch.testing.assert_close(scorer.logits_hrt(head, relation, tail), expected)
    torch.testing.assert_close(scorer.logits_hrt(tail, relation, head), expected)


def test_complex_in_complex_numbers() -> None:
    scorer = make("complex").eval()
    head, relation, tail = queries()
    e, r = (torch.complex(*table.chunk(2, -1)) for table in (scorer.entity, scorer.relation))
    expected = (e[head] * r[relation] * e[tail].conj()).sum(1).real
    torch.testing.assert_close(scorer.logits_hrt(head, relation, tail), expected)
    reverse = scorer.logits_hrt(tail, relation, head)
    assert (reverse - expected).abs().max() > 1e-3


def test_conve_one_filter_by_hand() -> None:
    """A filter that picks the middle of each patch, and a linear map that adds all up."""
    scorer = ConvE(E, R, 12, height=3, channels=1, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        scorer.filters.zero_()[0, 0, 1, 1] = 1
        scorer.linear.weight.fill_(1)
    head, relation, tail = queries()
    picture = torch.cat([scorer.entity[head].view(-1, 3, 4), scorer.relation[relation].view(-1, 3, 4)], 1)
    norm = (1 + 1e-5) ** -0.5  # of a fresh batch norm
    hidden = (picture[:, 1:-1, 1:-1] * norm).relu().sum((1, 2)) * norm
    torch.testing.assert_close(scorer.logits_hrt(head, relation, tail), hidden * scorer.entity[tail].sum(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_cross_entropy_of_laid_out_labels(smoothing: float, kg: KnowledgeGraph) -> None:
    answers = kg.answers("train")
    source, relation = answers.queries // answers.relations, answers.queries % answers.relations
    scorer = ComplEx(kg.num_entities, kg.num_relations, 5, dropout=0.0, generator=torch.Generator().manual_seed(0))
    loss, metrics = one_vs_all_loss(answers, smoothing)(scorer, {"source": source, "relation": relation})
    labels = torch.zeros(len(source), kg.num_entities)
    for row, (s, r) in enumerate(zip(source.tolist(), relation.tolist(), strict=True)):
        for h, base, t in kg.splits["train"].tolist():
            if (h, base) == (s, r):
                labels[row, t] = 1
            if (t, base + kg.num_relations) == (s, r):
                labels[row, h] = 1
    if smoothing:
        labels = labels * (1 - smoothing) + 1 / kg.num_entities
    expected = F.binary_cross_entropy_with_logits(scorer.logits_t(source, relation), labels)
    assert metrics["weight"] == len(source)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, [scorer.entity, scorer.relation]) for value in (loss, expected))
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other)


SMALL = ScorerConfig(dim=12, epochs=120, batch_size=8, lr=0.02, dropout=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_its_triples(kind: Any, kg: KnowledgeGraph) -> None:
    trained = train_scorer(kg, kind, SMALL)
    assert evaluate(trained, kg, "train")["mrr"] > 0.95
    untrained = train_scorer(kg, kind, ScorerConfig(dim=12, epochs=1, batch_size=8, lr=1e-9))
    assert evaluate(untrained, kg, "train")["mrr"] < 0.8
    assert not trained.training and not any(p.requires_grad for p in trained.parameters())


def test_same_seed_same_weights(kg: KnowledgeGraph) -> None:
    config = ScorerConfig(dim=12, epochs=5, batch_size=4)
    one, two = (train_scorer(kg, "conve", config).state_dict() for _ in range(2))
    other = train_scorer(kg, "conve", ScorerConfig(dim=12, epochs=5, batch_size=4, seed=1)).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["entity"], other["entity"])


class StoppedRun:
    """A run folder in which somebody presses Ctrl-C when the first row is logged."""

    def __init__(self, path: Path, stop: bool) -> None:
        self.path, self.stop, self.rows = path, stop, 0

    def log(self, step: int, **metrics: Any) -> None:
        self.rows += 1
        if self.stop:
            self.stop = False
            os.kill(os.getpid(), signal.SIGINT)

    def rewind(self, step: int, name: str | None = None) -> None: ...


def test_a_stopped_training_goes_on_to_the_same_weights(kg: KnowledgeGraph, tmp_path: Path) -> None:
    config = ScorerConfig(dim=12, epochs=40, batch_size=4)
    whole = train_scorer(kg, "complex", config).state_dict()
    run: Any = StoppedRun(tmp_path, stop=True)
    with pytest.raises(KeyboardInterrupt):
        train_scorer(kg, "complex", config, run=run)
    resumed = train_scorer(kg, "complex", config, run=run).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    rows = run.rows
    again = train_scorer(kg, "complex", config, run=run).state_dict()
    assert run.rows == rows
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    train_scorer(kg, "complex", config, run=run, name="other")  # trainings of two names do not meet
    assert run.rows > rows
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir()) == ["other", "scorer-complex"]


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: DistMult(0, 2, 4), "num_entities, num_relations, dim: got 0, 2, 4"),
        (lambda: ComplEx(3, 2, 4, dropout=1.0), "dropout: got 1.0, need 0 <= dropout < 1"),
        (lambda: ConvE(3, 2, 200, height=7), r"height: got 7, need one from 2 on that divides 200 \(dim\)"),
        (lambda: ConvE(3, 2, 13), "height: got 1, need one from 2 on"),
        (lambda: ConvE(3, 2, 20, height=10), "height: got 10, .* 3 or more columns"),
        (lambda: ScorerConfig(epochs=0), "epochs: got 0, need at least 1"),
        (lambda: ScorerConfig(batch_size=1), "batch_size: got 1, need at least 2"),
        (lambda: ScorerConfig(lr=float("nan")), "lr: got nan, need > 0"),
        (lambda: ScorerConfig(label_smoothing=1.0), "label_smoothing: got 1.0"),
    ],
)
def test_faulty_settings_are_named(make_it: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()


def test_faulty_kind_and_vocabulary(kg: KnowledgeGraph) -> None:
    with pytest.raises(ValueError, match="kind: got 'rotate', need one of conve, complex, distmult"):
        train_scorer(kg, "rotate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scorer has 135 entities, graph has 10"):
        check_vocabulary(DistMult(135, 2, 4), kg)
    with pytest.raises(ValueError, match="scorer has 3 relations, graph has 2"):
        check_vocabulary(DistMult(10, 3, 4), kg)
    check_vocabulary(DistMult(10, 2, 4), kg)


@pytest.mark.slow
def test_complex_reaches_the_published_figure_on_umls(data_dir: Path) -> None:
    kg = KnowledgeGraph.from_tsv(data_dir / "06-kg-ssrl" / "umls")
    scorer = train_scorer(kg, "complex", ScorerConfig(epochs=200, batch_size=128))
    assert evaluate(scorer, kg)["mrr"] > 0.934
