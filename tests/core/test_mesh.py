"""Two gloo processes against one: the same training, the same norms, checkpoints that move between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.core import checkpoint
from tenfold.core.fit import TrainState

# The model and its data, the same in the test and in the processes it starts.
MODEL = """
import torch
from pathlib import Path
from types import SimpleNamespace
from torch import nn
from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit, train_step
from tenfold.core.mesh import batch_coordinate, build_mesh, is_main, shard
from tenfold.core.optim import Schedule, adamw, clip_grad_norm
from tenfold.core.stream import ArrayStream

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        def block():
            return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6))
        self.blocks = nn.ModuleList([block(), block()])
        self.scale = nn.Parameter(torch.ones(1))  # one row: some ranks hold nothing of it
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.scale * x @ self.head()

    def head(self):
        return torch.linspace(-1, 1, 66).view(6, 11)

def loss(model, batch):
    logits = model(batch["ids"])
    losses = nn.functional.cross_entropy(logits, batch["targets"], reduction="none")[batch["mask"]]
    return losses.mean(), {"weight": len(losses), "largest": losses.max()}

def data():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(11, (40,), generator=generator)
    return {"ids": ids, "targets": ids.roll(1), "mask": torch.arange(40) % 3 != 0}

def make(mesh=None, sharded=False, lr=0.05):
    model = Model()
    if sharded:
        shard(model, mesh)
    rank, world = batch_coordinate(mesh)
    stream = ArrayStream(data(), 8, seed=3, rank=rank, world=world)
    return TrainState(model, adamw(model, lr), Schedule(2, 8), stream, seed=1)

class Folder:
    def __init__(self, path):
        self.path, self.rows = Path(path), []
    def log(self, step, **metrics):
        self.rows.append((step, metrics))
    def rewind(self, step, name=None):
        pass
"""

TRAIN = (
    MODEL
    + """
mesh = build_mesh(**AXES)
run = Folder(PATH)
state = make(mesh, SHARDED)
resumed = checkpoint.resume(run, state)
assert resumed == RESUMED, resumed
options = dict(run=run, mesh=mesh, ema=0.9, accumulate=ACCUMULATE, clip_norm=0.5, every=Every(log=1))
fit(state, loss, steps=STEPS, **options)
if is_main():
    import json
    keys = ("loss", "grad_norm", "lr", "weight", "largest")
    rows = [{key: row[key] for key in keys} for _, row in run.rows]
    (Path(PATH) / f"rows-{STEPS}.json").write_text(json.dumps(rows))
import torch.distributed as dist
dist.barrier()
dist.destroy_process_group()
"""
)

names: dict[str, Any] = {}
exec(MODEL, names)


def rows(path: Path, steps: int) -> list[dict[str, float]]:
    return json.loads((path / f"rows-{steps}.json").read_text())


def train(
    processes, path: Path, *, world: int, sharded: bool, steps: int = 6, resumed: bool = False, **axes: int
) -> None:
    path.mkdir(exist_ok=True)
    processes.run(
        TRAIN,
        world=world,
        PATH=str(path),
        SHARDED=sharded,
        STEPS=steps,
        RESUMED=resumed,
        ACCUMULATE=2,
        AXES=axes or {"data": world},
    )


def loaded(path: Path) -> TrainState:
    """The state of the last checkpoint, in this one process."""
    state = names["make"]()
    run = names["Folder"](path)
    assert checkpoint.resume(run, state)
    return state


def assert_close(first: TrainState, second: TrainState, tolerance: float) -> None:
    torch.testing.assert_close(first.model.state_dict(), second.model.state_dict(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first.ema.average, second.ema.average, rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(first.optimizer.state.values(), second.optimizer.state.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    assert first.stream.state_dict() == second.stream.state_dict()


@pytest.fixture(scope="module")
def one_process(processes, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("one")
    train(processes, path, world=1, sharded=False)
    return path


@pytest.mark.parametrize(
    ("sharded", "axes"),
    [(False, {"data": 2}), (True, {"data": 2}), (True, {"expert": 2})],
    ids=["replicated", "fsdp", "fsdp-expert-axis"],
)
def test_two_ranks_train_as_one_process(
    processes, tmp_path: Path, one_process: Path, sharded: bool, axes: dict
) -> None:
    train(processes, tmp_path / "two", world=2, sharded=sharded, **axes)
    for mine, theirs in zip(rows(tmp_path / "two", 6), rows(one_process, 6), strict=True):
        assert mine == pytest.approx(
            {**theirs, "largest": mine["largest"]}, rel=1e-5
        )  # a maximum's mean depends on the parts
    assert_close(loaded(tmp_path / "two"), loaded(one_process), 1e-5)


def test_resharding_two_ranks_to_one_and_back(processes, tmp_path: Path, one_process: Path) -> None:
    path = tmp_path / "moving"
    train(processes, path, world=2, sharded=True, steps=2)
    assert len(list((path / "checkpoints/main/step-00000002/model").glob("*.safetensors"))) == 2
    train(processes, path, world=1, sharded=False, steps=4, resumed=True)
    train(processes, path, world=2, sharded=True, steps=6, resumed=True)
    assert_close(loaded(path), loaded(one_process), 1e-5)
    weights = names["Model"]()
    checkpoint.load_weights(weights, path / "checkpoints/main/step-00000006", averaged=True)
    torch.testing.assert_close(dict(weights.named_parameters()), loaded(path).ema.average, rtol=0, atol=0)
    assert {file.suffix for file in (path / "checkpoints").rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_resume_of_two_ranks_is_bit_equal(processes, tmp_path: Path) -> None:
    train(processes, tmp_path / "straight", world=2, sharded=True, steps=6)
    train(processes, tmp_path / "stopped", world=2, sharded=True, steps=3)
    train(processes, tmp_path / "stopped", world=2, sharded=True, steps=6, resumed=True)
    assert_close(loaded(tmp_path / "stopped"), loaded(tmp_path / "straight"), 0.0)


CLIP = (
    MODEL
    + """
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
mesh = build_mesh(data=2, model=2)
generator = torch.Generator().manual_seed(2)
full = [torch.randn(5, 4, generator=generator) for _ in range(5)]
placements = [
    None,
    ("model", [Shard(0)]),
    ("data", [Shard(1)]),
    ("both", [Shard(0), Shard(0)]),
    ("both", [Replicate(), Shard(1)]),
]
meshes = {"model": mesh["model"], "data": mesh["data"], "both": mesh["data", "model"]}
def place(x, where):
    return x.clone() if where is None else distribute_tensor(x, meshes[where[0]], where[1])
parameters = []
for x, where in zip(full, placements, strict=True):
    parameter = nn.Parameter(place(torch.zeros_like(x), where))
    parameter.grad = place(x, where)
    parameters.append(parameter)
# A gradient whose sum over ranks is still owed.
owed = torch.randn(3, 4, generator=generator)
parameter = nn.Parameter(distribute_tensor(torch.zeros(3, 4), mesh["model"], [Replicate()]))
parameter.grad = DTensor.from_local(owed / 2, mesh["model"], [Partial()])
parameters.append(parameter)
expected = torch.cat([x.flatten() for x in [*full, owed]]).norm()
norm = clip_grad_norm(parameters, 1.0)
torch.testing.assert_close(norm, expected)
for x, parameter in zip([*full, owed], parameters, strict=True):
    grad = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
    torch.testing.assert_close(grad, x / expected, rtol=1e-5, atol=1e-6)
"""
)


def test_clip_counts_shards_and_copies_once(processes) -> None:
    processes.run(CLIP, world=4)


EXPERTS = (
    MODEL
    + """
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
# A plan that spreads one parameter over the expert axis; each rank's tokens reach all of it, and its backward pass
# sums over that axis.
class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False)])
        self.experts = nn.Parameter(torch.arange(8.0).view(4, 2) / 10)
    def forward(self, x):
        spread = isinstance(self.experts, DTensor)
        experts = self.experts.full_tensor(grad_placements=[Partial()]) if spread else self.experts
        return self.blocks[0](x) @ experts

def plan(model, mesh):
    model.experts = nn.Parameter(distribute_tensor(model.experts.detach(), mesh["expert"], [Shard(0)]))

mesh = build_mesh(data=2, expert=2)
rank, world = batch_coordinate(mesh)
assert (rank, world) == (torch.distributed.get_rank(), 4)
x = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
def mean_square(model, batch):
    out = model(batch)
    return out.square().mean(), {"weight": out.numel()}
def weights():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(4, 4, generator=generator)
states = []
for spread in (False, True):
    model = Mixed()
    with torch.no_grad():
        model.blocks[0].weight.copy_(weights())
    if spread:
        shard(model, mesh, plan)
        assert model.blocks[0].weight.device_mesh.size() == 4
    state = TrainState(model, adamw(model, 0.1))
    batches = [x[rank * 2 : rank * 2 + 2]] if spread else [x]
    for _ in range(3):
        metrics = train_step(state, mean_square, batches, mesh=mesh if spread else None, clip_norm=0.1)
    states.append((state, metrics))
(alone, expected), (together, got) = states
assert abs(got["loss"] / expected["loss"] - 1) < 1e-5 and abs(got["grad_norm"] / expected["grad_norm"] - 1) < 1e-5
for mine, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
    torch.testing.assert_close(mine.full_tensor(), theirs, rtol=1e-5, atol=1e-6)
"""
)


def test_gradients_of_planned_parameters_are_summed_over_the_other_axis(processes) -> None:
    processes.run(EXPERTS, world=4)


FULL = (
    MODEL
    + """
import errno
from tenfold.core.errors import UserError
mesh = build_mesh(data=2)
run = Folder(PATH)
state = fit(make(mesh, True), loss, steps=2, run=run, mesh=mesh)
good = checkpoint.latest(run)
state.step = 3
rank = torch.distributed.get_rank()
write = checkpoint._write
def fail(folder, tree):
    write(folder, tree)
    if rank == 1:
        raise OSError(errno.ENOSPC, "No space left on device")
checkpoint._write = fail
try:
    checkpoint.save(run, state)
except UserError as error:
    assert "disk full" in str(error)
else:
    raise AssertionError("saved")
assert checkpoint.latest(run) == good
torch.distributed.barrier()
"""
)


def test_a_full_disk_on_one_rank_stops_all(processes, tmp_path: Path) -> None:
    processes.run(FULL, world=2, PATH=str(tmp_path))


NAN = (
    MODEL
    + """
from tenfold.core.fit import NonFiniteError
mesh = build_mesh(data=2)
state = make(mesh, False)
def bad(model, batch):
    value, metrics = loss(model, batch)
    return value * (float("nan") if torch.distributed.get_rank() == 1 else 1.0), metrics
try:
    fit(state, bad, steps=2, run=Folder(PATH), mesh=mesh)
except NonFiniteError as error:
    assert "step 1" in str(error)
else:
    raise AssertionError("went on")
"""
)


def test_a_bad_loss_on_one_rank_stops_all(processes, tmp_path: Path) -> None:
    processes.run(NAN, world=2, PATH=str(tmp_path))


ALONE = """
from tenfold.core.mesh import batch_coordinate, build_mesh, is_main, shard
assert is_main()
mesh = build_mesh()
assert mesh.mesh_dim_names == ("data", "expert", "model") and mesh.size() == 1
assert batch_coordinate(mesh) == batch_coordinate(None) == (0, 1)
model = torch.nn.Linear(2, 2)
assert shard(model, mesh) is model and not hasattr(model.weight, "device_mesh")
for axes, message in (({"data": 2}, "data 2 x expert 1 x model 1 = 2, need 1"), ({"expert": 0}, "expert: got 0")):
    try:
        build_mesh(**axes)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(axes)
"""


def test_a_mesh_of_one_process_and_wrong_products(processes) -> None:
    processes.run(ALONE)
