"""One of the processes that test_moe_parallel.py starts: every rank computes both sides, sharded and alone.

Run with the globals SHAPE (mesh), RANK, PORT and OUT (folder); writes OUT/rank-N.json, or OUT/rank-N.error.
"""

from __future__ import annotations

import copy
import json
import math
import os
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recompute

from tenfold.core import checkpoint
from tenfold.core.fit import TrainState, train_step
from tenfold.core.mesh import batch_coordinate, reduce_gradients, shard
from tenfold.core.optim import adamw
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.lm.parallel import parallelize_decoder
from tenfold.nn.moe import MoE, MoEConfig, debug_routing, moe_layers
from tenfold.nn.moe_parallel import build_mesh, gather_state, load_full_state, parallelize_moe

SEQUENCES, LENGTH, DIM, HIDDEN, EXPERTS = 8, 6, 8, 12, 4

# Settings of the layer, and how the case differs from the usual: mask, skew (all tokens to the first half of the
# experts), shares (sequences of the batch ranks differ; "none" leaves the last rank without any), recompute (the
# forward runs a second time in the backward), bf16 (autocast).
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "top1": ({"router": "top1", "capacity_factor": 1.0}, set()),
    "top2": ({"router": "top2"}, set()),
    "top2-tight-biased-gelu": (
        {"router": "top2", "capacity_factor": 1.0, "activation": "gelu", "bias": True, "z_weight": 0.1},
        set(),
    ),
    "top2-two-groups-a-rank": ({"router": "top2", "capacity_factor": 1.5, "groups": 2}, {"groups"}),
    "top2-group-size": ({"router": "top2", "group_size": 3}, set()),
    "top2-masked": ({"router": "top2", "capacity_factor": 1.0, "z_weight": 0.1}, {"mask"}),
    "top2-loop": ({"router": "top2", "capacity_factor": 1.0, "backend": "loop"}, set()),
    "top2-grouped": ({"router": "top2", "backend": "grouped"}, set()),
    "topk-capacity": ({"router": "topk", "top_k": 3, "capacity_factor": 2.0, "sequence_weight": 0.1}, set()),
    "dropless": ({"router": "topk", "dropless": True, "z_weight": 0.1}, set()),
    "dropless-biased-gelu": ({"router": "topk", "dropless": True, "activation": "gelu", "bias": True}, set()),
    "dropless-padded": ({"router": "topk", "dropless": True, "backend": "padded"}, set()),
    "dropless-grouped": ({"router": "topk", "dropless": True, "backend": "grouped", "bias": True}, set()),
    "dropless-einsum": ({"router": "topk", "dropless": True, "backend": "einsum"}, set()),
    "dropless-masked": ({"router": "topk", "dropless": True, "sequence_weight": 0.1, "z_weight": 0.1}, {"mask"}),
    "dropless-idle-rank": ({"router": "topk", "dropless": True, "bias": True}, {"skew"}),
    "dropless-idle-rank-grouped": ({"router": "top1", "dropless": True, "backend": "grouped"}, {"skew"}),
    "dropless-unequal-ranks": ({"router": "topk", "dropless": True, "z_weight": 0.1}, {"shares"}),
    "dropless-rank-without-tokens": ({"router": "topk", "dropless": True, "z_weight": 0.1}, {"none"}),
    "dropless-recomputed": ({"router": "topk", "dropless": True, "z_weight": 0.1}, {"recompute"}),
    "top2-recomputed": ({"router": "top2", "z_weight": 0.1}, {"recompute"}),
    "dropless-bf16": ({"router": "topk", "dropless": True, "bias": True}, {"bf16"}),
    "top2-bf16": ({"router": "top2", "shared_hidden": 4}, {"bf16"}),
    "capacity-idle-rank": ({"router": "top2", "capacity_factor": 1.0}, {"skew"}),
    "bias-router": ({"router": "topk_bias", "score": "sigmoid", "dropless": True, "route_scale": 2.5}, set()),
    "shared": ({"router": "topk", "dropless": True, "shared_hidden": 10, "shared_gate": True}, set()),
    "shared-biased-gelu": (
        {"router": "top2", "shared_hidden": 6, "activation": "gelu", "bias": True},
        set(),
    ),
    "expert-choice": ({"router": "expert_choice", "z_weight": 0.1, "bias": True, "activation": "gelu_tanh"}, set()),
    "expert-choice-masked": ({"router": "expert_choice", "z_weight": 0.1, "renormalize": True}, {"mask"}),
    "race": ({"router": "race", "z_weight": 0.1}, set()),
    "random": ({"router": "random"}, set()),
}
SINGLE = ("top2", "top2-tight-biased-gelu", "dropless", "dropless-idle-rank", "shared", "expert-choice")


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_layer(config: MoEConfig, dtype: torch.dtype, skew: bool) -> MoE:
    layer = MoE(config, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        # Routers far from even, and no parameter 0.
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed) * 0.5)
        if skew:
            layer.gate_weight[0] = torch.linspace(40, -40, config.num_experts)
    return layer


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def difference(got: Tensor, want: Tensor) -> float:
    """Largest difference relative to the largest value (at least 1)."""
    if got.shape != want.shape or not bool(torch.isfinite(got).all()):
        return math.inf
    if got.numel() == 0:
        return 0.0
    return float((got - want).detach().abs().max() / want.detach().abs().max().clamp(min=1.0))


def shares(mesh: DeviceMesh, extra: set[str]) -> slice:
    """This rank's sequences."""
    rank, ranks = batch_coordinate(mesh)
    bounds = [i * SEQUENCES // ranks for i in range(ranks + 1)]
    if "shares" in extra and ranks > 1:
        bounds[1:-1] = [bound + 1 for bound in bounds[1:-1]]
    if "none" in extra and ranks > 1:
        bounds[-2] = SEQUENCES
    return slice(bounds[rank], bounds[rank + 1])


def same_stats(got: dict[str, Any], want: dict[str, Any]) -> bool:
    """Integers exactly, ratios to the last digits."""

    def flat(stats: dict[str, Any]) -> list[Tensor]:
        return [t for value in stats.values() for t in (value if isinstance(value, list) else [value])]

    pairs = list(zip(flat(got), flat(want), strict=True))
    return got.keys() == want.keys() and all(
        torch.allclose(a, b, rtol=1e-6, atol=0) if a.is_floating_point() else torch.equal(a, b) for a, b in pairs
    )


def compare(mesh: DeviceMesh, settings: dict[str, Any], extra: set[str], dtype: torch.dtype) -> dict[str, Any]:
    """Output, gradients, losses and statistics of the sharded layer against those of the plain one."""
    config = MoEConfig(DIM, HIDDEN, EXPERTS, **settings)
    if "groups" in extra:
        config = replace(config, outer=mesh.size(0), groups=mesh.size(1) * 2)
    alone_config = config
    if not config.picks_tokens and config.group_size is None and "groups" not in extra:
        alone_config = replace(config, outer=mesh.size(0), groups=mesh.size(1))
    alone = make_layer(alone_config, dtype, "skew" in extra)
    layer = parallelize_moe(make_layer(config, dtype, "skew" in extra), mesh)
    assert isinstance(layer, MoE)

    x = normal(SEQUENCES, LENGTH, DIM, seed=100).to(dtype)
    if "skew" in extra:
        x[..., 0] = 1
    probe = normal(SEQUENCES, LENGTH, DIM, seed=101).to(dtype)
    mask = normal(SEQUENCES, LENGTH, seed=102) < 0.5 if "mask" in extra else None
    mine, ranks = shares(mesh, extra), batch_coordinate(mesh)[1]

    x_alone = x.clone().requires_grad_()
    bf16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in extra)
    with bf16:
        y_alone = alone(x_alone, mask=mask)
    ((y_alone * probe).sum() / 10 + alone.aux_loss).backward()
    x_mine = x[mine].clone().requires_grad_()
    run = partial(recompute, layer, use_reentrant=False) if "recompute" in extra else layer
    with bf16:
        y_mine = run(x_mine, mask=None if mask is None else mask[mine])
    ((y_mine * probe[mine]).sum() / 10 + layer.aux_loss / ranks).backward()
    reduce_gradients(layer.parameters(), mesh)

    assert alone.last is not None
    assert layer.last is not None
    assert x_alone.grad is not None
    differences = {"y": difference(y_mine, y_alone[mine])}
    if x_mine.numel():
        assert x_mine.grad is not None
        differences["x.grad"] = difference(x_mine.grad, x_alone.grad[mine])
    for name in ("aux_loss", "lb_loss", "z_loss"):
        differences[name] = difference(getattr(layer.last, name), getattr(alone.last, name))
    parameters = dict(layer.named_parameters())
    for name, parameter in alone.named_parameters():
        if parameter.grad is not None:
            grad = parameters[name].grad
            differences[f"{name}.grad"] = math.inf if grad is None else difference(whole(grad), parameter.grad)
    return {
        "differences": differences,
        "stats": same_stats(layer.last.stats, alone.last.stats),
        "kept": int(alone.last.stats["kept_per_expert"].sum()),
        "idle_experts": int(alone.last.stats["dead_experts"]),
    }


def compare_bias_updates(mesh: DeviceMesh) -> bool:
    """Three rounds of two micro-batches and an update: the selection bias is the same, bit for bit."""
    config = MoEConfig(DIM, HIDDEN, EXPERTS, router="topk_bias", dropless=True)
    alone, layer = make_layer(config, torch.float64, False), make_layer(config, torch.float64, False)
    parallelize_moe(layer, mesh)
    same, mine = [], shares(mesh, {"shares"})
    for step in range(3):
        for micro_batch in range(2):
            x = normal(SEQUENCES, LENGTH, DIM, seed=200 + 2 * step + micro_batch)
            alone(x)
            layer(x[mine])
        alone.update_bias(0.1 + step)
        layer.update_bias(0.1 + step)
        same += [torch.equal(layer.bias, alone.bias), bool(alone.bias.abs().sum() > 0), not layer.choice_counts.any()]
    return all(same)


def exchanged_across(mesh: DeviceMesh) -> list[list[int]]:
    """Ranks of every group that rows were exchanged in, forward and backward."""
    groups: list[list[int]] = []
    original = dist.all_to_all_single

    def spy(*args: Any, **kwargs: Any) -> Any:
        groups.append(dist.get_process_group_ranks(kwargs["group"]))
        return original(*args, **kwargs)

    dist.all_to_all_single = spy
    try:
        for settings in ({"router": "top2"}, {"router": "topk", "dropless": True}):
            compare(mesh, settings, set(), torch.float64)
    finally:
        dist.all_to_all_single = original
    return groups


TINY = DecoderConfig(vocab_size=23, dim=8, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=4, ffn_dim=12, max_len=16)


def make_decoder(moe: MoEConfig) -> Decoder:
    model = Decoder(replace(TINY, moe=moe), generator=torch.Generator().manual_seed(1)).double()
    for _, layer in moe_layers(model):
        with torch.no_grad():
            layer.gate_weight.mul_(20)  # the initial router is almost even
    return model


def train(model: nn.Module, mesh: DeviceMesh | None, steps: int = 3) -> tuple[list[list[float]], TrainState]:
    """Loss and gradient norm of each step; the same batches however they are spread."""
    state = TrainState(model, adamw(model, lr=0.02))
    rows = slice(0, SEQUENCES) if mesh is None else shares(mesh, set())
    log = []
    for step in range(steps):
        ids = torch.randint(23, (SEQUENCES, 10), generator=torch.Generator().manual_seed(step))
        batch = {"ids": ids[rows, :-1], "targets": ids[rows, 1:]}
        out = train_step(state, lm_loss(), [batch], clip_norm=0.3, mesh=mesh)
        for _, layer in moe_layers(model):
            if layer.config.router == "topk_bias":
                layer.update_bias(0.05)
        log.append([out["loss"], out["grad_norm"]])
    return log, state


def compare_training(mesh: DeviceMesh, moe: MoEConfig, sharded: bool) -> dict[str, float]:
    """Three optimizer steps of a decoder; `sharded` also spreads the dense weights (FSDP, tensor parallel)."""
    alone_moe = moe if moe.dropless else replace(moe, outer=mesh.size(0), groups=mesh.size(1))
    alone, model = make_decoder(alone_moe), make_decoder(moe)
    if sharded:
        shard(model, mesh, parallelize_decoder)
    else:
        parallelize_moe(model, mesh)
    alone_log, _ = train(alone, None)
    log, _ = train(model, mesh)
    state, own = gather_state(model), alone.state_dict()
    return {
        "log": difference(torch.tensor(log, dtype=torch.float64), torch.tensor(alone_log, dtype=torch.float64)),
        "weights": max(difference(state[name], own[name]) for name in own),
        "clipped": float(min(norm for _, norm in alone_log) > 0.3),
    }


def compare_states(mesh: DeviceMesh) -> dict[str, bool]:
    """States travel between plain and sharded modules unchanged."""
    config = MoEConfig(DIM, HIDDEN, EXPERTS, router="topk_bias", dropless=True, bias=True, shared_hidden=4)
    plain, other = make_layer(config, torch.float32, False), MoE(config, generator=torch.Generator().manual_seed(3))
    plain.bias += torch.arange(EXPERTS)
    layer = copy.deepcopy(plain)
    parallelize_moe(layer, mesh)
    gathered = gather_state(layer)
    same = {"names": list(gathered) == list(plain.state_dict())}
    same["gather"] = all(torch.equal(gathered[name], t) for name, t in plain.state_dict().items())
    same["own memory"] = all(t.data_ptr() != layer.state_dict()[n].data_ptr() for n, t in gathered.items())
    load_full_state(layer, other.state_dict())
    gathered = gather_state(layer)
    same["load"] = all(torch.equal(gathered[name], t) for name, t in other.state_dict().items())
    parts = mesh.size(1) * mesh.size(2)
    local = layer.w0.to_local() if isinstance(layer.w0, DTensor) else layer.w0
    same["part"] = local.untyped_storage().nbytes() * parts == other.w0.untyped_storage().nbytes()
    # Data-parallel sharding on top of it.
    model = make_decoder(MoEConfig(8, 12, EXPERTS, dropless=True, router="topk"))
    own = copy.deepcopy(model.state_dict())
    shard(model, mesh, parallelize_decoder)
    gathered = gather_state(model)
    same["gather model"] = all(torch.equal(gathered[name], t) for name, t in own.items())
    load_full_state(model, {name: t + 1 for name, t in own.items()})
    gathered = gather_state(model)
    same["load model"] = all(torch.equal(gathered[name], t + 1) for name, t in own.items())
    return same


class Folder:
    """What `checkpoint.save` needs of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path


def move_checkpoint(mesh: DeviceMesh, out: Path) -> float:
    """Save from this mesh, open on another of the same ranks; both then train alike."""
    moe = MoEConfig(8, 12, EXPERTS, dropless=True, router="topk_bias")
    model = make_decoder(moe)
    shard(model, mesh, parallelize_decoder)
    _, state = train(model, mesh, steps=2)
    path = checkpoint.save(Folder(out), state)
    model2 = make_decoder(moe)
    other = build_mesh(mesh.size(2), mesh.size(0), mesh.size(1))
    shard(model2, other, parallelize_decoder)
    state2 = TrainState(model2, adamw(model2, lr=0.02))
    checkpoint.restore(state2, path)
    want, got = gather_state(model), gather_state(model2)
    return max(difference(got[name], want[name]) for name in want)


def message(action: Any) -> str:
    try:
        action()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def faults(mesh: DeviceMesh) -> dict[str, str]:
    """What is said when something does not fit; on a mesh (1, 2, 2)."""

    def make(num_experts: int = EXPERTS, hidden: int = HIDDEN, seed: int = 0, **settings: Any) -> MoE:
        config = MoEConfig(DIM, hidden, num_experts, **settings)
        return MoE(config, generator=torch.Generator().manual_seed(seed))

    def spread(**settings: Any) -> Any:
        return lambda: parallelize_moe(nn.ModuleDict({"mlp": make(**settings)}), mesh)

    layer = make(group_size=8)
    parallelize_moe(layer, mesh)
    state = make().state_dict()
    unequal = make()
    parallelize_moe(unequal, mesh)
    debug_routing(unequal)
    tokens = 2 + 2 * batch_coordinate(mesh)[0]
    wrong_axes = DeviceMesh("cpu", [0, 1, 2, 3], mesh_dim_names=("x",))
    return {
        "experts": message(spread(num_experts=3)),
        "hidden": message(spread(hidden=9)),
        "shared": message(spread(shared_hidden=3)),
        "groups": message(spread(groups=3)),
        "groups dropless": message(spread(groups=3, dropless=True, router="topk")),
        "twice": message(lambda: parallelize_moe(layer, mesh)),
        "axes": message(lambda: parallelize_moe(make(), wrong_axes)),
        "weights": message(spread(seed=mesh.get_local_rank("expert"))),
        "world": message(lambda: build_mesh(1, 2, 1)),
        "group size": message(lambda: layer(torch.zeros(1, 12, DIM))),
        "unequal": message(lambda: unequal(torch.zeros(1, tokens, DIM))),
        "other experts": message(lambda: load_full_state(layer, make(8).state_dict())),
        "other names": message(lambda: load_full_state(layer, {"gate.weight": torch.zeros(EXPERTS, DIM)})),
        "other layout": message(lambda: load_full_state(layer, {**state, "w0": state["w0"].mT})),
        "a part": message(lambda: load_full_state(layer, {**state, "w0": state["w0"][:2]})),
    }


def results(mesh: DeviceMesh, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (settings, extra) in CASES.items():
        found[name] = compare(mesh, settings, extra, torch.float64)
    for name in SINGLE:
        found[f"{name}/float32"] = compare(mesh, *CASES[name], torch.float32)
    found["bias updates"] = compare_bias_updates(mesh)
    found["exchanges"] = exchanged_across(mesh)
    found["coordinates"] = [mesh.get_local_rank(axis) for axis in range(3)]
    dropless = MoEConfig(8, 12, EXPERTS, dropless=True, router="topk_bias", shared_hidden=4, bias=True, lb_weight=0.1)
    limited = MoEConfig(8, 12, EXPERTS, router="top2", capacity_factor=1.0, lb_weight=0.1)
    found["training"] = {
        "dropless, dense weights sharded too": compare_training(mesh, dropless, True),
        "capacity, dense weights sharded too": compare_training(mesh, limited, True),
        "capacity, experts sharded": compare_training(mesh, limited, False),
    }
    found["states"] = compare_states(mesh)
    if mesh.size() == 4:
        found["checkpoint"] = move_checkpoint(mesh, out)
    if tuple(mesh.shape) == (1, 2, 2):
        found["faults"] = faults(mesh)
    return found


def work(shape: tuple[int, int, int], rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(math.prod(shape)), RANK=str(rank), LOCAL_RANK="0"
    )
    try:
        mesh = build_mesh(*shape)
        (out / f"rank-{rank}.json").write_text(json.dumps(results(mesh, out)))
        dist.destroy_process_group()
    except Exception:  # noqa: BLE001 - whatever it was, the test must say it
        (out / f"rank-{rank}.error").write_text(traceback.format_exc())
        # At once: the other ranks wait for this one.
        os._exit(1)


if __name__ == "__main__":
    work(SHAPE, RANK, PORT, Path(OUT))  # type: ignore[name-defined] # noqa: F821
