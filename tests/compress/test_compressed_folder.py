"""Folders of palettized decoders: the same numbers back, the promised size, and a line for every kind of damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenfold.compress.compressed_folder import load_palettized, save_palettized
from tenfold.compress.palette_linear import PaletteLinear
from tenfold.compress.palettize import PaletteConfig, bits_per_weight, palettize, projections
from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.lora import add_lora

CFG = DecoderConfig(vocab_size=50, dim=30, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=10, ffn_dim=37, max_len=40)
IDS = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(1))


def decoder(**fields: Any) -> Decoder:
    return Decoder(DecoderConfig(**(vars(CFG) | fields)), torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({}, PaletteConfig()),
        ({"tie_embeddings": False, "qk_norm": False}, PaletteConfig(bits=3, axis=1, activation_bits=8)),
        ({"rope_layout": "interleaved", "qk_norm_position": "post_rope"}, PaletteConfig(embedding_bits=16)),
        ({}, PaletteConfig(block=8)),
        ({}, PaletteConfig(block=8, block_bits=6, offsets=True)),
    ],
    ids=["tied", "untied", "official", "scales", "ranges"],
)
def test_round_trip_is_bit_identical(fields: dict[str, Any], config: PaletteConfig, tmp_path: Path) -> None:
    model = decoder(**fields)
    bits = dict.fromkeys(projections(model), config.bits) | {"layers.1.mlp.up_proj": 2}
    small = palettize(model, config, bits=bits)
    save_palettized(small, tmp_path)
    again = load_palettized(tmp_path).eval()
    assert again.cfg == small.cfg and bits_per_weight(again) == bits_per_weight(small)
    assert torch.equal(again(IDS), small(IDS))
    assert not any(weight.requires_grad for weight in again.parameters())
    dense = load_palettized(tmp_path, materialize_weights=True).eval()
    assert not any(isinstance(module, PaletteLinear) for module in dense.modules())
    if config.activation_bits == 16:
        torch.testing.assert_close(dense(IDS), small(IDS), rtol=1e-6, atol=1e-6)
    wide = load_palettized(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(wide(IDS).float(), small(IDS), rtol=1e-4, atol=1e-4)


def test_the_file_has_the_size_that_bits_per_weight_says(tmp_path: Path) -> None:
    model = decoder(vocab_size=600, dim=64, head_dim=32, n_heads=2, ffn_dim=200)
    weights = model.num_params(embedding=True)
    small = palettize(model, bits=dict.fromkeys(projections(model), 2))
    save_palettized(small, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    stored = bits_per_weight(small) * weights / 8
    assert stored < size < stored + 8192  # names and shapes


def test_an_older_model_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_palettized(palettize(decoder()), tmp_path)
    second = palettize(decoder(), PaletteConfig(bits=2))
    save_palettized(second, tmp_path)
    assert torch.equal(load_palettized(tmp_path).eval()(IDS), second(IDS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_readers_of_dense_models_refuse_it_and_it_refuses_theirs(tmp_path: Path) -> None:
    save_palettized(palettize(decoder()), tmp_path / "small")
    with pytest.raises(UserError, match="quantized weights are not supported"):
        Decoder.from_pretrained(tmp_path / "small")
    decoder().save_pretrained(tmp_path / "dense")
    with pytest.raises(UserError, match="is not of a palettized model"):
        load_palettized(tmp_path / "dense")


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not palettized"):
        save_palettized(decoder(), tmp_path)
    with pytest.raises(ValueError, match="has adapters"):
        save_palettized(add_lora(palettize(decoder()), 2), tmp_path)
    assert not list(tmp_path.iterdir())


def config_edit(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        edit(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def tensor_edit(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")

    return damage


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-20])


TABLES = "layers.0.mlp.up_proj.tables"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_palettized(palettize(decoder()), folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut, "not a whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights not found"),
        (lambda folder: (folder / "config.json").unlink(), "model not found"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (tensor_edit(lambda t: t.pop(TABLES)), f"{TABLES} is missing"),
        (tensor_edit(lambda t: t.update(odd=torch.zeros(1))), "odd has no place"),
        (tensor_edit(lambda t: t.update({TABLES: t[TABLES][:, :8]})), r"up_proj.tables is float16 \(3, 8\), need"),
        (tensor_edit(lambda t: t.update({TABLES: t[TABLES].float()})), "up_proj.tables is float32"),
        (tensor_edit(lambda t: t[TABLES].fill_(float("inf"))), f"{TABLES} is not finite"),
        (tensor_edit(lambda t: t["embed_tokens.steps"].fill_(float("nan"))), "embed_tokens.steps is not finite"),
        (config_edit(lambda c: c["quantization_config"]["bits"].update(x=4)), "bits: need one of every projection"),
        (config_edit(lambda c: c["quantization_config"]["bits"].popitem()), "bits: need one of every projection"),
        (config_edit(lambda c: c["quantization_config"].update(group=0)), "group, axis: got 0"),
        (config_edit(lambda c: c["quantization_config"].update(group="16")), "group"),
        (config_edit(lambda c: c["quantization_config"].update(embedding_bits=4)), "embedding_bits"),
        (config_edit(lambda c: c["quantization_config"].update(quant_method="gptq")), "is not of a palettized model"),
        (config_edit(lambda c: c["quantization_config"].pop("axis")), "axis"),
        (config_edit(lambda c: c.update(quantization_config=[1])), "is not of a palettized model"),
        (config_edit(lambda c: c.update(num_hidden_layers=60000)), r"got 60000 layers, need at most 2"),
        (config_edit(lambda c: c.update(hidden_size=40)), "tensors do not fit"),
    ],
)
def test_damage(damage: Callable[[Path], None], match: str, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(UserError, match=match) as caught:
        load_palettized(tmp_path)
    assert "\n" not in str(caught.value)
