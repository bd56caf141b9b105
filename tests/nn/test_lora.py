"""Adapters: what they add, what stays frozen, their files, and a line for every bad file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn import lora
from tenfold.nn.lora_layer import LoraLinear, activate, active_of, adapter_pairs, adapters, insert, remove

CFG = DecoderConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=16)
IDS = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
LEAVES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def decoder(**fields: Any) -> Decoder:
    return Decoder(DecoderConfig(**(vars(CFG) | fields)), torch.Generator().manual_seed(0)).eval()


def adapted(rank: int = 4, seed: int = 2, **how: Any) -> Decoder:
    """With an adapter whose B is no longer 0."""
    model = lora.add_lora(decoder(), rank, generator=torch.Generator().manual_seed(seed), **how)
    generator = torch.Generator().manual_seed(seed + 1)
    for _, b_OR in adapter_pairs(model, how.get("name", "default")).values():
        b_OR.data.normal_(std=0.05, generator=generator)
    return model


def test_a_new_adapter_is_the_identity_and_on_off_on_leaves_no_trace() -> None:
    before = decoder()(IDS)
    model = lora.add_lora(decoder(), 4)
    assert torch.equal(model(IDS), before)
    model = adapted()
    changed = model(IDS)
    assert (changed - before).abs().max() > 0.01
    with lora.disabled(model):
        assert torch.equal(model(IDS), before)
    assert torch.equal(model(IDS), changed)
    with pytest.raises(RuntimeError), lora.disabled(model):
        raise RuntimeError
    assert torch.equal(model(IDS), changed)
    assert torch.equal(lora.unload(model)(IDS), before)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    assert list(model.state_dict()) == list(decoder().state_dict())


@pytest.mark.parametrize("alpha", [None, 1.0, 32.0])
def test_it_adds_alpha_over_rank_times_b_a(alpha: float | None) -> None:
    model, plain = adapted(4, alpha=alpha), decoder()
    for layer, (a_RI, b_OR) in adapter_pairs(model).items():
        plain.get_submodule(layer).weight.data += (4 if alpha is None else alpha) / 4 * b_OR @ a_RI
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lora.merge(model)(IDS), plain(IDS), rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_only_the_adapter_learns() -> None:
    model = lora.add_lora(decoder(), 4)
    parameters = lora.lora_parameters(model)
    assert {id(w) for w in model.parameters() if w.requires_grad} == {id(w) for w in parameters}
    frozen = {name: w.clone() for name, w in model.named_parameters() if not w.requires_grad}
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(w, frozen[name]) for name, w in model.named_parameters() if name in frozen)


def test_targets_and_the_output_layer() -> None:
    model = lora.add_lora(decoder(tie_embeddings=False), 2)
    assert sorted({layer.rpartition(".")[2] for layer in adapter_pairs(model)}) == sorted(LEAVES)
    assert len(adapter_pairs(model)) == 14
    model = lora.add_lora(decoder(), 2, targets=["q_proj", "v_proj"])
    assert list(adapter_pairs(model)) == [
        f"layers.{i}.self_attn.{leaf}" for i in (0, 1) for leaf in ("q_proj", "v_proj")
    ]
    assert isinstance(model.layers[0].self_attn.k_proj, nn.Linear)


def test_the_paper_s_size() -> None:
    """Rank 16 on the 3 B shape: 22.4 million values."""
    with torch.device("meta"):
        model = Decoder(DecoderConfig(49152, 3072, 26, 24, 8, 128, 8064))
    assert sum(weight.numel() for weight in lora.lora_parameters(lora.add_lora(model, 16))) == 22_417_408


def test_draws_from_its_generator_in_its_own_type() -> None:
    a, b = (adapted(seed=5) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(lora.lora_parameters(a), lora.lora_parameters(b), strict=True))
    half = lora.add_lora(decoder(), 4, dtype=torch.bfloat16)
    assert all(weight.dtype == torch.bfloat16 for weight in lora.lora_parameters(half))
    assert half(IDS).dtype == torch.float32
    a_RI, b_OR = adapter_pairs(lora.add_lora(decoder(dim=512), 64))["layers.0.mlp.up_proj"]
    assert float(a_RI.detach().std()) == pytest.approx(512**-0.5, rel=0.05) and not b_OR.any()


def test_copies_follow_their_original() -> None:
    """A shallow copy whose layers stand on other bases, as generation makes them, sees every switch."""
    model = adapted()
    layer = model.layers[0].mlp.up_proj
    twin = copy.copy(layer)
    x = torch.randn(2, 32)
    with lora.disabled(model):
        assert torch.equal(twin(x), layer.base(x))
    assert torch.equal(twin(x), layer(x)) and not torch.equal(twin(x), layer.base(x))
    apart = copy.deepcopy(model)
    with lora.disabled(apart):
        assert not torch.equal(model(IDS), apart(IDS))


def test_several_adapters_one_at_a_time_or_one_a_row() -> None:
    model = adapted(name="a")
    lora.add_lora(model, 2, name="b", targets=["up_proj"], alpha=8)
    for _, b_OR in adapter_pairs(model, "b").values():
        b_OR.data.normal_(generator=torch.Generator().manual_seed(9))
    assert adapters(model) == ["a", "b"]
    alone = {name: activate(model, name)(IDS) for name in ("a", "b", None)}
    assert not any(torch.equal(alone[x], alone[y]) for x, y in (("a", "b"), ("a", None), ("b", None)))
    active = active_of(model)
    active.adapters = (("b", torch.tensor([0])), ("a", torch.tensor([2])))
    together = model(IDS)
    for row, name in enumerate(("b", None, "a")):
        torch.testing.assert_close(together[row], alone[name][row], rtol=1e-5, atol=1e-5)
    remove(model, "a")
    assert adapters(model) == ["b"] and active.adapters == (("b", active.adapters[0][1]),)
    torch.testing.assert_close(activate(model, "b")(IDS), alone["b"])


def test_an_adapter_stays_while_requests_need_it() -> None:
    model = adapted(name="a")
    active = active_of(model)
    active.enter("a")
    active.enter("a")
    active.enter(None)
    for count in (2, 1):
        with pytest.raises(ValueError, match=f"{count} running requests began with 'a'"):
            remove(model, "a")
        active.leave("a")
    active.leave(None)
    remove(model, "a")
    assert adapters(model) == []
    with pytest.raises(ValueError, match="got 'a', need one of none"):
        active.enter("a")


def test_what_switches_an_adapter_on_lets_it_learn() -> None:
    model = lora.add_lora(adapted(name="a"), 2, name="b")
    assert all(w.requires_grad for w in lora.lora_parameters(model, "b"))
    assert not any(w.requires_grad for w in lora.lora_parameters(model, "a"))
    activate(model, "a")
    assert all(w.requires_grad for w in lora.lora_parameters(model, "a"))
    activate(model, None)
    assert not any(w.requires_grad for w in model.parameters())


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_files_bring_it_back(layout: str, targets: Any, tmp_path: Path) -> None:
    model = adapted(3, alpha=7.0, targets=targets)
    model.layers[0].self_attn.rope_layout = model.layers[1].self_attn.rope_layout = layout
    lora.save(model, tmp_path)
    other = decoder()
    other.layers[0].self_attn.rope_layout = other.layers[1].self_attn.rope_layout = layout
    assert torch.equal(lora.load(other, tmp_path)(IDS), model(IDS))
    assert list(adapter_pairs(other)) == list(adapter_pairs(model))
    assert all(w.requires_grad for w in lora.lora_parameters(other))
    q = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    same = torch.equal(
        load_file(tmp_path / "adapter_model.safetensors")[q], adapter_pairs(model)["layers.1.self_attn.q_proj"][1]
    )
    assert same == (layout == "half")  # files hold the half layout, whatever the model


def test_files_in_sixteen_bits_and_a_second_save(tmp_path: Path) -> None:
    model = adapted()
    lora.save(model, tmp_path)
    lora.save(model, tmp_path, dtype=torch.bfloat16)
    values = sum(weight.numel() for weight in lora.lora_parameters(model))
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert 2 * values < size < 2 * values + 6000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = lora.load(decoder(), tmp_path)
    assert all(weight.dtype == torch.float32 for weight in lora.lora_parameters(loaded))
    torch.testing.assert_close(loaded(IDS), model(IDS), rtol=0.02, atol=0.02)


def test_targets_of_a_part_of_the_layers_are_named_in_full(tmp_path: Path) -> None:
    model = decoder()
    insert(model, "default", {"layers.1.mlp.up_proj": (torch.randn(2, 32), torch.randn(48, 2))}, 0.5)
    lora.save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.up_proj"]
    assert (config["r"], config["lora_alpha"]) == (2, 1.0)
    other = lora.load(decoder(), tmp_path)
    assert torch.equal(other(IDS), activate(model, "default")(IDS))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: lora.add_lora(decoder(), 0), "rank: got 0"),
        (lambda: lora.add_lora(decoder(), 2, targets="q_proj"), "targets: got 'q_proj', need 'all-linear' or some of"),
        (lambda: lora.add_lora(decoder(), 2, targets=[]), "targets: got"),
        (lambda: lora.add_lora(decoder(), 2, targets=["q_proj", "lm_head"]), "targets: got 'lm_head'"),
        (lambda: lora.add_lora(lora.add_lora(decoder(), 2), 2), "name: got 'default'"),
        (lambda: lora.add_lora(decoder(), 2, name="a.b"), r"name: got 'a\.b'"),
        (lambda: lora.add_lora(decoder(), 2, name="copy"), "name: got .copy., which torch"),
        (lambda: lora.disabled(decoder()).__enter__(), "has no adapter"),
        (lambda: lora.merge(decoder()), "adapter: got 'default', need one of the model's: none"),
        (lambda: lora.lora_parameters(adapted(), "x"), "need one of the model's: default"),
        (lambda: activate(adapted(), "x"), "adapter: got 'x'"),
        (lambda: remove(adapted(), "x"), "adapter: got 'x'"),
    ],
)
def test_bad_arguments(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def config(**fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        found = load_file(path)
        edit(found)
        save_file({name: tensor.clone() for name, tensor in found.items()}, path)

    return damage


A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter not found"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "weights not found"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"xx"), "not a whole safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "not valid JSON"),
        (config(peft_type="IA3"), "peft_type 'IA3' is not supported, need LORA"),
        (config(use_dora=True), "use_dora True is not supported"),
        (config(use_rslora=True), "use_rslora"),
        (config(bias="all"), "bias 'all'"),
        (config(modules_to_save=["lm_head"]), "modules_to_save"),
        (config(rank_pattern={"q_proj": 8}), "rank_pattern"),
        (config(r=0), "r: got 0"),
        (config(r=True), "r: got True"),
        (config(r=None), "r: got None"),
        (config(lora_alpha="8"), "lora_alpha: got '8'"),
        (config(lora_alpha=float("nan")), "lora_alpha: got nan"),
        (config(r=8), r"lora_A.weight is torch.float32 \(4, 32\), need floats \(8, 32\)"),
        (tensors(lambda t: t.pop(A)), "layers.0.mlp.up_proj has one of its two tensors"),
        (tensors(lambda t: t.clear()), "it has no tensors"),
        (tensors(lambda t: t.update(odd=torch.zeros(1))), "odd has no place in the model"),
        (
            tensors(lambda t: t.update({A.replace("layers.0", "layers.7"): t[A]})),
            "layers.7.* has no place in the model",
        ),
        (tensors(lambda t: t.update({A: t[A].int()})), "is torch.int32"),
        (tensors(lambda t: t[A].fill_(float("inf"))), "is not finite"),
    ],
)
def test_bad_files(damage: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    lora.save(adapted(), tmp_path)
    damage(tmp_path)
    model = decoder()
    with pytest.raises(UserError, match=match) as caught:
        lora.load(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert not adapters(model)


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    lora.save(lora.add_lora(decoder(dim=48), 4), tmp_path)
    with pytest.raises(UserError, match="the adapter does not fit"):
        lora.load(decoder(), tmp_path)
