"""Palettization of a decoder: matrices by look-up tables, the embedding in bytes, norms in 16 bits; and its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn

from tenfold.compress.bit_packing import WIDTHS
from tenfold.compress.block_numbers import BLOCK_WIDTHS
from tenfold.compress.palette_linear import (
    TABLE_TYPE,
    Int8Embedding,
    Int8Linear,
    Int8Rows,
    PaletteLinear,
    PaletteMethod,
    stored_bits,
)
from tenfold.core.model_folder import listed
from tenfold.lm.decoder import Decoder
from tenfold.nn.linear import Linear
from tenfold.nn.lora_layer import LoraLinear

OUTER = ("embed_tokens", "lm_head")  # what `embeddings` counts


@dataclass(frozen=True)
class PaletteConfig:
    """How a decoder is palettized.

    Args:
        bits: of an index: a table of a projection has 2^bits values. One of 1, 2, 3, 4, 6, 8.
        group: rows or columns of a matrix that share a table; the last group of a matrix may be smaller.
        axis: 0 groups rows (outputs), 1 columns (inputs).
        block: numbers of a row (axis 0) or column (axis 1) that share a scale beside the tables; 0: one scale for the whole
            of it; None: no scales.
        block_bits: of such a scale: 16, or 4, 6, 8 against a 16-bit step of the row or column.
        offsets: blocks also have an offset, of as many bits.
        embedding_bits: 8 keeps the embedding, and an output layer that is not tied to it, as signed bytes with a step a
            row; 16 leaves them to float16.
        target_bpw: stored bits a weight, embeddings included, that `bit_budget` brings the projections down to; None
            gives every projection `bits`.
        activation_bits: 8 rounds the inputs of the projections, token by token; 16 leaves them.
        method: "kmeans" for the tables of least squared error, "uniform" for equal steps: round to nearest.
        bins: None solves k-means exactly; a number, 4096 say, takes a histogram of so many bins, 20 times as fast.
    """

    bits: int = 4
    group: int = 16
    axis: int = 0
    block: int | None = None
    block_bits: int = 16
    offsets: bool = False
    embedding_bits: int = 8
    target_bpw: float | None = None
    activation_bits: int = 16
    method: PaletteMethod = "kmeans"
    bins: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("bits", WIDTHS),
            ("axis", (0, 1)),
            ("block_bits", BLOCK_WIDTHS),
            ("embedding_bits", (8, 16)),
            ("activation_bits", (8, 16)),
            ("method", get_args(PaletteMethod)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(map(str, choices))}")
        if self.group < 1:
            raise ValueError(f"group: got {self.group}, need at least 1")
        if self.block is not None and self.block < 0:
            raise ValueError(f"block: got {self.block}, need 0 (all of a line), or more")
        if self.block is None and (self.offsets or self.block_bits != 16):
            raise ValueError("block: got None with offsets or block_bits, which are of blocks; give a block, say 32")
        if self.bins is not None and self.bins < 1 << self.bits:
            raise ValueError(f"bins: got {self.bins}, need at least {1 << self.bits} (2^bits)")


@torch.no_grad()
def palettize(
    model: Decoder,
    config: PaletteConfig = PaletteConfig(),
    *,
    bits: Mapping[str, int] | None = None,
    importance: Mapping[str, Tensor] | None = None,
) -> Decoder:
    """Put look-up tables in the place of a decoder's projections, in place, and freeze all its weights.

    Queries, keys, values, output, gate, up and down projections get tables; the embedding, and an output layer of its
    own, become bytes; norms, which stay as they are, are rounded to float16, as files hold them.

    Args:
        model: a dense decoder of plain layers, on one process.
        config: how.
        bits: of each projection, by its name, as `bit_budget` gives them; None takes config.bits for all.
        importance: of each input of each projection, (I,), as `calibration.input_squares` gives them: an error of its
            weights counts so much for k-means; None: all count alike.
    Returns:
        the model; it generates, scores and takes adapters (`nn.lora`) as before.
    Raises:
        ValueError: a model with experts or adapters, palettized already, or with weights that float16 cannot hold; bits that
            do not name every projection; a target without bits.
    Source: Gunter et al. 2024, arXiv 2407.21075, section 5.
    """
    layers = projections(model)
    if bits is None and config.target_bpw is not None:
        raise ValueError(f"target_bpw: got {config.target_bpw} without bits; choose them with compress.bit_budget")
    bits = dict.fromkeys(layers, config.bits) if bits is None else bits
    if set(bits) != set(layers) or not set(bits.values()) <= set(WIDTHS):
        raise ValueError(f"bits: got {len(bits)} layers, need each of the {len(layers)} projections, of {WIDTHS}")
    if odd := [name for name, weight in model.named_parameters() if not bool(weight.to(TABLE_TYPE).isfinite().all())]:
        raise ValueError(f"model: weights that are not finite in 16 bits: {listed(odd)}")
    for name, layer in layers.items():
        counts = None if importance is None else importance[name]
        model.set_submodule(name, palettized(layer, config, bits[name], counts))
    if config.embedding_bits == 8:
        model.set_submodule("embed_tokens", Int8Embedding.from_embedding(model.embed_tokens))
        if model.lm_head is not None:
            model.set_submodule("lm_head", Int8Linear.from_linear(model.lm_head))
    for weight in model.parameters():
        weight.copy_(weight.to(TABLE_TYPE))
    return model.requires_grad_(False)


def palettized(layer: nn.Linear, config: PaletteConfig, bits: int, importance: Tensor | None = None) -> PaletteLinear:
    """One projection in so many bits."""
    return PaletteLinear.from_linear(
        layer,
        bits=bits,
        group=config.group,
        axis=config.axis,
        block=config.block,
        block_bits=config.block_bits,
        offsets=config.offsets,
        method=config.method,
        bins=config.bins,
        importance=importance,
        activation_bits=config.activation_bits,
    )


def projections(model: Decoder) -> dict[str, nn.Linear]:
    """The matrices that palettization takes, by name.

    Raises:
        ValueError: a model with experts or adapters, or palettized already.
    """
    if model.cfg.moe is not None:
        raise ValueError("model: has experts; palettization takes decoders whose feed-forward layers are all dense")
    for module in model.modules():
        if isinstance(module, PaletteLinear | Int8Rows):
            raise ValueError("model: is palettized already; take the dense one")
        if isinstance(module, LoraLinear):
            raise ValueError("model: has adapters; merge or unload them first, and add them again afterwards")
    return {f"layers.{name}": layer for name, layer in model.layers.named_modules() if isinstance(layer, nn.Linear)}


@torch.no_grad()
def materialize(model: Decoder) -> Decoder:
    """Put dense layers of the same numbers in the place of tables and bytes, in place: more memory, less time a token."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PaletteLinear | Int8Linear):
            weight = module.weight
            dense: nn.Module = Linear(weight.shape[1], weight.shape[0], generator=torch.Generator())
            cast(Linear, dense).weight = weight
        elif isinstance(module, Int8Embedding):
            weight = module.weight
            dense = nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight)
        else:
            continue
        model.set_submodule(name, dense)
    return model.requires_grad_(False)


def bits_per_weight(model: Decoder, embeddings: bool = True) -> float:
    """Stored bits, tables and steps included, over the number of weights; adapters do not count.

    Args:
        model: palettized; a weight that is not counts 16.
        embeddings: count the embedding, and an output layer that is not tied to it, too.
    """
    stored = weights = 0
    for name, module in model.named_modules():
        if (name in OUTER and not embeddings) or isinstance(module, nn.ParameterDict):  # which holds adapters
            continue
        if isinstance(module, PaletteLinear):
            shape = module.out_features, module.in_features
            stored += stored_bits(
                *shape,
                module.bits,
                module.group,
                module.axis,
                module.block,
                block_bits=module.block_bits,
                offsets=module.offsets is not None,
            )
            weights += shape[0] * shape[1]
        elif isinstance(module, Int8Rows):
            stored += 8 * module.codes.numel() + 32 * module.steps.numel()
            weights += module.codes.numel()
        for weight in module.parameters(recurse=False):
            stored += 16 * weight.numel()
            weights += weight.numel()
    return stored / weights


def planned_bits_per_weight(model: Decoder, config: PaletteConfig, bits: Mapping[str, int]) -> float:
    """What `bits_per_weight` will be after `palettize(model, config, bits=bits)`; the model may lie on the meta device."""
    layers = projections(model)
    stored = 0
    for name, layer in layers.items():
        stored += stored_bits(
            layer.out_features,
            layer.in_features,
            bits[name],
            config.group,
            config.axis,
            config.block,
            block_bits=config.block_bits,
            offsets=config.offsets,
        )
    inner = sum(layer.weight.numel() for layer in layers.values())
    outer = [getattr(model, name).weight for name in OUTER if getattr(model, name) is not None]
    for weight in outer if config.embedding_bits == 8 else ():
        stored += 8 * weight.numel() + 32 * len(weight)
        inner += weight.numel()
    total = sum(weight.numel() for weight in model.parameters())
    return (stored + 16 * (total - inner)) / total
