"""What writes, on a disk that is full after any number of bytes: an error that says so, the old file or none, no rests."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tenfold.core import checkpoint
from tenfold.core.atomic import append_line, write_atomic
from tenfold.core.errors import is_disk_full
from tenfold.core.fit import TrainState
from tenfold.core.model_folder import write_folder
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def opened(root: Path) -> Run:
    """The run in a folder, made where there is none."""
    if not (root / "r").exists():
        Run.create("spag", "tiny", {}, root).path.rename(root / "r")
    return Run.open(root / "r")


def save_checkpoint(root: Path, seed: int) -> None:
    model = nn.Linear(50, 50)
    nn.init.constant_(model.weight, float(seed))
    state = TrainState(model, adamw(model, 1e-2), Schedule(2, 9), ArrayStream(torch.arange(7), 2, seed=0), seed=3)
    state.step = seed
    checkpoint.save(opened(root), state)


WRITERS: dict[str, Callable[[Path, int], Any]] = {
    "a file": lambda root, seed: write_atomic(root / "a", bytes([seed]) * 9000),
    "weights": lambda root, seed: write_folder(root / "m", {"seed": seed}, {"w": torch.full((3000,), float(seed))}),
    "weights in shards": lambda root, seed: write_folder(
        root / "m", {"seed": seed}, {f"w{i}": torch.full((900,), float(seed)) for i in range(3)}, max_shard_bytes=4000
    ),
    "a checkpoint": save_checkpoint,
    "a stage": lambda root, seed: opened(root).save_stage("s", {"text": str(seed) * 9000}),
    "a text": lambda root, seed: opened(root).text("t", str(seed) * 9000),
    "a table": lambda root, seed: opened(root).table("t", [{"a": seed, "b": "x" * 90} for _ in range(99)]),
}


def content(root: Path) -> dict[str, bytes]:
    """Every file but TensorBoard's and the clock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and path.name != "clock.json"
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("name", WRITERS)
def test_the_old_stays_whole(name: str, share: float, tmp_path: Path) -> None:
    write = WRITERS[name]
    write(tmp_path, 1)
    before = content(tmp_path)
    largest = max(len(each) for each in before.values())
    with pytest.raises(Exception) as caught, room_for(int(share * largest)):
        write(tmp_path, 2)
    assert is_disk_full(caught.value) or "disk" in str(caught.value)
    after = content(tmp_path)
    assert [path for path in after if path.endswith(".tmp")] == []
    changed = {path for path in before if after.get(path) != before[path]}
    assert changed <= (
        {"r/tables/t.csv"} if name == "a table" else set()
    )  # the one of two files that there was room for
    write(tmp_path, 2)  # when there is room again
    assert content(tmp_path) != before


@pytest.mark.parametrize("size", [0, 10, 25, 33])
def test_a_line_is_appended_whole_or_cut_off_by_the_next(size: int, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, json.dumps({"step": 1}))
    with pytest.raises(OSError) as caught, room_for(size):
        append_line(path, json.dumps({"step": 2, "text": "x" * 20}))
    assert is_disk_full(caught.value)
    append_line(path, json.dumps({"step": 3}))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
