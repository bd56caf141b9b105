"""Pruned decoders against their masks, the annealing, and training in the loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tenfold.compress.prune import FFNPruner
from tenfold.compress.soft_top_k import soft_top_k
from tenfold.core import checkpoint
from tenfold.core.adastar import AdaStar
from tenfold.core.fit import TrainState, train_step
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.lm.optim import mup_groups
from tenfold.nn.moe import MoEConfig

WIDTH = 24
METHODS = ["soft_top_k", "magnitude", "random"]


def model(**fields: Any) -> Decoder:
    cfg = DecoderConfig(20, 16, 3, 2, 1, 8, WIDTH, max_len=12, **fields)
    return Decoder(cfg, torch.Generator().manual_seed(0))


def make(method: Any = "soft_top_k", keep: int = 10, progress: float = 1.0) -> FFNPruner:
    pruner = FFNPruner(model(), keep, method, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for scores in pruner.scores:
            scores.copy_(0.1 * torch.randn(WIDTH, generator=generator))
    pruner.anneal(progress)
    return pruner


IDS = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("keep", [1, 10, WIDTH])
def test_sliced_equals_masked(method: str, progress: float, keep: int) -> None:
    pruner = make(method, keep, progress).eval()
    masked = pruner(IDS)
    assert (pruner.mask() > 0).sum(1).tolist() == [keep] * 3
    small = pruner.finalize()
    torch.testing.assert_close(small(IDS), masked, rtol=1e-5, atol=1e-5)
    assert small is pruner.model and small.cfg.ffn_dim == keep
    assert small.num_params() == Decoder(small.cfg).num_params()
    assert not any(block.mlp.down_proj._forward_pre_hooks for block in small.layers)


def test_the_mask_is_on_the_inner_activation() -> None:
    pruner = make()
    block = pruner.model.layers[1].mlp
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    inner = F.silu(block.gate_proj(x)) * block.up_proj(x)
    mask = soft_top_k(pruner.scores[1], 10, 0.03)
    assert ((mask > 0.01) & (mask < 0.99)).any()  # else this would not tell soft from hard
    torch.testing.assert_close(block(x), F.linear(mask * inner, block.down_proj.weight))
    pruner.eval()
    best = torch.zeros(WIDTH).index_fill(0, pruner.scores[1].topk(10).indices, 1.0)
    torch.testing.assert_close(block(x), F.linear(best * mask * inner, block.down_proj.weight))
    torch.testing.assert_close(pruner.mask()[1], best * mask.detach())


def test_a_saved_decoder_opens_with_the_new_width(tmp_path: Path) -> None:
    small = make().finalize()
    small.save_pretrained(tmp_path)
    again = Decoder.from_pretrained(tmp_path)
    assert again.cfg.ffn_dim == 10
    torch.testing.assert_close(again(IDS), small(IDS))


def test_it_starts_as_the_dense_model_and_anneals() -> None:
    pruner, dense = make(progress=0.0), model()
    torch.testing.assert_close(pruner(IDS), dense(IDS))
    widths = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        pruner.anneal(progress)
        mask = pruner._annealed(0)
        expected = soft_top_k(pruner.scores[0], 24 - 28 * min(progress, 0.5), 0.03**progress)
        torch.testing.assert_close(mask, expected)
        widths.append(mask.sum().item())
    assert widths == pytest.approx([24, 17, 10, 10, 10], abs=1e-5)


def test_ranking_of_each_method() -> None:
    magnitude = make("magnitude")
    mlp = magnitude.model.layers[2].mlp
    with torch.no_grad():
        mlp.down_proj.weight.mul_(3)  # so that no matrix alone decides
    size = sum(w.square().sum(1) for w in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T))
    assert set(magnitude.mask()[2].nonzero().flatten().tolist()) == set(size.topk(10).indices.tolist())
    chance = make("random")
    assert torch.equal(chance.mask(), make("random").mask())
    other = FFNPruner(model(), 10, "random", generator=torch.Generator().manual_seed(9))
    assert not torch.equal(other.mask(), chance.mask())
    assert len({tuple(row.tolist()) for row in chance.mask()}) == 3  # layers draw their own
    # Fresh scores are equal: the earlier units stay.
    assert FFNPruner(model(), 4).mask()[0].nonzero().flatten().tolist() == [0, 1, 2, 3]


def state(method: Any = "soft_top_k") -> TrainState:
    pruner = make(method, progress=0.0)
    optimizer = AdaStar([*mup_groups(pruner.model), *pruner.score_groups()], lr=0.01)
    return TrainState(pruner, optimizer)


def train(state: TrainState, steps: range) -> None:
    batch = {"ids": IDS[:, :-1], "targets": IDS[:, 1:]}
    for step in steps:
        train_step(state, lm_loss(), [batch])
        state.model.anneal((step + 1) / 10)  # type: ignore[operator]


def test_scores_and_weights_learn_together() -> None:
    trained = state()
    start = copy.deepcopy(trained.model)
    group = trained.optimizer.param_groups[-1]
    assert (group["lr_mult"], group["weight_decay"], len(group["params"])) == (10.0, 0.0, 3)
    train(trained, range(10))
    changed = dict(trained.model.named_parameters())
    assert len(changed) == len(list(model().parameters())) + 3
    for name, parameter in start.named_parameters():
        assert not torch.equal(parameter, changed[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_resume_is_bit_equal_and_knows_its_progress(method: str, tmp_path: Path) -> None:
    class Folder:
        path = tmp_path

        def rewind(self, step: int, name: str | None = None) -> None: ...

    straight, stopped, resumed = state(method), state(method), state(method)
    train(straight, range(8))
    train(stopped, range(4))
    checkpoint.save(Folder(), stopped)
    assert checkpoint.resume(Folder(), resumed)
    assert resumed.model.progress == 0.4
    train(resumed, range(4, 8))
    for mine, other in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_scores_find_the_units_that_matter() -> None:
    """Units whose output is taken away lose their place to those that are needed."""
    pruner = make(progress=0.0)
    needed = torch.arange(WIDTH) % 2 == 1
    with torch.no_grad():
        for scores in pruner.scores:
            scores.zero_()
        for block in pruner.model.layers:
            block.mlp.down_proj.weight[:, ~needed] = 0.0
    optimizer = AdaStar(pruner.score_groups(), lr=0.01)
    teacher = copy.deepcopy(pruner.model).eval()
    for hook in [block.mlp.down_proj._forward_pre_hooks for block in teacher.layers]:
        hook.clear()
    expected = teacher(IDS).log_softmax(-1).detach()
    for step in range(60):
        pruner.anneal(step / 60)
        optimizer.zero_grad()
        F.kl_div(pruner(IDS).log_softmax(-1), expected, log_target=True, reduction="batchmean").backward()
        optimizer.step()
    kept = pruner.mask() > 0
    assert (kept & needed).sum() >= 28  # of 30 kept


def test_a_deep_copy_is_masked_by_its_own_scores() -> None:
    pruner = make()
    twin = copy.deepcopy(pruner)
    before = pruner(IDS)
    with torch.no_grad():
        twin.scores[0].neg_()
    assert torch.equal(pruner(IDS), before)
    assert not torch.equal(twin(IDS), before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FFNPruner(model(), 25), r"keep: got 25, need 1..24 \(ffn_dim\)"),
        (lambda: FFNPruner(model(), 0), "keep: got 0"),
        (lambda: FFNPruner(model(), 4, "taylor"), "method: got 'taylor', need one of soft_top_k, magnitude, random"),  # type: ignore[arg-type]
        (lambda: FFNPruner(model(), 4, eps=(1.0, 0.0)), "eps: got"),
        (lambda: FFNPruner(model(moe=MoEConfig(16, 12, num_experts=2)), 4), "model: has experts; pruning takes"),
        (lambda: make().anneal(1.5), "progress: got 1.5, need 0..1"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_a_second_finalize() -> None:
    pruner = make()
    pruner.finalize()
    with pytest.raises(ValueError, match="finalized twice"):
        pruner.finalize()
