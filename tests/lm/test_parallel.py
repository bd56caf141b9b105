"""Two processes that share heads and hidden columns compute what one does: values, gradients, and after FSDP too."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.lm.parallel import parallelize_decoder
from tenfold.nn.moe import MoEConfig

CFG = DecoderConfig(vocab_size=40, dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=24, max_len=16)
CASES = {
    "qk_norm": CFG,
    "post_rope": dataclasses.replace(CFG, qk_norm_position="post_rope", tie_embeddings=False),
    "plain": dataclasses.replace(CFG, qk_norm=False),
    "experts": dataclasses.replace(CFG, moe=MoEConfig(16, 12, num_experts=4)),
}


def decoder(cfg: DecoderConfig) -> Decoder:
    model = Decoder(cfg, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 0.5 + torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    return model


def batch() -> dict[str, torch.Tensor]:
    rows = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(2))
    return {"ids": rows[:, :-1], "targets": rows[:, 1:]}


def gradients(model: Decoder) -> dict[str, torch.Tensor]:
    found = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        found[name] = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
    return found


def compare(cfg: DecoderConfig, with_fsdp: bool) -> None:
    alone, shared = decoder(cfg), decoder(cfg)
    mesh = init_device_mesh("cpu", (1, 1, 2), mesh_dim_names=("data", "expert", "model"))
    parallelize_decoder(shared, mesh)
    if with_fsdp:
        for block in shared.layers:
            fully_shard(block, mesh=mesh["data"])
        fully_shard(shared, mesh=mesh["data"])
    expected, _ = lm_loss(z_loss=1e-3)(alone, batch())
    loss, _ = lm_loss(z_loss=1e-3)(shared, batch())
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    expected.backward()
    loss.backward()
    theirs = gradients(shared)
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(
            theirs[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )
    local = shared.layers[0].self_attn.q_proj.weight
    assert isinstance(local, DTensor)
    assert local.to_local().shape == (12, 16)  # half of the heads


def worker(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    try:
        for cfg in CASES.values():
            compare(cfg, with_fsdp=False)
        compare(CFG, with_fsdp=True)
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("model",))
        with pytest.raises(ValueError, match="ffn_dim: got 25, need a multiple of 2"):
            parallelize_decoder(Decoder(dataclasses.replace(CFG, ffn_dim=25)), mesh)
        with pytest.raises(ValueError, match="need a Decoder"):
            parallelize_decoder(torch.nn.Linear(2, 2), mesh)
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path / "store")]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


if __name__ == "__main__":
    worker(int(sys.argv[2]), sys.argv[1])
