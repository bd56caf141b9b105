"""Checkpoints: everything comes back, nothing torn is taken, a full disk costs nothing."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tenfold.core import checkpoint
from tenfold.core.ema import Ema
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import Schedule, adamw
from tenfold.core.stream import ArrayStream
from tenfold.core.tree import flatten, unflatten


class Tied(nn.Module):
    """A language model's tied weights, and a buffer."""

    def __init__(self, vocabulary: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 4)
        self.head = nn.Linear(4, vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("bias", torch.arange(3.0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


def make(vocabulary: int = 7, ema: bool = True) -> TrainState:
    model = Tied(vocabulary)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.linspace(-1, 1, vocabulary * 4).view(vocabulary, 4))
    stream = ArrayStream(torch.arange(7), 2, seed=0)
    state = TrainState(model, adamw(model, 1e-2), Schedule(2, 9), stream, seed=3)
    state.ema = Ema(model, 0.9) if ema else None
    return state


def train(state: TrainState, steps: int) -> TrainState:
    def loss(model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return nn.functional.cross_entropy(model(ids), ids), {"weight": len(ids)}

    for batch in state.stream:
        if steps == 0:
            return state
        train_step(state, loss, [batch])
        steps -= 1
    return state


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return SimpleNamespace(path=tmp_path, rewind=lambda step, name=None: None)


def test_everything_comes_back(run: Any) -> None:
    state = train(make(), 3)
    path = checkpoint.save(run, state)
    assert path == run.path / "checkpoints/main/step-00000003"
    other = make(ema=False)
    checkpoint.restore(other, path)
    assert flatten(other.state_dict())[0] == flatten(state.state_dict())[0]
    torch.testing.assert_close(flatten(other.state_dict())[1], flatten(state.state_dict())[1], rtol=0, atol=0)
    assert other.model.head.weight is other.model.embedding.weight


def test_weights_are_plain_safetensors_without_aliases(run: Any) -> None:
    state = train(make(), 1)
    path = checkpoint.save(run, state)
    stored = load_file(path / "model" / "model.safetensors")
    assert stored.keys() == {"embedding.weight", "bias"}
    assert torch.equal(stored["embedding.weight"], state.model.embedding.weight)
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_weights_alone_and_averaged(run: Any) -> None:
    state = train(make(), 3)
    path = checkpoint.save(run, state)
    plain, averaged = Tied(), Tied()
    checkpoint.load_weights(plain, path)
    checkpoint.load_weights(averaged, path, averaged=True)
    assert torch.equal(plain.embedding.weight, state.model.embedding.weight)
    assert torch.equal(averaged.embedding.weight, state.ema.average["embedding.weight"])
    without = checkpoint.save(run, train(make(ema=False), 1), "other")
    with pytest.raises(UserError, match="holds no averaged weights"):
        checkpoint.load_weights(plain, without, averaged=True)


def test_only_the_newest_are_kept_and_later_ones_go(run: Any) -> None:
    state = make()
    for step in (10, 20, 30):
        state.step = step
        checkpoint.save(run, state)
    folder = run.path / "checkpoints" / "main"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020", "step-00000030"]
    state.step = 25  # taken back to 20, and on from there
    checkpoint.save(run, state)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000020", "step-00000025"]
    checkpoint.save(run, state)  # the same step again
    assert checkpoint.latest(run) == folder / "step-00000025"
    assert checkpoint.latest(run, "absent") is None
    with pytest.raises(ValueError, match="keep: got 0"):
        checkpoint.save(run, state, keep=0)


def damage_flip(path: Path) -> None:
    file = path / "training" / "training.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_truncate(path: Path) -> None:
    os.truncate(path / "model" / "model.safetensors", 40)


def damage_remove(path: Path) -> None:
    (path / "state.json").unlink()


def damage_manifest(path: Path) -> None:
    os.truncate(path / "manifest.json", 30)


def damage_no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove, damage_manifest, damage_no_manifest])
def test_a_torn_checkpoint_is_passed_over(run: Any, damage: Any) -> None:
    state = train(make(), 1)
    good = checkpoint.save(run, state)
    bad = checkpoint.save(run, train(state, 1))
    damage(bad)
    with pytest.warns(RuntimeWarning, match=f"checkpoint {bad} is torn.*going back") as warned:
        assert checkpoint.latest(run) == good
    assert "\n" not in str(warned[0].message)
    with pytest.raises(UserError, match="is torn"):
        checkpoint.restore(make(), bad)
    other = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoint.resume(run, other)
    assert other.step == 1
    checkpoint.save(run, train(other, 1))  # replaces the torn one of the same step
    assert checkpoint.latest(run) == bad


def test_unfinished_writing_is_never_taken(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = train(make(), 1)
    good = checkpoint.save(run, state)
    with monkeypatch.context() as patch:

        def power_cut(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "rename", power_cut)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(run, train(state, 1))
    assert checkpoint.latest(run) == good
    checkpoint.save(run, state)
    assert not list(good.parent.glob(".*"))


@pytest.mark.parametrize("where", ["tensors", "json", "seal"])
def test_full_disk(run: Any, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    state = train(make(), 1)
    good = checkpoint.save(run, state)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: Any, **__: Any) -> None:
        if where == "tensors":  # how the safetensors library reports it
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise full

    with monkeypatch.context() as patch:
        target = {"tensors": (checkpoint, "save_file"), "json": (json, "dumps"), "seal": (os, "fsync")}[where]
        patch.setattr(*target, fail)
        with pytest.raises(UserError) as caught:
            checkpoint.save(run, train(state, 1))
    text = str(caught.value)
    assert text.startswith(f"disk full while writing {good.parent / 'step-00000002'}: free some space")
    assert "\n" not in text
    assert [path.name for path in good.parent.iterdir()] == ["step-00000001"]
    checkpoint.restore(make(), good)


def test_really_full_disk(run: Any) -> None:
    """The same on a file system with 64 KB, where the test may mount one."""
    small = run.path / "checkpoints"
    small.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64k tmpfs {small} 2>/dev/null") != 0:
        pytest.skip("mounting a file system is not allowed here")
    try:
        good = checkpoint.save(run, train(make(), 1))
        with pytest.raises(UserError, match="disk full while writing"):
            checkpoint.save(run, train(make(vocabulary=1000), 2))
        assert checkpoint.latest(run) == good
        checkpoint.restore(make(), good)
    finally:
        os.system(f"umount {small}")


def test_other_errors_are_not_called_a_full_disk(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "save_file", denied)
    with pytest.raises(PermissionError):
        checkpoint.save(run, make())


def test_a_checkpoint_of_another_model(run: Any) -> None:
    path = checkpoint.save(run, train(make(), 1))
    with pytest.raises(UserError, match=r"does not fit: .*size mismatch for embedding.weight") as caught:
        checkpoint.restore(make(vocabulary=9), path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not fit the model"):
        checkpoint.load_weights(Tied(9), path)
    linear = nn.Linear(2, 2)
    with pytest.raises(UserError, match="does not fit"):
        checkpoint.restore(TrainState(linear, adamw(linear, 1.0)), path)
    other_data = make()
    other_data.stream = ArrayStream(torch.arange(5), 2)
    with pytest.raises(UserError, match="data: got 5 items, need 7"):
        checkpoint.restore(other_data, path)


def test_optimizer_state_goes_by_name_and_keeps_its_precision(run: Any) -> None:
    def build(regrouped: bool) -> TrainState:
        model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)).to(torch.bfloat16)
        parameters = list(model.parameters())
        groups = [{"params": [p]} for p in reversed(parameters)] if regrouped else [{"params": parameters}]
        optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.9))
        return TrainState(model, optimizer)

    state = build(False)
    for number, parameter in enumerate(state.model.parameters()):
        state.optimizer.state[parameter] = {
            "step": torch.tensor(4.0),
            "exp_avg": torch.full(parameter.shape, number + 0.1),
        }
    other = build(True)
    checkpoint.restore(other, checkpoint.save(run, state))
    for number, parameter in enumerate(other.model.parameters()):
        average = other.optimizer.state[parameter]["exp_avg"]
        assert average.dtype == torch.float32
        assert torch.equal(average, torch.full(parameter.shape, number + 0.1))
    assert other.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    state.optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="a parameter that is not the model's"):
        state.state_dict()


def test_trees_of_tensors_survive_json() -> None:
    shared = torch.arange(6.0).view(2, 3)
    tree = {
        "a": [shared, shared.T, shared[0], {"b": np.arange(3), "c": None}],
        "again": shared,
        "numbers": [1, 2.5, True, "x", float("inf"), 2**100],
        "empty": [torch.zeros(0), torch.zeros(0, 3)],
        "generator": torch.Generator().manual_seed(1).get_state(),
    }
    plain, tensors = flatten(tree)
    assert plain["again"] == plain["a"][0]  # kept once
    assert all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in tensors.values())
    back = unflatten(json.loads(json.dumps(plain)), tensors)
    assert torch.equal(back["a"][1], shared.T)
    assert torch.equal(back["a"][2], shared[0])
    assert isinstance(back["a"][3]["b"], np.ndarray)
    assert back["numbers"] == tree["numbers"]
    assert [tuple(t.shape) for t in back["empty"]] == [(0,), (0, 3)]
    with pytest.raises(TypeError, match="need strings"):
        flatten({1: 2})
    with pytest.raises(TypeError, match="state a/b: got set"):
        flatten({"a": {"b": {1}}})
