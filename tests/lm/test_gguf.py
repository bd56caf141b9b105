"""GGUF files: a small one written here, with known weights, and its faults."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.formats import to_hf
from tenfold.lm.gguf import NAMES, check_header, convert, read_gguf, read_gguf_tokenizer
from tenfold.nn.rotary import half_to_interleaved
from tenfold.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'tenfold[models]'")

CFG = DecoderConfig(
    260, 16, 2, 4, 2, 4, 24, rope_base=1e4, qk_norm=False, tie_embeddings=True, max_len=64, norm_eps=1e-5
)


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write(
    path: Path,
    model: Decoder,
    architecture: str = "llama",
    cut: str = "smollm",
    fields: Mapping[str, Any] | None = None,
    without: str = "",
    **extra: np.ndarray,
) -> Path:
    """A file of `model`; `fields` replaces values, with None removes them; `without` leaves out a tensor."""
    cfg = model.cfg
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(cfg.n_layers)
    writer.add_context_length(cfg.max_len)
    writer.add_embedding_length(cfg.dim)
    writer.add_feed_forward_length(cfg.ffn_dim)
    writer.add_head_count(cfg.n_heads)
    writer.add_head_count_kv(cfg.n_kv_heads)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    writer.add_rope_freq_base(cfg.rope_base)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    tokens = ["<|start|>", "<|stop|>", *byte_alphabet(), "ab", "Ġa"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * 258)
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for m in messages %}<|start|>{{ m['content'] }}<|stop|>{% endfor %}")
    back = {there: here for here, there in NAMES.items()}
    for name, tensor in to_hf(model.state_dict(), cfg).items():
        heads = cfg.n_heads if "q_proj" in name else cfg.n_kv_heads if "k_proj" in name else 0
        values = half_to_interleaved(tensor, heads) if heads else tensor
        stem = name.removesuffix(".weight")
        if stem in back:
            stem = back[stem]
        else:
            _, _, layer, rest = stem.split(".", 3)
            stem = f"blk.{layer}.{back[rest]}"
        if stem != without:
            writer.add_tensor(f"{stem}.weight", values.numpy())
    for name, value in (fields or {}).items():
        writer.kv_data[0].pop(name, None)
        if value is not None:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
            add[type(value)](name, value)
    for name, values in extra.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def decoder() -> Decoder:
    return Decoder(CFG, torch.Generator().manual_seed(0))


def test_read_and_converted_equal_the_original(tmp_path: Path) -> None:
    model = decoder()
    path = write(tmp_path / "m.gguf", model)
    convert(path, tmp_path / "folder")
    for source in (path, tmp_path / "folder"):
        again = Decoder.from_pretrained(source)
        assert again.cfg == CFG
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", decoder())
    convert(path, tmp_path / "folder")
    for tokenizer in (read_gguf_tokenizer(path), Tokenizer.load(tmp_path / "folder")):
        assert tokenizer.vocab_size == 260
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_id) == (0, 1, 1)
        assert tokenizer.encode("ab a") == [258, 259]
        assert len(tokenizer.encode("12")) == 2
        text = " <|start|>  ab\n\té😀 7"
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}]) == [0, 258, 1]


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model not found: .*none.gguf"):
        Decoder.from_pretrained(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no model at all")
    with pytest.raises(UserError, match="not a whole GGUF file"):
        Decoder.from_pretrained(tmp_path / "text.gguf")
    with pytest.raises(UserError, match="architecture falcon is not supported"):
        Decoder.from_pretrained(write(tmp_path / "falcon.gguf", decoder(), architecture="falcon"))
    scaled = write(tmp_path / "scaled.gguf", decoder(), **{"rope_freqs.weight": np.ones(2, dtype=np.float32)})
    with pytest.raises(UserError, match="rotary frequencies"):
        Decoder.from_pretrained(scaled)
    extra = write(tmp_path / "extra.gguf", decoder(), **{"blk.0.extra.weight": np.ones(2, dtype=np.float32)})
    with pytest.raises(UserError, match=r"tensor blk.0.extra.weight is not of a plain Llama or Qwen3"):
        Decoder.from_pretrained(extra)
    with pytest.raises(UserError, match="tokenizer gpt2/odd is not supported"):
        read_gguf_tokenizer(write(tmp_path / "odd.gguf", decoder(), cut="odd"))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("tensors", "fields", "rest"),
    [
        (0, 1, text(b"x") + struct.pack("<IIQ", 9, 4, 2**40)),  # entries of an array
        (0, 1, text(b"x") + struct.pack("<IIQ", 9, 4, 2**20)),
        (0, 1, text(b"x") + struct.pack("<IIQ", 9, 8, 2**20)),  # texts of an array
        (0, 1, text(b"x") + struct.pack("<IIQ", 9, 0, 2**22 + 1) + bytes(2**22 + 1)),  # there, but absurd
        (0, 1, text(b"x") + struct.pack("<IQ", 8, 2**62)),  # length of a text
        (0, 1, text(b"x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000),  # arrays in arrays
        (0, 1, text(b"x") + struct.pack("<I", 77)),  # an unknown type
        (0, 1, struct.pack("<Q", 2**62)),  # length of a name
        (0, 2**63, text(b"x") + struct.pack("<II", 4, 1)),  # fields
        (2**62, 0, b""),  # tensors
        (1, 0, text(b"x") + struct.pack("<I", 2**31)),  # dimensions
    ],
)
def test_no_count_of_a_header_is_believed_beyond_the_file(
    tensors: int, fields: int, rest: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest)
    with pytest.raises(ValueError):
        check_header(path)  # the package's reader would loop over the count
    with pytest.raises(UserError, match=r"m\.gguf"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"llama.attention.head_count": None}}, "no field or tensor 'llama.attention.head_count'"),
        ({"fields": {"llama.context_length": None}}, "no field or tensor 'llama.context_length'"),
        ({"fields": {"llama.attention.head_count": 0}}, "not a whole GGUF file of a Llama or Qwen3 model"),
        ({"fields": {"llama.attention.head_count": "4"}}, "not a whole GGUF file of a Llama or Qwen3 model"),
        ({"fields": {"llama.embedding_length": 16.5}}, "hidden_size: got 16.5, need int"),
        ({"fields": {"llama.feed_forward_length": [24, 24]}}, "intermediate_size: got [24, 24], need int"),
        ({"fields": {"llama.block_count": 60_000}}, "num_hidden_layers: got 60000, need at most 2"),
        (
            {"fields": {"llama.attention.layer_norm_rms_epsilon": "small"}},
            "not a whole GGUF file of a Llama or Qwen3 model",
        ),
        ({"architecture": "a\nb" * 1000}, "architecture a ba ba b"),
        ({"without": "token_embd"}, "no field or tensor 'model.embed_tokens.weight'"),
        ({"without": "blk.1.attn_q"}, "missing model.layers.1.self_attn.q_proj.weight"),
    ],
)
def test_malformed_models(options: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", decoder(), **options)
    with pytest.raises(UserError) as caught:
        Decoder.from_pretrained(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokenizer.ggml.tokens", None, "no field or tensor 'tokenizer.ggml.tokens'"),
        ("tokenizer.ggml.merges", ["ab"], "not a whole GGUF file"),
        ("tokenizer.ggml.token_type", [1], "not a whole GGUF file"),
        ("tokenizer.ggml.eos_token_id", 10**6, "not a whole GGUF file"),
        ("tokenizer.chat_template", 3, "tokenizer.chat_template: got int, need text"),
        ("tokenizer.huggingface.json", "{", "tokenizer.huggingface.json does not parse"),
        ("tokenizer.huggingface.json", 3, "not a whole GGUF file"),
    ],
)
def test_malformed_tokenizers(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", decoder(), fields={name: value})
    for read in (read_gguf_tokenizer, lambda path: convert(path, tmp_path / "out")):
        with pytest.raises(UserError) as caught:
            read(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
