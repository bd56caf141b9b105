"""Malformed checkpoint folders: one line naming the fault, before anything is built or read from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.moe import MoEConfig

CFG = DecoderConfig(vocab_size=40, dim=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=24, max_len=32)
TOPK = MoEConfig(16, 12, num_experts=4, router="topk", dropless=True)
MIXTRAL = dataclasses.replace(CFG, qk_norm=False, moe=TOPK, moe_every=1, moe_offset=0)


def save(folder: Path, cfg: DecoderConfig = CFG) -> None:
    Decoder(cfg, torch.Generator().manual_seed(0)).save_pretrained(folder)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Decoder.from_pretrained(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


DEEP = "[" * 100_000
FAULTS = [
    ({"architectures": [["x"]]}, "architecture ['x'] is not supported"),
    ({"architectures": "Qwen3ForCausalLM"}, "architectures: got str, need a list of names"),
    ({"architectures": ["a\nb"]}, "architecture a b is not supported"),
    ({"architectures": None, "model_type": 3}, "architecture 3 is not supported"),
    ({"rope_scaling": "yarn"}, 'rope_scaling: got "yarn", need'),
    ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta: got 'big', need a finite number"),
    ({"rope_theta": float("inf"), "rope_parameters": None}, "rope_theta: got inf, need a finite number"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: got nan, need a finite number"),
    ({"rms_norm_eps": 10**400}, "too large"),
    ({"num_attention_heads": 0}, "num_attention_heads: got 0, need 1.."),
    ({"num_hidden_layers": 2.5}, "num_hidden_layers: got 2.5, need int"),
    ({"num_hidden_layers": True}, "num_hidden_layers: got true, need int"),
    ({"num_hidden_layers": None}, "num_hidden_layers: missing, need int"),
    ({"num_hidden_layers": 3}, "num_hidden_layers: got 3, need at most 2 (in the tensors)"),
    ({"num_hidden_layers": 60_000}, "num_hidden_layers: got 60000, need at most 2 (in the tensors)"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers: got 1000000000000, need 1.."),
    ({"hidden_size": 10**12}, "hidden_size: got 1000000000000, need 1.."),
    ({"head_dim": 8.0}, "head_dim: got 8.0, need int"),
    ({"vocab_size": -1}, "vocab_size: got -1, need 1.."),
    ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings: got "yes", need bool'),
    ({"hidden_act": ["silu"]}, 'hidden_act: got ["silu"], need str'),
    ({"layer_types": "full_attention"}, "layer_types: got"),
    ({"tenfold": []}, "tenfold: got [], need an object"),
    ({"tenfold": {"width\n": 3}}, "unknown field"),
    ({"tenfold": {"dropout": "0"}}, 'tenfold.dropout: got "0", need float'),
    ({"tenfold": {"ffn_dim": 10**30}}, "ffn_dim: got 1000"),
    ({"architectures": ["TenfoldDecoder"], "tenfold": {}}, "tenfold.qk_norm: missing, need bool"),
    ({"architectures": ["TenfoldDecoder"], "tenfold": {"moe": {"dim": 16, "hidden": 2**60}}}, "moe.hidden: got"),
    (
        {"architectures": ["TenfoldDecoder"], "tenfold": {"moe": {"dim": 16, "hidden": 2.5}}},
        "moe.hidden: got 2.5, need",
    ),
    ({"architectures": ["Qwen3MoeForCausalLM"]}, "moe_intermediate_size: missing, need int"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_malformed_config(changes: dict, message: str, tmp_path: Path) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    refused(tmp_path, message)


@pytest.mark.parametrize("content", ["[]", "1", "{", DEEP, '{"a": ' + DEEP, "\xff"])
def test_config_that_is_no_object(content: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    refused(tmp_path, "config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "got list, need a JSON object"),
        (DEEP, "not valid JSON"),
        ('{"weight_map": []}', "weight_map: got [], need a shard's name for every tensor"),
        ('{"weight_map": null}', "weight_map: got None"),
        ("{}", "weight_map: got None"),
        ('{"weight_map": {"a": 3}}', "weight_map: got 3, need the name of a .safetensors file"),
        ('{"weight_map": {"a": ["b"]}}', "weight_map: got ['b'], need the name"),
        ('{"weight_map": {"a": "../outside.safetensors"}}', "weight_map: got '../outside.safetensors'"),
        ('{"weight_map": {"a": "/outside.safetensors"}}', "weight_map: got '/outside.safetensors'"),
        ('{"weight_map": {"a": "model.bin"}}', "weight_map: got 'model.bin'"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors, a shard that"),
    ],
)
def test_malformed_index(content: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, message)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_weights_of_another_type(dtype: torch.dtype, tmp_path: Path) -> None:
    save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "model.norm.weight": torch.ones(16).to(dtype)}, tmp_path / "model.safetensors")
    refused(tmp_path, "weights of a type that is not read: model.norm.weight " + str(dtype).split(".")[1])


@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 16), (4, 24)])
def test_fused_experts_of_a_wrong_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    save(tmp_path, MIXTRAL)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    kept = {key: tensor for key, tensor in tensors.items() if "layers.0.block_sparse_moe.experts" not in key}
    save_file({**kept, name: torch.zeros(shape)}, tmp_path / "model.safetensors")
    refused(tmp_path, "tensors do not fit the config: missing model.layers.0.block_sparse_moe.experts.0.w1.weight")
