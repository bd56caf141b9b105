"""The training loop: laws of weighting, bit-equal resume, budgets, faults. Several processes: see test_mesh.py."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tenfold.core import checkpoint
from tenfold.core.ema import Ema
from tenfold.core.errors import UserError
from tenfold.core.fit import Every, NonFiniteError, TrainState, fit, forward_seed, train_step
from tenfold.core.flops import measure_peak
from tenfold.core.optim import Schedule, adamw
from tenfold.core.progress import TrainingProgress
from tenfold.core.stream import ArrayStream


class FolderOnly:
    """The least a run has to offer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def log(self, step: int, **metrics: Any) -> None:
        self.rows.append({"step": step, **metrics})

    def rewind(self, step: int, name: str | None = None) -> None:
        self.rows = [row for row in self.rows if row["step"] <= step]


@pytest.fixture
def run(tmp_path: Path) -> FolderOnly:
    return FolderOnly(tmp_path)


class Net(nn.Module):
    """Small, with dropout and with targets that may be masked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 1))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[:, 0]


def data(items: int = 64) -> dict[str, torch.Tensor]:
    x = torch.randn(items, 4, generator=torch.Generator().manual_seed(1))
    return {"x": x, "y": x.sum(1), "mask": torch.arange(items) % 3 != 0}


def masked_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Mean over the unmasked targets: micro-batches have different numbers of them."""
    errors = (model(batch["x"]) - batch["y"]).square()[batch["mask"]]
    return errors.mean(), {"weight": len(errors), "largest": errors.max()}


def make(batch: int = 8, *, dropout: float = 0.0, lr: float = 1e-2, schedule: Any = None, **fields: Any) -> TrainState:
    model = Net(dropout)
    stream = ArrayStream(data(), batch, seed=2)
    return TrainState(model, adamw(model, lr), schedule, stream, **fields)


def weights(state: TrainState) -> list[torch.Tensor]:
    average = [] if state.ema is None else list(state.ema.average.values())
    return [p.detach().clone() for p in [*state.model.parameters(), *average]]


def assert_same(first: TrainState, second: TrainState) -> None:
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)
    for mine, theirs in zip(first.optimizer.state.values(), second.optimizer.state.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


# One step


def test_parts_of_a_batch_count_by_their_targets() -> None:
    whole, parts = make(), make()
    batch = next(iter(ArrayStream(data(), 24, shuffle=False)))
    pieces = [
        {name: column[low : low + size] for name, column in batch.items()} for low, size in ((0, 4), (4, 13), (17, 7))
    ]
    first = train_step(whole, masked_loss, [batch])
    second = train_step(parts, masked_loss, pieces)
    assert second["weight"] == first["weight"] == 16
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-6)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    assert whole.step == parts.step == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_without_targets_is_0_however_it_is_cut(parts: int) -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        errors = (model(batch["x"]) - batch["y"]).square()[batch["mask"]]
        balance = model(batch["x"]).square().mean()  # a term that does not look at the targets
        return errors.sum() / max(1, len(errors)) + balance, {"weight": torch.tensor(len(errors)), "balance": balance}

    state, before = make(lr=0.1), weights(make())
    nothing = {**data(), "mask": torch.zeros(64, dtype=torch.bool)}
    for group in state.optimizer.param_groups:
        group["weight_decay"] = 0.0
    metrics = train_step(state, loss, [nothing] * parts)
    assert metrics["loss"] == metrics["weight"] == metrics["grad_norm"] == float(metrics["balance"]) == 0
    torch.testing.assert_close(weights(state), before, rtol=0, atol=0)


def test_other_metrics_are_averaged_by_weight() -> None:
    def loss(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        return model(batch["x"]).mean(), {"weight": batch["weight"], "figure": torch.tensor(batch["figure"])}

    x = data()["x"]
    metrics = train_step(make(), loss, [{"x": x, "weight": 1, "figure": 10.0}, {"x": x, "weight": 3, "figure": 2.0}])
    assert float(metrics["figure"]) == 4.0


def test_float64_stays_exact() -> None:
    state = make()
    state.model.double()
    batch = {name: column.double() if column.is_floating_point() else column for name, column in data().items()}
    halves = [{name: column[part] for name, column in batch.items()} for part in (slice(0, 21), slice(21, 64))]
    other = make()
    other.model.double()
    train_step(state, masked_loss, [batch])
    train_step(other, masked_loss, halves)
    torch.testing.assert_close(weights(state), weights(other), rtol=1e-12, atol=1e-12)


def test_clipping_and_raw_gradients() -> None:
    batch = next(iter(ArrayStream(data(), 8)))
    clipped, raw = make(), make()
    raw.optimizer.handles_clipping = True  # type: ignore[attr-defined]
    first = train_step(clipped, masked_loss, [batch], clip_norm=0.01)
    second = train_step(raw, masked_loss, [batch], clip_norm=0.01)
    assert first["grad_norm"] == second["grad_norm"] > 0.01
    norms = [torch.cat([p.grad.flatten() for p in s.model.parameters()]).norm().item() for s in (clipped, raw)]
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    assert norms[1] == pytest.approx(first["grad_norm"], rel=1e-5)


def test_forward_draws_depend_on_seed_step_part_and_rank_alone() -> None:
    keys = [(seed, step, part, rank) for seed in (0, 1) for step in (0, 1) for part in (0, 1) for rank in (0, 1)]
    assert len({forward_seed(*key) for key in keys}) == 16
    batch = next(iter(ArrayStream(data(), 8)))
    torch.manual_seed(11)
    first = make(dropout=0.5, seed=3)
    train_step(first, masked_loss, [batch])
    torch.manual_seed(12)
    second = make(dropout=0.5, seed=3)
    train_step(second, masked_loss, [batch])
    assert_same(first, second)
    other = make(dropout=0.5, seed=4)
    train_step(other, masked_loss, [batch])
    assert not torch.equal(weights(other)[0], weights(first)[0])


def test_bf16_runs_the_forward_pass_in_bf16_and_keeps_fp32_weights() -> None:
    seen = []

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        out = model(batch["x"])
        seen.append(out.dtype)
        return (out.float() - batch["y"]).square().mean(), {"weight": len(out)}

    state = make()
    train_step(state, loss, [data()], precision="bf16")
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="precision: got 'fp16'"):
        train_step(state, loss, [data()], precision="fp16")  # type: ignore[arg-type]


def test_schedule_sets_the_rate_of_every_group() -> None:
    state = make(lr=0.1, schedule=Schedule(4, 10))
    state.optimizer.param_groups[1]["initial_lr"] = 0.2
    metrics = train_step(state, masked_loss, [data()])
    assert metrics["lr"] == pytest.approx(0.1 / 4)
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([0.025, 0.05])


def test_loss_without_weight_and_without_batches() -> None:
    with pytest.raises(ValueError, match='lack "weight"'):
        train_step(make(), lambda model, batch: (model(batch["x"]).mean(), {}), [data()])
    with pytest.raises(ValueError, match="batches: got none"):
        train_step(make(), masked_loss, [])


# Faults


def test_non_finite_loss_stops_and_keeps_weights_and_checkpoint(run: FolderOnly) -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        value, metrics = masked_loss(model, batch)
        return value * (float("nan") if state.step == 6 else 1.0), metrics

    state = make()
    with pytest.raises(NonFiniteError) as caught:
        fit(state, loss, steps=20, run=run, every=Every(save=5))
    text = str(caught.value)
    assert "\n" not in text
    assert "loss is nan at step 7 (learning rate 0.01, last finite loss " in text
    assert f"{state.last_loss:.6g}" in text
    assert all(torch.isfinite(w).all() for w in weights(state))
    assert checkpoint.latest(run) == run.path / "checkpoints/main/step-00000005"


def test_non_finite_gradient_stops_unless_the_optimizer_has_its_own_rule() -> None:
    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        return (model(batch["x"]) * 0).abs().sqrt().mean(), {"weight": 1}  # value 0, slope infinite

    state = make()
    with pytest.raises(NonFiniteError, match="gradient norm is nan at step 1"):
        train_step(state, loss, [data()])
    state.optimizer.handles_clipping = True  # type: ignore[attr-defined]
    assert train_step(state, loss, [data()])["loss"] == 0


def test_fit_refuses(run: FolderOnly) -> None:
    with pytest.raises(ValueError, match="need exactly one of them"):
        fit(make(), masked_loss, run=run)
    with pytest.raises(ValueError, match="steps: got 0"):
        fit(make(), masked_loss, steps=0, run=run)
    with pytest.raises(ValueError, match="seconds: got -1"):
        fit(make(), masked_loss, seconds=-1, run=run)
    with pytest.raises(ValueError, match="accumulate: got 0"):
        fit(make(), masked_loss, steps=1, run=run, accumulate=0)
    with pytest.raises(ValueError, match="save: got 0"):
        Every(save=0)
    with pytest.raises(ValueError, match="ema: got 1"):
        fit(make(), masked_loss, steps=1, run=run, ema=1.0)
    with pytest.raises(ValueError, match="need both or neither"):
        fit(make(), masked_loss, steps=1, run=run, peak_flops=1e9)


def test_stream_that_runs_dry(run: FolderOnly) -> None:
    state = make()
    state.stream = ArrayStream(data(), 16, epochs=1)
    with pytest.raises(UserError, match="no batch left"):
        fit(state, masked_loss, steps=5, run=run)
    assert state.step == 4


# Resume


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 11), st.integers(1, 3), st.booleans())
def test_resume_at_any_step_is_bit_equal(tmp_path_factory, stop: int, accumulate: int, averaged: bool) -> None:
    options: dict[str, Any] = {"accumulate": accumulate, "ema": 0.9 if averaged else None, "every": Every(log=1)}
    fresh = lambda: make(dropout=0.3, schedule=Schedule(3, 12), seed=7)  # noqa: E731
    whole_run, run = (FolderOnly(tmp_path_factory.mktemp("run")) for _ in range(2))
    whole = fit(fresh(), masked_loss, steps=12, run=whole_run, **options)
    fit(fresh(), masked_loss, steps=stop, run=run, **options)
    state = make(dropout=0.3, lr=0.5)  # the rate and the schedule come from the checkpoint
    assert checkpoint.resume(run, state)
    assert state.step == stop
    assert fit(state, masked_loss, steps=12, run=run, **options) is state
    assert_same(state, whole)
    timing = {"seconds", "tokens_per_s"}
    plain = [[{k: v for k, v in row.items() if k not in timing} for row in r.rows] for r in (run, whole_run)]
    assert plain[0] == plain[1]


def test_finished_training_is_left_alone(run: FolderOnly) -> None:
    state = fit(make(), masked_loss, steps=4, run=run)
    before = weights(state)
    fit(state, masked_loss, steps=4, run=run)
    torch.testing.assert_close(weights(state), before, rtol=0, atol=0)


class Clock:
    """A clock that gives a step the next of its seconds."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.seconds, self.calls = 0.0, iter(seconds), 0

    def __call__(self) -> float:
        self.calls += 1
        if self.calls % 2 == 0:
            self.now += next(self.seconds)
        return self.now


def test_time_budget_goes_on_without_a_jump(run: FolderOnly, tmp_path: Path) -> None:
    durations = [1.0, 2.0, 1.0, 3.0, 1.0, 1.0, 2.0]
    options: dict[str, Any] = {"seconds": 10.0, "every": Every(log=1)}

    def fresh() -> TrainState:
        return make(lr=1.0, schedule=Schedule(0.2, 1.0, 0.0, "linear"))

    whole_run = FolderOnly(tmp_path / "whole")
    whole = fit(fresh(), masked_loss, run=whole_run, clock=Clock(durations), **options)
    assert whole.step == 7  # 11 of 10 seconds
    assert whole.progress == 1.0
    # The rate goes by the share used before the step: 0, 0.1, then down from 1 at 0.2 to 0 at 1.
    rates = [row["lr"] for row in whole_run.rows]
    assert rates == pytest.approx([0, 0.5, 0.875, 0.75, 0.375, 0.25, 0.125])

    def stop(state: TrainState) -> None:
        if state.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), masked_loss, run=run, clock=Clock(durations), after_step=stop, **options)
    state = make()
    checkpoint.resume(run, state)
    assert state.step == 3
    assert state.progress == pytest.approx(0.4)
    assert state.seconds == 4.0
    fit(state, masked_loss, run=run, clock=Clock(durations[3:]), **options)
    assert_same(state, whole)
    assert state.seconds == whole.seconds == 11.0
    assert [row["lr"] for row in run.rows] == pytest.approx(rates)


def test_evaluation_does_not_spend_the_budget(run: FolderOnly) -> None:
    clock = Clock([1.0] * 5)

    def evaluate(model: nn.Module) -> dict[str, float]:
        clock.now += 100
        return {"score": 1.0}

    state = fit(make(), masked_loss, run=run, seconds=5.0, clock=clock, evaluate=evaluate, every=Every(eval=1))
    assert state.step == 5
    assert state.seconds == 5.0


# What a run sees


def test_interrupt_finishes_the_step_and_saves(run: FolderOnly) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(state: TrainState) -> None:
        if state.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(make(), masked_loss, steps=10, run=run, after_step=interrupt)
    assert checkpoint.latest(run) == run.path / "checkpoints/main/step-00000003"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_interrupt_at_the_very_end_is_not_lost(run: FolderOnly, where: str) -> None:
    def interrupt(_: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {}

    hook: dict[str, Any] = {"after_step" if where == "step" else "evaluate": interrupt}
    with pytest.raises(KeyboardInterrupt):
        fit(make(), masked_loss, steps=1, run=run, **hook)
    assert checkpoint.latest(run) == run.path / "checkpoints/main/step-00000001"


def test_log_rows_evaluation_and_names(run: FolderOnly) -> None:
    seen = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model.net[0].weight.clone())
        return {"score": 0.5}

    state = make()
    fit(
        state,
        masked_loss,
        steps=7,
        run=run,
        name="dense",
        ema=0.5,
        every=Every(log=3, eval=4),
        evaluate=evaluate,
        flops_per_step=1e6,
        peak_flops=1e9,
    )
    assert [(row["step"], row["model"]) for row in run.rows if "loss" in row] == [(n, "dense") for n in (3, 6, 7)]
    assert [row["step"] for row in run.rows if "score" in row] == [4, 7]
    assert {"loss", "grad_norm", "lr", "weight", "largest", "seconds", "tokens_per_s", "mfu"} <= run.rows[0].keys()
    assert json.dumps(run.rows)  # plain numbers
    assert state.model.training
    assert state.ema is not None
    assert torch.equal(seen[-1], state.ema.average["net.0.weight"])
    assert not torch.equal(seen[-1], state.model.net[0].weight)
    assert checkpoint.latest(run, "dense") == run.path / "checkpoints/dense/step-00000007"


def test_every_none_leaves_only_what_comes_after_the_last_step(run: FolderOnly) -> None:
    fit(make(), masked_loss, steps=5, run=run, every=Every(log=None), evaluate=lambda model: {"score": 1.0})
    assert [row["step"] for row in run.rows if "loss" in row] == [5]
    assert [row["step"] for row in run.rows if "score" in row] == [5]
    assert [path.name for path in (run.path / "checkpoints" / "main").iterdir()] == ["step-00000005"]


def test_profile_writes_a_trace(run: FolderOnly) -> None:
    fit(make(), masked_loss, steps=8, run=run, profile=2)
    (trace,) = (run.path / "profiles").iterdir()
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event}
    assert "aten::linear" in names


def test_ema_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = Ema(model, decay=0.15)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.update()  # decay (1 + 0) / (10 + 0)
    assert ema.average["weight"].item() == pytest.approx(0.9)
    ema.update()  # decay min(0.15, 2 / 11)
    assert ema.average["weight"].item() == pytest.approx(0.15 * 0.9 + 0.85)
    with ema.applied():
        assert model.weight.item() == ema.average["weight"].item()
    assert model.weight.item() == 1.0


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys) -> None:
    times = iter([0.0, 1.0, 4.0, 12.0, 30.0])
    with TrainingProgress("dense", clock=lambda: next(times)) as progress:
        for done in (0.1, 0.4, 0.5, 1.0):
            progress.update(done, int(done * 100), 2.0, 1234.0)
    assert capsys.readouterr().err.splitlines() == [
        "dense   50%  step 50  loss 2.0000  1,234 tokens/s  15 s left",
        "dense  100%  step 100  loss 2.0000  1,234 tokens/s",
    ]


def test_peak_is_operations_over_the_fastest_time() -> None:
    times = iter([0, 9, 0, 9, 0, 4, 0, 2, 0, 3])
    assert measure_peak(size=10, repeats=3, clock=lambda: next(times)) == 2 * 10**3 / 2
    with pytest.raises(ValueError, match="size, repeats: got 0, 1"):
        measure_peak(size=0, repeats=1)
