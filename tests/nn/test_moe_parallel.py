"""A layer spread over two or four gloo processes against the same layer in one: every number, on every mesh."""

from __future__ import annotations

import json
import math
import multiprocessing as mp
import runpy
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.nn.moe import MoE, MoEConfig
from tenfold.nn.moe_parallel import build_mesh, gather_state, load_full_state, parallelize_moe

Shape = tuple[int, int, int]
WORKER = Path(__file__).with_name("moe_parallel_worker.py")
NAMES = runpy.run_path(str(WORKER))
CASES: list[str] = [*NAMES["CASES"], *(f"{name}/float32" for name in NAMES["SINGLE"])]
MESHES: list[Shape] = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (1, 2, 2)]


def run_workers(shape: Shape, out: Path) -> list[dict[str, Any]]:
    """What each rank found; the first error of any rank fails the test."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tenfold.lm.parallel", "tenfold.core.fit", "torch._dynamo"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = math.prod(shape)
    arguments = [{"SHAPE": shape, "RANK": rank, "PORT": port, "OUT": str(out)} for rank in range(world)]
    ranks = [context.Process(target=runpy.run_path, args=(str(WORKER), a, "__main__")) for a in arguments]
    for rank in ranks:
        rank.start()
    give_up = time.monotonic() + 300
    while any(rank.is_alive() for rank in ranks) and not any(rank.exitcode for rank in ranks):
        if time.monotonic() > give_up:
            break
        time.sleep(0.05)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    errors = [error.read_text() for error in sorted(out.glob("*.error"))]
    assert codes == [0] * world, errors[0] if errors else f"exit codes {codes}"
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of all ranks of a mesh, each mesh run once."""
    known: dict[Shape, list[dict[str, Any]]] = {}

    def of(shape: Shape) -> list[dict[str, Any]]:
        if shape not in known:
            known[shape] = run_workers(shape, tmp_path_factory.mktemp("mesh"))
        return known[shape]

    return of


def on_every_mesh(test: Any) -> Any:
    return pytest.mark.parametrize("shape", MESHES, ids=lambda shape: "x".join(map(str, shape)))(test)


@on_every_mesh
def test_outputs_gradients_and_losses_equal_those_of_one_process(found: Any, shape: Shape) -> None:
    for rank in found(shape):
        for case in CASES:
            limit = 1e-5 if case.endswith("float32") else 2e-2 if case.endswith("bf16") else 1e-12
            too_far = {name: d for name, d in rank[case]["differences"].items() if not d <= limit}
            assert not too_far, case


@on_every_mesh
def test_every_rank_sees_the_statistics_of_the_whole_batch(found: Any, shape: Shape) -> None:
    for rank in found(shape):
        assert [case for case in CASES if not rank[case]["stats"]] == []


def test_the_cases_are_what_they_are_called(found: Any) -> None:
    """Experts without tokens stand on a rank of their own; tight capacities drop; every parameter has a gradient."""
    rank = found((1, 2, 1))[0]
    for case in ("dropless-idle-rank", "dropless-idle-rank-grouped", "capacity-idle-rank"):
        assert rank[case]["idle_experts"] >= 2, case
    choices = 2 * NAMES["SEQUENCES"] * NAMES["LENGTH"]
    assert rank["dropless"]["kept"] == choices
    assert rank["top2-tight-biased-gelu"]["kept"] < choices
    biased = {f"{name}.grad" for name in ("x", "gate_weight", "w0", "w2", "b0", "b2")}
    assert biased < set(rank["top2-tight-biased-gelu"]["differences"])
    assert {"w1.grad", "shared_gate.grad", "shared.down_proj.weight.grad"} < set(rank["shared"]["differences"])


@on_every_mesh
def test_selection_bias_moves_by_the_choices_of_all_ranks(found: Any, shape: Shape) -> None:
    assert all(rank["bias updates"] for rank in found(shape))


@on_every_mesh
def test_rows_never_cross_the_data_axis(found: Any, shape: Shape) -> None:
    _, expert, model = shape
    for rank in found(shape):
        d, _, m = rank["coordinates"]
        group = [(d * expert + e) * model + m for e in range(expert)]
        # Fixed shapes: there and back, twice with the backward. Ragged: the numbers first.
        assert rank["exchanges"] == ([group] * (4 + 5) if expert > 1 else [])


@on_every_mesh
def test_three_optimizer_steps_equal_those_of_one_process(found: Any, shape: Shape) -> None:
    """Loss, norm of the clipped gradient and weights of a decoder, with and without FSDP and tensor parallelism."""
    for rank in found(shape):
        assert len(rank["training"]) == 3
        for case, result in rank["training"].items():
            assert result["clipped"], case
            assert result["log"] <= 1e-12, case
            assert result["weights"] <= 1e-11, case


@on_every_mesh
def test_states_travel_between_plain_and_sharded_modules(found: Any, shape: Shape) -> None:
    for rank in found(shape):
        assert [name for name, same in rank["states"].items() if not same] == []


@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 2, 2)], ids=["2x2x1", "1x2x2"])
def test_a_checkpoint_opens_on_another_mesh(found: Any, shape: Shape) -> None:
    assert [rank["checkpoint"] for rank in found(shape)] == [0.0] * 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("experts", "ValueError: mlp.num_experts: got 3, need a multiple of 2 (mesh axis expert)"),
        ("hidden", "ValueError: mlp.hidden: got 9, need a multiple of 2 (mesh axis model)"),
        ("shared", "ValueError: mlp.shared_hidden: got 3, need a multiple of 2 (mesh axis model)"),
        ("groups", "ValueError: mlp.outer·groups: got 1·3, need a multiple of 2 (mesh axes data x expert)"),
        ("groups dropless", "no error"),
        ("twice", "ValueError: module: layer '' is sharded already"),
        ("axes", "ValueError: mesh: got axes ('x',), need ('data', 'expert', 'model')"),
        ("weights", "ValueError: module: mlp.gate_weight differs between ranks"),
        ("world", "ValueError: mesh: data 1 x expert 2 x model 1 = 2, need 4"),
        ("group size", "ValueError: group_size: got 8, need a divisor of the 12 tokens of each rank"),
        ("unequal", "ValueError: ShardedMoE: ranks of the expert axis have [1, 2] places an expert"),
        ("other experts", "UserError: checkpoint: its layer has 8 experts, the model 4"),
        ("other names", "UserError: checkpoint: its layout is another one (missing gate_weight, w0, w1 and 1 more"),
        ("other layout", "UserError: checkpoint: w0 has shape (4, 12, 8), the model needs (4, 8, 12)"),
        ("a part", "UserError: checkpoint: w0 has shape (2, 8, 12), the model needs (4, 8, 12)"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(found: Any, fault: str, message: str) -> None:
    for rank in found((1, 2, 2)):
        said = rank["faults"][fault]
        assert said.startswith(message)
        assert "\n" not in said


def test_one_process_needs_no_spreading() -> None:
    layer = MoE(MoEConfig(8, 12, 4))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    mesh = build_mesh()
    try:
        assert parallelize_moe(layer, mesh) is layer
        assert type(layer) is MoE
        state = gather_state(layer)
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
        load_full_state(layer, {name: tensor + 1 for name, tensor in state.items()})
        assert torch.equal(layer.w0, before["w0"] + 1)
    finally:
        torch.distributed.destroy_process_group()
