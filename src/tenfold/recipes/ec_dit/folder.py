"""A trained model as a folder that the verbs open: the denoiser, its word encoder, and how text and pictures are coded.

denoiser/config.json, denoiser/model.safetensors; words/ and codec/ where these were trained; pipeline.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.model_folder import check_finite
from tenfold.diffusion.codec import Codec
from tenfold.diffusion.transformer import ECDiT
from tenfold.recipes.ec_dit.config import Config, Data, Sampling
from tenfold.recipes.ec_dit.network import TextToImage
from tenfold.recipes.ec_dit.pictures import CODEC, Corpus, find_encoder, open_codec
from tenfold.text.encoders import WordEncoder
from tenfold.text.words import normalised_words

PIPELINE = "pipeline.json"


def save_model(model: TextToImage, corpus: Corpus, config: Config, folder: Path) -> None:
    """Write the folder."""
    model.denoiser.save_pretrained(folder / "denoiser")
    if model.words is not None:
        model.words.save(folder / "words")
    if config.data.codec_steps and corpus.codec_folder is not None:
        shutil.copytree(corpus.codec_folder, folder / CODEC, dirs_exist_ok=True)
    about = {"data": to_json(config.data), "sampling": to_json(config.sampling), "note": corpus.note}
    write_atomic(folder / PIPELINE, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Pipeline:
    """A trained model with everything between a caption and a picture.

    Args:
        model: in eval mode.
        data: how it was trained: codec and text encoder.
        sampling: the settings it was evaluated with.
        codec: between pictures and the model's space.
    """

    model: TextToImage
    data: Data
    sampling: Sampling
    codec: Codec

    def states(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, L, D) and mask (B, L) of captions.

        Raises:
            UserError: words that the encoder does not know, or more of them than it reads.
        """
        if self.model.words is not None:
            most = self.model.words.settings.max_length
            if (longest := max(len(normalised_words(caption)) for caption in captions)) > most:
                whence = (
                    "--data.text-length of its training"
                    if most == self.data.text_length
                    else "its longest caption in training"
                )
                raise UserError(f"caption: got {longest} words, need at most {most} ({whence}); shorten it")
            with torch.no_grad():
                return self.model.words.encode(captions)
        return find_encoder(self.data).encode(captions)


def open_model(path: Path, *, allow_unk: bool | None = None) -> Pipeline:
    """Open a model folder, or the first model of a run folder.

    Args:
        path: the folder.
        allow_unk: as in `WordEncoder`; None takes what was saved.
    Raises:
        UserError: no such folder, or no model in it.
    """
    folder = path
    if not (folder / PIPELINE).is_file():
        found = sorted(path.glob(f"models/*/{PIPELINE}"))
        if not found:
            raise UserError(f"no model in {path}: need a folder with {PIPELINE}, or a run that trained one")
        folder = _own_model(path, [file.parent for file in found])
    try:
        about = read_object(folder / PIPELINE, data=dict, sampling=dict)
        data = from_json(Data, about["data"], where=f"{folder / PIPELINE}: data")
        sampling = from_json(Sampling, about["sampling"], where=f"{folder / PIPELINE}: sampling")
    except UserError as error:
        raise UserError(f"{error}; copy it again from where the model was trained") from None
    words = folder / "words"
    if data.text == "words" and not words.is_dir():
        raise UserError(f"text encoder not found: {words}; copy it again from where the model was trained")
    model = TextToImage(
        ECDiT.from_pretrained(folder / "denoiser"),
        WordEncoder.load(words, allow_unk=allow_unk) if words.is_dir() else None,
    )
    check_finite(folder, model.named_parameters())
    own = folder / CODEC
    codec = own if own.is_dir() else data.codec_folder
    return Pipeline(model.to(device_type()).eval(), data, sampling, open_codec(codec))


def _own_model(run: Path, found: Sequence[Path]) -> Path:
    """Of a run's models the one it is about: not a rival, first seed."""
    config: dict[str, Any] = read_object(run / "config.json")
    try:
        own = run / "models" / f"{config['model']['router']}-seed{config['seeds'][0]}"
    except (KeyError, TypeError, IndexError):
        return found[0]
    return own if own in found else found[0]
