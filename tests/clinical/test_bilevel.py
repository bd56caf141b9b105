"""The nested loop: turns, resume at any step, what each step may move, best encoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.clinical.bilevel import ClippedAdam, Pretraining, encode, predict
from tenfold.clinical.forecast_columns import Columns, Labels
from tenfold.clinical.forecast_model import ForecastModel, ForecastTasks, TaskWeights
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.task_weighting import FixedWeights, UncertaintyWeights
from tenfold.core import checkpoint
from tenfold.core.run import Run

SMALL: dict[str, Any] = {"rounds": 3, "inner_steps": 3, "head_steps": 2, "lookahead": 2, "batch_size": 16}
DATA = PlantedForecast(history=6, horizon=3).sample(100, 80, 0, labelled=60, seed=0)


def columns(part: str, label: bool = True) -> Columns:
    return DATA.batch(DATA.split("outcome" if label else None)[part], "outcome" if label else None)


def pretraining(weights: Any = None, outer: Any = "hypergradient", cotrain: bool = False, **fields: Any) -> Pretraining:
    config = SelectConfig(**{**SMALL, **fields})
    return Pretraining(
        ForecastModel(16, 3, 3, generator=torch.Generator().manual_seed(0)),
        weights or TaskWeights(16, generator=torch.Generator().manual_seed(0)),
        ForecastTasks(DATA.features),
        columns("train", label=False),
        Labels.of(columns("train"), columns("valid"), config.folds),
        config,
        outer,
        cotrain,
    )


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which of encoder, decoder, head and weights changed."""
    parts = {"net.encoder": "encoder", "net.decoder": "decoder", "net.head": "head", "weights": "weights"}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {part for prefix, part in parts.items() if any(name.startswith(prefix) for name in changed)}


@pytest.mark.parametrize(
    ("mode", "head"), [("first_order", {"head"}), ("official_hessian", {"encoder", "head"}), ("unrolled", {"head"})]
)
def test_every_phase_moves_its_own_parameters(mode: Any, head: set[str]) -> None:
    loop = pretraining(hypergradient=mode)
    turns = []
    while (phase := loop.phase()) != "done":
        before = copy.deepcopy(loop.state.model.state_dict())
        loop.advance()
        wanted = {"forecast": {"encoder", "decoder"}, "head": head, "outer": {"weights"}}[phase]
        assert moved(before, loop.state.model.state_dict()) == wanted
        turns.append(phase)
    assert turns == 3 * (3 * ["forecast"] + 2 * ["head"] + ["outer"])
    assert len(loop.state.history) == 4
    assert all(w.sum().item() == pytest.approx(1) for w in loop.state.history)
    assert not loop.advance()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hypergradient": "unrolled", "inner_opt": "adam", "unroll_chunk": 1, "head_lookahead": 1},
        {"hypergradient": "official_hessian"},
        {"folds": 3, "use_best_encoder": True},
        {"use_best_encoder": True, "forecast_steps": 12},
        {"outer": "cosine", "weights": FixedWeights(torch.ones(16))},
        {"outer": "none", "cotrain": True, "weights": FixedWeights(torch.ones(16)), "use_best_encoder": True},
        {"outer": "none", "weights": UncertaintyWeights(16)},
    ],
)
def test_a_resumed_loop_is_bit_equal(fields: dict[str, Any], tmp_path: Path) -> None:
    whole = pretraining(**copy.deepcopy(fields))
    whole.run()
    for stop in (4, 8):  # amid the head steps of the first round, amid the forecast steps of the second
        run = Run.create("test", "tiny", {}, tmp_path / str(stop))
        first = pretraining(**copy.deepcopy(fields))
        for _ in range(stop):
            first.advance()
        checkpoint.save(run, first.state, "pretraining")
        second = pretraining(**copy.deepcopy(fields))
        state = second.run(run)
        assert state.step == whole.state.step and len(state.history) == len(whole.state.history)
        for a, b in zip(state.history, whole.state.history, strict=True):
            assert torch.equal(a, b)
        found, expected = state.model.state_dict(), whole.state.model.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_that_is_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretraining(save_every=1).run()
    run = Run.create("test", "tiny", {}, tmp_path)
    loop = pretraining(save_every=1)

    def cut(step: int, **metrics: Any) -> None:
        if metrics["round"] == 2:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(run, "log", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            loop.run(run)
    again = pretraining()
    state = again.run(run)
    assert torch.equal(state.history[-1], whole.history[-1])
    assert checkpoint.latest(run, "pretraining") is not None


@pytest.mark.parametrize(("outer", "steps"), [("hypergradient", [6, 9]), ("none", [6, 9])])
def test_checkpoints_stand_at_ends_of_rounds(
    outer: Any, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create("test", "tiny", {}, tmp_path)
    pretraining(None if outer == "hypergradient" else FixedWeights(torch.ones(16)), outer, save_every=2).run(run)
    assert [row["step"] for row in run.rows()] == steps  # every second round, and the last
    assert [row["round"] for row in run.rows()] == [2, 3]  # whether or not weights are learned


@pytest.mark.parametrize("normalization", ["softmax", "linear"])
@pytest.mark.parametrize("weight_power", [1, 2])
def test_variables_in_another_order_end_with_their_weights(weight_power: int, normalization: Any) -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    plain, permuted = (
        pretraining(
            TaskWeights(16, normalization, init=torch.linspace(-1, 1, 16)[which].tolist()),
            rounds=2,
            weight_power=weight_power,
        )
        for which in (torch.arange(16), order)
    )
    for part in (permuted.unlabelled, permuted.labels.labelled, permuted.labels.val):  # type: ignore[union-attr]
        for name in part.keys() & {"x", "mask", "y", "y_mask"}:
            part[name] = part[name][..., order]
    with torch.no_grad():
        lstm, out = permuted.net.encoder.lstm, permuted.net.decoder.out
        lstm.weight_ih_l0.copy_(lstm.weight_ih_l0[:, torch.cat([order, 16 + order])])
        out.weight.copy_(out.weight[order])
    for loop in (plain, permuted):
        loop.run()
    torch.testing.assert_close(permuted.state.history[-1], plain.state.history[-1][order], rtol=1e-3, atol=1e-5)


def test_a_task_never_observed_costs_nothing() -> None:
    loop = pretraining(normalization="linear")
    loop.unlabelled["y_mask"][..., 5] = False
    loop.unlabelled["y"][..., 5] = torch.nan
    state = loop.run()
    assert all(p.isfinite().all() for p in state.model.state_dict().values())
    assert all(w.isfinite().all() for w in state.history)


def test_the_official_schedule_hardly_leaves_uniform_weights() -> None:
    loop = pretraining(
        TaskWeights(16, init=[0.0] * 16),
        hypergradient="official_approx",
        rounds=10,
        inner_steps=2,
        head_steps=1,
        lr_weights=0.01,
        unit_gradient=False,
    )
    w = loop.run().history[-1] * 16
    assert w.min() > 0.8 and w.max() < 1.2  # Adam moves each κ by at most 0.1 in ten rounds


def test_entropy_bonus_pulls_towards_uniform_weights() -> None:
    starts = [TaskWeights(16, init=[2.0] + [0.0] * 15) for _ in range(2)]
    free, pulled = (pretraining(w, entropy_bonus=b).run().history[-1] for w, b in zip(starts, (0.0, 1e4), strict=True))
    assert pulled.max() < free.max()
    assert torch.special.entr(pulled).sum() > torch.special.entr(free).sum()


def test_cotraining_moves_the_head_with_the_rest() -> None:
    loop = pretraining(FixedWeights(torch.ones(16)), "none", cotrain=True)
    before = copy.deepcopy(loop.state.model.state_dict())
    loop.advance()
    assert moved(before, loop.state.model.state_dict()) == {"encoder", "decoder", "head"}


def test_the_best_encoder_is_the_one_that_comes_back() -> None:
    loop = pretraining(FixedWeights(torch.ones(16)), "none", use_best_encoder=True, eval_every=2)
    scores: list[float] = []
    original = loop._validation_score

    def score() -> float:
        scores.append(original())
        return -abs(len(scores) - 2.0)  # the second one is the best

    loop._validation_score = score  # type: ignore[method-assign]
    kept: dict[str, Tensor] = {}
    while loop.phase() != "done":
        loop.advance()
        if loop.state.step == 4 and not kept:
            kept = copy.deepcopy(loop.net.state_dict())
    loop.run()
    assert len(scores) == 4
    assert all(torch.equal(tensor, kept[name]) for name, tensor in loop.net.state_dict().items())


def test_gradients_are_cut_by_entry() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    q = torch.nn.Parameter(torch.zeros(3))
    for parameter, g in ((p, [100.0, -3.0, 7.0]), (q, [5.0, -3.0, 5.0])):
        parameter.grad = torch.tensor(g)
    ClippedAdam([p], 0.1, 5.0).step()
    torch.optim.Adam([q], 0.1).step()
    assert torch.equal(p, q)


def test_encoding_in_chunks_is_encoding() -> None:
    loop = pretraining()
    val = columns("valid")
    torch.testing.assert_close(encode(loop.net, val, chunk=7), encode(loop.net, val))
    torch.testing.assert_close(predict(loop.net, val), loop.net.classify(val["x"], val["mask"]).sigmoid())
