"""What models are trained on and asked for: captioned pictures in the model's space, and captions as the model reads them."""

# Shape legend: N pictures, T captions, L text tokens, D text width, c channels, H W sides

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.config import read_object
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type, is_main
from tenfold.diffusion import codec as codecs
from tenfold.diffusion.autoencoder import train_autoencoder
from tenfold.diffusion.codec import Codec, PixelCodec
from tenfold.lm import pretrained
from tenfold.recipes.ec_dit.config import Data
from tenfold.text.encoders import HFTextEncoder, WordEncoder
from tenfold.text.words import normalised_words
from tenfold.vision.emoji import read_emoji
from tenfold.vision.geneval import read_metadata
from tenfold.vision.image_text import ImageTextSet, open_image_text
from tenfold.vision.shapes import evaluate, render, sample_scene
from tenfold.vision.shapes_world import PALETTE, SIZE

CODEC = "codec"  # folder of an autoencoder that was trained here
CODEC_CHANNELS, CODEC_FACTOR = 4, 4
HELD_OUT = 512  # pictures of the shapes world that the validation loss is taken on
ASKED = 64  # captions of the user's own that are asked for
DECODED = 1000  # pictures of the user's own that are decoded before there is a run


@dataclass(frozen=True)
class Pictures:
    """Pictures with their captions.

    Args:
        images: (N, c, H, W) in the model's space; pixels as uint8, latents as float32.
        caption: int64 (N,), rows of the captions.
    """

    images: Tensor
    caption: Tensor

    def __len__(self) -> int:
        return len(self.caption)


@dataclass(frozen=True)
class Corpus:
    """Everything that a training and its evaluation read.

    Args:
        train: trained on.
        held_out: of captions never trained on, or of pictures never trained on.
        captions: all of them; the first is "", which stands in for dropped ones.
        text: what the model reads of them: word ids (T, L) for an encoder that is trained, or frozen states (T, L, D).
        text_mask: bool (T, L).
        asked: what is asked for in the evaluation, a row each with "prompt" and, for shapes, GenEval's conditions.
        note: what the data are, one sentence.
        floor: of shapes: what pictures of other training prompts score on what is asked, by task and "overall".
        codec_folder: the autoencoder behind the model's space; None for pixels.
    """

    train: Pictures
    held_out: Pictures
    captions: list[str]
    text: Tensor
    text_mask: Tensor
    asked: list[dict[str, Any]]
    note: str
    floor: dict[str, float]
    codec_folder: Path | None

    @property
    def frozen_text(self) -> bool:
        """Whether `text` are states already."""
        return self.text.ndim == 3

    def number(self, caption: str) -> int:
        """Row of a caption."""
        return self.captions.index(caption)


def to_model(images: Tensor) -> Tensor:
    """Stored pictures to the model's space: bytes to [-1, 1], latents as they are."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Pictures (N, 3, H, W) in [-1, 1] to RGB bytes (N, H, W, 3)."""
    bytes_ = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    result: NDArray[np.uint8] = bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return result


def open_codec(folder: Path | None) -> Codec:
    """The autoencoder of a folder; None is pixels."""
    return PixelCodec() if folder is None else codecs.open_codec(folder, device=device_type())


def codec_shape(data: Data) -> tuple[int, int]:
    """Channels of the model's space, and pixels a side of one of its cells."""
    if data.codec_steps:
        return CODEC_CHANNELS, CODEC_FACTOR
    codec = open_codec(data.codec_folder)
    return codec.channels, codec.factor


def find_encoder(data: Data) -> HFTextEncoder:
    """The frozen text encoder of a config."""
    if data.text == "minilm":
        return HFTextEncoder(pretrained.path("all-minilm-l6-v2"), "bert", data.text_length, device=device_type())
    assert data.text_folder is not None and data.text != "words"
    return HFTextEncoder(data.text_folder, data.text, data.text_length, device=device_type())


def find_pictures(data: Data, side: int) -> None:
    """See whether the pictures of a config are there and have the model's size, without drawing or decoding them all.

    Raises:
        UserError: they do not.
    """
    if data.source == "files":
        assert data.path is not None
        if len(pictures := open_image_text(data.path, side)) < 2:
            raise UserError(f"{data.path}: got {len(pictures)} picture, need at least 2, one of them to hold out")
        _refuse_silent(data, pictures)
        return
    own, name = (SIZE, "the shapes world") if data.source == "shapes" else (read_emoji().side, "the emoji")
    if side != own:
        raise UserError(f"--model.image-size: got {side} pixels, need {own} for {name}")
    for part in ("train", "val") if data.source == "shapes" else ():
        data_path(f"shapes_{part}")


def _refuse_silent(data: Data, pictures: ImageTextSet) -> None:
    """UserError where a caption says nothing to the text encoder."""
    silent = [
        place
        for place, caption in zip(pictures.places, pictures.captions, strict=True)
        if not (normalised_words(caption) if data.text == "words" else caption)
    ]
    if silent:
        more = f", and of {len(silent) - 1} more" if len(silent) > 1 else ""
        raise UserError(f"{silent[0]}: the caption of this picture{more} has no words; write one, or take it out")


def try_pictures(data: Data, side: int) -> None:
    """Decode the first thousand of the user's own pictures, so that a broken one is found before there is a run.

    Raises:
        UserError: one that cannot be read; its file is named.
    """
    if data.source == "files":
        assert data.path is not None
        for _ in open_image_text(data.path, side)[:DECODED]:
            pass


@dataclass(frozen=True)
class _Drawn:
    """Captioned pictures before they are encoded: RGB bytes (N, H, W, 3)."""

    images: NDArray[np.uint8]
    captions: list[str]


def write_corpus(data: Data, side: int, folder: Path) -> None:
    """Gather the pictures, encode them and their captions once, and keep both.

    Args:
        data: which.
        side: of the model's images.
        folder: gets pictures.safetensors and corpus.json.
    Raises:
        UserError: data that are absent or cannot be used.
    """
    _, factor = codec_shape(data)
    make = {"shapes": _shapes, "emoji": _emoji, "files": _files}[data.source]
    train, held_out, asked, note = make(data, side * factor)
    captions = list(dict.fromkeys(["", *train.captions, *held_out.captions, *(row["prompt"] for row in asked)]))
    row = {caption: number for number, caption in enumerate(captions)}
    folder.mkdir(parents=True, exist_ok=True)
    codec_folder = _own_codec(data, train.images, folder)
    codec = open_codec(codec_folder)
    tensors = {}
    for name, part in (("train", train), ("held_out", held_out)):
        tensors[f"{name}.images"] = _encoded(part.images, codec)
        tensors[f"{name}.caption"] = torch.tensor([row[caption] for caption in part.captions])
    if data.text == "words":
        read = [" ".join(normalised_words(caption)[: data.text_length]) for caption in captions]
        reader = WordEncoder(read, 4, 0, max_length=data.text_length)
        tensors["text"], tensors["text_mask"] = reader.tokenize(read)
    else:
        tensors["text"], tensors["text_mask"] = _states(find_encoder(data), captions)
    with replacing(folder / "pictures.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    place = None if codec_folder is None else CODEC if data.codec_steps else str(codec_folder.absolute())
    about: dict[str, Any] = {"captions": captions, "asked": asked, "note": note, "codec": place}
    about["floor"] = shapes_floor(asked, data.seed) if data.source == "shapes" else {}
    write_atomic(folder / "corpus.json", json.dumps(about, ensure_ascii=False))


def open_corpus(folder: Path) -> Corpus:
    """What `write_corpus` wrote.

    Raises:
        UserError: its files are gone or damaged.
    """
    try:
        about = read_object(folder / "corpus.json", captions=list, asked=list, note=str)
        tensors = load_file(folder / "pictures.safetensors")
    except (OSError, SafetensorError, UserError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{folder}: the run's pictures are gone or damaged ({said}); start a new run") from error
    train, held_out = (Pictures(tensors[f"{n}.images"], tensors[f"{n}.caption"]) for n in ("train", "held_out"))
    captions, asked, note = (about[name] for name in ("captions", "asked", "note"))
    codec = None if about.get("codec") is None else folder / str(about["codec"])
    floor = about.get("floor", {})
    return Corpus(train, held_out, captions, tensors["text"], tensors["text_mask"], asked, note, floor, codec)


def _own_codec(data: Data, images: NDArray[np.uint8], folder: Path) -> Path | None:
    """The folder of the autoencoder; trained on the pictures first, where that was asked for."""
    if not data.codec_steps:
        return data.codec_folder
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    with Progress(disable=not is_main()) as progress:
        bar = progress.add_task("autoencoder", total=data.codec_steps)
        train_autoencoder(
            pictures,
            folder / CODEC,
            steps=data.codec_steps,
            seed=data.seed,
            device=device_type(),
            after_step=lambda step, _: progress.update(bar, completed=step),
        )
    return folder / CODEC


def _encoded(images: NDArray[np.uint8], codec: Codec) -> Tensor:
    """Pictures (N, H, W, 3) as they are stored: bytes (N, 3, H, W), or latents."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if isinstance(codec, PixelCodec):
        return pictures
    parts = [codec.encode(to_model(part).to(device_type())).cpu() for part in pictures.split(64)]
    return torch.cat(parts)


def _states(encoder: HFTextEncoder, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Frozen states (T, L, D) and mask (T, L) of captions, cut to the longest of them."""
    parts = [encoder.encode(captions[start : start + 256]) for start in range(0, len(captions), 256)]
    length = max(int(mask.sum(1).max()) for _, mask in parts)
    states = torch.zeros(len(captions), length, encoder.dim)
    masks = torch.zeros(len(captions), length, dtype=torch.bool)
    start = 0
    for part, mask in parts:
        rows, columns = slice(start, start + len(part)), slice(min(length, part.shape[1]))
        states[rows, columns], masks[rows, columns] = part[:, columns].cpu(), mask[:, columns].cpu()
        start += len(part)
    return states, masks


def _shapes(data: Data, _: int) -> tuple[_Drawn, _Drawn, list[dict[str, Any]], str]:
    train, asked = (read_metadata(data_path(f"shapes_{part}")) for part in ("train", "val"))
    rng = np.random.default_rng([data.seed, 0])
    drawn = _draw([row for row in train for _ in range(data.per_prompt)], rng)
    held_out = _draw([asked[i % len(asked)] for i in range(HELD_OUT)], np.random.default_rng([data.seed, 1]))
    note = (
        f"shapes world: {len(drawn.captions)} pictures of {len(train)} prompts, drawn by an exact simulator; "
        f"{len(asked)} other prompts are asked for"
    )
    return drawn, held_out, asked, note


def shapes_floor(asked: Sequence[dict[str, Any]], seed: int = 0, others: int = 20) -> dict[str, float]:
    """The share of pictures of another training prompt that pass for what is asked: what knowing nothing scores.

    Args:
        asked: prompts in GenEval's form.
        seed: of the choice and of the pictures.
        others: pictures drawn for each; a task is drawn first, then one of its training prompts.
    Returns:
        rates by task, and "overall", their mean.
    """
    rng = np.random.default_rng([seed, 2])
    train = read_metadata(data_path("shapes_train"))
    tags = list(dict.fromkeys(row["tag"] for row in train))
    by_tag = {tag: [row for row in train if row["tag"] == tag] for tag in tags}
    hits: dict[str, list[bool]] = {}
    for row in asked:
        for _ in range(others):
            rows = [each for each in by_tag[tags[rng.integers(len(tags))]] if each["prompt"] != row["prompt"]]
            picture = render(sample_scene(rows[rng.integers(len(rows))], rng))
            hits.setdefault(row["tag"], []).append(evaluate(picture, row).correct)
    rates = {tag: float(np.mean(each)) for tag, each in hits.items()}
    return {**rates, "overall": float(np.mean(list(rates.values())))}


def _draw(rows: Sequence[dict[str, Any]], rng: np.random.Generator) -> _Drawn:
    return _Drawn(np.stack([render(sample_scene(row, rng)) for row in rows]), [row["prompt"] for row in rows])


def _emoji(_: Data, __: int) -> tuple[_Drawn, _Drawn, list[dict[str, Any]], str]:
    emoji = read_emoji()
    train = _Drawn(*emoji.gather(emoji.drawings("train"), colours=(None, *PALETTE)))
    drawings = emoji.drawings("heldout")
    held_out = _Drawn(*emoji.gather(drawings))
    asked = [{"prompt": emoji.caption(drawing), "row": drawing.row, "style": drawing.style} for drawing in drawings]
    note = (
        f"emoji: {len(emoji)} names in two styles, on white and on {len(PALETTE)} colours; {len(drawings)} pairs of a "
        "style and a name are never trained on and asked for"
    )
    return train, held_out, asked, note


def _files(data: Data, side: int) -> tuple[_Drawn, _Drawn, list[dict[str, Any]], str]:
    """The user's pictures; every twentieth is held out, and the captions of these are asked for."""
    assert data.path is not None
    pictures = open_image_text(data.path, side)
    every = min(20, len(pictures))
    parts = []
    for keep in (False, True):
        chosen = [i for i in range(len(pictures)) if (i % every == every - 1) == keep]
        items = [pictures[i] for i in chosen]
        parts.append(_Drawn(np.stack([item.image for item in items]), [item.caption for item in items]))
    train, held_out = parts
    asked = [{"prompt": caption} for caption in dict.fromkeys(held_out.captions)][:ASKED]
    return train, held_out, asked, f"{data.path}: {len(train.captions)} pictures, {len(held_out.captions)} held out"
