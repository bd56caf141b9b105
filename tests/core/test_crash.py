"""A training killed at random moments, resumed until it is done, ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tenfold.core import checkpoint
from tenfold.core.run import Run

TRAIN = """
from pathlib import Path
from torch import nn
from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream, Batcher, Mixture, Packer, collate_rows

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 32))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    def forward(self, ids):
        x = self.embedding(ids)
        return (x + self.net(x)) @ self.embedding.weight.T

def loss(model, batch):
    ids, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    inside = batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    losses = nn.functional.cross_entropy(model(ids)[inside], targets[inside], reduction="none")
    return losses.mean(), {"weight": len(losses)}

generator = torch.Generator().manual_seed(1)
def documents(count):
    return [torch.randint(1, 50, (int(torch.randint(2, 30, (1,), generator=generator)),), generator=generator).numpy()
            for _ in range(count)]

sources = Mixture([documents(40), documents(30)], [0.7, 0.3], seed=2)
stream = Batcher(Packer(sources, 16, "first_fit", open_rows=4), 4, collate=collate_rows)
model = Model()
state = TrainState(model, adamw(model, 1e-2), Schedule(5, STEPS), stream, seed=3)
run = Run.open(PATH)
checkpoint.resume(run, state, "victim")
fit(state, loss, steps=STEPS, run=run, name="victim", accumulate=2, ema=0.9, every=Every(log=1, save=3))
run.close()
"""


def final(run: Run) -> tuple[list[bytes], dict]:
    """Bytes of all tensors of the last checkpoint, and everything else in it but the times."""
    path = checkpoint.latest(run, "victim")
    assert path is not None
    state = json.loads((path / "state.json").read_text())
    assert state["training"].pop("seconds") > 0
    position = (path / "rank-00000" / "stream.json").read_text()
    tensors = [file.read_bytes() for file in sorted(path.rglob("*.safetensors"))]
    assert len(tensors) == 3
    return tensors, {**state, "position": position}


def progress(run: Run) -> int:
    rows = run.path / "metrics.jsonl"
    return rows.read_bytes().count(b"\n") if rows.exists() else 0


def assert_survives(processes, folder: Path, kills: int, steps: int, seed: int) -> None:
    whole, victim = (Run.create("crash", name, {}, folder) for name in ("whole", "victim"))
    processes.run(TRAIN, PATH=str(whole.path), STEPS=steps)
    chance = random.Random(seed)
    killed = 0
    for _ in range(kills):
        wanted = progress(victim) + chance.randint(1, max(2, steps // kills))
        child = processes.start(TRAIN, PATH=str(victim.path), STEPS=steps)
        # Well into the loop, then anywhere: in a step, in a row of the log, in the middle of a checkpoint.
        while child.is_alive() and progress(victim) < wanted:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        child.kill()
        child.join()
        killed += child.exitcode == -9
    assert killed > 0
    processes.run(TRAIN, PATH=str(victim.path), STEPS=steps)
    assert final(victim) == final(whole)
    steps_logged = [[row["step"] for row in r.rows("victim")] for r in (victim, whole)]
    assert steps_logged[0] == steps_logged[1] == list(range(1, steps + 1))
    losses = [[row["loss"] for row in r.rows("victim")] for r in (victim, whole)]
    assert losses[0] == losses[1]


def test_killed_three_times(processes, tmp_path: Path) -> None:
    assert_survives(processes, tmp_path, kills=3, steps=60, seed=time.time_ns())


@pytest.mark.slow
def test_killed_twenty_times(processes, tmp_path: Path) -> None:
    assert_survives(processes, tmp_path, kills=20, steps=400, seed=time.time_ns())
