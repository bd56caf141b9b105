"""Opening a model for use or further training: a run of a verb, a folder, palettized or not, a file, or a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tenfold.compress.compressed_folder import KIND, load_palettized
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.lm.decoder import Decoder
from tenfold.lm.gguf import read_gguf_tokenizer
from tenfold.lm.pretrained import find
from tenfold.nn import lora
from tenfold.nn.lora_layer import activate
from tenfold.text.tokenizer import Tokenizer

MODEL = "model"  # folder in the run of a verb
ADAPTERS, RECOVERY = "adapters", "recovery"  # folder in a model's, and the adapter in it that belongs to the model


def place_of(model: str) -> Path:
    """Where a model lies; of a verb's run folder the model in it.

    Raises:
        UserError: nothing of that name, or an unfinished run.
    """
    if not model:
        raise UserError(
            "model: name a folder such as RUN/models/NAME, the run of a verb, or one of `tenfold models list`"
        )
    found = find(model)
    if (found / "run.json").is_file():
        if not (found / MODEL / CONFIG).is_file():
            raise UserError(
                f"{found}: has no finished model in {MODEL}/; name one of its folders, or go on with the run"
            )
        return found / MODEL
    return found


def open_model(model: str, materialize: bool = False) -> tuple[Decoder, Tokenizer]:
    """A decoder in float32 and its tokenizer.

    Args:
        model: a folder, the run of a verb, a file, or a name.
        materialize: look the matrices of a palettized one up now and keep them, instead of at every product.
    Raises:
        UserError: missing or damaged files, a tokenizer with more ids than the model.
    """
    place = place_of(model)
    if is_palettized(place):
        decoder = load_palettized(place, materialize_weights=materialize)
    else:
        decoder = Decoder.from_pretrained(place, dtype=torch.float32)
    tokenizer = read_gguf_tokenizer(place) if place.suffix == ".gguf" else Tokenizer.load(place)
    if tokenizer.vocab_size > decoder.cfg.vocab_size:
        raise UserError(f"{place}: its tokenizer has {tokenizer.vocab_size} ids, the model {decoder.cfg.vocab_size}")
    return decoder, tokenizer


def open_dense(model: str, what: str) -> tuple[Decoder, Tokenizer]:
    """`open_model` of one whose weights can learn; `what` opens the message otherwise."""
    place = place_of(model)
    if is_palettized(place):
        raise UserError(
            f"{what}: {place} is palettized, its weights do not learn; train an adapter (tenfold afm adapter)"
        )
    return open_model(model)


def is_palettized(place: Path) -> bool:
    """Whether a folder is of `save_palettized`."""
    config = place / CONFIG
    if not config.is_file():
        return False
    stated = read_object(config).get("quantization_config")
    return isinstance(stated, dict) and stated.get("quant_method") == KIND


def recovery_of(model: str) -> Path | None:
    """The recovery adapter of a compressed model, where it has one."""
    inside = place_of(model) / ADAPTERS / RECOVERY
    return inside if inside.is_dir() else None


def with_adapters(decoder: Decoder, given: Sequence[str]) -> list[str]:
    """Load adapters, "FOLDER" or "NAME=FOLDER", into a decoder; none works until asked for.

    Returns:
        their names.
    Raises:
        UserError: a name twice, a folder that is not an adapter of this model.
    """
    names = []
    for each in given:
        name, equals, folder = each.partition("=")
        if not equals:
            name, folder = Path(each).name, each
        if name in names:
            raise UserError(f"adapters: {name!r} is given twice; write NAME=FOLDER")
        try:
            lora.load(decoder, folder, name)
        except ValueError as error:
            raise UserError(f"adapter {folder}: {error}") from None
        names.append(name)
    if names:
        activate(decoder, None)
    return names
