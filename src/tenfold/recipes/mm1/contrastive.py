"""The contrastive stage: emoji with their names and keywords, and how well names find drawings that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core import checkpoint
from tenfold.core.atomic import replacing
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type, is_main
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream
from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.documents import emoji_of
from tenfold.recipes.mm1.network import normalisation, vision_config
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.vision.clip import CLIPModel, TextConfig
from tenfold.vision.contrastive import SIGLIP_BIAS, SIGLIP_INIT
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.interleaved import EmojiNames
from tenfold.vision.retrieval import retrieval
from tenfold.vision.vit import ViT, ViTConfig

TEXT_LENGTH = 24  # tokens of a name or keyword, the end included
ENCODER = "encoder.safetensors"


def train_clip(config: Config, run: Run, seed: int) -> dict[str, Any]:
    """Train both encoders, keep the picture encoder, and measure names against the held-out emoji.

    Returns:
        recalls of name → picture and of picture → picture across drawings, and those of raw pixels.
    """
    stage = f"clip-seed{seed}"
    if run.done(stage):
        found: dict[str, Any] = run.load_stage(stage)
        return found
    train, test = emoji_of(config.data), emoji_of(config.data, "val")
    tokenizer = train_tokenizer([row["name"]["en"] for row in train.rows], 1024)
    pairs, groups = clip_pairs(train, tokenizer)
    processor = make_processor(config)
    pixels = torch.cat([processor(image) for row in train.rows for image in row["images"]])
    model = make_model(config, tokenizer, seed).to(device_type())
    mesh = data_mesh()
    rank, world = batch_coordinate(mesh)
    columns = {"picture": pairs[:, 0], "text": pairs[:, 1], "group": groups}
    state = TrainState(
        model,
        adamw(model, config.clip.lr, weight_decay=0.1),
        Schedule(0.05 * config.clip.steps, config.clip.steps, 0.0),
        ArrayStream(columns, config.clip.batch, seed=seed, rank=rank, world=world),
        seed=seed,
    )
    checkpoint.resume(run, state, name=stage)
    ids = encode_texts(texts_of(train), tokenizer)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, CLIPModel)
        u, v = model(pixels[batch["picture"]].to(device_of(model)), ids[batch["text"]].to(device_of(model)))
        return model.loss(u, v, dedup=batch["group"] if config.clip.dedup else False, gather=world > 1)

    every = Every(config.log_every, save=config.save_every)
    fit(
        state,
        loss,
        steps=config.clip.steps,
        run=run,
        name=stage,
        mesh=mesh,
        every=every,
        after_step=_clamp,
        progress=False,
    )
    row = measure(model, test, tokenizer, processor) | {"seed": seed, "seconds": state.seconds}
    save_encoder(model.vision, run, stage)
    run.save_stage(stage, row)
    return row


def save_encoder(vision: ViT, run: Run, stage: str) -> None:
    """Keep a stage's picture encoder for the cells that start from it."""
    if is_main():
        file = encoder_file(run.path, stage)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as written:
            save_file(dict(vision.state_dict()), written)


def encoder_file(run_path: Path, stage: str) -> Path:
    """Where a stage leaves its picture encoder."""
    return run_path / "models" / stage / ENCODER


def make_model(config: Config, tokenizer: Tokenizer, seed: int) -> CLIPModel:
    """Both encoders at their first step."""
    assert tokenizer.eos_id is not None
    text = TextConfig(tokenizer.vocab_size, max_len=TEXT_LENGTH, eos_id=tokenizer.eos_id)
    model = CLIPModel(encoder_config(config), text, torch.Generator().manual_seed(seed))
    if config.clip.loss == "siglip":  # its loss over CLIP's encoders
        model.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS))
        with torch.no_grad():
            model.log_scale.fill_(SIGLIP_INIT)
    return model


def encoder_config(config: Config) -> ViTConfig:
    """Shape of the picture encoder in its own stage."""
    return replace(vision_config(config.vision), image_size=config.clip.size, patch_size=config.clip.patch)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def texts_of(emoji: EmojiNames) -> list[str]:
    """Every different name and keyword, in order."""
    return list(dict.fromkeys(text for row in emoji.rows for text in (row["name"]["en"], *row["keywords"])))


def clip_pairs(emoji: EmojiNames, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """(picture, text) indices of every drawing with its name and each keyword, and the number of each pair's caption.

    A name stands there as often as all keywords of its drawing together: else a step of 128 pairs has few of them.
    """
    numbers = {text: index for index, text in enumerate(texts_of(emoji))}
    pairs, picture = [], 0
    for row in emoji.rows:
        for _ in row["images"]:
            name = row["name"]["en"]
            others = [text for text in dict.fromkeys(row["keywords"]) if text != name]
            pairs += [(picture, numbers[text]) for text in (*[name] * max(len(others), 1), *others)]
            picture += 1
    table = torch.tensor(pairs)
    return table, table[:, 1].clone()


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    """Names as padded rows with the end token, int64 (texts, TEXT_LENGTH)."""
    assert tokenizer.eos_id is not None and tokenizer.pad_id is not None
    rows = torch.full((len(texts), TEXT_LENGTH), tokenizer.pad_id)
    for row, ids in zip(rows, tokenizer.encode_batch(list(texts)), strict=True):
        kept = [*ids[: TEXT_LENGTH - 1], tokenizer.eos_id]
        row[: len(kept)] = torch.tensor(kept)
    return rows


@torch.no_grad()
def measure(model: CLIPModel, test: EmojiNames, tokenizer: Tokenizer, processor: ImageProcessor) -> dict[str, Any]:
    """Recalls on held-out emoji: their English names among all drawings, and one drawing style among the other."""
    model.eval()
    device = device_of(model)
    drawn = drawings(test, processor)
    vectors = [model.encode_image(pixels.to(device)).cpu() for pixels in drawn]
    names = model.encode_text(encode_texts([row["name"]["en"] for row in test.rows], tokenizer).to(device)).cpu()
    by_name = [retrieval(names, each) for each in vectors]
    found = {f"name_{key}": sum(each[key] for each in by_name) / len(drawn) for key in by_name[0]}
    model.train()
    return found | across_drawings(vectors, drawn) | {"pool": len(test.rows)}


def drawings(emoji: EmojiNames, processor: ImageProcessor) -> list[Tensor]:
    """Pixels of every drawing style, each (emoji, 3, S, S)."""
    styles = min(len(row["images"]) for row in emoji.rows)
    return [torch.cat([processor(row["images"][style]) for row in emoji.rows]) for style in range(styles)]


def across_drawings(vectors: Sequence[Tensor], drawn: Sequence[Tensor]) -> dict[str, float]:
    """How often one drawing of an emoji finds the other, by vectors and by raw pixels with their mean removed."""
    if len(drawn) < 2:
        return {}
    raw = [F.normalize(pixels.flatten(1) - pixels.flatten(1).mean(0), dim=1) for pixels in drawn]
    return {f"picture_{key}": value for key, value in retrieval(vectors[0], vectors[1]).items()} | {
        f"pixels_{key}": value for key, value in retrieval(raw[0], raw[1]).items()
    }


def make_processor(config: Config) -> ImageProcessor:
    """Of the encoder's own stage."""
    mean, std = normalisation(config.vision)
    return ImageProcessor(config.clip.size, mean=mean, std=std)


def _clamp(state: TrainState) -> None:
    assert isinstance(state.model, CLIPModel)
    state.model.clamp_scale()
