"""Checkpoint folders: what is written is read back bit for bit, and what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tenfold.core import model_folder
from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.formats import write_decoder
from tenfold.nn.moe import MoEConfig

BASE = DecoderConfig(vocab_size=40, dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=24, max_len=32)
TOPK = MoEConfig(16, 12, num_experts=4, router="topk", dropless=True, causal=True)

SHAPES = {
    "Qwen3ForCausalLM": BASE,
    "LlamaForCausalLM": dataclasses.replace(BASE, qk_norm=False, tie_embeddings=False, rope_base=1e4),
    "MixtralForCausalLM": dataclasses.replace(BASE, qk_norm=False, moe=TOPK, moe_every=1, moe_offset=0),
    "Qwen3MoeForCausalLM": dataclasses.replace(BASE, moe=TOPK, moe_every=1, moe_offset=0),
}
OURS = {
    "mixed": dataclasses.replace(BASE, qk_norm=False, moe=MoEConfig(16, 12, num_experts=4)),
    "shared": dataclasses.replace(
        BASE, moe=MoEConfig(16, 12, num_experts=4, bias=True, shared_hidden=8, shared_gate=True, router="topk_bias")
    ),
    "capacity": dataclasses.replace(BASE, qk_norm=False, moe=MoEConfig(16, 12), moe_every=1, moe_offset=0),
    "post": dataclasses.replace(BASE, qk_norm_position="post_rope", rope_layout="interleaved", dropout=0.1),
}


def decoder(cfg: DecoderConfig = BASE) -> Decoder:
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 0.5 + torch.rand(weight.shape, generator=generator)
    return model.eval()


def same(one: Decoder, two: Decoder) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, drop: tuple[str, ...] = (), **changes: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor.clone() for name, tensor in tensors.items() if name not in drop}
    save_file({**kept, **changes}, folder / "model.safetensors")


@pytest.mark.parametrize("name", [*SHAPES, *OURS])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_round_trip_is_bit_identical(name: str, layout: str, tmp_path: Path) -> None:
    cfg = dataclasses.replace({**SHAPES, **OURS}[name], rope_layout=layout)
    model = decoder(cfg)
    model.save_pretrained(tmp_path)
    again = Decoder.from_pretrained(tmp_path).eval()
    assert again.cfg == cfg
    assert same(model, again)
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(model(ids), again(ids))
    assert all(weight.requires_grad for weight in again.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_architecture_names(name: str, tmp_path: Path) -> None:
    decoder(SHAPES[name]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == SHAPES[name].rope_base
    assert config["head_dim"] == 6
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("name", OURS)
def test_what_hugging_face_cannot_compute_has_our_name(name: str, tmp_path: Path) -> None:
    decoder(OURS[name]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TenfoldDecoder"]


def test_sparse_layers_between_dense_ones_keep_mixtrals_names(tmp_path: Path) -> None:
    model = decoder(OURS["mixed"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    sparse = model.layers[1].mlp
    assert torch.equal(tensors["model.layers.1.block_sparse_moe.gate.weight"], sparse.gate_weight.T)
    for matrix, stack in (("w1", sparse.w0), ("w3", sparse.w1), ("w2", sparse.w2)):
        for e in range(4):
            assert torch.equal(tensors[f"model.layers.1.block_sparse_moe.experts.{e}.{matrix}.weight"], stack[e].T)
    assert tensors["model.layers.0.mlp.gate_proj.weight"].shape == (24, 16)


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_fused_experts_are_read(name: str, tmp_path: Path) -> None:
    model = decoder(SHAPES[name])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    fused = {key: tensor.clone() for key, tensor in tensors.items() if ".experts." not in key}
    fused = {key.replace("block_sparse_moe", "mlp"): tensor for key, tensor in fused.items()}
    for i, block in enumerate(model.layers):
        both = torch.cat([block.mlp.w0.mT, block.mlp.w1.mT], 1).detach()
        fused[f"model.layers.{i}.mlp.experts.gate_up_proj"] = both.contiguous()
        fused[f"model.layers.{i}.mlp.experts.down_proj"] = block.mlp.w2.mT.detach().contiguous()
    save_file(fused, tmp_path / "model.safetensors")
    assert same(model, Decoder.from_pretrained(tmp_path))


def test_shards_and_their_index(tmp_path: Path) -> None:
    model = decoder(SHAPES["LlamaForCausalLM"])
    model.save_pretrained(tmp_path)
    write_decoder(model, tmp_path, max_shard_bytes=4000)
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(model, Decoder.from_pretrained(tmp_path))
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(UserError, match=r"a shard that model.safetensors.index.json names"):
        Decoder.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors.index.json").exists()
    assert same(model, Decoder.from_pretrained(tmp_path))


def test_dtype_and_overrides(tmp_path: Path) -> None:
    decoder().bfloat16().save_pretrained(tmp_path)
    assert Decoder.from_pretrained(tmp_path).norm.weight.dtype == torch.bfloat16
    model = Decoder.from_pretrained(tmp_path, dtype=torch.float32, max_len=64, dropout=0.2)
    assert model.norm.weight.dtype == torch.float32
    assert (model.cfg.max_len, model.cfg.dropout) == (64, 0.2)
    with pytest.raises(UserError, match=r"wrong shape embed_tokens.weight \(40, 16\) \(need \(40, 32\)\)"):
        Decoder.from_pretrained(tmp_path, dim=32)
    with pytest.raises(UserError, match="unknown field width; known: dim"):
        Decoder.from_pretrained(tmp_path, width=3)


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "LlamaForCausalLM", "mixed"])
@pytest.mark.parametrize("wanted", ["half", "interleaved"])
@pytest.mark.parametrize("written", ["half", "interleaved"])
def test_the_layout_of_the_rotation_can_change_and_the_function_stays(
    name: str, wanted: str, written: str, tmp_path: Path
) -> None:
    model = decoder(dataclasses.replace({**SHAPES, **OURS}[name], rope_layout=written)).double()
    model.save_pretrained(tmp_path)
    again = Decoder.from_pretrained(tmp_path, rope_layout=wanted).eval()
    assert again.cfg.rope_layout == wanted
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(again(ids), model(ids), rtol=1e-12, atol=1e-12)


def test_loading_leaves_torchs_random_state_alone(tmp_path: Path) -> None:
    decoder().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    Decoder.from_pretrained(tmp_path, max_len=64)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shard_bytes", [4000, 10**9])
def test_a_failed_save_leaves_the_older_model(
    shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = decoder(), decoder(SHAPES["LlamaForCausalLM"])
    (tmp_path / "tokenizer.json").write_text("{}")
    write_decoder(older, tmp_path, max_shard_bytes=shard_bytes)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls: list[Path] = []

    def full_disk(tensors: dict, path: Path, **options: object) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, **options)

    monkeypatch.setattr(model_folder, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_decoder(newer, tmp_path, max_shard_bytes=3000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(older, Decoder.from_pretrained(tmp_path))


def test_saving_again_leaves_nothing_stale_and_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    model = decoder()
    for shard_bytes in (4000, 8000, 10**9, 4000):
        write_decoder(model, tmp_path, max_shard_bytes=shard_bytes)
        assert same(model, Decoder.from_pretrained(tmp_path))
        named = {"config.json", "tokenizer.json"}
        if (tmp_path / "model.safetensors.index.json").exists():
            index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
            named |= {"model.safetensors.index.json", *index["weight_map"].values()}
        else:
            named |= {"model.safetensors"}
        assert {path.name for path in tmp_path.iterdir()} == named
    assert len(list(tmp_path.glob("model-*"))) > 4


def test_sharded_weights_are_refused(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = decoder()
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"model: got weights sharded .* nn\.moe_parallel\.gather_state"):
            model.save_pretrained(tmp_path / "model")
    finally:
        dist.destroy_process_group()
    assert not (tmp_path / "model").exists()


def test_training_a_loaded_model_leaves_its_file_alone(tmp_path: Path) -> None:
    model = decoder()
    model.save_pretrained(tmp_path)
    loaded = Decoder.from_pretrained(tmp_path)
    for weight in loaded.parameters():
        weight.data.zero_()
    assert same(model, Decoder.from_pretrained(tmp_path))
    loaded.save_pretrained(tmp_path)
    assert same(loaded, Decoder.from_pretrained(tmp_path))


def test_faulty_tensors_are_all_listed(tmp_path: Path) -> None:
    decoder().save_pretrained(tmp_path)
    edit_tensors(
        tmp_path,
        drop=("model.norm.weight",),
        **{
            "model.layers.9.mlp.up_proj.weight": torch.zeros(2),
            "model.layers.0.input_layernorm.weight": torch.zeros(3),
        },
    )
    with pytest.raises(UserError) as caught:
        Decoder.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "missing model.norm.weight" in message
    assert "extra model.layers.9.mlp.up_proj.weight" in message
    assert "wrong shape model.layers.0.input_layernorm.weight (3,) (need (16,))" in message
    assert "\n" not in message


def test_an_output_layer_beside_tied_embeddings_must_equal_them(tmp_path: Path) -> None:
    model = decoder()
    model.save_pretrained(tmp_path)
    edit_tensors(tmp_path, **{"lm_head.weight": model.embed_tokens.weight.detach().clone()})
    assert same(model, Decoder.from_pretrained(tmp_path))
    edit_tensors(tmp_path, **{"lm_head.weight": torch.zeros(40, 16)})
    with pytest.raises(UserError, match=r"lm_head.weight differs from the embedding"):
        Decoder.from_pretrained(tmp_path)


def test_names_without_prefix_and_old_rotary_tables_are_read(tmp_path: Path) -> None:
    model = decoder()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("model."): tensor.clone() for name, tensor in tensors.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(3)
    save_file(bare, tmp_path / "model.safetensors")
    assert same(model, Decoder.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported; known: Llama"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .* is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters .* is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters .* is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"sliding_window": 128}, "sliding-window attention is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"num_key_value_heads": 3}, "n_kv_heads: got 3"),
        ({"hidden_size": "wide"}, 'hidden_size: got "wide", need int'),
    ],
)
def test_unsupported_options(changes: dict, message: str, tmp_path: Path) -> None:
    decoder().save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        Decoder.from_pretrained(tmp_path)


def test_a_window_that_is_switched_off_is_fine(tmp_path: Path) -> None:
    decoder().save_pretrained(tmp_path)
    edit(tmp_path, sliding_window=128, use_sliding_window=False)
    Decoder.from_pretrained(tmp_path)


def test_missing_and_torn_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model not found: .*config.json"):
        Decoder.from_pretrained(tmp_path)
    decoder().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        Decoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="weights not found"):
        Decoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Decoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="vocab_size: missing, need int"):
        Decoder.from_pretrained(tmp_path)
