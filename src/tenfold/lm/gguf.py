"""Llama models in GGUF files (llama.cpp): read, dequantized, and converted to a Hugging Face folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.lm.formats import build_decoder, write_decoder
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
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # token type of control tokens; 1 is a normal one
# How the byte-level vocabularies we know cut digits, by llama.cpp's name of their pre-tokenizer.
SPLITS_DIGITS = {"smollm": True, "gpt-2": False, "default": False}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json would say, and the tensors under Hugging Face's names, dequantized to float32.

    Raises:
        UserError: no such file, not GGUF, another architecture than llama, the package gguf not installed.
    """
    with _faults_named(path):
        reader = _open(path)
        return _model(reader, _fields(reader), path)


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file, with its control tokens and chat template.

    Raises:
        UserError: another kind of tokenizer, or one whose way to cut digits is unknown.
    """
    with _faults_named(path):
        return _tokenizer(_fields(_open(path)), path)


def convert(gguf_path: str | Path, out_dir: str | Path) -> None:
    """Turn a GGUF file into a folder that our readers and Hugging Face's open.

    Writes config.json, model.safetensors (float32: what the quantized values stand for), tokenizer.json and
    tokenizer_config.json; config.json comes last.
    """
    path, folder = Path(gguf_path), Path(out_dir)
    with _faults_named(path):
        reader = _open(path)
        fields = _fields(reader)  # once: a vocabulary takes seconds to decode
        tokenizer = _tokenizer(fields, path)
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
                raise UserError(f"{path}: tensor {entry.name} is not of a plain Llama model")
            raise UserError(f"{path}: scaled rotary frequencies (rope_freqs.weight) are not supported")
        # llama.cpp stores queries and keys for the interleaved rotation; Hugging Face's classes turn halves.
        if "q_proj" in name:
            values = interleaved_to_half(values, config["num_attention_heads"])
        elif "k_proj" in name:
            values = interleaved_to_half(values, config["num_key_value_heads"])
        tensors[name] = values
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    return config, tensors


def _tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in SPLITS_DIGITS:
        raise UserError(f"{path}: tokenizer {kind}/{cut} is not supported, need gpt2 with {', '.join(SPLITS_DIGITS)}")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS_DIGITS[cut] else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    backend.decoder = decoders.ByteLevel()
    types: list[int] = fields["tokenizer.ggml.token_type"]
    control = [token for token, type in zip(tokens, types, strict=True) if type == CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])

    def token(name: str) -> str | None:
        id = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if id is None else tokens[id]

    return Tokenizer(
        backend,
        bos_token=token("bos"),
        eos_token=token("eos"),
        pad_token=token("padding"),
        chat_template=fields.get("tokenizer.chat_template"),
    )


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"model not found: {path} (need a .gguf file)")
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise UserError("reading GGUF needs the package gguf: pip install 'tenfold[models]'") from error
    return GGUFReader(path)


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """One line for what is wrong with a file; the reader, the tokenizer and torch raise errors of every kind."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except KeyError as error:
        raise UserError(f"{path}: no field or tensor {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a whole GGUF file of a Llama model ({said}); fetch it again") from error


def _fields(reader: Any) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def _config(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    architecture = fields.get("general.architecture")
    if architecture != "llama" or fields.get("llama.expert_count"):
        raise UserError(f"{path}: architecture {architecture} is not supported, need a dense llama")
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise UserError(f"{path}: rope scaling {fields['llama.rope.scaling.type']} is not supported")
    heads, dim = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    head_dim = fields.get("llama.attention.key_length", dim // heads)
    if fields.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{path}: rotation of a part of the head is not supported")
    return {
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": fields["llama.feed_forward_length"],
        # Stored in float32; the shortest decimal that rounds to it is what was meant (1e-5, not 9.99999974e-06).
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.7g}"),
        "rope_theta": fields.get("llama.rope.freq_base", 1e4),
        "max_position_embeddings": fields["llama.context_length"],
    }


def _name(name: str) -> str | None:
    """A tensor's name at Hugging Face; None for one that no plain Llama has."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in NAMES:
        return f"model.layers.{layer[1]}.{NAMES[layer[2]]}.weight"
    stem = name.removesuffix(".weight")
    return f"{NAMES[stem]}.weight" if stem in NAMES else None
