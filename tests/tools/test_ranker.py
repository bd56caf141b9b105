"""The small ranker and its floors: features by hand, calibration, folders that are kept and opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.tools.baselines import AlwaysRefuse, TfidfDecider
from tenfold.tools.calls import Call
from tenfold.tools.metrics import evaluate_decisions
from tenfold.tools.ranker import DecisionRanker, Likeness, Ranker, SearchHead, ranking_loss, targets
from tenfold.tools.sampler import ToolSampler
from tenfold.tools.samples import Candidate, DecisionSample, build_samples
from tenfold.tools.toy_tools import toy_world

WORLD = toy_world(0, train=60, unseen=20)
SAMPLES = build_samples(WORLD.train, WORLD.general, sampler=ToolSampler(mode="random", k=3, seed=0), seed=0)
LIKENESS = Likeness().fit([Candidate.of(each.tool) for each in WORLD.train], [query for each in WORLD.train for query, _ in each.examples])  # fmt: skip


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    asked = [sample for sample in SAMPLES if sample.branch != "no_search"]
    head = SearchHead.fit(LIKENESS, [sample.query for sample in asked], list(WORLD.general))
    model = DecisionRanker(LIKENESS.features, 8, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), 0.03)
    batch = {"features": torch.as_tensor(LIKENESS.of(asked), dtype=torch.float32), "target": torch.as_tensor(targets(asked))}  # fmt: skip
    for _ in range(60):
        optimizer.zero_grad()
        ranking_loss(model, batch)[0].backward()
        optimizer.step()
    return Ranker(LIKENESS, head, model)


def test_features_are_likeness() -> None:
    tool = Candidate("paintBoats", "paint boats", "paintBoats(place: str)")
    other = Candidate("x", "weigh stones", "x(place: str)")
    sample = DecisionSample("please paint the boats", "call", (other, tool), "paintBoats", Call("paintBoats", {}))
    (features,) = LIKENESS.of([sample])
    assert features.shape == (2, 4) and (features[1] > features[0]).all()
    assert (features >= 0).all() and (features <= 1 + 1e-9).all()
    assert LIKENESS.cosines([sample])[0].tolist() == features[:, 0].tolist()
    turned = replace(sample, candidates=(tool, other))
    assert np.allclose(LIKENESS.of([turned])[0], features[::-1])


def test_order_of_the_candidates_makes_no_difference() -> None:
    model = DecisionRanker(4, 8, generator=torch.Generator().manual_seed(1))
    features = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(2))
    logits, turned = model(features), model(features[:, [2, 0, 1]])
    assert torch.allclose(logits[:, [2, 0, 1, 3]], turned, atol=1e-6)
    assert model(features[:, :1]).shape == (5, 2)


def test_it_carries_over_to_unseen_tools_and_beats_the_floors(ranker: Ranker) -> None:
    unseen = build_samples(WORLD.unseen, WORLD.general_unseen, sampler=ToolSampler(mode="random", k=3, seed=1), seed=1)
    ours = evaluate_decisions(unseen, ranker.decide(unseen), bootstrap=0)
    refusing = evaluate_decisions(unseen, AlwaysRefuse().decide(unseen), bootstrap=0)
    calling = evaluate_decisions(unseen, TfidfDecider(LIKENESS).decide(unseen), bootstrap=0)
    assert ours["P_DC"] > 0.85 and refusing["P_NoCall"] == 1.0 and refusing["P_Call"] == 0.0
    assert calling["P_NoCall"] == 0.0 and calling["P_Call"] > 0.9
    assert ours["P_Search"] >= 0.95 and ours["P_NoSearch"] > 0.9


def test_the_bias_of_none_is_the_best_there_is(ranker: Ranker) -> None:
    samples = [sample for sample in SAMPLES if sample.branch != "no_search"][:200]
    right = targets(samples)
    ranker.calibrate(samples)
    best = (ranker.logits(samples).argmax(1) == right).mean()
    chosen = ranker.bias
    for bias in np.linspace(-8, 8, 81):
        ranker.bias = float(bias)
        assert (ranker.logits(samples).argmax(1) == right).mean() <= best + 1e-12
    ranker.bias = chosen


def test_a_threshold_is_tuned(ranker: Ranker) -> None:
    samples = [sample for sample in SAMPLES if sample.branch != "no_search"]
    tuned = TfidfDecider(LIKENESS)
    before = evaluate_decisions(samples, tuned.decide(samples), bootstrap=0)["P_DC"]
    assert tuned.tune(samples) > 0
    assert evaluate_decisions(samples, tuned.decide(samples), bootstrap=0)["P_DC"] > before


def test_a_folder_is_opened_as_it_was_kept(ranker: Ranker, tmp_path: Path) -> None:
    ranker.save(tmp_path)
    again = Ranker.load(tmp_path)
    assert again.decide(SAMPLES[:50]) == ranker.decide(SAMPLES[:50])
    (tmp_path / "ranker.json").write_text('{"hidden": 8}')
    with pytest.raises(UserError, match="damaged"):
        Ranker.load(tmp_path)
    with pytest.raises(UserError, match="not found"):
        Ranker.load(tmp_path / "none")


def test_toy_worlds() -> None:
    assert toy_world(3, train=5, unseen=2) == toy_world(3, train=5, unseen=2) != toy_world(4, train=5, unseen=2)
    both = {each.tool.name for each in WORLD.train} & {each.tool.name for each in WORLD.unseen}
    assert not both and all(call.startswith(f"{each.tool.name}(") for each in WORLD.train for _, call in each.examples)
    with pytest.raises(ValueError, match="together at most"):
        toy_world(train=600, unseen=100)
