"""A model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder
from tenfold.lm.gguf import read_gguf_tokenizer
from tenfold.lm.gguf_write import write_gguf
from tenfold.lm.pretrained import find
from tenfold.text.tokenizer import Tokenizer


def export(model: str, out: Path, /, dtype: Literal["f32", "f16", "q8_0"] = "f16", name: str | None = None) -> None:
    """Write a model as one GGUF file, weights and tokenizer, for llama.cpp, transformers and others.

    Args:
        model: as for `chat`.
        out: the file; its name ends in .gguf.
        dtype: of the matrices; q8_0 is eight bits a weight in blocks of 32.
        name: of the model in the file; none: the folder's.
    """
    if out.suffix != ".gguf":
        raise UserError(f"out: got {out}, need a name that ends in .gguf")
    place = find(model)
    decoder = Decoder.from_pretrained(place, dtype=torch.float32)
    tokenizer = read_gguf_tokenizer(place) if place.suffix == ".gguf" else Tokenizer.load(place)
    write_gguf(decoder, tokenizer, out, dtype=dtype, name=name or place.stem)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
