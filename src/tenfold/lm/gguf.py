"""Llama and Qwen3 models in GGUF files (llama.cpp): read, dequantized, and converted to a Hugging Face folder."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.lm.formats import build_decoder, write_decoder
from tenfold.lm.gguf_tokenizer import tokenizer_from_fields
from tenfold.nn.rotary import interleaved_to_half
from tenfold.text.tokenizer import Tokenizer

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ARCHITECTURES = ("llama", "qwen3")

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by the number of the type
_TEXT, _ARRAY = 8, 9
_MAX_ARRAY = 1 << 22  # entries; the largest vocabularies have a sixteenth, and the reader makes an object of each


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json would say, and the tensors under Hugging Face's names, dequantized to float32.

    Raises:
        UserError: no such file, not GGUF, another architecture than llama and qwen3, the package gguf not installed.
    """
    with _faults_named(path):
        reader = _open(path)
        return _model(reader, _fields(reader), path)


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, with its control tokens and chat template.

    Raises:
        UserError: a file without a tokenizer.json inside whose tokenizer is no byte-level BPE, or cuts text in a way
            that is unknown here.
    """
    with _faults_named(path):
        return tokenizer_from_fields(_fields(_open(path)), str(path))


def convert(gguf_path: str | Path, out_dir: str | Path) -> None:
    """Turn a GGUF file into a folder that our readers and Hugging Face's open.

    Writes config.json, model.safetensors (float32: what the quantized values stand for) and the files of the tokenizer
    (`Tokenizer.save`); config.json comes last.
    """
    path, folder = Path(gguf_path), Path(out_dir)
    with _faults_named(path):
        reader = _open(path)
        fields = _fields(reader)  # once: a vocabulary takes seconds to decode
        tokenizer = tokenizer_from_fields(fields, str(path))
        config, tensors = _model(reader, fields, path)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise UserError(f"{path}: {tokenizer.vocab_size} tokens but an embedding of {config['vocab_size']} rows")
    tokenizer.save(folder)
    write_decoder(build_decoder(config, tensors, where=str(path)), folder)


def _model(reader: Any, fields: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from gguf.quants import dequantize

    config = _config(fields, path)
    tensors: dict[str, Tensor] = {}
    for entry in reader.tensors:
        values = torch.tensor(dequantize(entry.data, entry.tensor_type))  # a copy: the reader maps the file
        name = _name(entry.name)
        if name is None:
            if entry.name != "rope_freqs.weight":
                raise UserError(f"{path}: tensor {entry.name} is not of a plain Llama or Qwen3 model")
            raise UserError(f"{path}: scaled rotary frequencies (rope_freqs.weight) are not supported")
        # llama.cpp stores a Llama's queries and keys for the interleaved rotation; Hugging Face's classes turn halves.
        heads = attention_heads(name, config["num_attention_heads"], config["num_key_value_heads"])
        if heads and config["model_type"] == "llama":
            values = interleaved_to_half(values, heads)
        tensors[name] = values
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    return config, tensors


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"model not found: {path} (need a .gguf file)")
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise UserError("reading GGUF needs the package gguf: pip install 'tenfold[models]'") from error
    check_header(path)
    return GGUFReader(path)


def check_header(path: Path) -> None:
    """Walk the counts and lengths of a header against the size of the file: the package's reader believes them.

    Raises:
        ValueError: a count or length beyond the file, an array within an array or of an unknown type.
    """
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"{size} bytes, need at least 24")

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        order = ">" if data[4:6] == b"\0\0" else "<"

        def number(at: int, kind: str = "Q") -> int:
            within(at + struct.calcsize(order + kind))
            value: int = struct.unpack_from(order + kind, data, at)[0]
            return value

        def within(end: int) -> int:
            if end > size:
                raise ValueError(f"declares {end} bytes and more, has {size}")
            return end

        def width(kind: int) -> int:
            if kind not in _SCALARS:
                raise ValueError(f"a value of type {kind}")
            return _SCALARS[kind]

        def after_text(at: int) -> int:
            return within(at + 8 + number(at))

        def after_value(at: int, kind: int) -> int:
            if kind == _TEXT:
                return after_text(at)
            if kind != _ARRAY:
                return within(at + width(kind))
            kind, count, at = number(at, "I"), number(at + 4), at + 12
            if count > _MAX_ARRAY:
                raise ValueError(f"an array of {count} entries, need at most {_MAX_ARRAY}")
            if kind != _TEXT:
                return within(at + count * width(kind))
            for _ in range(count):
                at = after_text(at)
            return at

        tensors, fields, at = number(8), number(16), 24
        for _ in range(fields):
            at = after_text(at)
            at = after_value(at + 4, number(at, "I"))
        for _ in range(tensors):
            at = after_text(at)
            at = within(at + 4 + 8 * number(at, "I") + 12)


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """One line for what is wrong with a file; the reader, the tokenizer and torch raise errors of every kind."""
    try:
        yield
    except UserError as error:
        raise UserError(" ".join(str(error).split())[:500]) from error  # it may quote a name from the file
    except (OSError, MemoryError):
        raise
    except KeyError as error:
        raise UserError(f"{path}: no field or tensor {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a whole GGUF file of a Llama or Qwen3 model ({said}); fetch it again"
        ) from error


def _fields(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def _config(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES or fields.get(f"{architecture}.expert_count"):
        raise UserError(f"{path}: architecture {architecture} is not supported, need a dense llama or qwen3")
    own = {key.removeprefix(f"{architecture}."): value for key, value in fields.items()}
    if own.get("rope.scaling.type", "none") != "none":
        raise UserError(f"{path}: rope scaling {own['rope.scaling.type']} is not supported")
    heads, dim = fields[f"{architecture}.attention.head_count"], fields[f"{architecture}.embedding_length"]
    head_dim = own.get("attention.key_length", dim // heads)
    if own.get("rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{path}: rotation of a part of the head is not supported")
    return {
        "model_type": architecture,
        "hidden_size": dim,
        "num_hidden_layers": fields[f"{architecture}.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": fields[f"{architecture}.feed_forward_length"],
        "rms_norm_eps": _decimal(fields[f"{architecture}.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _decimal(own.get("rope.freq_base", 1e4)),
        "max_position_embeddings": fields[f"{architecture}.context_length"],
    }


def _decimal(value: float) -> float:
    """The shortest decimal that float32 rounds to a stored value: what was meant (1e-5, not 9.99999974e-06)."""
    return float(str(np.float32(value)))


def attention_heads(name: str, heads: int, kv_heads: int) -> int:
    """Heads in the rows of a query or key projection, by its name at Hugging Face; 0 for other tensors."""
    return {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2], 0)


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF, from its name at Hugging Face; the inverse of what the reader does."""
    back = {there: here for here, there in NAMES.items()}
    stem = name.removesuffix(".weight")
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"blk.{layer[1]}.{back[layer[2]]}.weight" if layer else f"{back[stem]}.weight"


def _name(name: str) -> str | None:
    """A tensor's name at Hugging Face; None for one that no plain Llama or Qwen3 has."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in NAMES:
        return f"model.layers.{layer[1]}.{NAMES[layer[2]]}.weight"
    stem = name.removesuffix(".weight")
    return f"{NAMES[stem]}.weight" if stem in NAMES else None
