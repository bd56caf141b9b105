"""GGUF files written here: read back bit by bit, refused where GGUF has no word, whole or absent after a fault."""

from __future__ import annotations

import dataclasses
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.gguf import convert
from tenfold.lm.gguf_write import write_gguf
from tenfold.nn.moe import MoEConfig
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'tenfold[models]'")

TEXT = "the cat sat on the mat,  the end.\n\nthe rat\n"
ROWS = 320
QWEN3 = DecoderConfig(ROWS, 32, 2, 4, 2, 12, 64, rope_base=6_315_089.0, norm_eps=1e-6, max_len=64)
LLAMA = dataclasses.replace(QWEN3, qk_norm=False, tie_embeddings=False)
CONFIGS = {
    "qwen3": QWEN3,
    "qwen3 untied": dataclasses.replace(QWEN3, tie_embeddings=False),
    "llama": LLAMA,
    "llama tied": dataclasses.replace(LLAMA, tie_embeddings=True),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT] * 4, 300)


def decoder(cfg: DecoderConfig, seed: int = 0) -> Decoder:
    """Norm weights away from 1, so that a norm in another's place is seen."""
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(cfg, generator)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 1 + 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def equal(a: Decoder, b: Decoder) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_read_back_bit_by_bit(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(CONFIGS[name])
    write_gguf(model, tokenizer, tmp_path / "deep" / "m.gguf")
    again = Decoder.from_pretrained(tmp_path / "deep" / "m.gguf")
    assert again.cfg == model.cfg
    assert equal(again, model)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_interleaved_layout_computes_the_same(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(dataclasses.replace(CONFIGS[name], rope_layout="interleaved"))
    write_gguf(model, tokenizer, tmp_path / "m.gguf")
    half = Decoder.from_pretrained(tmp_path / "m.gguf").eval()
    assert half.cfg == CONFIGS[name]
    ids = torch.randint(0, ROWS, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (half(ids) - model(ids)).abs().max() <= 2e-5
    assert equal(Decoder.from_pretrained(tmp_path / "m.gguf", rope_layout="interleaved"), model)


def test_converted_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(QWEN3)
    write_gguf(model, tokenizer, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "folder")
    assert equal(Decoder.from_pretrained(tmp_path / "folder"), model)
    assert Tokenizer.load(tmp_path / "folder").encode(TEXT) == tokenizer.encode(TEXT)


def test_rounding(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """f16 rounds each weight; q8_0 by half a step of its block, plus what float16 does to the step."""
    model = decoder(LLAMA)
    state, read = model.state_dict(), {}
    for dtype in ("f16", "q8_0"):
        write_gguf(model, tokenizer, tmp_path / f"{dtype}.gguf", dtype=dtype)
        read[dtype] = Decoder.from_pretrained(tmp_path / f"{dtype}.gguf").state_dict()
    for name, weight in state.items():
        if weight.ndim == 1:
            assert torch.equal(read["f16"][name], weight)
            assert torch.equal(read["q8_0"][name], weight)
            continue
        assert torch.equal(read["f16"][name], weight.half().float())
        if weight.shape[-1] % 32:  # o_proj: rows of 48
            assert torch.equal(read["q8_0"][name], weight.half().float())
            continue
        blocks = weight.unflatten(-1, (-1, 32))
        most = blocks.abs().amax(-1, keepdim=True) / 127
        wrong = (read["q8_0"][name].unflatten(-1, (-1, 32)) - blocks).abs()
        assert (wrong <= most * (0.5 + 127 * 2**-11) + 1e-7).all()
        assert wrong.max() > 0


def test_metadata(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(decoder(QWEN3), tokenizer, tmp_path / "tiny.gguf", dtype="q8_0")
    reader = gguf.GGUFReader(tmp_path / "tiny.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.name"] == "tiny"
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert fields["qwen3.attention.key_length"] == fields["qwen3.attention.value_length"] == 12
    assert len(fields["tokenizer.ggml.tokens"]) == len(set(fields["tokenizer.ggml.tokens"])) == ROWS
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "F16", "Q8_0"}
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)


MOE = MoEConfig(32, 16, num_experts=2, router="topk", dropless=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm_position": "post_rope"}, "no word for a norm after the rotation"),
        ({"moe": MOE}, "mixture-of-experts layers are not written"),
        ({"moe": MOE, "moe_every": 1, "moe_offset": 0}, "mixture-of-experts layers are not written"),
        ({"vocab_size": 200}, "but the model's embedding has 200 rows"),
    ],
)
def test_refused_models(changes: dict[str, Any], message: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        write_gguf(decoder(dataclasses.replace(QWEN3, **changes)), tokenizer, tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refused_arguments(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(QWEN3)
    with pytest.raises(ValueError, match=r"path: got m.bin, need a name that ends in .gguf"):
        write_gguf(model, tokenizer, tmp_path / "m.bin")
    with pytest.raises(ValueError, match="dtype: got 'q4_0', need one of f32, f16, q8_0"):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", dtype="q4_0")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [7e4, float("nan"), float("-inf")])
def test_weights_that_float16_cannot_hold(value: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(QWEN3)
    model.layers[1].mlp.up_proj.weight.data[3, 3] = value
    for dtype in ("f16", "q8_0"):
        with pytest.raises(UserError, match=r"layers.1.mlp.up_proj.weight holds .*; write f32"):
            write_gguf(model, tokenizer, tmp_path / "m.gguf", dtype=dtype)
    assert not list(tmp_path.iterdir())
    write_gguf(model, tokenizer, tmp_path / "m.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are Unix's")
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_full_disk_keeps_the_older_file(share: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import resource

    path = tmp_path / "m.gguf"
    write_gguf(decoder(QWEN3), tokenizer, path)
    older = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(older)), hard))
    try:
        with pytest.raises(UserError, match=r"disk full while writing .*m.gguf: free some space"):
            write_gguf(decoder(QWEN3, seed=1), tokenizer, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == older
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


def test_torn_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(decoder(LLAMA), tokenizer, tmp_path / "m.gguf")
    content = (tmp_path / "m.gguf").read_bytes()
    torn = tmp_path / "torn.gguf"
    for kept in (*range(0, 200, 37), len(content) // 3, len(content) - 4096, len(content) - 1):
        torn.write_bytes(content[:kept])
        with pytest.raises(UserError, match="not a whole GGUF file") as caught:
            Decoder.from_pretrained(torn)
        assert "\n" not in str(caught.value)


def test_streams_tensor_by_tensor(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two written arrays live at once."""
    alive: list[Any] = []
    write = gguf.GGUFWriter.write_tensor_data

    def watched(self: Any, tensor: np.ndarray) -> None:
        assert all(reference() is None for reference in alive)
        write(self, tensor)
        alive.append(weakref.ref(tensor))

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", watched)
    model = decoder(dataclasses.replace(LLAMA, rope_layout="interleaved"))
    write_gguf(model, tokenizer, tmp_path / "m.gguf", dtype="q8_0")
    assert len(alive) == len(model.state_dict())


def test_without_the_package(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="writing GGUF needs the package gguf"):
        write_gguf(decoder(QWEN3), tokenizer, tmp_path / "m.gguf")
