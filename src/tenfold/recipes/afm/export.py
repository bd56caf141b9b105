"""A model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tenfold.compress.palettize import materialize
from tenfold.core.errors import UserError
from tenfold.lm.gguf_write import write_gguf
from tenfold.lm.pretrained import find
from tenfold.nn.lora import merge
from tenfold.recipes.afm.opening import open_model, with_adapters


def export(
    model: str,
    out: Path,
    /,
    dtype: Literal["f32", "f16", "q8_0"] = "f16",
    name: str | None = None,
    adapter: str | None = None,
) -> None:
    """Write a model as one GGUF file, weights and tokenizer, for llama.cpp, transformers and others.

    Args:
        model: as for `chat`.
        out: the file; its name ends in .gguf.
        dtype: of the matrices; q8_0 is eight bits a weight in blocks of 32.
        name: of the model in the file; none: the folder's.
        adapter: folder of an adapter to merge into the weights.
    """
    if out.suffix != ".gguf":
        raise UserError(f"out: got {out}, need a name that ends in .gguf")
    decoder, tokenizer = open_model(model)
    materialize(decoder)  # of a palettized model the same numbers, dense
    if adapter is not None:
        with_adapters(decoder, [f"merged={adapter}"])
        merge(decoder, "merged")
    write_gguf(decoder, tokenizer, out, dtype=dtype, name=name or find(model).stem)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
