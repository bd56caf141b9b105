"""Checkpoints: everything comes back, nothing torn is taken, a full disk costs nothing."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tenfold.core import checkpoint
from tenfold.core.atomic import file_sha256
from tenfold.core.ema import Ema
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import Schedule, adamw
from tenfold.core.stream import ArrayStream, Batcher
from tenfold.core.tree import flatten


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


@pytest.mark.parametrize("then", ["latest", "save"])
@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_while_a_step_is_replaced_loses_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch, then: str, torn: bool
) -> None:
    state = train(make(), 2)
    path = checkpoint.save(run, state, keep=1)
    rename = os.rename

    def killed_before_the_second(old: Path, new: Path) -> None:
        if new == path:
            raise KeyboardInterrupt
        rename(old, new)

    state.seed = 99  # what tells the new one from the old one
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed_before_the_second)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(run, state, keep=1)
    assert sorted(left.name for left in path.parent.iterdir()) == [".step-00000002.old", ".step-00000002.tmp"]
    if torn:
        damage_flip(path.with_name(".step-00000002.tmp"))
    if then == "latest":
        assert checkpoint.latest(run) == path
    else:
        state.step = 3
        with pytest.raises(TypeError):  # one that fails itself
            checkpoint.save(run, SimpleNamespace(step=3, state_dict=lambda: {"model": {1: 2}, "stream": None}))
    other = make()
    checkpoint.restore(other, path)
    assert other.seed == (3 if torn else 99)
    state.step = 3
    checkpoint.save(run, state)
    assert sorted(left.name for left in path.parent.iterdir()) == ["step-00000002", "step-00000003"]


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


def test_a_checkpoint_of_another_optimizer_or_stream(run: Any) -> None:
    path = checkpoint.save(run, train(make(), 1))
    other = make()
    other.optimizer = torch.optim.SGD(other.model.parameters(), 0.1)
    with pytest.raises(UserError, match=r"does not fit: optimizer: got SGD, need AdamW as when it was saved"):
        checkpoint.restore(other, path)
    other = make()
    other.stream = Batcher(ArrayStream(torch.arange(7)), 2)
    with pytest.raises(UserError, match=r"does not fit: KeyError: 'stream'"):
        checkpoint.restore(other, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: {**manifest, "format": 99}, "format: got 99, need 2"),
        (lambda manifest: {"files": {}}, "is torn: KeyError"),
        (lambda manifest: {**manifest, "files": {}}, "is torn: KeyError"),
        (lambda manifest: {**manifest, "files": []}, "is torn: TypeError"),
        (lambda manifest: {**manifest, "files": {"state.json": manifest["files"]["state.json"]}}, "is torn: KeyError"),
        (lambda manifest: {**manifest, "world": "x"}, "is torn: TypeError"),
        (lambda manifest: [], "is torn: TypeError"),
    ],
)
def test_a_malformed_manifest_is_one_line(run: Any, change: Any, message: str) -> None:
    path = checkpoint.save(run, train(make(), 1))
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    for read in (lambda: checkpoint.restore(make(), path), lambda: checkpoint.load_weights(Tied(), path)):
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    if "torn" in message:
        with pytest.warns(RuntimeWarning, match=message):
            assert checkpoint.latest(run) is None
    else:  # going back would train again what another version has trained
        with pytest.raises(UserError, match=message):
            checkpoint.latest(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {key: value for key, value in state.items() if key != "training"}, "KeyError: 'training'"),
        (lambda state: {**state, "training": []}, "TypeError: "),
        (lambda state: {**state, "model": {"embedding.weight": {"$tensor": "absent"}}}, "KeyError: 'absent'"),
        (lambda state: {**state, "model": []}, ""),
        (lambda state: [], "TypeError: "),
    ],
)
def test_a_malformed_state_is_one_line(run: Any, change: Any, message: str) -> None:
    path = checkpoint.save(run, train(make(), 1))
    state, manifest = path / "state.json", path / "manifest.json"
    state.write_text(json.dumps(change(json.loads(state.read_text()))))
    sealed = json.loads(manifest.read_text())
    sealed["files"]["state.json"]["sha256"] = file_sha256(state)
    manifest.write_text(json.dumps(sealed))
    for read in (lambda: checkpoint.restore(make(), path), lambda: checkpoint.load_weights(Tied(), path)):
        with pytest.raises(UserError, match=f"does not fit.*: {message}") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".hidden"])
def test_names_that_would_leave_the_run_are_refused(run: Any, name: str) -> None:
    for act in (lambda: checkpoint.save(run, make(), name), lambda: checkpoint.latest(run, name)):
        with pytest.raises(ValueError, match="name: got"):
            act()
    assert list(run.path.iterdir()) == []


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
