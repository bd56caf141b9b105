"""Building the model of a cell: encoder, connector, decoder, tokenizer; optimizers; features that are encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core.optim import Schedule, adamw, adamw_groups
from tenfold.core.packing import PackedRow
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.parallel import parallelize_decoder
from tenfold.nn.moe_config import MoEConfig
from tenfold.recipes.mm1.config import Config, Language, Training, Vision
from tenfold.text.tokenizer import Tokenizer
from tenfold.vision.connectors import build_connector
from tenfold.vision.document_tokens import with_image_token
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_packing import Collate, PackedBatch
from tenfold.vision.positions import interpolate_pos_embed
from tenfold.vision.vit import ViT, ViTConfig

CACHED = 20_000  # pictures whose features are kept


def vision_config(vision: Vision, embed_dim: int = 64) -> ViTConfig:
    """Shape of the picture encoder."""
    return ViTConfig(
        image_size=vision.size,
        patch_size=vision.patch,
        dim=vision.dim,
        layers=vision.layers,
        heads=vision.heads,
        mlp=vision.mlp,
        embed_dim=embed_dim,
        act="gelu",
        kind="clip",
    )


def decoder_config(language: Language, vocabulary: int) -> DecoderConfig:
    """Shape of a small decoder. Each of the two chosen experts is half as wide, so that as many weights are at work."""
    moe = None
    if language.experts:
        moe = MoEConfig(
            language.dim,
            language.ffn // 2,
            language.experts,
            capacity_factor=language.capacity or "auto",
            capacity_multiple=4 if language.capacity else 1,
            dropless=not language.capacity,
            lb_weight=0.01,
            z_weight=0.001,
        )
    head = language.dim // language.heads
    return DecoderConfig(
        vocabulary,
        language.dim,
        language.layers,
        language.heads,
        language.heads,
        head,
        language.ffn,
        rope_base=1e4,
        qk_norm=False,
        max_len=language.max_len,
        moe=moe,
    )


def normalisation(vision: Vision) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1], by channel."""
    return ViTConfig().normalisation if vision.zero == "photos" else ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5))


def make_processor(vision: Vision, tokens: int, *, tiled: bool) -> ImageProcessor:
    """Of the pictures; tiles come in with tuning."""
    mean, std = normalisation(vision)
    return ImageProcessor(
        vision.size, tiles=vision.tiles if tiled and vision.tiles else None, mean=mean, std=std, tokens=tokens
    )


def build(config: Config, tokenizer: Tokenizer | None, seed: int, encoder: Path | None = None) -> MultimodalLM:
    """The model of a cell at its first step.

    Args:
        tokenizer: of a small decoder; a pretrained one brings its own.
        encoder: a file of the contrastive stage's picture encoder, where the cell starts from it.
    """
    generator = torch.Generator().manual_seed(seed)
    language = config.language
    vision = ViT(vision_config(config.vision), generator)
    if encoder is not None:
        load_encoder(vision, encoder)
    if language.base is None:
        assert tokenizer is not None
        lm = Decoder(decoder_config(language, tokenizer.vocab_size), generator)
    else:
        lm, tokenizer = pretrained(language)
    options = {"hidden": config.connector.hidden, "depth": config.connector.depth} if config.connector.name == "cabs" else {}  # fmt: skip
    connector = build_connector(
        config.connector.name,
        config.vision.dim,
        lm.cfg.dim,
        config.connector.tokens,
        config.vision.size // config.vision.patch,
        generator=generator,
        **options,
    )
    lm.requires_grad_(not language.frozen)
    vision.requires_grad_(not config.vision.frozen)
    processor = make_processor(config.vision, config.connector.tokens, tiled=False)
    return MultimodalLM(
        vision, connector, lm, feature_layer=config.vision.layer, tokenizer=tokenizer, processor=processor
    )


def pretrained(language: Language) -> tuple[Decoder, Tokenizer]:
    """A pretrained decoder and its tokenizer with `<image>`."""
    from tenfold.lm.pretrained import find

    assert language.base is not None
    place = find(language.base)
    lm = Decoder.from_pretrained(place, dtype=torch.float32, max_len=language.max_len)
    return lm, with_image_token(Tokenizer.load(place))


def load_encoder(vision: ViT, path: Path) -> None:
    """Weights of the contrastive stage; positions and patches of another size are interpolated."""
    from safetensors.torch import load_file
    from torch.nn import functional as F

    state = load_file(path)
    positions, wanted = state["positions"], vision.cfg.grid
    side = round((len(positions) - 1) ** 0.5)
    state["positions"] = interpolate_pos_embed(positions, (side, side), (wanted, wanted))
    patch = vision.cfg.patch_size
    if state["patch.weight"].shape[-1] != patch:
        state["patch.weight"] = F.interpolate(state["patch.weight"], (patch, patch), mode="bicubic", antialias=True)
    vision.load_state_dict(state)


def parallelize(model: nn.Module, mesh: DeviceMesh) -> None:
    """The decoder's experts and tensors over the mesh; encoder and connector stay whole."""
    assert isinstance(model, MultimodalLM)
    parallelize_decoder(model.lm, mesh)


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW or Adafactor; see `Training.weight_decay` for the decay."""
    # torch's AdamW takes lr · weight_decay · w off: with λ/η it is λ · w, with λ it is η · λ · w.
    decay = training.weight_decay if training.wd == "absolute" else training.weight_decay * training.lr
    if training.optimizer == "adafactor":
        return torch.optim.Adafactor(adamw_groups(model, decay), lr=training.lr)
    return adamw(model, training.lr, weight_decay=decay)


def build_schedule(training: Training) -> Schedule:
    """Warm-up, then a cosine."""
    return Schedule(min(training.warmup, training.steps), training.steps, training.final)


class EncodedOnce(Collate):
    """Batches that hold features of a frozen encoder in place of pixels; those of a picture are computed once."""

    def __init__(self, collate: Collate, vision: ViT, layer: int) -> None:
        super().__init__(collate.special, _Counting(collate.processor, vision, layer), collate.tokens)  # type: ignore[arg-type]

    def __call__(self, rows: Sequence[PackedRow]) -> PackedBatch:
        return super().__call__(rows)


class _Counting:
    """Stands in for an image processor: gives features (C, n, D) of a picture."""

    def __init__(self, processor: ImageProcessor, vision: ViT, layer: int) -> None:
        self.processor, self.vision, self.layer = processor, vision, layer
        self.size, self.tokens = processor.size, processor.tokens
        self.kept: OrderedDict[str, Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(self, picture: Any, *, tiled: bool = True) -> Tensor:
        key = f"{tiled}{picture!r}"
        if key not in self.kept:
            pixels = self.processor(picture, tiled=tiled).to(self.vision.positions.device)
            self.kept[key] = self.vision(pixels, self.layer).cpu()
            if len(self.kept) > CACHED:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]
