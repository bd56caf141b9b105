"""Generation's own forward passes give the model's logits."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import pytest
import torch

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.generate import generate
from tenfold.lm.kv_cache import KVCache
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.lm.stepper import Compiled, PackedLinear, RowLinear, Stepper, Weights
from tenfold.nn.moe import MoEConfig, dropless

CFG = DecoderConfig(vocab_size=70, dim=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=64)
SHAPES = {
    "qwen3": {},
    "llama": {"qk_norm": False, "tie_embeddings": False},
    "official": {"qk_norm_position": "post_rope", "rope_layout": "interleaved"},
    "sparse": {"moe": MoEConfig(32, 16, num_experts=4)},
}
pytestmark = pytest.mark.filterwarnings("error:no compiled loops")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


def decoder(shape: str = "qwen3") -> Decoder:
    return Decoder(dataclasses.replace(CFG, **SHAPES[shape]), torch.Generator().manual_seed(0)).eval()


def logits(stepper: Stepper, rows: int, steps: int = 4) -> torch.Tensor:
    cache = KVCache(CFG, rows, 32)
    ids = torch.arange(rows * 6).view(rows, 6)
    parts = []
    with torch.inference_mode():
        parts.append(stepper.prompt(ids, cache))
        for step in range(steps):
            parts.append(stepper(torch.arange(rows) + step, cache))
    return torch.stack(parts)


def expected(model: Decoder, rows: int, steps: int = 4) -> torch.Tensor:
    more = torch.stack([torch.arange(rows) + step for step in range(steps)], 1)
    ids = torch.cat([torch.arange(rows * 6).view(rows, 6), more], 1)
    return model(ids)[:, 5:].transpose(0, 1).detach()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 11])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_give_the_models_logits(shape: str, rows: int) -> None:
    model = decoder(shape)
    stepper = Stepper(model, compiled="off")
    assert stepper.model is not model
    with dropless(model), dropless(stepper.model):
        assert (logits(stepper, rows) - expected(model, rows)).abs().max() <= 1e-5


@needs_compiler
@pytest.mark.parametrize("shape", ["qwen3", "llama", "official"])
def test_compiled_rows_give_the_models_logits(shape: str) -> None:
    model = decoder(shape)
    assert (logits(Stepper(model, compiled="on"), 1) - expected(model, 1)).abs().max() <= 1e-5


@needs_compiler
def test_eight_bits_give_the_logits_of_the_rounded_weights() -> None:
    model = decoder("llama")
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.detach().abs().amax(1, keepdim=True) / 127
            module.weight.data = (module.weight / scale).round() * scale
    stepper = Stepper(model, weights="int8", compiled="on")
    cache, mine = KVCache(rounded.cfg, 1, 32), KVCache(model.cfg, 1, 32)
    for token in (3, 9, 1):
        ids = torch.tensor([[token]])
        with torch.inference_mode():
            theirs = rounded(ids, cache=cache)[:, -1]
            assert (stepper(ids[0], mine) - theirs).abs().max() <= 1e-5
    assert (stepper(torch.tensor([1]), mine) - model(torch.tensor([[3, 9, 1, 1]]))[:, -1]).abs().max() > 1e-4


@needs_compiler
def test_two_models_of_different_shape_keep_their_own_loops() -> None:
    """Compiled without guards: one model's loops must never run on another's weights."""
    small = decoder()
    large = Decoder(dataclasses.replace(CFG, dim=48, ffn_dim=64), torch.Generator().manual_seed(1)).eval()
    steppers = [Stepper(model, compiled="on") for model in (small, large)]
    for model, stepper in [*zip((small, large), steppers, strict=True)] * 2:
        assert (logits(stepper, 1) - expected(model, 1)).abs().max() <= 1e-5


def test_other_types_run_the_model_itself() -> None:
    model = decoder().double()
    assert Stepper(model).model is model
    with pytest.warns(UserWarning, match="int8 weights need float32"):
        Stepper(model, weights="int8")


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("g++: internal error")

    monkeypatch.setattr("tenfold.lm.stepper._compile", lambda _: broken)
    monkeypatch.setattr("tenfold.lm.stepper._compiler", lambda: True)
    model = decoder()
    with pytest.warns(UserWarning, match=r"no compiled loops: RuntimeError: g\+\+"):
        assert (logits(Stepper(model, compiled="on"), 1) - expected(model, 1)).abs().max() <= 1e-5


@needs_compiler
def test_the_engine_on_compiled_loops_equals_generate() -> None:
    model = decoder("llama")
    rule = SamplingRule(temperature=0)
    with Engine(model, compiled="on") as engine:
        for length in (1, 5, 17):
            ids = list(range(length))
            tokens = [token.id for token in engine.submit(Request(ids, 8, rule))]
            assert tokens == generate(model, [ids], max_new_tokens=8, temperature=0).ids[0]


@pytest.mark.parametrize(("rows", "bias"), [(1, False), (3, True), (9, True)])
def test_layers_alone(rows: int, bias: bool) -> None:
    linear = torch.nn.Linear(20, 7, bias=bias)
    x = torch.randn(rows, 1, 20, generator=torch.Generator().manual_seed(0))
    assert (PackedLinear(linear)(x) - linear(x)).abs().max() <= 1e-6
    if rows == 1:
        assert (RowLinear(linear, "float")(x) - linear(x)).abs().max() <= 1e-6


@pytest.mark.parametrize(("weights", "compiled"), [("int4", "auto"), ("float", "maybe")])
def test_refuses(weights: Weights, compiled: Compiled) -> None:
    with pytest.raises(ValueError, match="weights, compiled: got"):
        Stepper(decoder(), weights=weights, compiled=compiled)
