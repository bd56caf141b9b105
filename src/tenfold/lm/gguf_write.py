"""Llama and Qwen3 decoders written as GGUF files, which llama.cpp, transformers and our own reader open."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from tenfold.core.atomic import replacing
from tenfold.core.errors import UserError, is_disk_full
from tenfold.lm.config_json import model_type
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.formats import plain_state, to_hf
from tenfold.lm.gguf import attention_heads, gguf_name
from tenfold.lm.gguf_tokenizer import tokenizer_to_fields
from tenfold.nn.rotary import half_to_interleaved
from tenfold.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

GGUFType = Literal["f32", "f16", "q8_0"]
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama.cpp's numbers of what most matrices are stored in
BLOCK = 32  # values of a row that share a scale in q8_0
MOST_F16 = 65504.0


def write_gguf(
    model: Decoder, tokenizer: Tokenizer, path: str | Path, *, dtype: GGUFType = "f32", name: str | None = None
) -> None:
    """Write a decoder and its tokenizer to one GGUF file, tensor by tensor.

    `Decoder.from_pretrained` and `read_gguf_tokenizer` give both back: the tokenizer exactly, float32 weights bit by
    bit (dropout is not kept, and the half rotary layout takes the place of the interleaved one). Other readers:

    - Byte-level vocabularies (GPT-2, SmolLM2, Qwen2, Llama 3) come out the same in llama.cpp and transformers, but for
      a Unicode normalisation, which GGUF cannot say.
    - Byte-fallback vocabularies of `train_tokenizer` get the tokenizer model gemma4, the only one of both readers that
      merges by rank, falls back to bytes and puts no space in front (in llama.cpp since April 2026, which then starts
      every text with the bos token). Neither cuts text into words, so a run of blanks with a line end or tab in it, or
      before a word that does not merge with its space, may fall into other tokens of the same text; and U+2581 reads
      as a space. Readers of the field tokenizer.huggingface.json cut as we do.

    Args:
        model: dense, without a norm after the rotation; the weights may lie on any device.
        tokenizer: no more tokens than the embedding has rows; rows beyond are named and never used.
        path: ends in .gguf; an older file stays until the new one stands whole.
        dtype: f32; f16; q8_0, 8-bit numbers with one scale in 32 (matrices whose rows do not divide into 32 are
            f16). Norm weights are f32 always.
        name: of the model, as readers show it; None takes the file's.
    Raises:
        UserError: a model or tokenizer that GGUF cannot say, a weight that float16 cannot hold, a full disk, the
            package gguf not installed.
        ValueError: another ending or dtype, weights spread over processes.
    """
    path = Path(path)
    if path.suffix != ".gguf":
        raise ValueError(f"path: got {path.name}, need a name that ends in .gguf")
    if dtype not in get_args(GGUFType):
        raise ValueError(f"dtype: got {dtype!r}, need one of {', '.join(get_args(GGUFType))}")
    architecture = _architecture(model.cfg)
    fields = _fields(model.cfg, architecture) | tokenizer_to_fields(tokenizer, model.cfg.vocab_size)
    fields |= {"general.name": name or path.stem, "general.file_type": FILE_TYPES[dtype]}
    try:
        from gguf import GGUFWriter
    except ModuleNotFoundError as error:
        raise UserError("writing GGUF needs the package gguf: pip install 'tenfold[models]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with _full_disk_named(path), replacing(path) as temporary, closing(GGUFWriter(temporary, architecture)) as writer:
        for key, value in fields.items():
            _add(writer, key, value)
        _write_tensors(writer, model, dtype, turned=architecture == "llama")


def _architecture(cfg: DecoderConfig) -> str:
    kind = model_type(cfg)
    if cfg.moe is not None:
        raise UserError("model: mixture-of-experts layers are not written to GGUF; save a folder instead")
    if kind not in ("llama", "qwen3"):
        raise UserError("model: GGUF has no word for a norm after the rotation (qk_norm_position post_rope)")
    return kind


def _fields(cfg: DecoderConfig, architecture: str) -> dict[str, Any]:
    values = {
        "context_length": cfg.max_len,
        "embedding_length": cfg.dim,
        "block_count": cfg.n_layers,
        "feed_forward_length": cfg.ffn_dim,
        "attention.head_count": cfg.n_heads,
        "attention.head_count_kv": cfg.n_kv_heads,
        "attention.key_length": cfg.head_dim,
        "attention.value_length": cfg.head_dim,
        "attention.layer_norm_rms_epsilon": float(cfg.norm_eps),
        "rope.dimension_count": cfg.head_dim,
        "rope.freq_base": float(cfg.rope_base),
    }
    fields: dict[str, Any] = {f"{architecture}.{key}": value for key, value in values.items()}
    # transformers takes a head of 128 for Qwen3 whatever the file says, but looks at the keys of other families too.
    return fields | {"llama.rope.dimension_count": cfg.head_dim}


def _add(writer: Any, key: str, value: Any) -> None:
    add = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    add[type(value)](key, value)


def _write_tensors(writer: Any, model: Decoder, dtype: GGUFType, *, turned: bool) -> None:
    """Names, shapes and types first, then the values one tensor at a time: only one is in memory twice."""
    from gguf.quants import quant_shape_to_byte_shape, quantize

    state = plain_state(model)
    types = {name: _stored(tensor.shape, dtype) for name, tensor in state.items()}
    for name, tensor in state.items():
        (hf_name,) = to_hf({name: tensor}, model.cfg)
        size = math.prod(quant_shape_to_byte_shape(tensor.shape, types[name]))
        writer.add_tensor_info(gguf_name(hf_name), tensor.shape, np.dtype(np.float32), size, types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in state.items():
        ((hf_name, values),) = to_hf({name: tensor}, model.cfg).items()
        # A Llama's neighbouring features turn in llama.cpp, a Qwen3's halves.
        if turned and (heads := attention_heads(hf_name, model.cfg.n_heads, model.cfg.n_kv_heads)):
            values = half_to_interleaved(values, heads)
        values = values.detach().to("cpu", torch.float32)
        if types[name].name != "F32" and not (most := float(values.abs().max())) <= MOST_F16:
            raise UserError(f"model: {name} holds {most:g}, need at most {MOST_F16:g} for dtype {dtype}; write f32")
        writer.write_tensor_data(quantize(values.contiguous().numpy(), types[name]))


def _stored(shape: Sequence[int], dtype: GGUFType) -> GGMLQuantizationType:
    from gguf import GGMLQuantizationType

    if dtype == "f32" or len(shape) == 1:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.Q8_0 if dtype == "q8_0" and shape[-1] % BLOCK == 0 else GGMLQuantizationType.F16


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """One line for a full disk; numpy's own writer says only how much was not written, with no number of an error."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error) or error.errno is None:
            raise UserError(f"disk full while writing {path}: free some space, then write it again") from error
        raise
