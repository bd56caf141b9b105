"""Two processes that share the weights prune and distil as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from tenfold.compress.distill import distill_top1_loss
from tenfold.compress.prune import FFNPruner
from tenfold.core.adastar import AdaStar
from tenfold.core.fit import TrainState, train_step
from tenfold.core.mesh import AXES, shard
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.optim import mup_groups

CFG = DecoderConfig(20, 16, 3, 2, 1, 8, 24, max_len=12)


def compare(method: str, rank: int) -> None:
    mesh = init_device_mesh("cpu", (2, 1, 1), mesh_dim_names=AXES)
    ids = torch.randint(0, 20, (4, 9), generator=torch.Generator().manual_seed(3))
    loss = distill_top1_loss(Decoder(CFG, torch.Generator().manual_seed(5)).double())
    pruners = []
    for spread in (False, True):
        pruner = FFNPruner(
            Decoder(CFG, torch.Generator().manual_seed(0)).double(),
            10,
            method,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(1),
        )
        if spread:
            shard(pruner, mesh)
        state = TrainState(pruner, AdaStar([*mup_groups(pruner.model, base_width=8), *pruner.score_groups()], 0.01))
        rows = ids[2 * rank : 2 * rank + 2] if spread else ids
        for step in range(6):
            train_step(state, loss, [{"ids": rows[:, :-1], "targets": rows[:, 1:]}], mesh=mesh if spread else None)
            pruner.anneal((step + 1) / 6)
        pruners.append(pruner)
    alone, together = pruners
    for (name, mine), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(
            mine.full_tensor(), theirs, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )


def worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    try:
        for method in ("soft_top_k", "magnitude", "random"):
            compare(method, rank)
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path / "store")]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


if __name__ == "__main__":
    worker(int(sys.argv[2]), sys.argv[1])
